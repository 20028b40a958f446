//! What the process itself takes, in the names Prometheus' own exporters use, and how much of its memory is in use: the rest is the allocator's.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGauge, Registry};
use tikv_jemalloc_ctl::{epoch, stats};

/// Registers them.
///
/// # Errors
/// Two metrics of the same name, which is a bug.
pub(crate) fn register(to: &Registry) -> Result<(), prometheus::Error> {
    #[cfg(target_os = "linux")]
    to.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
    to.register(Box::new(Heap {
        allocated: IntGauge::new(
            "soma_heap_allocated_bytes",
            "Memory the program has asked for and not given back",
        )?,
        resident: IntGauge::new(
            "soma_heap_resident_bytes",
            "Memory the allocator holds for it; without the program's own pages",
        )?,
    }))
}

/// Of a niceness of 0 to 19: what works aside takes what the rest leaves of the processor, and a tenth of what it does not.
const NICENESS: i32 = 10;

/// Does work of the processor on a thread that lets the others go first, and waits for it: whoever governs and acts is not to stand still while
/// an instance beside it starts.
pub fn aside<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let done = scope.spawn(|| {
            // On Linux this is the thread's. A nicer thread stays so: hence one of its own.
            if let Err(e) = rustix::process::setpriority_process(None, NICENESS) {
                tracing::debug!(error = %e, "works at the priority of the rest");
            }
            work()
        });
        done.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

struct Heap {
    allocated: IntGauge,
    resident: IntGauge,
}

impl Collector for Heap {
    fn desc(&self) -> Vec<&Desc> {
        [self.allocated.desc(), self.resident.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // The allocator sums up when the epoch is advanced. Without its figures the others are still good.
        if epoch::advance().is_err() {
            return Vec::new();
        }
        for (gauge, bytes) in [
            (&self.allocated, stats::allocated::read()),
            (&self.resident, stats::resident::read()),
        ] {
            gauge.set(bytes.ok().and_then(|b| i64::try_from(b).ok()).unwrap_or_default());
        }
        [self.allocated.collect(), self.resident.collect()].concat()
    }
}
