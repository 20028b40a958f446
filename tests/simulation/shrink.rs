//! Makes a history that breaks something as short as it can be: misfortunes and requests are left out as long as the same
//! invariant breaks.

use std::collections::BTreeSet;

use super::outputs::unequal;
use super::run::{History, Plan, history};

/// Histories tried before what is left is told as it is.
const TRIALS_MAX: usize = 400;

/// The invariant a violation names.
pub(crate) fn invariant(violation: &str) -> &str {
    violation.split(':').next().unwrap_or(violation)
}

/// A history and what it broke, compared with an undisturbed one asked for the same.
pub(crate) fn judged(plan: Plan) -> (History, Vec<String>) {
    let quiet = history(Plan {
        without: plan.without.clone(),
        ..Plan::of(plan.seed, plan.fused, false)
    });
    let h = history(plan);
    let mut wrong = h.violations.clone();
    wrong.extend(unequal(&quiet, &h));
    (h, wrong)
}

/// The shortest history found that breaks the invariant the first violation names, and what it broke.
pub(crate) struct Shrunk {
    pub(crate) history: History,
    pub(crate) violation: String,
    pub(crate) requests: usize,
}

struct Search {
    broken: String,
    left: usize,
    plan: Plan,
}

impl Search {
    fn breaks(&mut self, plan: &Plan) -> bool {
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        let (_, wrong) = judged(plan.clone());
        wrong.iter().any(|w| invariant(w) == self.broken)
    }

    /// Leaves out halves, then quarters, then single ones.
    fn fewer(&mut self, all: &[u64], of: impl Fn(&Plan, &[u64]) -> Plan) -> Vec<u64> {
        let mut kept = all.to_vec();
        let mut size = kept.len().div_ceil(2);
        while size > 0 {
            let mut at = 0;
            while at < kept.len() {
                let end = (at + size).min(kept.len());
                let rest = [&kept[..at], &kept[end..]].concat();
                let plan = of(&self.plan, &rest);
                if self.breaks(&plan) {
                    self.plan = plan;
                    kept = rest;
                } else {
                    at = end;
                }
            }
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
        kept
    }
}

pub(crate) fn shrink(plan: &Plan, violation: &str) -> Shrunk {
    let (first, _) = judged(plan.clone());
    let mut search = Search {
        broken: invariant(violation).to_owned(),
        left: TRIALS_MAX,
        plan: plan.clone(),
    };
    let struck: Vec<u64> = first.struck.iter().map(|s| s.nth).collect();
    let only = |plan: &Plan, kept: &[u64]| Plan {
        only: Some(kept.iter().copied().collect()),
        ..plan.clone()
    };
    let struck = search.fewer(&struck, only);
    let count = super::build::requests(plan.seed).len();
    let asked: Vec<u64> = (0..count as u64).collect();
    let asked = search.fewer(&asked, |plan, kept| Plan {
        without: (0..count)
            .filter(|i| !kept.contains(&(*i as u64)))
            .collect::<BTreeSet<_>>(),
        ..plan.clone()
    });
    search.fewer(&struck, only);
    let (history, wrong) = judged(Plan {
        trace: true,
        ..search.plan
    });
    let violation = wrong.into_iter().find(|w| invariant(w) == search.broken);
    Shrunk {
        history,
        violation: violation.unwrap_or_else(|| violation_gone(&search.broken)),
        requests: asked.len(),
    }
}

fn violation_gone(broken: &str) -> String {
    format!("{broken}: not broken when run again: the history does not follow from its seed")
}

impl std::fmt::Display for Shrunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plan = &self.history.plan;
        writeln!(
            f,
            "seed {} fused={}: {}\n  shrunk to {} misfortunes and {} requests; `make sim SEED={}` runs it whole",
            plan.seed,
            plan.fused,
            self.violation,
            self.history.struck.len(),
            self.requests,
            plan.seed
        )?;
        for struck in &self.history.struck {
            writeln!(f, "  misfortune {:>6}: {}", struck.nth, struck.what)?;
        }
        self.history.trace.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}
