//! A stretch of the past through one stage: the loop and the stage as in service, records from the log at the times they were
//! written, and what the stage writes handed back instead of committed. Nothing of the pipeline's own is touched: no group, no
//! changelog, no topic. State begins empty.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kernel::{Changelog, Clock, Commit, Committed, Emit, Fault, FaultCode, Log, Polled, RawRecord, Restoring};
use runtime::{Limits, ProcessorStage, Stage, StageContext, Waker};
use schemas::Timestamp;
use serde_json::Value;

use crate::config::StageEntry;
use crate::registry::{self, Built};
use crate::wire::Shared;

/// What differs between two honest runs: times, and what is made of them. An event's id names the place of its cause in the
/// log, a permit signs a time.
const PASSING: [&str; 17] = [
    "created_at",
    "decided_at",
    "expires_at",
    "finished_at",
    "first_seen_at",
    "proposed_at",
    "requested_at",
    "updated_at",
    "ts",
    "latency_ms",
    "latency_us",
    "duration_ms",
    "evaluation_us",
    "event_id",
    "permit",
    "signature",
    "started_at",
];

/// Leaves out of a record what differs between two honest runs.
pub fn settle(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !PASSING.contains(&name.as_str()));
            fields.values_mut().for_each(settle);
        }
        Value::Array(items) => items.iter_mut().for_each(settle),
        _ => {}
    }
}

/// Where two values differ, by path; empty when they do not.
pub fn difference(path: &str, one: &Value, other: &Value) -> String {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let names = one.keys().chain(other.keys().filter(|k| !one.contains_key(*k)));
            let null = Value::Null;
            let of = |fields: &serde_json::Map<String, Value>, name: &str| fields.get(name).unwrap_or(&null).clone();
            let all = names.map(|n| difference(&format!("{path}.{n}"), &of(one, n), &of(other, n)));
            all.collect()
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            let pairs = one.iter().zip(other).enumerate();
            pairs
                .map(|(i, (a, b))| difference(&format!("{path}[{i}]"), a, b))
                .collect()
        }
        _ if one == other => String::new(),
        _ => format!("{path} is {one}, not {other}; "),
    }
}

/// Shows the time of the record in hand.
#[derive(Clone, Default)]
struct PastClock(Arc<AtomicI64>);

impl Clock for PastClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }

    fn elapsed(&self) -> Duration {
        Duration::from_micros(u64::try_from(self.now().0).unwrap_or(0))
    }
}

/// The past as a log: records one by one, nothing kept of what is committed but the records written.
struct PastLog {
    records: VecDeque<RawRecord>,
    assigned: bool,
    left: Arc<AtomicUsize>,
    clock: PastClock,
    written: Arc<Mutex<Written>>,
    /// How many are read back: none has anything in it.
    changelogs: usize,
}

/// What a stage wrote.
#[derive(Default)]
pub struct Written {
    /// Records, in order.
    pub emits: Vec<Emit>,
    /// Records it could not take.
    pub letters: usize,
}

impl Log for PastLog {
    fn poll(&mut self, _: usize, _: u64) -> Result<Polled, Fault> {
        if !std::mem::replace(&mut self.assigned, true) {
            let all = self
                .records
                .iter()
                .map(|r| (r.position.topic.to_string(), r.position.partition));
            let parts: std::collections::BTreeSet<_> = all.collect();
            return Ok(Polled::Assigned(parts.into_iter().collect()));
        }
        let Some(record) = self.records.pop_front() else {
            return Ok(Polled::Idle);
        };
        self.left.store(self.records.len(), Ordering::SeqCst);
        self.clock.0.fetch_max(record.at.0, Ordering::SeqCst);
        Ok(Polled::Records(vec![record]))
    }

    fn commit(&mut self, commit: &Commit) -> Result<Committed, Fault> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.emits.extend(commit.emits.iter().cloned());
        written.letters += commit.raw.iter().filter(|r| r.partition.is_none()).count();
        Ok(Committed::new())
    }

    fn restore_begin(&mut self, changelogs: &[Changelog]) -> Result<(), Fault> {
        self.changelogs = changelogs.len();
        Ok(())
    }

    fn restore_more(&mut self, into: &mut dyn Restoring, _: Duration) -> Result<bool, Fault> {
        (0..self.changelogs).try_for_each(|index| into.done(index, 0))?;
        Ok(true)
    }

    fn start(&mut self, _: &[(String, i32)]) -> Result<(), Fault> {
        Ok(())
    }

    fn release(&mut self, _: &[(String, i32)]) -> Result<(), Fault> {
        Ok(())
    }

    fn home(&self, _: &str) -> Option<i32> {
        None
    }

    fn pause(&mut self, _: bool) -> Result<(), Fault> {
        Ok(())
    }
}

/// Runs records, in the order they were written, through a stage of a pipeline.
///
/// # Errors
/// `CONFIG_INVALID` for a stage that does not decide; faults of the stage that are our own.
pub fn run(shared: &Shared, entry: &StageEntry, records: Vec<RawRecord>) -> Result<Written, Fault> {
    let refused = |why: &str| Fault::new(FaultCode::ConfigInvalid, format!("stage {}: {why}", entry.name()));
    let component = registry::find(&entry.component).ok_or_else(|| refused("there is no such component"))?;
    if registry::ACTING.contains(&component.name) {
        return Err(refused("it acts on the world, and the past is not done again"));
    }
    let entry = StageEntry {
        state: crate::config::StateKept::Memory,
        standby: crate::config::Switch(false),
        ..entry.clone()
    };
    let Built::Member(member) = (component.build)(&entry, shared)? else {
        return Err(refused(
            "it keeps what others decided; only stages that decide can be replayed",
        ));
    };
    // Whoever took a record then, this stage takes it now.
    let untaken = |r: RawRecord| RawRecord {
        headers: r.headers.filtered(|name| name != kernel::TAKEN_BY),
        ..r
    };
    let records: VecDeque<_> = records.into_iter().map(untaken).collect();
    let (clock, left) = (PastClock::default(), Arc::new(AtomicUsize::new(records.len())));
    let written = Arc::new(Mutex::new(Written::default()));
    let log = PastLog {
        records,
        assigned: false,
        left: left.clone(),
        clock: clock.clone(),
        written: written.clone(),
        changelogs: 0,
    };
    let mut cx = StageContext {
        stage: entry.name().to_owned(),
        log: Box::new(log),
        decoder: shared.registry.clone(),
        controls: shared.controls.clone(),
        clock: Arc::new(clock),
        metrics: shared.metrics.clone(),
        health: shared.health.clone(),
        limits: Limits {
            batch_max: 1,
            ..Limits::default()
        },
        stop: shared.stop.clone(),
        state_topic: String::new(),
        handle: shared.handle.clone(),
        waker: Waker::default(),
    };
    let mut stage = ProcessorStage::new(&shared.pipeline.pipeline, vec![member]);
    // Once more than there are records: the first round only takes the partitions over.
    while stage.go_round(&mut cx)? && left.load(Ordering::SeqCst) > 0 {}
    stage.go_round(&mut cx)?;
    let written = std::mem::take(&mut *written.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_passes_is_left_out_and_what_differs_is_named() {
        let mut one = json!({"a": [1, {"b": 2, "ts": 5}], "decided_at": 1});
        let mut other = json!({"a": [1, {"b": 3, "ts": 6}], "decided_at": 2, "c": 1});
        settle(&mut one);
        settle(&mut other);
        assert_eq!(difference("", &one, &other), ".a[1].b is 2, not 3; .c is null, not 1; ");
        assert_eq!(difference("", &one, &one), "");
    }
}
