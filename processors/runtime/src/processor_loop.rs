//! The loop of a pure processor, with the outside actions it may ask for.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use kernel::{Blame, Fault, FaultCode, Performer, Polled, Processor, RawRecord, Signal};
use schemas::records::Outcome;

use crate::batch::{Batch, Start};
use crate::dead;
use crate::health::StageState;
use crate::stage::{Backoff, Stage, StageContext};
use crate::store::Store;
use crate::turn::Turn;

const TIMERS_MAX: usize = 200;

/// An outside action that has been answered.
struct Done {
    partition: i32,
    key: String,
    call_id: String,
    outcome: Outcome,
    trace: String,
}

/// Runs a [`Processor`].
pub struct ProcessorStage<P: Processor> {
    processor: P,
    performer: Option<Arc<dyn Performer>>,
    store: Store,
    flying: HashMap<(i32, String, String), tokio::task::AbortHandle>,
    answers: (Sender<Done>, Receiver<Done>),
    dones: VecDeque<Done>,
    backlog: VecDeque<RawRecord>,
    restored: Vec<(i32, String)>,
    owned: BTreeSet<(String, i32)>,
    controls_seen: usize,
    backoff: Backoff,
    paused: bool,
    /// One record per transaction until the one that makes it too large is found.
    suspect: bool,
}

impl<P: Processor> ProcessorStage<P> {
    /// A stage around a processor; `performer` is needed when it asks for outside actions.
    pub fn new(processor: P, performer: Option<Arc<dyn Performer>>) -> Self {
        Self {
            processor,
            performer,
            store: Store::default(),
            flying: HashMap::new(),
            answers: channel(),
            dones: VecDeque::new(),
            backlog: VecDeque::new(),
            restored: Vec::new(),
            owned: BTreeSet::new(),
            controls_seen: 0,
            backoff: Backoff::default(),
            paused: false,
            suspect: false,
        }
    }

    fn is_stateful() -> bool {
        std::mem::size_of::<P::State>() > 0
    }

    /// How long the poll may wait before something else is due.
    fn wait_ms(&self, cx: &StageContext) -> u64 {
        if !self.backlog.is_empty() {
            return cx.pass_time(&self.backoff);
        }
        if !self.restored.is_empty() || !self.dones.is_empty() {
            return 0;
        }
        let until_timer = self
            .store
            .next_due()
            .map_or(100, |due| (due.0 - cx.clock.now().0) / 1000);
        let cap = if self.flying.is_empty() { 100 } else { 2 };
        u64::try_from(until_timer.clamp(0, cap)).unwrap_or(0)
    }

    /// Holds records back while there are enough to do or a dependency is down.
    fn hold_back(&mut self, cx: &mut StageContext) -> Result<(), Fault> {
        let full = self.flying.len() >= cx.limits.in_flight_max;
        let wanted = full || !self.backlog.is_empty();
        if wanted != self.paused {
            cx.log.pause(wanted)?;
            self.paused = wanted;
        }
        Ok(())
    }

    fn restore(&mut self, cx: &mut StageContext, partitions: &BTreeSet<i32>) -> Result<(), Fault> {
        for &p in partitions {
            let started = Instant::now();
            self.store.own(p);
            if Self::is_stateful() {
                cx.health.set(
                    &cx.stage,
                    StageState::Restoring(format!("{} partition {p}", cx.state_topic)),
                    self.owned.len(),
                );
                let (store, mut failed) = (&mut self.store, None);
                cx.log.restore(&cx.state_topic, p, &mut |key, value| {
                    if let Err(fault) = store.restore(p, key, value) {
                        failed.get_or_insert(fault);
                    }
                })?;
                if let Some(fault) = failed {
                    return Err(fault);
                }
            }
            let open = self.store.performing(p);
            let flying: BTreeSet<_> = self.flying.keys().map(|(p, key, _)| (*p, key.clone())).collect();
            self.restored
                .extend(open.into_iter().map(|key| (p, key)).filter(|at| !flying.contains(at)));
            tracing::info!(stage = %cx.stage, partition = p, keys = self.store.len(), ms = started.elapsed().as_millis(), "state restored");
        }
        Ok(())
    }

    fn assigned(&mut self, cx: &mut StageContext, parts: &[(String, i32)]) -> Result<(), Fault> {
        let fresh: BTreeSet<i32> = parts
            .iter()
            .map(|p| p.1)
            .filter(|p| !self.store.partitions().contains(p))
            .collect();
        self.restore(cx, &fresh)?;
        cx.log.start(parts)?;
        self.owned.extend(parts.iter().cloned());
        cx.running(self.owned.len());
        Ok(())
    }

    /// A dependency fault in the middle of taking partitions over must not lose them: try until it works.
    fn insist(&mut self, cx: &mut StageContext, parts: &[(String, i32)], reset: bool) -> Result<(), Fault> {
        loop {
            let done = if reset {
                self.reset(cx)
            } else {
                self.assigned(cx, parts)
            };
            match done {
                Err(fault) if fault.blame == Blame::Dependency && !cx.stopping() => {
                    cx.waiting(&fault, &mut self.backoff, self.owned.len());
                    while !self.backoff.over() && !cx.stopping() {
                        std::thread::sleep(Duration::from_millis(10));
                    }
                }
                other => {
                    self.backoff = Backoff::default();
                    return other;
                }
            }
        }
    }

    /// After a failed transaction: what is true is what the log says. Reads state and offsets back, as after a crash.
    fn reset(&mut self, cx: &mut StageContext) -> Result<(), Fault> {
        self.backlog.clear();
        self.restored.clear();
        self.controls_seen = 0;
        let partitions: BTreeSet<i32> = self.store.partitions().into_iter().collect();
        self.restore(cx, &partitions)?;
        let owned: Vec<_> = self.owned.iter().cloned().collect();
        if !owned.is_empty() {
            cx.log.start(&owned)?;
        }
        cx.running(self.owned.len());
        Ok(())
    }

    fn revoked(&mut self, cx: &mut StageContext, parts: &[(String, i32)]) -> Result<(), Fault> {
        let going: BTreeSet<i32> = parts.iter().map(|p| p.1).collect();
        self.backlog.retain(|r| !going.contains(&r.position.partition));
        self.drain(cx, &going)?;
        for p in &going {
            self.store.release(*p);
        }
        self.restored.retain(|(p, _)| !going.contains(p));
        self.dones.retain(|d| !going.contains(&d.partition));
        self.owned.retain(|o| !parts.contains(o));
        cx.log.release(parts)?;
        cx.running(self.owned.len());
        Ok(())
    }

    /// Waits for the actions in flight of these partitions and commits what came of them; the one path for revoke and stop.
    fn drain(&mut self, cx: &mut StageContext, going: &BTreeSet<i32>) -> Result<(), Fault> {
        let deadline = Instant::now() + Duration::from_millis(cx.limits.drain_ms);
        let backlog = std::mem::take(&mut self.backlog);
        while self.flying.keys().any(|(p, ..)| going.contains(p)) && Instant::now() < deadline {
            self.turn(cx)?;
            std::thread::sleep(Duration::from_millis(2));
        }
        self.turn(cx)?;
        self.backlog = backlog;
        self.flying.retain(|(p, ..), handle| {
            let stays = !going.contains(p);
            if !stays {
                handle.abort();
            }
            stays
        });
        Ok(())
    }

    fn turn(&mut self, cx: &mut StageContext) -> Result<(), Fault> {
        self.dones.extend(self.answers.1.try_iter());
        let started = Instant::now();
        let now = cx.clock.now();
        let mut batch = Batch::default();
        let (controls, seen) = cx.controls.now();
        let mut turn = Turn {
            processor: &self.processor,
            store: &self.store,
            cx,
            now,
            controls: &controls,
            batch: &mut batch,
        };
        if seen > self.controls_seen && Self::is_stateful() {
            turn.signal_controls(self.controls_seen)?;
        }
        let restored = self.restored.len();
        for (p, key) in &self.restored {
            turn.signal(*p, key, Signal::Restored, None)?;
        }
        let answered = self.dones.len();
        for done in &self.dones {
            turn.signal(
                done.partition,
                &done.key,
                Signal::Done(Box::new(done.outcome.clone())),
                Some(&done.trace),
            )?;
        }
        for (p, key, timer) in self.store.due(now, TIMERS_MAX) {
            turn.timer(p, &key, &timer)?;
        }
        let mut taken = 0;
        let mut waiting = None;
        let most = if self.suspect { 1 } else { usize::MAX };
        if self.backoff.over() {
            for record in self.backlog.iter().take(most) {
                match turn.deliver(record) {
                    Ok(()) => taken += 1,
                    Err(fault) if fault.blame == Blame::Dependency => {
                        waiting = Some(fault);
                        break;
                    }
                    Err(fault) => return Err(fault),
                }
            }
        }
        let commit = batch.seal(&self.store, &cx.state_topic);
        if !commit.is_empty() {
            cx.metrics.batch(&cx.stage, started.elapsed().as_secs_f64());
            if let Err(fault) = cx.commit(&commit) {
                return self.commit_failed(cx, fault, taken);
            }
        }
        self.committed(cx, batch, taken)?;
        self.controls_seen = seen;
        self.restored.drain(..restored);
        for done in self.dones.drain(..answered) {
            self.flying.remove(&(done.partition, done.key, done.call_id));
        }
        if let Some(fault) = waiting {
            cx.waiting(&fault, &mut self.backoff, self.owned.len());
        } else if taken > 0 && self.backoff.attempts > 0 {
            self.backoff = Backoff::default();
            cx.running(self.owned.len());
        }
        Ok(())
    }

    fn committed(&mut self, cx: &mut StageContext, mut batch: Batch, taken: usize) -> Result<(), Fault> {
        self.store.apply(std::mem::take(&mut batch.overlay))?;
        for ((topic, outcome), n) in std::mem::take(&mut batch.counts) {
            cx.metrics.records(&cx.stage, &topic, outcome, n);
        }
        for start in std::mem::take(&mut batch.starts) {
            self.start(cx, start)?;
        }
        self.backlog.drain(..taken);
        if taken > 0 && self.suspect && self.backlog.is_empty() {
            self.suspect = false;
        }
        cx.metrics.gauge(&cx.stage, "state_keys", self.store.len());
        cx.metrics.gauge(&cx.stage, "timers", self.store.timers_len());
        cx.metrics.gauge(&cx.stage, "in_flight", self.flying.len());
        Ok(())
    }

    fn commit_failed(&mut self, cx: &mut StageContext, fault: Fault, taken: usize) -> Result<(), Fault> {
        cx.metrics.fault(&cx.stage, fault.code.as_str());
        if fault.code == FaultCode::RecordTooLarge {
            if self.suspect && taken > 0 {
                return self.too_large(cx, &fault);
            }
            if self.suspect {
                return Err(Fault {
                    blame: Blame::Ourselves,
                    ..fault
                });
            }
            self.suspect = true;
        } else if fault.blame != Blame::Dependency {
            return Err(fault);
        }
        tracing::warn!(stage = %cx.stage, code = %fault.code, detail = %fault.detail, "transaction not committed; reading state and offsets back");
        self.insist(cx, &[], true)
    }

    /// The record whose effects do not fit is a dead letter.
    fn too_large(&mut self, cx: &mut StageContext, fault: &Fault) -> Result<(), Fault> {
        let Some(record) = self.backlog.pop_front() else {
            return Ok(());
        };
        let mut batch = Batch::default();
        batch.dead(dead::letter(&record, &cx.stage, fault, 2, cx.clock.now()));
        batch.consumed(&record, "dead_lettered");
        let commit = batch.seal(&self.store, "");
        self.suspect = false;
        match cx.commit(&commit) {
            Ok(()) => Ok(()),
            Err(fault) => self.commit_failed(cx, fault, 0),
        }
    }

    fn start(&mut self, cx: &StageContext, start: Start) -> Result<(), Fault> {
        let Some(performer) = &self.performer else {
            return Err(Fault::new(
                FaultCode::Internal,
                format!("stage {} performs but has no performer", cx.stage),
            ));
        };
        let call_id = start.perform.call.call_id.clone();
        let at = (start.partition, start.key.clone(), call_id.clone());
        let work = performer.perform(start.perform.call, start.perform.approach);
        let answers = self.answers.0.clone();
        let task = cx.handle.spawn(async move {
            let outcome = work.await;
            let done = Done {
                partition: start.partition,
                key: start.key,
                call_id,
                outcome,
                trace: start.trace,
            };
            if answers.send(done).is_err() {
                tracing::debug!("the stage is gone; its intent stands and will be looked into");
            }
        });
        self.flying.insert(at, task.abort_handle());
        Ok(())
    }
}

impl<P: Processor> Stage for ProcessorStage<P> {
    fn run(&mut self, cx: &mut StageContext) -> Result<(), Fault> {
        loop {
            cx.health.beat(&cx.stage);
            if cx.stopping() {
                let all: BTreeSet<i32> = self.store.partitions().into_iter().collect();
                self.backlog.clear();
                return self.drain(cx, &all);
            }
            self.hold_back(cx)?;
            match cx.log.poll(cx.limits.batch_max, self.wait_ms(cx)) {
                Ok(Polled::Records(records)) => self.backlog.extend(records),
                Ok(Polled::Assigned(parts)) => self.insist(cx, &parts, false)?,
                Ok(Polled::Revoked(parts)) => self.revoked(cx, &parts)?,
                Ok(Polled::Idle) => {}
                Err(fault) if fault.blame == Blame::Dependency => {
                    cx.metrics.fault(&cx.stage, fault.code.as_str());
                    tracing::debug!(stage = %cx.stage, detail = %fault.detail, "poll");
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(fault) => return Err(fault),
            }
            self.turn(cx)?;
        }
    }
}
