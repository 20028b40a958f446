//! The controls every stage shares: applied by one reader, seen by all loops.

use std::sync::{Arc, PoisonError, RwLock};

use kernel::controls::Controls;
use schemas::records::{Control, Member, Strike, Tally};

#[derive(Default)]
struct Inner {
    now: Arc<Controls>,
    history: Vec<Control>,
}

/// Kill switches and pauses, shared by all stages of a process.
#[derive(Clone, Default)]
pub struct SharedControls(Arc<RwLock<Inner>>);

impl SharedControls {
    /// Takes one record of `soma.controls` in.
    pub fn apply(&self, control: Control) {
        let mut inner = self.0.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut inner.now).apply(control.clone());
        inner.history.push(control);
    }

    /// Takes one record of `soma.members` in.
    pub fn apply_member(&self, member: Member) {
        let mut inner = self.0.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut inner.now).apply_member(member);
    }

    /// Takes one record of `soma.strikes` in.
    pub fn apply_strike(&self, strike: Strike) {
        let mut inner = self.0.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut inner.now).apply_strike(strike);
    }

    /// Takes one record of `soma.tallies` in.
    pub fn apply_tally(&self, tally: Tally) {
        let mut inner = self.0.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut inner.now).apply_tally(tally);
    }

    /// Holds everything while nobody watches, or lets go. Keys are told as of any control.
    pub fn set_unwatched(&self, hold: Option<Control>) {
        let mut inner = self.0.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut inner.now).set_unwatched(hold.clone());
        let told = hold.unwrap_or_else(|| Control {
            action: schemas::records::ControlAction::Resume,
            ..Control::default()
        });
        inner.history.push(told);
    }

    /// The controls in force, and how many were ever applied.
    pub fn now(&self) -> (Arc<Controls>, usize) {
        let inner = self.0.read().unwrap_or_else(PoisonError::into_inner);
        (inner.now.clone(), inner.history.len())
    }

    /// Controls applied after the first `seen`.
    pub fn since(&self, seen: usize) -> Vec<Control> {
        let inner = self.0.read().unwrap_or_else(PoisonError::into_inner);
        inner.history.get(seen..).map(<[Control]>::to_vec).unwrap_or_default()
    }
}
