//! A standby: the partitions of a stage that other instances own, followed into this instance's disk, so that one that is taken
//! over has the tail of its changelog to read and no more.
//!
//! A thread of its own follows, a little at a time. It and the stage never have the same partition: whoever takes one over asks
//! for it, and waits for the step in hand at most. What a step takes in and the checkpoint behind it are written together, as
//! the stage's own changes are: a copy may lag behind, never promise what it does not hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kernel::{Clock, Fault, Follow, Followed, RawRecord};
use schemas::Timestamp;

use super::disk::{Opening, Rows};
use super::{Bytes, Change, Marks, Table, marks};
use crate::{Metrics, SystemClock};

/// Most records of a step.
const STEP_RECORDS: usize = 1_000;
/// Longest wait for the first of them, milliseconds: how long it takes to hear that a partition came or went.
const STEP_WAIT_MS: u64 = 100;
/// Until a stage that has just started has been given its partitions: what it is to own is not followed first.
const SETTLES: Duration = Duration::from_secs(3);
/// How often it is told how far copies are behind.
const TELLS: Duration = Duration::from_secs(1);
/// A checkpoint of a partition that nobody writes to is renewed as often: an old one counts for nothing.
const RENEWED_MICROS: i64 = 3600 * 1_000_000;
/// After a fault.
const RESTS: Duration = Duration::from_secs(2);

/// The copy of one partition.
struct Copied {
    rows: Rows,
    next: i64,
    /// When its checkpoint was written last.
    at: Timestamp,
    /// Offsets it is behind its changelog's end.
    behind: i64,
}

#[derive(Default)]
struct Held {
    /// Partitions the stage has.
    owned: BTreeSet<i32>,
    copies: BTreeMap<i32, Copied>,
    /// Something came or went since it was last looked at.
    changed: bool,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    held: Mutex<Held>,
}

impl Shared {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows what the stage does not own.
pub(super) struct Standby {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Standby {
    /// Begins to follow into a database.
    pub(super) fn start(stage: Arc<str>, disk: Arc<Mutex<Opening>>, follow: Box<dyn Follow>, metrics: Metrics) -> Self {
        let shared = Arc::new(Shared::default());
        let mut follower = Follower {
            shared: shared.clone(),
            disk,
            follow,
            stage,
            metrics,
            all: Vec::new(),
            told: None,
        };
        let thread = std::thread::spawn(move || follower.run());
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// The stage takes a partition over: the copy is its own from now on.
    pub(super) fn leave(&self, partition: i32) {
        let mut held = self.shared.held();
        held.owned.insert(partition);
        held.copies.remove(&partition);
        held.changed = true;
    }

    /// The stage has given a partition up: it is followed again.
    pub(super) fn follow(&self, partition: i32) {
        let mut held = self.shared.held();
        held.owned.remove(&partition);
        held.changed = true;
    }
}

impl Drop for Standby {
    /// The folder is locked until it is done: the next to open it must find it free.
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("a standby panicked");
        }
    }
}

struct Follower {
    shared: Arc<Shared>,
    disk: Arc<Mutex<Opening>>,
    follow: Box<dyn Follow>,
    stage: Arc<str>,
    metrics: Metrics,
    /// Partitions of the changelog; none until the broker has told.
    all: Vec<i32>,
    told: Option<Instant>,
}

impl Follower {
    fn stops(&self) -> bool {
        self.shared.stop.load(Ordering::SeqCst)
    }

    fn rest(&self, until: Duration) {
        let began = Instant::now();
        while !self.stops() && began.elapsed() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn run(&mut self) {
        self.rest(SETTLES);
        self.shared.held().changed = true;
        let mut failed = false;
        while !self.stops() {
            match self.step() {
                Ok(()) => failed = false,
                Err(fault) => {
                    // A copy is a convenience: the stage goes on without it, and whoever takes over reads more.
                    if !std::mem::replace(&mut failed, true) {
                        tracing::warn!(stage = %self.stage, code = %fault.code, detail = %fault.detail, "the standby cannot follow; it tries again");
                    }
                    self.metrics.fault(&self.stage, fault.code.as_str());
                    let mut held = self.shared.held();
                    held.copies.clear();
                    held.changed = true;
                    drop(held);
                    self.rest(RESTS);
                }
            }
        }
        self.shared.held().copies.clear();
    }

    fn step(&mut self) -> Result<(), Fault> {
        if self.all.is_empty() {
            self.all = self.follow.partitions()?;
        }
        if std::mem::take(&mut self.shared.held().changed) {
            self.arrange()?;
        }
        let followed = self.follow.poll(STEP_RECORDS, STEP_WAIT_MS)?;
        self.take(followed)?;
        if self.told.is_none_or(|told| told.elapsed() >= TELLS) {
            self.told = Some(Instant::now());
            self.tell()?;
        }
        Ok(())
    }

    /// Begins to follow what is new, and no longer follows what is gone.
    fn arrange(&mut self) -> Result<(), Fault> {
        let fresh: Vec<i32> = {
            let held = self.shared.held();
            let fresh = |p: &&i32| !held.owned.contains(p) && !held.copies.contains_key(p);
            self.all.iter().filter(fresh).copied().collect()
        };
        for partition in fresh {
            let (first, end) = self.follow.range(partition)?;
            let mut held = self.shared.held();
            // Taken over meanwhile.
            if held.owned.contains(&partition) {
                continue;
            }
            let disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner).get()?;
            let mut rows = disk.table(partition)?;
            let at = SystemClock.now();
            let known = rows.checkpoint(at)?;
            if known.is_some_and(|from| !(first..=end).contains(&from)) {
                rows.clear()?;
            }
            let next = known.filter(|from| (first..=end).contains(from)).unwrap_or(first);
            tracing::info!(stage = %self.stage, partition, from = next, end, "standby follows");
            let behind = end - next;
            let copy = Copied { rows, next, at, behind };
            held.copies.insert(partition, copy);
        }
        let places: Vec<_> = self.shared.held().copies.iter().map(|(p, c)| (*p, c.next)).collect();
        self.follow.follow(&places)
    }

    /// Takes in what came of partitions that are still followed.
    fn take(&mut self, followed: Followed) -> Result<(), Fault> {
        let mut parts: BTreeMap<i32, Vec<RawRecord>> = BTreeMap::new();
        for record in followed.records {
            parts.entry(record.position.partition).or_default().push(record);
        }
        let now = SystemClock.now();
        for (partition, records) in parts {
            // Held for one partition's part of a step: the stage may be waiting for it.
            let mut held = self.shared.held();
            if let Some(copy) = held.copies.get_mut(&partition) {
                copy.take(records, now)?;
            }
        }
        let mut held = self.shared.held();
        for partition in followed.ended {
            if let Some(copy) = held.copies.get_mut(&partition) {
                copy.behind = 0;
                copy.renew(now)?;
            }
        }
        Ok(())
    }

    fn tell(&mut self) -> Result<(), Fault> {
        let late = |(p, c): (&i32, &Copied)| (c.behind > 0).then_some(*p);
        let late: Vec<i32> = self.shared.held().copies.iter().filter_map(late).collect();
        for partition in late {
            let (_, end) = self.follow.range(partition)?;
            if let Some(copy) = self.shared.held().copies.get_mut(&partition) {
                copy.behind = (end - copy.next).max(0);
            }
        }
        let held = self.shared.held();
        let behind: i64 = held.copies.values().map(|c| c.behind).sum();
        self.metrics.gauge(&self.stage, "standby_partitions", held.copies.len());
        self.metrics
            .gauge(&self.stage, "standby_lag", usize::try_from(behind).unwrap_or(0));
        Ok(())
    }
}

impl Copied {
    fn take(&mut self, records: Vec<RawRecord>, now: Timestamp) -> Result<(), Fault> {
        // Of a key's changes in a step only the last counts.
        let mut last: BTreeMap<String, Option<Bytes>> = BTreeMap::new();
        for record in records {
            // Fetched before it was last said where to begin.
            if record.position.offset < self.next {
                continue;
            }
            self.next = record.position.offset + 1;
            last.insert(record.key, record.value.map(Into::into));
        }
        // Something came: it is not known any more how much there is.
        self.behind = self.behind.max(1);
        let mut changes = Vec::new();
        for (key, bytes) in last {
            let of = |bytes: Option<&Bytes>| bytes.map_or_else(|| Ok(Marks::default()), |b| marks(&key, b));
            let (before, marks) = (of(self.rows.get(&key)?.as_ref())?, of(bytes.as_ref())?);
            changes.push(Change {
                key,
                bytes,
                marks,
                before,
            });
        }
        self.at = now;
        self.rows.apply(changes, Some(self.next), now)
    }

    /// At the end of its changelog nothing is missing, removals either: the checkpoint is as good as new.
    fn renew(&mut self, now: Timestamp) -> Result<(), Fault> {
        if now.0 - self.at.0 < RENEWED_MICROS {
            return Ok(());
        }
        self.at = now;
        self.rows.apply(Vec::new(), Some(self.next), now)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use kernel::Position;

    use super::super::Store;
    use super::super::tests::{Folder, Logged, NOW, facts, history, timer};
    use super::*;

    fn records(logged: &Logged, offsets: std::ops::Range<usize>) -> Vec<RawRecord> {
        let record = |offset: usize| RawRecord {
            position: Position {
                topic: "x.state".into(),
                partition: 0,
                offset: i64::try_from(offset).unwrap(),
            },
            key: logged.log[offset].0.clone(),
            value: logged.log[offset].1.clone(),
            ..RawRecord::default()
        };
        offsets.map(record).collect()
    }

    #[test]
    fn a_partition_taken_over_goes_on_where_its_copy_ends() {
        let mut owner = Logged::on(Store::default());
        history(&mut owner);
        let folder = Folder::new("standby");
        let mut opening = Opening::start(folder.0.clone());
        let mut copy = Copied {
            rows: opening.get().unwrap().table(0).unwrap(),
            next: 0,
            at: NOW,
            behind: 0,
        };
        let seen = owner.log.len();
        copy.take(records(&owner, 0..4), NOW).unwrap();
        // Given a second time: what it has already is passed over.
        copy.take(records(&owner, 2..seen), NOW).unwrap();
        assert_eq!(copy.next, i64::try_from(seen).unwrap());
        let timers: Vec<_> = owner.store.due(Timestamp(i64::MAX), 99).unwrap();
        assert_eq!(copy.rows.due(Timestamp(i64::MAX), 99).unwrap().len(), timers.len());
        drop((copy, opening));

        owner.put("e", 5, vec![timer(4)], 1, true);
        owner.put("d", 0, vec![], 0, true);
        let (mut store, from) = owner.read_back(folder.store());
        assert_eq!(from, i64::try_from(seen).unwrap(), "it reads the tail only");
        assert_eq!(facts(&mut store), facts(&mut owner.store));
    }
}
