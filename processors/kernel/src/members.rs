//! What is known beside the record: roles, the fold of `soma.members`, strikes, the fold of `soma.strikes`, and what policies count; the
//! same for every stage.

use std::collections::BTreeMap;

use schemas::Timestamp;
use schemas::records::{Member, Strike, Tally};

use crate::tallies::Tallies;

/// Stands for every tenant.
pub const EVERY: &str = "*";

/// Roles and strikes as they stand.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Members {
    by_key: BTreeMap<(String, String), Vec<String>>,
    /// Strikes that count, by tenant and person, then by id.
    strikes: BTreeMap<(String, String), BTreeMap<String, Timestamp>>,
    tallies: Tallies,
}

impl Members {
    /// Takes a record in: it replaces what was known of the person in that tenant.
    pub fn apply(&mut self, member: Member) {
        let key = (member.tenant, member.person);
        if member.roles.is_empty() {
            self.by_key.remove(&key);
        } else {
            self.by_key.insert(key, member.roles);
        }
    }

    /// Takes a strike in, or its pardon.
    pub fn apply_strike(&mut self, strike: Strike) {
        let key = (strike.tenant, strike.person);
        let all = self.strikes.entry(key.clone()).or_default();
        if strike.pardoned {
            all.remove(&strike.strike_id);
        } else {
            all.insert(strike.strike_id, strike.struck_at);
        }
        if all.is_empty() {
            self.strikes.remove(&key);
        }
    }

    /// When a person was struck up to a time, the first first.
    pub fn strikes(&self, tenant: &str, person: &str, until: Timestamp) -> Vec<Timestamp> {
        if self.strikes.is_empty() {
            return Vec::new();
        }
        let all = self.strikes.get(&(tenant.to_owned(), person.to_owned()));
        let mut times: Vec<_> = all.into_iter().flat_map(|s| s.values().copied()).collect();
        times.retain(|at| *at <= until);
        times.sort_unstable();
        times
    }

    /// Takes a counted step in.
    pub fn apply_tally(&mut self, tally: Tally) {
        self.tallies.apply(tally);
    }

    /// What policies count over the runs of a tenant.
    pub fn tallies(&self) -> &Tallies {
        &self.tallies
    }

    /// Whether somebody holds one of these roles, in the tenant or in all of them.
    pub fn holds(&self, tenant: &str, person: &str, roles: &[String]) -> bool {
        if self.by_key.is_empty() {
            return false;
        }
        [tenant, EVERY].into_iter().any(|tenant| {
            let held = self.by_key.get(&(tenant.to_owned(), person.to_owned()));
            held.is_some_and(|held| held.iter().any(|role| roles.contains(role)))
        })
    }

    /// Tenant, person and roles of everybody who has any.
    pub fn all(&self) -> impl Iterator<Item = (&str, &str, &[String])> {
        self.by_key
            .iter()
            .map(|((tenant, person), roles)| (tenant.as_str(), person.as_str(), roles.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strikes_count_up_to_a_time_and_until_they_are_pardoned() {
        let mut members = Members::default();
        let strike = |id: &str, at, pardoned| Strike {
            strike_id: id.into(),
            tenant: "acme".into(),
            person: "ada".into(),
            struck_at: Timestamp(at),
            pardoned,
            ..Strike::default()
        };
        for s in [strike("b", 20, false), strike("a", 10, false), strike("a", 10, false)] {
            members.apply_strike(s);
        }
        let of = |members: &Members, until| members.strikes("acme", "ada", Timestamp(until));
        assert_eq!(of(&members, 30), [Timestamp(10), Timestamp(20)]);
        assert_eq!(of(&members, 15), [Timestamp(10)]);
        assert!(members.strikes("globex", "ada", Timestamp(30)).is_empty());
        members.apply_strike(strike("a", 10, true));
        assert_eq!(of(&members, 30), [Timestamp(20)]);
    }

    #[test]
    fn roles_are_of_a_tenant_or_of_all_and_end() {
        let mut members = Members::default();
        let mut say = |tenant: &str, person: &str, roles: &[&str]| {
            members.apply(Member {
                tenant: tenant.into(),
                person: person.into(),
                roles: roles.iter().map(|r| (*r).to_owned()).collect(),
                ..Member::default()
            });
            members.clone()
        };
        let release = ["release".to_owned()];
        let now = say("acme", "grace", &["release", "ops"]);
        assert!(now.holds("acme", "grace", &release));
        assert!(!now.holds("globex", "grace", &release) && !now.holds("acme", "ada", &release));
        assert!(say("*", "lin", &["release"]).holds("globex", "lin", &release));
        let now = say("acme", "grace", &[]);
        assert!(!now.holds("acme", "grace", &release));
        assert_eq!(now.all().count(), 1);
    }
}
