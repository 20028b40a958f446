//! The one loop, in full. Everything else here is a verb from this list:
//!
//! ```text
//! poll a batch -> for each delivery: decode, load state, step -> collect effects
//!   Fault Input -> DLQ record | Dependency -> back off, pause | Ourselves -> halt, commit nothing
//! one transaction: emits + state changelog + timers + consumed offsets -> commit -> count the batch -> repeat
//!   Revoked or SIGTERM -> drain (one path for both); Lost -> let go, commit nothing
//! ```
//!
//! It knows nothing of Kafka, of any store or of any capability: those come in through the kernel's traits.

/// Every process that runs stages allocates here. A record crosses three threads, and the client's threads free what ours took:
/// with glibc's arenas half of a hop went to their locks (`make bench-hop`).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

mod batch;
mod coming;
mod controls;
mod dataflow_loop;
mod dead;
mod flying;
mod fuse;
mod health;
mod http;
mod metrics;
mod pages;
mod part;
mod process;
mod processor_loop;
mod restore;
pub mod sim;
mod sink_loop;
mod stage;
mod store;
mod trace;
mod window_loop;

pub use batch::Batch;
pub use controls::SharedControls;
pub use dataflow_loop::DataflowStage;
pub use health::{Health, StageHealth, StageState};
pub use http::serve as serve_http;
pub use metrics::Metrics;
pub use pages::give_back_program;
pub use part::{Member, Moment, Part};
pub use process::aside;
pub use processor_loop::ProcessorStage;
pub use restore::restore;
pub use sink_loop::SinkStage;
pub use stage::{Limits, Stage, StageContext, Waker, spawn};
pub use store::StateAt;
pub use trace::{Trace, export_traces};
pub use window_loop::WindowStage;

/// The wall clock.
pub struct SystemClock;

impl kernel::Clock for SystemClock {
    fn now(&self) -> schemas::Timestamp {
        let since = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        schemas::Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    fn elapsed(&self) -> std::time::Duration {
        static START: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
        START.elapsed()
    }
}
