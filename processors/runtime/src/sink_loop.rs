//! The loop of a sink: gather a batch, keep it, then commit its offsets. The same batch is written again until it is kept.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use kernel::{Blame, Fault, Polled, RawRecord, Sink};

use crate::batch::Batch;
use crate::dead;
use crate::stage::{Backoff, Stage, StageContext};

/// Runs a [`Sink`].
pub struct SinkStage<S: Sink> {
    sink: S,
    batch: Vec<RawRecord>,
    owned: BTreeSet<(String, i32)>,
    backoff: Backoff,
    paused: bool,
}

impl<S: Sink> SinkStage<S> {
    /// A stage around a sink.
    pub fn new(sink: S) -> Self {
        Self {
            sink,
            batch: Vec::new(),
            owned: BTreeSet::new(),
            backoff: Backoff::default(),
            paused: false,
        }
    }

    /// The log has gathered the batch for as long as the stage lingers; it waits only for a dependency.
    fn is_due(&self, cx: &StageContext) -> bool {
        !self.batch.is_empty() && self.backoff.over(cx.clock.as_ref())
    }

    fn wait_ms(&self, cx: &StageContext) -> u64 {
        if self.batch.is_empty() {
            100
        } else {
            cx.pass_time(&self.backoff).max(1)
        }
    }

    fn write(&mut self, cx: &mut StageContext) -> Result<(), Fault> {
        let started = Instant::now();
        let decoder = cx.decoder.clone();
        let written = cx.handle.block_on(self.sink.write(&self.batch, decoder.as_ref()));
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
        if let Err(fault) = cx.commit(&commit) {
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
            Polled::Assigned(parts) => {
                self.sink.reassigned();
                cx.log.start(&parts)?;
                self.owned.extend(parts);
                cx.running(self.owned.len());
            }
            Polled::Revoked(parts) => {
                self.batch.retain(|r| {
                    !parts
                        .iter()
                        .any(|(t, p)| *t == r.position.topic && *p == r.position.partition)
                });
                self.sink.reassigned();
                self.owned.retain(|o| !parts.contains(o));
                cx.log.release(&parts)?;
                cx.running(self.owned.len());
            }
            Polled::Idle => {}
        }
        Ok(())
    }
}

impl<S: Sink> Stage for SinkStage<S> {
    fn run(&mut self, cx: &mut StageContext) -> Result<(), Fault> {
        loop {
            cx.health.beat(&cx.stage);
            if cx.stopping() {
                // One last try; what is not kept stays uncommitted and comes again.
                return if self.batch.is_empty() { Ok(()) } else { self.write(cx) };
            }
            match self.poll(cx) {
                Ok(()) => {}
                Err(fault) if fault.blame == Blame::Dependency => {
                    cx.metrics.fault(&cx.stage, fault.code.as_str());
                    tracing::debug!(stage = %cx.stage, detail = %fault.detail, "poll");
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(fault) => return Err(fault),
            }
            if self.is_due(cx) {
                self.write(cx)?;
            }
        }
    }
}
