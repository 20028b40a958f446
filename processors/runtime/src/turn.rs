//! The steps of one turn: what is decoded, loaded, stepped and gathered before anything is committed.

use std::time::Instant;

use kernel::{Blame, Delivery, Effects, Fault, Input, Processor, RawRecord, Signal, Timer};

use crate::batch::Batch;
use crate::dead;
use crate::stage::StageContext;
use crate::store::Store;
use crate::trace::Trace;

/// One turn's inputs to the steps.
pub(crate) struct Turn<'a, P: Processor> {
    pub(crate) processor: &'a P,
    pub(crate) store: &'a Store,
    pub(crate) cx: &'a StageContext,
    pub(crate) now: schemas::Timestamp,
    pub(crate) controls: &'a kernel::controls::Controls,
    pub(crate) batch: &'a mut Batch,
}

impl<P: Processor> Turn<'_, P> {
    pub(crate) fn signal_controls(&mut self, seen: usize) -> Result<(), Fault> {
        for control in self.cx.controls.since(seen) {
            for (p, key) in self.store.keys() {
                self.signal(p, &key, Signal::Control(Box::new(control.clone())), None)?;
            }
        }
        Ok(())
    }

    pub(crate) fn signal(
        &mut self,
        partition: i32,
        key: &str,
        signal: Signal,
        trace: Option<&str>,
    ) -> Result<(), Fault> {
        let mut loaded = self.store.load::<P::State>(&self.batch.overlay, partition, key)?;
        match signal {
            Signal::Done(_) => loaded.performing = loaded.performing.saturating_sub(1),
            // What was in flight before is not any more; the processor asks again for what it still wants.
            Signal::Restored => loaded.performing = 0,
            Signal::Control(_) => {}
        }
        let seed = match &signal {
            Signal::Done(outcome) => format!("done:{}", outcome.call_id),
            Signal::Restored => "restored".to_owned(),
            Signal::Control(control) => format!("control:{}", control.issued_at.0),
        };
        let mut fx = Effects::new(self.now, key, seed, self.controls);
        self.processor
            .on_signal(&mut loaded.state, &signal, &mut fx)
            .map_err(ours)?;
        self.batch.take(partition, key, loaded, fx, &Trace::continuing(trace))
    }

    pub(crate) fn timer(&mut self, partition: i32, key: &str, timer: &Timer) -> Result<(), Fault> {
        let mut loaded = self.store.load::<P::State>(&self.batch.overlay, partition, key)?;
        let Some(at) = loaded.timers.iter().position(|t| t == timer) else {
            return Ok(());
        };
        loaded.timers.remove(at);
        let mut fx = Effects::new(
            self.now,
            key,
            format!("timer:{}:{}", timer.name, timer.due.0),
            self.controls,
        );
        self.processor
            .on_timer(&mut loaded.state, timer, &mut fx)
            .map_err(ours)?;
        self.batch.take(partition, key, loaded, fx, &Trace::continuing(None))
    }

    /// Takes one record. `Err` is a fault the loop must act on; a bad record is not one.
    pub(crate) fn deliver(&mut self, record: &RawRecord) -> Result<(), Fault> {
        let started = Instant::now();
        let mut trace = Trace::of(&record.headers);
        #[allow(clippy::cast_precision_loss, reason = "seconds for a histogram")]
        self.cx
            .metrics
            .age(&self.cx.stage, (self.now.0 - record.at.0).max(0) as f64 / 1e6);
        let stepped = self.step(record, started, &mut trace);
        match stepped {
            Ok(()) => {
                self.batch.consumed(record, "ok");
                Ok(())
            }
            Err(fault) if fault.blame == Blame::Input => {
                self.cx.metrics.fault(&self.cx.stage, fault.code.as_str());
                tracing::warn!(stage = %self.cx.stage, position = %record.position, code = %fault.code, detail = %fault.detail, trace_id = %trace.trace_id, "dead-lettered");
                self.batch
                    .dead(dead::letter(record, &self.cx.stage, &fault, 1, self.now));
                self.batch.consumed(record, "dead_lettered");
                Ok(())
            }
            Err(fault) => Err(fault),
        }
    }

    fn step(&mut self, record: &RawRecord, started: Instant, trace: &mut Trace) -> Result<(), Fault> {
        let Some(value) = &record.value else { return Ok(()) };
        let input = <P::In as Input>::decode(&record.position.topic, value, self.cx.decoder.as_ref())?;
        let delivery = Delivery {
            input,
            key: record.key.clone(),
            position: record.position.clone(),
            headers: record.headers.clone(),
            at: record.at,
        };
        let partition = record.position.partition;
        let mut loaded = self
            .store
            .load::<P::State>(&self.batch.overlay, partition, &record.key)?;
        let mut fx = Effects::new(self.now, &record.key, record.position.to_string(), self.controls);
        let stepped = self.processor.step(&mut loaded.state, &delivery, &mut fx);
        let attributes = [
            ("messaging.destination.name", record.position.topic.as_str()),
            ("soma.key", &record.key),
        ];
        let fault = stepped.as_ref().err().map(|f| f.code.as_str());
        trace.export(&self.cx.stage, started.elapsed(), &attributes, fault);
        stepped?;
        tracing::debug!(stage = %self.cx.stage, position = %record.position, trace_id = %trace.trace_id, "step");
        self.batch.take(partition, &record.key, loaded, fx, trace)
    }
}

/// A timer or signal has no record to dead-letter: a fault there is ours.
fn ours(fault: Fault) -> Fault {
    if fault.blame == Blame::Input {
        Fault {
            blame: Blame::Ourselves,
            ..fault
        }
    } else {
        fault
    }
}
