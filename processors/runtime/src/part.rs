//! One processor of a task: its state, the outside actions it has in flight, and the steps of one turn.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use kernel::controls::Controls;
use kernel::{
    Committed, Decoder, Delivery, Effects, Fault, FaultCode, Input, Performer, Processor, RawRecord, Signal, Timer,
};
use schemas::Timestamp;

use crate::Metrics;
use crate::batch::{Batch, Cause};
use crate::flying::{Done, Flying, Start};
use crate::stage::StageContext;
use crate::store::{Overlay, StateAt, Store};
use crate::trace::Trace;

const TIMERS_MAX: usize = 200;

/// What holds for all steps of one turn.
pub struct Moment<'a> {
    pub(crate) cx: &'a StageContext,
    pub(crate) now: Timestamp,
    pub(crate) controls: Arc<Controls>,
    /// Controls ever applied.
    pub(crate) seen: usize,
}

/// A processor of a task, whatever its types. All of a task's processors own the same partitions.
pub trait Member: Send {
    /// Stage name.
    fn name(&self) -> &str;
    /// Partition, key and bytes of every state it holds.
    ///
    /// # Errors
    /// `STATE_ON_DISK`.
    fn entries(&self) -> Result<Vec<(i32, String, Vec<u8>)>, Fault>;
    /// Topics it reads; the first leads.
    fn topics(&self) -> Vec<&'static str>;
    /// Whether it keeps state.
    fn is_stateful(&self) -> bool;
    /// Begins to take a partition over, with what the disk holds of it. The changelog's topic and up to where that knows it; `None` without state.
    ///
    /// # Errors
    /// `STATE_ON_DISK`.
    fn own(&mut self, partition: i32, now: Timestamp) -> Result<Option<(Arc<str>, i64)>, Fault>;
    /// Forgets what is held of a partition: its changelog is not the one that was read.
    ///
    /// # Errors
    /// `STATE_ON_DISK`.
    fn clear(&mut self, partition: i32) -> Result<(), Fault>;
    /// Takes one record of the changelog in.
    ///
    /// # Errors
    /// `STATE_ON_DISK` or `STATE_UNREADABLE`.
    fn take_in(&mut self, partition: i32, key: String, value: Option<&[u8]>) -> Result<(), Fault>;
    /// The changelog has been read up to `next`.
    ///
    /// # Errors
    /// `STATE_ON_DISK` or `STATE_UNREADABLE`.
    fn restored(&mut self, partition: i32, next: i64, now: Timestamp) -> Result<(), Fault>;
    /// All members have read theirs: from here on the partition is at work.
    ///
    /// # Errors
    /// `STATE_ON_DISK`.
    fn came(&mut self, partition: i32) -> Result<(), Fault>;
    /// Forgets what was waiting for the next turn; after a failed transaction, before its state is read back.
    fn forget(&mut self);
    /// Gives a partition up; what is in flight there is let go.
    fn release(&mut self, partition: i32);
    /// Whether the next turn has work before any record comes.
    fn is_urgent(&self) -> bool;
    /// When its next timer is due.
    fn next_due(&self) -> Option<Timestamp>;
    /// Outside actions in flight on these partitions, or on all.
    fn flying(&self, partitions: Option<&BTreeSet<i32>>) -> usize;
    /// Takes back outside actions of these partitions, or of all, that wait for their turn and have not begun.
    fn withdraw(&mut self, partitions: Option<&BTreeSet<i32>>);
    /// Takes the answers that have come in; they stay until [`Member::committed`].
    fn collect(&mut self);
    /// Begins the gathering of a turn; what an abandoned one gathered is dropped.
    fn begin(&mut self);
    /// Steps that no record causes: controls, restored keys, answers, timers.
    ///
    /// # Errors
    /// Faults that are ours.
    fn wake(&mut self, at: &Moment<'_>, batch: &mut Batch) -> Result<(), Fault>;
    /// Steps one record. `seed` names the cause, the same on every delivery.
    ///
    /// # Errors
    /// As [`Processor::step`]; nothing of a failed step is kept.
    fn deliver(
        &mut self,
        at: &Moment<'_>,
        record: &RawRecord,
        seed: &str,
        decoder: &dyn Decoder,
        batch: &mut Batch,
    ) -> Result<(), Fault>;
    /// Adds the changelog to the transaction.
    fn seal(&self, batch: &mut Batch);
    /// The transaction is true: so is the state, and actions start.
    ///
    /// # Errors
    /// `INTERNAL` or `STATE_ON_DISK` when state cannot be applied.
    fn committed(&mut self, at: &Moment<'_>, places: &Committed) -> Result<(), Fault>;
}

/// A [`Processor`] as a member of a task.
pub struct Part<P: Processor> {
    name: Arc<str>,
    state_topic: Arc<str>,
    processor: P,
    performer: Option<Arc<dyn Performer>>,
    store: Store,
    overlay: Overlay,
    starts: Vec<Start>,
    flying: Flying,
    dones: VecDeque<Done>,
    restored: Vec<(i32, String)>,
    /// How many of `dones` and `restored` the turn in hand has taken.
    taken: (usize, usize),
    controls_seen: usize,
    ages: Option<prometheus::Histogram>,
}

impl<P: Processor> Part<P> {
    /// Keeps its state elsewhere than in memory.
    #[must_use]
    pub fn state_at(mut self, at: StateAt) -> Self {
        self.store = Store::at(at);
        self
    }

    /// Keeps a warm copy of the partitions that other instances own, on the disk its state is on.
    #[must_use]
    pub fn standby(mut self, follow: Box<dyn kernel::Follow>, metrics: Metrics) -> Self {
        self.store.follow(self.name.clone(), follow, metrics);
        self
    }

    /// A member called `name` whose state goes to `state_topic` (empty when it has none); `performer` is needed when it asks
    /// for outside actions.
    pub fn new(name: &str, state_topic: String, processor: P, performer: Option<Arc<dyn Performer>>) -> Self {
        Self {
            name: name.into(),
            state_topic: state_topic.into(),
            processor,
            performer,
            store: Store::default(),
            overlay: Overlay::default(),
            starts: Vec::new(),
            flying: Flying::default(),
            dones: VecDeque::new(),
            restored: Vec::new(),
            taken: (0, 0),
            controls_seen: 0,
            ages: None,
        }
    }

    fn signal(
        &mut self,
        at: &Moment<'_>,
        (partition, key): (i32, &str),
        signal: &Signal,
        trace: Option<&str>,
        batch: &mut Batch,
    ) -> Result<(), Fault> {
        let mut loaded = self.store.load::<P::State>(&self.overlay, partition, key)?;
        match signal {
            Signal::Done(outcome) => _ = loaded.performing.remove(&outcome.call_id),
            // What was in flight before is not any more; the processor asks again for what it still wants.
            Signal::Restored => loaded.performing.clear(),
            // It stays asked for: whoever takes the partition over hears of it.
            Signal::Withdrawn(_) | Signal::Control(_) => {}
        }
        let seed = match signal {
            Signal::Done(outcome) => format!("done:{}", outcome.call_id),
            Signal::Withdrawn(call_id) => format!("withdrawn:{call_id}"),
            Signal::Restored => "restored".to_owned(),
            Signal::Control(control) => format!("control:{}", control.issued_at.0),
        };
        let mut fx = Effects::new(at.now, key, &seed, &at.controls);
        self.processor
            .on_signal(&mut loaded.state, signal, &mut fx)
            .map_err(ours)?;
        self.take((partition, key), loaded, fx, &seed, &Trace::continuing(trace), batch)
    }

    fn timer(
        &mut self,
        at: &Moment<'_>,
        (partition, key): (i32, &str),
        timer: &Timer,
        batch: &mut Batch,
    ) -> Result<(), Fault> {
        let mut loaded = self.store.load::<P::State>(&self.overlay, partition, key)?;
        let Some(index) = loaded.timers.iter().position(|t| t == timer) else {
            return Ok(());
        };
        loaded.timers.remove(index);
        let seed = format!("timer:{}:{}", timer.name, timer.due.0);
        let mut fx = Effects::new(at.now, key, &seed, &at.controls);
        self.processor
            .on_timer(&mut loaded.state, timer, &mut fx)
            .map_err(ours)?;
        self.take((partition, key), loaded, fx, &seed, &Trace::continuing(None), batch)
    }

    /// Takes a step's effects and the key's new state in.
    fn take(
        &mut self,
        (partition, key): (i32, &str),
        mut loaded: crate::store::Loaded<P::State>,
        fx: Effects<'_>,
        seed: &str,
        trace: &Trace,
        batch: &mut Batch,
    ) -> Result<(), Fault> {
        for name in &fx.timers_dropped {
            loaded.timers.retain(|t| t.name != *name);
        }
        for timer in fx.timers {
            loaded.timers.retain(|t| t.name != timer.name);
            loaded.timers.push(timer);
        }
        let asked = fx.performs.iter().map(|p| p.call.call_id.clone());
        loaded.performing.extend(asked);
        let header: Arc<str> = trace.header().into();
        for perform in fx.performs {
            self.starts.push(Start {
                partition,
                key: key.to_owned(),
                perform,
                trace: header.clone(),
            });
        }
        if !fx.emits.is_empty() {
            let cause = Cause {
                partition,
                key: key.to_owned(),
                seed: format!("{}:{seed}", self.name),
            };
            batch.take(&self.name, fx.emits, &header, cause);
        }
        if std::mem::size_of::<P::State>() > 0 {
            self.overlay.save(partition, key, loaded)?;
        }
        Ok(())
    }

    fn start(&mut self, cx: &StageContext, start: Start) -> Result<(), Fault> {
        let Some(performer) = &self.performer else {
            let detail = format!("stage {} performs but has no performer", self.name);
            return Err(Fault::new(FaultCode::Internal, detail));
        };
        self.flying.start(cx, performer, start);
        Ok(())
    }
}

impl<P: Processor> Member for Part<P> {
    fn name(&self) -> &str {
        &self.name
    }

    fn entries(&self) -> Result<Vec<(i32, String, Vec<u8>)>, Fault> {
        self.store.entries()
    }

    fn topics(&self) -> Vec<&'static str> {
        P::In::topics()
    }

    fn is_stateful(&self) -> bool {
        std::mem::size_of::<P::State>() > 0
    }

    fn own(&mut self, partition: i32, now: Timestamp) -> Result<Option<(Arc<str>, i64)>, Fault> {
        let from = self.store.own(partition, now)?;
        Ok(self.is_stateful().then(|| (self.state_topic.clone(), from)))
    }

    fn clear(&mut self, partition: i32) -> Result<(), Fault> {
        self.store.clear(partition)
    }

    fn take_in(&mut self, partition: i32, key: String, value: Option<&[u8]>) -> Result<(), Fault> {
        self.store.restore(partition, key, value)
    }

    fn restored(&mut self, partition: i32, next: i64, now: Timestamp) -> Result<(), Fault> {
        self.store.restored(partition, next, now)
    }

    fn came(&mut self, partition: i32) -> Result<(), Fault> {
        self.store.came(partition);
        let open = self.store.performing(partition)?;
        self.restored.extend(open.into_iter().map(|key| (partition, key)));
        Ok(())
    }

    fn forget(&mut self) {
        self.restored.clear();
        self.controls_seen = 0;
    }

    fn release(&mut self, partition: i32) {
        self.store.release(partition);
        self.restored.retain(|(p, _)| *p != partition);
        self.dones.retain(|d| d.partition != partition);
        self.flying.release(partition);
    }

    fn is_urgent(&self) -> bool {
        !self.restored.is_empty() || !self.dones.is_empty()
    }

    fn next_due(&self) -> Option<Timestamp> {
        self.store.next_due()
    }

    fn flying(&self, partitions: Option<&BTreeSet<i32>>) -> usize {
        self.flying.count(partitions)
    }

    fn withdraw(&mut self, partitions: Option<&BTreeSet<i32>>) {
        if let Some(performer) = &self.performer {
            self.dones.extend(self.flying.withdraw(performer.as_ref(), partitions));
        }
    }

    fn collect(&mut self) {
        self.dones.extend(self.flying.answers());
    }

    fn begin(&mut self) {
        self.overlay = Overlay::default();
        self.starts.clear();
        self.taken = (0, 0);
    }

    fn wake(&mut self, at: &Moment<'_>, batch: &mut Batch) -> Result<(), Fault> {
        if at.seen > self.controls_seen && self.is_stateful() {
            for control in at.cx.controls.since(self.controls_seen) {
                let signal = Signal::Control(Box::new(control));
                for (p, key) in self.store.keys()? {
                    self.signal(at, (p, &key), &signal, None, batch)?;
                }
            }
        }
        for (p, key) in self.restored.clone() {
            self.signal(at, (p, &key), &Signal::Restored, None, batch)?;
        }
        let dones = std::mem::take(&mut self.dones);
        let signalled = dones.iter().try_for_each(|done| {
            let signal = match &done.outcome {
                Some(outcome) => Signal::Done(Box::new(outcome.clone())),
                None => Signal::Withdrawn(done.call_id.clone()),
            };
            self.signal(at, (done.partition, &done.key), &signal, Some(&done.trace), batch)
        });
        self.taken = (self.restored.len(), dones.len());
        self.dones = dones;
        signalled?;
        for (p, key, timer) in self.store.due(at.now, TIMERS_MAX)? {
            self.timer(at, (p, &key), &timer, batch)?;
        }
        Ok(())
    }

    fn deliver(
        &mut self,
        at: &Moment<'_>,
        record: &RawRecord,
        seed: &str,
        decoder: &dyn Decoder,
        batch: &mut Batch,
    ) -> Result<(), Fault> {
        let Some(value) = &record.value else { return Ok(()) };
        let started = Instant::now();
        let mut trace = Trace::of(&record.headers);
        #[allow(clippy::cast_precision_loss, reason = "seconds for a histogram")]
        let age = (at.now.0 - record.at.0).max(0) as f64 / 1e6;
        self.ages
            .get_or_insert_with(|| at.cx.metrics.ages(&self.name))
            .observe(age);
        let input = <P::In as Input>::decode(&record.position.topic, value, decoder)?;
        let delivery = Delivery {
            input,
            key: record.key.clone(),
            position: record.position.clone(),
            headers: record.headers.clone(),
            at: record.at,
        };
        let key = self.processor.state_key().unwrap_or(&record.key);
        let place = (record.position.partition, key);
        let mut loaded = self.store.load::<P::State>(&self.overlay, place.0, place.1)?;
        let mut fx = Effects::new(at.now, place.1, seed, &at.controls);
        let stepped = self.processor.step(&mut loaded.state, &delivery, &mut fx);
        let attributes = [
            ("messaging.destination.name", &*record.position.topic),
            ("soma.key", &record.key),
        ];
        let fault = stepped.as_ref().err().map(|f| f.code.as_str());
        trace.export(&self.name, started.elapsed(), &attributes, fault);
        stepped?;
        tracing::debug!(stage = %self.name, position = %record.position, trace_id = %trace.trace_id, "step");
        self.take(place, loaded, fx, seed, &trace, batch)
    }

    fn seal(&self, batch: &mut Batch) {
        if !self.state_topic.is_empty() {
            batch.raws(self.overlay.changelog(&self.state_topic));
        }
    }

    fn committed(&mut self, at: &Moment<'_>, places: &Committed) -> Result<(), Fault> {
        let next = |partition| places.get(&(self.state_topic.clone(), partition)).copied();
        self.store.apply(std::mem::take(&mut self.overlay), next, at.now)?;
        for start in std::mem::take(&mut self.starts) {
            self.start(at.cx, start)?;
        }
        self.controls_seen = at.seen;
        let (restored, dones) = std::mem::take(&mut self.taken);
        self.restored.drain(..restored);
        for done in self.dones.drain(..dones) {
            self.flying.over(&done);
        }
        at.cx.metrics.gauge(&self.name, "state_keys", self.store.len());
        at.cx.metrics.gauge(&self.name, "state_bytes", self.store.bytes());
        at.cx.metrics.gauge(&self.name, "timers", self.store.timers_len());
        at.cx.metrics.gauge(&self.name, "in_flight", self.flying.count(None));
        Ok(())
    }
}

/// A timer or signal has no record to dead-letter: a fault there is ours.
fn ours(fault: Fault) -> Fault {
    if fault.blame == kernel::Blame::Input {
        Fault {
            blame: kernel::Blame::Ourselves,
            ..fault
        }
    } else {
        fault
    }
}
