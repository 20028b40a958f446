//! The loop of a task: one processor, or several fused into one transaction, with the outside actions they may ask for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernel::{Blame, Committed, Fault, FaultCode, Polled, RawRecord};

use crate::batch::Batch;
use crate::coming::Coming;
use crate::dead;
use crate::fuse::Fuse;
use crate::health::StageState;
use crate::part::{Member, Moment};
use crate::restore::restore;
use crate::stage::{Backoff, Stage, StageContext};

/// Offsets of records that needed no step are committed with the next transaction, or alone after this long.
const SKIPPED_MAX: Duration = Duration::from_secs(5);
/// Steps of a batch that took longer are told of.
const SLOW: Duration = Duration::from_millis(500);
/// Before an aborted transaction is made again: a rebalance takes a few of these.
const ABORTED: Duration = Duration::from_millis(20);
/// So many aborted one after the other are no rebalance: an operator is told.
const ABORTS_MANY: u32 = 100;

/// Runs the members of a task.
pub struct ProcessorStage {
    members: Vec<Box<dyn Member>>,
    fuse: Fuse,
    backlog: VecDeque<RawRecord>,
    /// Offsets to commit of records every member had already taken.
    skipped: BTreeMap<(Arc<str>, i32), i64>,
    skipped_at: Duration,
    owned: BTreeSet<(String, i32)>,
    coming: Coming,
    going: Option<Going>,
    backoff: Backoff,
    paused: bool,
    /// One record per transaction until the one that makes it too large is found.
    suspect: bool,
    /// Transactions aborted since the last that was made.
    aborts: u32,
}

/// Partitions asked for by others, given up once their actions in flight are answered: the group waits for that, the other partitions
/// need not.
struct Going {
    parts: Vec<(String, i32)>,
    numbers: BTreeSet<i32>,
    /// By the clock's elapsed time.
    until: Duration,
}

/// What a turn gathered.
struct Gathered {
    batch: Batch,
    /// Records of the backlog that are in it.
    taken: usize,
    /// Offsets behind those that needed no step.
    skipped: BTreeMap<(Arc<str>, i32), i64>,
    /// Why the next one is not.
    waiting: Option<Fault>,
}

impl ProcessorStage {
    /// A task of these members, in the order records flow through them.
    pub fn new(pipeline: &str, members: Vec<Box<dyn Member>>) -> Self {
        Self {
            fuse: Fuse::new(pipeline, &members),
            members,
            backlog: VecDeque::new(),
            skipped: BTreeMap::new(),
            skipped_at: Duration::ZERO,
            owned: BTreeSet::new(),
            coming: Coming::default(),
            going: None,
            backoff: Backoff::default(),
            paused: false,
            suspect: false,
            aborts: 0,
        }
    }

    fn partitions(&self) -> BTreeSet<i32> {
        self.owned.iter().map(|o| o.1).collect()
    }

    fn flying(&self, partitions: Option<&BTreeSet<i32>>) -> usize {
        self.members.iter().map(|m| m.flying(partitions)).sum()
    }

    /// How long the poll may wait before something else is due.
    fn wait_ms(&self, cx: &StageContext) -> u64 {
        if !self.backlog.is_empty() {
            return cx.pass_time(&self.backoff);
        }
        if self.members.iter().any(|m| m.is_urgent()) || self.flying(None) > 0 || self.coming.is_under_way(cx) {
            return 0;
        }
        let due = self.members.iter().filter_map(|m| m.next_due()).min();
        let until = due.map_or(100, |due| (due.0 - cx.clock.now().0) / 1000);
        u64::try_from(until.clamp(0, 100)).unwrap_or(0)
    }

    /// Holds records back while there are enough to do or a dependency is down.
    fn hold_back(&mut self, cx: &mut StageContext) -> Result<(), Fault> {
        let full = self.flying(None) >= cx.limits.in_flight_max;
        let wanted = full || !self.backlog.is_empty();
        if wanted != self.paused {
            cx.log.pause(wanted)?;
            self.paused = wanted;
        }
        Ok(())
    }

    /// What the group gave is read back beside the work on what is owned, and at work itself once it is.
    fn take_over(&mut self, cx: &mut StageContext) -> Result<(), Fault> {
        let came = self.coming.go_on(&mut self.members, cx, self.owned.len())?;
        if !came.is_empty() {
            self.owned.extend(came);
            cx.running(self.owned.len());
        }
        Ok(())
    }

    /// A dependency fault while all is read back must not lose it: try until it works.
    fn insist(&mut self, cx: &mut StageContext) -> Result<(), Fault> {
        loop {
            match self.reset(cx) {
                Err(fault) if fault.blame == Blame::Dependency && !cx.stopping() => {
                    cx.waiting(&fault, &mut self.backoff, self.owned.len());
                    while !self.backoff.over(cx.clock.as_ref()) && !cx.stopping() {
                        cx.waker.wait(Duration::from_millis(10));
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
        self.skipped.clear();
        self.coming.again(cx);
        self.members.iter_mut().for_each(|m| m.forget());
        let partitions = self.partitions();
        restore(&mut self.members, cx, &partitions, self.owned.len())?;
        let owned: Vec<_> = self.owned.iter().cloned().collect();
        if !owned.is_empty() {
            cx.log.start(&owned)?;
        }
        cx.running(self.owned.len());
        Ok(())
    }

    fn revoked(&mut self, cx: &mut StageContext, mut parts: Vec<(String, i32)>) -> Result<(), Fault> {
        parts.extend(self.going.take().into_iter().flat_map(|going| going.parts));
        let numbers: BTreeSet<i32> = parts.iter().map(|p| p.1).collect();
        self.coming.without(cx, &numbers);
        self.backlog.retain(|r| !numbers.contains(&r.position.partition));
        let until = cx.clock.elapsed() + Duration::from_millis(cx.limits.drain_ms);
        self.going = Some(Going { parts, numbers, until });
        self.let_go(cx)
    }

    /// Gives up what is going, if nothing of it is in flight any more, or its time is up.
    fn let_go(&mut self, cx: &mut StageContext) -> Result<(), Fault> {
        if let Some(going) = &self.going {
            self.members.iter_mut().for_each(|m| m.withdraw(Some(&going.numbers)));
        }
        let flies = |going: &Going| self.flying(Some(&going.numbers)) > 0 && cx.clock.elapsed() < going.until;
        if self.going.as_ref().is_none_or(flies) {
            return Ok(());
        }
        self.turn(cx, true)?;
        let going = self.going.take();
        going.map_or(Ok(()), |going| self.release(cx, &going.parts))
    }

    /// Records of partitions that are going are their next owner's.
    fn receive(&mut self, records: Vec<RawRecord>) {
        let going = self.going.as_ref().map(|going| &going.numbers);
        let stays = |r: &RawRecord| !going.is_some_and(|going| going.contains(&r.position.partition));
        self.backlog.extend(records.into_iter().filter(stays));
    }

    /// Others may own them by now: what is in flight or was about to be committed is theirs to find.
    fn lost(&mut self, cx: &mut StageContext, parts: &[(String, i32)]) -> Result<(), Fault> {
        tracing::warn!(stage = %cx.stage, partitions = ?parts, "partitions lost: this instance was silent for too long");
        let gone: BTreeSet<i32> = parts.iter().map(|p| p.1).collect();
        self.coming.without(cx, &gone);
        self.backlog.retain(|r| !gone.contains(&r.position.partition));
        if let Some(going) = &mut self.going {
            going.parts.retain(|part| !parts.contains(part));
            going.numbers = going.parts.iter().map(|p| p.1).collect();
        }
        self.going = self.going.take().filter(|going| !going.parts.is_empty());
        self.release(cx, parts)
    }

    fn release(&mut self, cx: &mut StageContext, parts: &[(String, i32)]) -> Result<(), Fault> {
        for (_, p) in parts {
            self.members.iter_mut().for_each(|m| m.release(*p));
        }
        self.skipped
            .retain(|(_, gone), _| !parts.iter().any(|(_, p)| p == gone));
        self.owned.retain(|o| !parts.contains(o));
        cx.log.release(parts)?;
        cx.running(self.owned.len());
        Ok(())
    }

    /// Before the process ends: waits for the actions under way and commits what came of them. Those that have not begun are the next owner's.
    fn drain(&mut self, cx: &mut StageContext) -> Result<(), Fault> {
        let deadline = cx.clock.elapsed() + Duration::from_millis(cx.limits.drain_ms);
        self.backlog.clear();
        while self.flying(None) > 0 && cx.clock.elapsed() < deadline {
            self.members.iter_mut().for_each(|m| m.withdraw(None));
            self.turn(cx, false)?;
            cx.waker.wait(Duration::from_millis(2));
        }
        self.turn(cx, true)
    }

    /// Steps everything there is, the first `most` records of the backlog included. Nothing is true yet.
    fn gather(&mut self, at: &Moment<'_>, most: usize) -> Result<Gathered, Fault> {
        let mut batch = Batch::default();
        self.members.iter_mut().for_each(|m| m.begin());
        for member in &mut self.members {
            member.wake(at, &mut batch)?;
        }
        let mut cursor = self.fuse.hand_on(at, &mut self.members, &mut batch, 0)?;
        let (mut taken, mut skipped, mut waiting) = (0, BTreeMap::new(), None);
        for record in self.backlog.iter().take(most) {
            let stepped = step(&mut self.members, at, record, &mut batch, &self.fuse);
            let done = stepped.and_then(|stepped| {
                cursor = self.fuse.hand_on(at, &mut self.members, &mut batch, cursor)?;
                Ok(stepped)
            });
            match done {
                Ok(true) => {}
                Ok(false) => {
                    let position = &record.position;
                    let place = (position.topic.clone(), position.partition);
                    skipped.insert(place, position.offset + 1);
                }
                Err(fault) if fault.blame == Blame::Dependency => {
                    waiting = Some(fault);
                    break;
                }
                Err(fault) => return Err(fault),
            }
            taken += 1;
        }
        Ok(Gathered {
            batch,
            taken,
            skipped,
            waiting,
        })
    }

    fn turn(&mut self, cx: &mut StageContext, last: bool) -> Result<(), Fault> {
        self.members.iter_mut().for_each(|m| m.collect());
        let started = Instant::now();
        let (controls, seen) = cx.controls.now();
        let at = Moment {
            now: cx.clock.now(),
            controls,
            seen,
            cx,
        };
        let most = match (self.backoff.over(cx.clock.as_ref()), self.suspect) {
            (false, _) => 0,
            (true, true) => 1,
            (true, false) => usize::MAX,
        };
        let mut gathered = self.gather(&at, most)?;
        if let Some(fault) = gathered.waiting.take() {
            // What the record in hand had done so far must not become true: gather again without it. Steps are pure.
            gathered = self.gather(&at, gathered.taken)?;
            if gathered.waiting.is_some() {
                gathered.batch = Batch::default();
                gathered.skipped.clear();
                gathered.taken = 0;
                self.members.iter_mut().for_each(|m| m.begin());
            }
            gathered.waiting = Some(fault);
        }
        let Gathered {
            mut batch,
            taken,
            skipped,
            waiting,
        } = gathered;
        self.members.iter().for_each(|m| m.seal(&mut batch));
        let counts = std::mem::take(&mut batch.counts);
        let now = (at.now, at.controls, at.seen);
        let mut places = Committed::new();
        // Those of records still in the backlog count only once everything before them does.
        let mut behind = self.skipped.clone();
        behind.extend(skipped);
        if batch.writes() || !counts.is_empty() || last || cx.clock.elapsed() > self.skipped_at + SKIPPED_MAX {
            for (place, next) in std::mem::take(&mut behind) {
                batch.offset(place, next);
            }
            let commit = batch.seal();
            if !commit.is_empty() {
                let steps = started.elapsed();
                cx.metrics.batch(&cx.stage, steps.as_secs_f64());
                if steps > SLOW {
                    tracing::info!(stage = %cx.stage, records = taken, ms = steps.as_millis(), "slow steps");
                }
                match cx.commit(&commit) {
                    Ok(committed) => places = committed,
                    Err(fault) => return self.commit_failed(cx, fault, taken),
                }
                if std::mem::take(&mut self.aborts) >= ABORTS_MANY {
                    cx.running(self.owned.len());
                }
            }
            self.skipped_at = cx.clock.elapsed();
        }
        self.skipped = behind;
        let at = Moment {
            cx,
            now: now.0,
            controls: now.1,
            seen: now.2,
        };
        for member in &mut self.members {
            member.committed(&at, &places)?;
        }
        for ((topic, outcome), n) in counts {
            cx.metrics.records(&cx.stage, &topic, outcome, n);
        }
        self.backlog.drain(..taken);
        if taken > 0 && self.suspect && self.backlog.is_empty() {
            self.suspect = false;
        }
        if let Some(fault) = waiting {
            cx.waiting(&fault, &mut self.backoff, self.owned.len());
        } else if taken > 0 && self.backoff.attempts > 0 {
            self.backoff = Backoff::default();
            cx.running(self.owned.len());
        }
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
        } else if fault.code == FaultCode::TransactionAborted {
            // State and offsets are as they were, and so is the backlog: the next turn makes it again.
            self.aborts += 1;
            if self.aborts == 1 {
                tracing::warn!(stage = %cx.stage, code = %fault.code, detail = %fault.detail, "transaction aborted; made again");
            }
            if self.aborts == ABORTS_MANY {
                let state = StageState::Waiting(fault.to_string());
                cx.health.set(&cx.stage, state, self.owned.len());
            }
            cx.waker.wait(ABORTED);
            return Ok(());
        } else if fault.blame != Blame::Dependency {
            return Err(fault);
        }
        tracing::warn!(stage = %cx.stage, code = %fault.code, detail = %fault.detail, "transaction not committed; reading state and offsets back");
        self.insist(cx)
    }

    /// The record whose effects do not fit is a dead letter.
    fn too_large(&mut self, cx: &mut StageContext, fault: &Fault) -> Result<(), Fault> {
        let Some(record) = self.backlog.front() else {
            return Ok(());
        };
        let mut batch = Batch::default();
        batch.dead(dead::letter(record, &cx.stage, fault, 2, cx.clock.now()));
        batch.consumed(record, "dead_lettered");
        match cx.commit(&batch.seal()) {
            Ok(_) => {
                self.backlog.pop_front();
                self.suspect = false;
                Ok(())
            }
            Err(fault) => self.commit_failed(cx, fault, 0),
        }
    }
}

/// Steps one record through every member that reads its topic and has not taken it yet. False when there was none.
fn step(
    members: &mut [Box<dyn Member>],
    at: &Moment<'_>,
    record: &RawRecord,
    batch: &mut Batch,
    fuse: &Fuse,
) -> Result<bool, Fault> {
    let mut outcome = None;
    let seed = record.position.to_string();
    for &i in fuse.readers(&record.position.topic) {
        let Some(member) = members.get_mut(i) else { continue };
        if fuse.has_taken(member.name(), record) {
            continue;
        }
        match member.deliver(at, record, &seed, at.cx.decoder.as_ref(), batch) {
            Ok(()) => _ = outcome.get_or_insert("ok"),
            Err(fault) if fault.blame == Blame::Input => {
                at.cx.metrics.fault(member.name(), fault.code.as_str());
                tracing::warn!(stage = member.name(), position = %record.position, code = %fault.code, detail = %fault.detail, "dead-lettered");
                batch.dead(dead::letter(record, member.name(), &fault, 1, at.now));
                outcome = Some("dead_lettered");
            }
            Err(fault) => return Err(fault),
        }
    }
    if let Some(outcome) = outcome {
        batch.consumed(record, outcome);
    }
    Ok(outcome.is_some())
}

impl ProcessorStage {
    /// Stage, partition, key and bytes of every state held, for checks.
    ///
    /// # Errors
    /// `STATE_ON_DISK`.
    pub fn entries(&self) -> Result<Vec<(String, i32, String, Vec<u8>)>, Fault> {
        let mut all = Vec::new();
        for member in &self.members {
            let name = member.name();
            let entries = member.entries()?.into_iter();
            all.extend(entries.map(|(p, k, v)| (name.to_owned(), p, k, v)));
        }
        Ok(all)
    }

    /// Outside actions in flight.
    pub fn in_flight(&self) -> usize {
        self.flying(None)
    }
}

impl Stage for ProcessorStage {
    fn go_round(&mut self, cx: &mut StageContext) -> Result<bool, Fault> {
        cx.health.beat(&cx.stage);
        if cx.stopping() {
            self.drain(cx)?;
            return Ok(false);
        }
        self.hold_back(cx)?;
        let wait = self.wait_ms(cx);
        match cx.log.poll(cx.limits.batch_max, wait) {
            Ok(Polled::Records(records)) => self.receive(records),
            // More instances than partitions: this one stands by, unless it still reads back what it was given before.
            Ok(Polled::Assigned(parts)) if parts.is_empty() && self.coming.is_empty() => cx.running(self.owned.len()),
            Ok(Polled::Assigned(parts)) => self.coming.give(parts),
            Ok(Polled::Revoked(parts)) => self.revoked(cx, parts)?,
            Ok(Polled::Lost(parts)) => self.lost(cx, &parts)?,
            // An answer ends this wait; the client's own cannot be ended from outside.
            Ok(Polled::Idle) if self.flying(None) > 0 => cx.waker.wait(Duration::from_millis(3)),
            Ok(Polled::Idle) => {}
            Err(fault) if fault.blame == Blame::Dependency => {
                cx.metrics.fault(&cx.stage, fault.code.as_str());
                tracing::debug!(stage = %cx.stage, detail = %fault.detail, "poll");
                cx.waker.wait(Duration::from_millis(50));
            }
            Err(fault) => return Err(fault),
        }
        self.turn(cx, false)?;
        self.let_go(cx)?;
        self.take_over(cx)?;
        Ok(true)
    }
}
