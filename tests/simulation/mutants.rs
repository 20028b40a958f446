//! Thirteen faults planted where the loop meets its log, its members, its tools and its controls: what the loop would do if it were
//! written so. The simulation must find each of them, or it would not find ours. No production code knows of them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kernel::{
    Approach, Changelog, Commit, Committed, Decoder, Delivery, Effects, Fault, Log, Pending, Performer, Polled,
    Processor, RawRecord, Restoring, Signal, Timer,
};
use runtime::sim::{Part, SimLog, is_crash};
use runtime::{Batch, Member, Moment};
use schemas::Timestamp;
use schemas::records::{Call, Outcome};
use stages::invoker::Invoker;
use tools::Engine;

use super::world::World;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    OffsetsFirst,
    OffsetsEarly,
    StateApart,
    TimerLost,
    BlindRepeat,
    NotMarked,
    ErrorSwallowed,
    NoRewind,
    StateKept,
    CallBeforeIntent,
    KillUnheard,
    BegunWithdrawn,
    HalfRestored,
}

impl Mutant {
    pub(crate) const ALL: [Mutant; 13] = [
        Mutant::OffsetsFirst,
        Mutant::OffsetsEarly,
        Mutant::StateApart,
        Mutant::TimerLost,
        Mutant::BlindRepeat,
        Mutant::NotMarked,
        Mutant::ErrorSwallowed,
        Mutant::NoRewind,
        Mutant::StateKept,
        Mutant::CallBeforeIntent,
        Mutant::KillUnheard,
        Mutant::BegunWithdrawn,
        Mutant::HalfRestored,
    ];

    pub(crate) fn what(self) -> &'static str {
        match self {
            Mutant::OffsetsFirst => "offsets are committed before outputs",
            Mutant::OffsetsEarly => "a transaction's offsets are sent while its records are under way",
            Mutant::StateApart => "state is saved outside the transaction",
            Mutant::TimerLost => "timers are lost when state is restored",
            Mutant::BlindRepeat => "a call that must not be repeated is repeated",
            Mutant::NotMarked => "a record handed on is not marked as taken",
            Mutant::ErrorSwallowed => "a failed transaction is taken for made",
            Mutant::NoRewind => "reading goes on after a failed transaction",
            Mutant::StateKept => "state is not read back after a failed transaction",
            Mutant::CallBeforeIntent => "a call is made before its intent is committed",
            Mutant::KillUnheard => "the stages never hear of a kill",
            Mutant::BegunWithdrawn => "a call under way is handed over as one that has not begun",
            Mutant::HalfRestored => "a partition is at work before its state is read back",
        }
    }
}

pub(super) fn log(mutant: Option<Mutant>, log: SimLog) -> Box<dyn Log> {
    match mutant {
        Some(mutant) => Box::new(MutantLog {
            log,
            mutant,
            begun: BTreeSet::new(),
        }),
        None => Box::new(log),
    }
}

struct MutantLog {
    log: SimLog,
    mutant: Mutant,
    begun: BTreeSet<(String, i32)>,
}

fn parts(commit: &Commit) -> (Commit, Commit, Commit) {
    let offsets = Commit {
        offsets: commit.offsets.clone(),
        ..Commit::default()
    };
    let (state, letters) = commit.raw.iter().cloned().partition(|r| r.partition.is_some());
    let outputs = Commit {
        emits: commit.emits.clone(),
        traces: commit.traces.clone(),
        raw: letters,
        ..Commit::default()
    };
    let state = Commit {
        raw: state,
        ..Commit::default()
    };
    (offsets, state, outputs)
}

impl Log for MutantLog {
    fn poll(&mut self, records_max: usize, wait_ms: u64) -> Result<Polled, Fault> {
        self.log.poll(records_max, wait_ms)
    }

    fn commit(&mut self, commit: &Commit) -> Result<Committed, Fault> {
        match self.mutant {
            Mutant::OffsetsFirst => {
                let (offsets, state, mut rest) = parts(commit);
                rest.raw.extend(state.raw);
                self.log.commit(&offsets)?;
                self.log.commit(&rest)
            }
            // One transaction, as it is shipped, in the order there once was.
            Mutant::OffsetsEarly => {
                let early = [Part::Offsets, Part::Records, Part::Rest, Part::End];
                self.log.commit_in(commit, &early)
            }
            Mutant::StateApart => {
                let (offsets, state, mut rest) = parts(commit);
                rest.offsets = offsets.offsets;
                self.log.commit(&state)?;
                self.log.commit(&rest)
            }
            Mutant::NotMarked => {
                let (offsets, state, mut all) = parts(commit);
                all.emits.iter_mut().for_each(|e| e.taken_by.clear());
                all.raw.extend(state.raw);
                all.offsets = offsets.offsets;
                self.log.commit(&all)
            }
            Mutant::ErrorSwallowed => match self.log.commit(commit) {
                Err(fault) if !is_crash(&fault) => Ok(Committed::new()),
                other => other,
            },
            _ => self.log.commit(commit),
        }
    }

    fn restore_begin(&mut self, changelogs: &[Changelog]) -> Result<(), Fault> {
        self.log.restore_begin(changelogs)
    }

    fn restore_more(&mut self, into: &mut dyn Restoring, at_most: Duration) -> Result<bool, Fault> {
        match self.mutant {
            Mutant::TimerLost => self.log.restore_more(&mut Timerless(into), at_most),
            Mutant::HalfRestored => self.log.restore_more(into, at_most).map(|_| true),
            _ => self.log.restore_more(into, at_most),
        }
    }

    fn start(&mut self, partitions: &[(String, i32)]) -> Result<(), Fault> {
        let fresh: Vec<_> = partitions
            .iter()
            .filter(|p| self.mutant != Mutant::NoRewind || !self.begun.contains(p))
            .cloned()
            .collect();
        self.log.start(&fresh)?;
        self.begun.extend(fresh);
        Ok(())
    }

    fn release(&mut self, partitions: &[(String, i32)]) -> Result<(), Fault> {
        self.begun.retain(|p| !partitions.contains(p));
        self.log.release(partitions)
    }

    fn home(&self, key: &str) -> Option<i32> {
        self.log.home(key)
    }

    fn pause(&mut self, paused: bool) -> Result<(), Fault> {
        self.log.pause(paused)
    }
}

pub(super) fn member(mutant: Option<Mutant>, member: Box<dyn Member>) -> Box<dyn Member> {
    if mutant == Some(Mutant::StateKept) {
        let held = BTreeSet::new();
        Box::new(Keeps { member, held })
    } else {
        member
    }
}

/// Reads a partition's state back once, and never again while it holds it.
struct Keeps {
    member: Box<dyn Member>,
    held: BTreeSet<i32>,
}

impl Member for Keeps {
    fn own(&mut self, partition: i32, now: Timestamp) -> Result<Option<(Arc<str>, i64)>, Fault> {
        if self.held.contains(&partition) {
            return Ok(None);
        }
        self.member.own(partition, now)
    }

    fn clear(&mut self, partition: i32) -> Result<(), Fault> {
        self.member.clear(partition)
    }

    fn take_in(&mut self, partition: i32, key: String, value: Option<&[u8]>) -> Result<(), Fault> {
        self.member.take_in(partition, key, value)
    }

    fn restored(&mut self, partition: i32, next: i64, now: Timestamp) -> Result<(), Fault> {
        self.member.restored(partition, next, now)
    }

    fn came(&mut self, partition: i32) -> Result<(), Fault> {
        if !self.held.insert(partition) {
            return Ok(());
        }
        self.member.came(partition)
    }

    fn release(&mut self, partition: i32) {
        self.held.remove(&partition);
        self.member.release(partition);
    }

    fn name(&self) -> &str {
        self.member.name()
    }

    fn entries(&self) -> Result<Vec<(i32, String, Vec<u8>)>, Fault> {
        self.member.entries()
    }

    fn topics(&self) -> Vec<&'static str> {
        self.member.topics()
    }

    fn is_stateful(&self) -> bool {
        self.member.is_stateful()
    }

    fn forget(&mut self) {
        self.member.forget();
    }

    fn is_urgent(&self) -> bool {
        self.member.is_urgent()
    }

    fn next_due(&self) -> Option<Timestamp> {
        self.member.next_due()
    }

    fn flying(&self, partitions: Option<&BTreeSet<i32>>) -> usize {
        self.member.flying(partitions)
    }

    fn withdraw(&mut self, partitions: Option<&BTreeSet<i32>>) {
        self.member.withdraw(partitions);
    }

    fn collect(&mut self) {
        self.member.collect();
    }

    fn begin(&mut self) {
        self.member.begin();
    }

    fn wake(&mut self, at: &Moment<'_>, batch: &mut Batch) -> Result<(), Fault> {
        self.member.wake(at, batch)
    }

    fn deliver(
        &mut self,
        at: &Moment<'_>,
        record: &RawRecord,
        seed: &str,
        decoder: &dyn Decoder,
        batch: &mut Batch,
    ) -> Result<(), Fault> {
        self.member.deliver(at, record, seed, decoder, batch)
    }

    fn seal(&self, batch: &mut Batch) {
        self.member.seal(batch);
    }

    fn committed(&mut self, at: &Moment<'_>, places: &Committed) -> Result<(), Fault> {
        self.member.committed(at, places)
    }
}

/// Calls every call one that has not begun.
pub(super) struct Denies(pub(super) Engine);

impl Performer for Denies {
    fn perform(&self, call: Call, approach: Approach) -> Pending<'static, Outcome> {
        self.0.perform(call, approach)
    }

    fn withdraw(&self, _: &str) -> bool {
        true
    }
}

/// An invoker that acts while it steps.
pub(super) struct Early {
    pub(super) invoker: Invoker,
    pub(super) world: World,
}

impl Early {
    fn act(&self, fx: &Effects<'_>) {
        for perform in fx.performs.iter().filter(|p| p.approach == Approach::Fresh) {
            self.world.act(&perform.call);
        }
    }
}

impl Processor for Early {
    type In = <Invoker as Processor>::In;
    type State = <Invoker as Processor>::State;

    fn name(&self) -> &'static str {
        self.invoker.name()
    }

    fn step(&self, state: &mut Self::State, input: &Delivery<Self::In>, fx: &mut Effects<'_>) -> Result<(), Fault> {
        self.invoker.step(state, input, fx)?;
        self.act(fx);
        Ok(())
    }

    fn on_timer(&self, state: &mut Self::State, timer: &Timer, fx: &mut Effects<'_>) -> Result<(), Fault> {
        self.invoker.on_timer(state, timer, fx)?;
        self.act(fx);
        Ok(())
    }

    fn on_signal(&self, state: &mut Self::State, signal: &Signal, fx: &mut Effects<'_>) -> Result<(), Fault> {
        self.invoker.on_signal(state, signal, fx)?;
        self.act(fx);
        Ok(())
    }
}

/// Loses the timers of every state it takes in.
struct Timerless<'a>(&'a mut dyn Restoring);

impl Restoring for Timerless<'_> {
    fn from(&mut self, index: usize, first: i64, end: i64) -> Result<i64, Fault> {
        self.0.from(index, first, end)
    }

    fn take(&mut self, index: usize, key: String, value: Option<&[u8]>, offset: i64) -> Result<(), Fault> {
        let value = value.map(|bytes| {
            let mut envelope: serde_json::Value = serde_json::from_slice(bytes).unwrap();
            envelope.as_object_mut().unwrap().remove("t");
            serde_json::to_vec(&envelope).unwrap()
        });
        self.0.take(index, key, value.as_deref(), offset)
    }

    fn done(&mut self, index: usize, next: i64) -> Result<(), Fault> {
        self.0.done(index, next)
    }
}
