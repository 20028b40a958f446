//! A simulated log and clock, for the production loop: transactions, read_committed, groups, fencing, compacted changelogs, and
//! everything that can go wrong with them, drawn from one seed. It is a model to look for faults of ours with, never a stand-in
//! for a server: what a server does is shown on the real one, in the live tier.

mod cluster;
mod fate;
mod group;
mod log;
mod rng;
mod transaction;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use kernel::{Clock, Fault, FaultCode};
use schemas::Timestamp;

pub use cluster::{Chances, Cluster, Counts};
pub use fate::Struck;
pub use log::SimLog;
pub use rng::Rng;
pub use transaction::Part;

/// Detail of the fault that stands for a killed process.
const CRASH: &str = "simulated crash";

/// The end of a simulated process: nothing after this line of its code runs.
pub(crate) fn crash() -> Fault {
    Fault::new(FaultCode::Internal, CRASH)
}

/// Whether a stage ended because the simulation killed it.
pub fn is_crash(fault: &Fault) -> bool {
    fault.code == FaultCode::Internal && fault.detail == CRASH
}

/// A clock that stands still until it is moved.
#[derive(Clone)]
pub struct SimClock {
    now: Arc<AtomicI64>,
    elapsed: Arc<AtomicI64>,
}

impl SimClock {
    /// A clock at this time.
    pub fn at(now: Timestamp) -> Self {
        Self {
            now: Arc::new(AtomicI64::new(now.0)),
            elapsed: Arc::default(),
        }
    }

    /// Lets milliseconds pass.
    pub fn advance(&self, ms: i64) {
        self.elapsed.fetch_add(ms * 1000, Ordering::SeqCst);
        self.jump(ms);
    }

    /// Moves what it shows by milliseconds, backwards too, without letting time pass.
    pub fn jump(&self, ms: i64) {
        self.now.fetch_add(ms * 1000, Ordering::SeqCst);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.now.load(Ordering::SeqCst))
    }

    fn elapsed(&self) -> Duration {
        Duration::from_micros(u64::try_from(self.elapsed.load(Ordering::SeqCst)).unwrap_or(0))
    }
}
