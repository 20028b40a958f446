//! The loop of a sink: gather a batch, keep it, then commit its offsets. The same batch is written again until it is kept.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kernel::{Blame, Fault, Polled, RawRecord, Sink};

use crate::batch::Batch;
use crate::dead;
use crate::stage::{Backoff, Stage, StageContext};

/// How long a batch under way may take when the process stops: written twice it changes nothing, and the next start waits for this.
const LAST: Duration = Duration::from_secs(1);

/// Comes back when the process has been asked to stop and that time is over.
async fn given_up(stop: &AtomicBool) {
    while !stop.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(LAST).await;
}

/// A batch that took longer is told of.
const SLOW: Duration = Duration::from_secs(1);

/// Runs a [`Sink`].
pub struct SinkStage<S: Sink> {
    sink: S,
    batch: Vec<RawRecord>,
    owned: BTreeSet<(String, i32)>,
    /// Assigned, and not begun yet.
    fresh: Vec<(String, i32)>,
    backoff: Backoff,
    paused: bool,
    /// When the last batch that was kept was begun, by the clock's elapsed time.
    began: Duration,
}

impl<S: Sink> SinkStage<S> {
    /// A stage around a sink.
    pub fn new(sink: S) -> Self {
        Self {
            sink,
            batch: Vec::new(),
            owned: BTreeSet::new(),
            fresh: Vec::new(),
            backoff: Backoff::default(),
            paused: false,
            began: Duration::ZERO,
        }
    }

    /// What is left of the stage's linger since the last batch. Of few records the log has gathered a batch for as long itself, and
    /// they go at once; many come before that, and would be a write each time the log has enough for an answer.
    fn rest(&self, cx: &StageContext) -> Duration {
        if self.batch.len() >= cx.limits.batch_max {
            return Duration::ZERO;
        }
        let due = self.began + Duration::from_millis(cx.limits.linger_ms);
        due.saturating_sub(cx.clock.elapsed())
    }

    fn is_due(&self, cx: &StageContext) -> bool {
        !self.batch.is_empty() && self.rest(cx).is_zero() && self.backoff.over(cx.clock.as_ref())
    }

    fn wait_ms(&self, cx: &StageContext) -> u64 {
        let rest = u64::try_from(self.rest(cx).as_millis()).unwrap_or(0);
        if self.batch.is_empty() {
            100
        } else {
            cx.pass_time(&self.backoff).max(1).max(rest.min(100))
        }
    }

    fn write(&mut self, cx: &mut StageContext) -> Result<(), Fault> {
        let began = cx.clock.elapsed();
        let started = Instant::now();
        let decoder = cx.decoder.clone();
        let stop = cx.stop.clone();
        let written = cx.handle.block_on(async {
            tokio::select! {
                biased;
                written = self.sink.write(&self.batch, decoder.as_ref()) => Some(written),
                () = given_up(&stop) => None,
            }
        });
        let Some(written) = written else {
            tracing::info!(stage = %cx.stage, records = self.batch.len(), "stops without its last batch; it comes again");
            self.batch.clear();
            return Ok(());
        };
        let rejected = match written {
            Ok(rejected) => rejected,
            Err(fault) if fault.blame == Blame::Dependency => {
                cx.waiting(&fault, &mut self.backoff, self.owned.len());
                return self.pause(cx, true);
            }
            Err(fault) => return Err(fault),
        };
        cx.metrics.batch(&cx.stage, started.elapsed().as_secs_f64());
        let mut out = Batch::default();
        let mut dead = BTreeSet::new();
        for r in &rejected {
            if let Some(record) = self.batch.get(r.index) {
                tracing::warn!(stage = %cx.stage, position = %record.position, code = %r.fault.code, detail = %r.fault.detail, "dead-lettered");
                cx.metrics.fault(&cx.stage, r.fault.code.as_str());
                out.dead(dead::letter(record, &cx.stage, &r.fault, 1, cx.clock.now()));
                dead.insert(r.index);
            }
        }
        for (i, record) in self.batch.iter().enumerate() {
            out.consumed(record, if dead.contains(&i) { "dead_lettered" } else { "ok" });
        }
        let counts = std::mem::take(&mut out.counts);
        let commit = out.seal();
        let kept = started.elapsed();
        let committed = cx.commit(&commit);
        if started.elapsed() > SLOW {
            let (kept_ms, ms) = (kept.as_millis(), started.elapsed().as_millis());
            tracing::info!(stage = %cx.stage, records = self.batch.len(), kept_ms, ms, "a slow batch");
        }
        if let Err(fault) = committed {
            if fault.blame != Blame::Dependency {
                return Err(fault);
            }
            // Kept, but not committed: the same records come again and change nothing.
            cx.waiting(&fault, &mut self.backoff, self.owned.len());
            return self.pause(cx, true);
        }
        for ((topic, outcome), n) in counts {
            cx.metrics.records(&cx.stage, &topic, outcome, n);
        }
        self.batch.clear();
        self.began = began;
        if self.backoff.attempts > 0 {
            self.backoff = Backoff::default();
            cx.running(self.owned.len());
        }
        self.pause(cx, false)
    }

    fn pause(&mut self, cx: &mut StageContext, paused: bool) -> Result<(), Fault> {
        if paused != self.paused {
            cx.log.pause(paused)?;
            self.paused = paused;
        }
        Ok(())
    }

    fn poll(&mut self, cx: &mut StageContext) -> Result<(), Fault> {
        let room = cx.limits.batch_max.saturating_sub(self.batch.len()).max(1);
        match cx.log.poll(room, self.wait_ms(cx))? {
            Polled::Records(records) => {
                self.batch.extend(records);
            }
            // More instances than partitions: this one stands by.
            Polled::Assigned(parts) if parts.is_empty() => {
                cx.log.start(&parts)?;
                cx.running(self.owned.len());
            }
            Polled::Assigned(parts) => {
                self.sink.reassigned();
                self.fresh.extend(parts);
            }
            Polled::Revoked(parts) | Polled::Lost(parts) => {
                self.fresh.retain(|f| !parts.contains(f));
                self.batch.retain(|r| {
                    !parts
                        .iter()
                        .any(|(t, p)| **t == *r.position.topic && *p == r.position.partition)
                });
                self.sink.reassigned();
                self.owned.retain(|o| !parts.contains(o));
                cx.log.release(&parts)?;
                cx.running(self.owned.len());
                // What it waited to write may be gone: nothing else would let it read again.
                if self.batch.is_empty() {
                    self.backoff = Backoff::default();
                    self.pause(cx, false)?;
                }
            }
            Polled::Idle => {}
        }
        Ok(())
    }
}

impl<S: Sink> SinkStage<S> {
    /// Begins what was assigned; tried again while the broker does not answer.
    fn begin(&mut self, cx: &mut StageContext) -> Result<(), Fault> {
        if !self.fresh.is_empty() {
            cx.log.start(&self.fresh)?;
            self.owned.extend(std::mem::take(&mut self.fresh));
            cx.running(self.owned.len());
        }
        Ok(())
    }
}

impl<S: Sink> Stage for SinkStage<S> {
    fn go_round(&mut self, cx: &mut StageContext) -> Result<bool, Fault> {
        cx.health.beat(&cx.stage);
        if cx.stopping() {
            // One last try, and a short one; what is not kept stays uncommitted and comes again.
            if !self.batch.is_empty() {
                self.write(cx)?;
            }
            return Ok(false);
        }
        match self.poll(cx).and_then(|()| self.begin(cx)) {
            Ok(()) => {}
            Err(fault) if fault.blame == Blame::Dependency => {
                cx.metrics.fault(&cx.stage, fault.code.as_str());
                tracing::debug!(stage = %cx.stage, detail = %fault.detail, "poll");
                cx.waker.wait(Duration::from_millis(50));
            }
            Err(fault) => return Err(fault),
        }
        if self.is_due(cx) {
            self.write(cx)?;
        }
        Ok(true)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use kernel::{Decoder, Pending, Rejected};
    use schemas::Timestamp;

    use super::*;
    use crate::sim::{Chances, Cluster, SimClock, SimLog};
    use crate::{Health, Limits, Metrics, SharedControls, Waker};

    /// A store that never answers.
    struct Silent;

    impl Sink for Silent {
        fn name(&self) -> &'static str {
            "silent"
        }

        fn topics(&self) -> Vec<&'static str> {
            vec!["topic"]
        }

        fn write<'a>(
            &'a mut self,
            _: &'a [RawRecord],
            _: &'a dyn Decoder,
        ) -> Pending<'a, Result<Vec<Rejected>, Fault>> {
            Box::pin(std::future::pending())
        }

        fn reassigned(&mut self) {}
    }

    struct NoSchemas;

    impl Decoder for NoSchemas {
        fn unframe<'a>(&self, _: &'a [u8]) -> Result<(Arc<schemas::Written>, &'a [u8]), Fault> {
            Err(Fault::new(kernel::FaultCode::Internal, "nothing is decoded here"))
        }
    }

    fn context(name: &str, clock: &SimClock, limits: Limits, handle: &tokio::runtime::Handle) -> StageContext {
        let cluster = Cluster::new(1, Chances::default());
        StageContext {
            stage: name.into(),
            log: Box::new(SimLog::new(&cluster, clock, "group", "a", vec!["topic".to_owned()])),
            decoder: Arc::new(NoSchemas),
            controls: SharedControls::default(),
            clock: Arc::new(clock.clone()),
            metrics: Metrics::new("test").unwrap(),
            health: Health::default(),
            limits,
            stop: Arc::default(),
            state_topic: String::new(),
            handle: handle.clone(),
            waker: Waker::default(),
        }
    }

    fn runtime() -> tokio::runtime::Runtime {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.worker_threads(1).enable_time().build().unwrap()
    }

    #[test]
    fn a_batch_is_due_a_linger_after_the_last_or_when_it_is_full() {
        let (runtime, clock) = (runtime(), SimClock::at(Timestamp(0)));
        let limits = Limits {
            linger_ms: 1000,
            batch_max: 3,
            ..Limits::default()
        };
        let cx = context("silent", &clock, limits, runtime.handle());
        let mut stage = SinkStage::new(Silent);
        let mut due_after = |ms, records| {
            clock.advance(ms);
            stage.batch.extend(std::iter::repeat_n(RawRecord::default(), records));
            let due = stage.is_due(&cx);
            if due {
                stage.began = cx.clock.elapsed();
                stage.batch.clear();
            }
            due
        };
        assert!(due_after(5_000, 1), "nothing was kept for long");
        assert!(!due_after(400, 1));
        assert!(!due_after(599, 1));
        assert!(due_after(1, 0));
        assert!(due_after(100, 3), "full");
        assert!(!due_after(999, 2));
        assert!(due_after(10, 1));
    }

    #[test]
    fn a_stop_does_not_wait_for_a_store_that_is_silent() {
        let (runtime, clock) = (runtime(), SimClock::at(Timestamp(0)));
        let mut cx = context("silent", &clock, Limits::default(), runtime.handle());
        let stop = cx.stop.clone();
        let mut stage = SinkStage::new(Silent);
        stage.batch.push(RawRecord::default());
        let began = Instant::now();
        let asks = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            stop.store(true, Ordering::SeqCst);
        });
        while stage.go_round(&mut cx).unwrap() {}
        asks.join().unwrap();
        assert!(began.elapsed() >= LAST, "it was given no time");
        assert!(began.elapsed() < LAST * 4, "it was waited for");
    }
}
