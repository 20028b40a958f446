//! What policies count over the runs of a tenant: the fold of `soma.tallies`, the same for every stage. A step counts once under each
//! name, however often it was judged.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemas::Timestamp;
use schemas::records::Tally;

/// Steps of a tenant remembered under one name; the oldest tenth goes first. A limit above this cannot be held.
pub const KEPT_MAX: usize = 10_000;

/// A step that counts.
#[derive(Clone, Debug, PartialEq)]
struct Counted {
    run_id: String,
    at: Timestamp,
}

/// By name, then by id of the tally.
type Names = BTreeMap<String, BTreeMap<String, Counted>>;

/// Counted steps by tenant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tallies(BTreeMap<String, Arc<Names>>);

impl Tallies {
    /// Takes a record in.
    pub fn apply(&mut self, tally: Tally) {
        let names = Arc::make_mut(self.0.entry(tally.tenant).or_default());
        let all = names.entry(tally.name).or_default();
        let counted = Counted {
            run_id: tally.run_id,
            at: tally.counted_at,
        };
        // Judged again, it was allowed when it was allowed last.
        all.insert(tally.tally_id, counted);
        if all.len() > KEPT_MAX {
            let mut times: Vec<_> = all.values().map(|c| c.at).collect();
            times.sort_unstable();
            let from = times[KEPT_MAX / 10];
            all.retain(|_, c| c.at >= from);
        }
    }

    /// Seconds since each step of a tenant that counts at a time, by name, the newest first. Those of one run are left out: it is
    /// told of its own steps otherwise.
    pub fn ages(&self, tenant: &str, but: &str, now: Timestamp) -> BTreeMap<&str, Vec<i64>> {
        let mut ages = BTreeMap::new();
        for (name, all) in self.0.get(tenant).into_iter().flat_map(|names| names.iter()) {
            let others = all.values().filter(|c| c.run_id != but && c.at <= now);
            let mut of: Vec<_> = others.map(|c| now.micros_since(c.at) / 1_000_000).collect();
            of.sort_unstable();
            if !of.is_empty() {
                ages.insert(name.as_str(), of);
            }
        }
        ages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(id: usize, run: &str, at_s: i64) -> Tally {
        Tally {
            tally_id: format!("tly_{id:05}"),
            tenant: "acme".into(),
            name: "deploys".into(),
            run_id: run.into(),
            counted_at: Timestamp(at_s * 1_000_000),
            ..Tally::default()
        }
    }

    #[test]
    fn a_step_counts_once_up_to_a_time_for_its_tenant_and_not_for_its_own_run() {
        let mut tallies = Tallies::default();
        for t in [tally(1, "a", 10), tally(2, "b", 20), tally(1, "a", 12)] {
            tallies.apply(t);
        }
        let of = |tenant: &str, but: &str, at_s: i64| {
            let ages = tallies.ages(tenant, but, Timestamp(at_s * 1_000_000));
            ages.get("deploys").cloned().unwrap_or_default()
        };
        assert_eq!(of("acme", "c", 30), [10, 18]);
        assert_eq!(of("acme", "c", 15), [3]);
        assert_eq!(of("acme", "b", 30), [18]);
        assert!(of("globex", "c", 30).is_empty());
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let mut tallies = Tallies::default();
        for n in 0..=KEPT_MAX {
            tallies.apply(tally(n, "a", n as i64));
        }
        let now = Timestamp(KEPT_MAX as i64 * 1_000_000);
        let ages = &tallies.ages("acme", "", now)["deploys"];
        assert_eq!((ages.len(), ages.first()), (KEPT_MAX - KEPT_MAX / 10 + 1, Some(&0)));
    }
}
