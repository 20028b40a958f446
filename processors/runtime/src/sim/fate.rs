//! What goes wrong, and where: drawn from the seed, or given, so that a history that breaks something can be shortened.

use std::collections::BTreeSet;

use super::Rng;

/// Something that went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Struck {
    /// How many times the history had asked whether something goes wrong.
    pub nth: u64,
    /// What, and to whom.
    pub what: String,
}

/// Whether things go wrong.
#[derive(Debug, Default)]
pub(super) struct Fate {
    seed: u64,
    rng: Option<Rng>,
    asked: u64,
    /// Only these strike.
    pub(super) only: Option<BTreeSet<u64>>,
    pub(super) struck: Vec<Struck>,
    /// Places where a process may die, so far.
    pub(super) boundaries: u64,
    /// Where one does.
    pub(super) dies_at: Option<u64>,
}

impl Fate {
    pub(super) fn of(seed: u64) -> Self {
        Self {
            seed,
            rng: Some(Rng::of(seed)),
            ..Self::default()
        }
    }

    /// Whether it happens here, and the draws that say how: they follow from the place, not from what happened before.
    pub(super) fn strikes(&mut self, who: &str, what: &str, per_mille: u64) -> Option<Rng> {
        self.asked += 1;
        let drawn = self.rng.as_mut().is_some_and(|rng| rng.chance(per_mille));
        let strikes = match &self.only {
            Some(only) => per_mille > 0 && only.contains(&self.asked),
            None => drawn,
        };
        if !strikes {
            return None;
        }
        let what = format!("{who} {what}").trim().to_owned();
        self.struck.push(Struck { nth: self.asked, what });
        Some(Rng::of(self.seed ^ self.asked.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// A place where a process may die. True when it is the one.
    pub(super) fn boundary(&mut self) -> bool {
        self.boundaries += 1;
        self.dies_at == Some(self.boundaries)
    }
}
