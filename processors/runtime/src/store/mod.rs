//! State of a stage's keys: a table per partition, the fold of the changelog, in memory or on disk. Changes go through an overlay
//! that becomes true only with its transaction.

mod disk;
mod memory;
mod standby;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use kernel::{Fault, FaultCode, Follow, Headers, RawEmit, State, Timer};
use schemas::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::Metrics;

use disk::Opening;
use memory::Memory;
use standby::Standby;

/// Version of the envelope. A higher one found in a changelog was written by a newer build: refuse to start.
/// 2: open actions by name; 1 counted them.
const VERSION: u32 = 2;

/// What the changelog holds per key.
#[derive(Serialize, Deserialize)]
struct Envelope<S> {
    v: u32,
    s: S,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    t: Vec<Timer>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty", deserialize_with = "open")]
    p: Open,
}

/// Calls asked for and not yet answered, by their ids. A number would not do: an answer may be heard twice, when its transaction
/// was made and reported failed, and the second must not pass for another call's.
pub(crate) type Open = BTreeSet<String>;

/// Version 1 has a number: names that no answer fits stand for its calls until the state is next restored.
fn open<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Open, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Calls(Open),
        Count(u32),
    }
    Ok(match Either::deserialize(from)? {
        Either::Calls(calls) => calls,
        Either::Count(n) => (0..n).map(|i| format!("{i} of {n}")).collect(),
    })
}

/// Timers and open actions of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    pub(crate) timers: Vec<Timer>,
    pub(crate) performing: Open,
}

/// A key's state with its timers and open actions.
pub(crate) struct Loaded<S> {
    pub(crate) state: S,
    pub(crate) timers: Vec<Timer>,
    pub(crate) performing: Open,
    /// What the table holds, which an overlay may have changed.
    held: Held,
}

/// A state's bytes: the table, the changes of a transaction and its changelog record share them.
pub(crate) type Bytes = Arc<[u8]>;

/// What a table holds of a key.
#[derive(Clone, Default)]
struct Held {
    bytes: Option<Bytes>,
    marks: Marks,
}

/// What one transaction makes of a key; no bytes: it is removed.
pub(crate) struct Change {
    pub(crate) key: String,
    pub(crate) bytes: Option<Bytes>,
    pub(crate) marks: Marks,
    /// Marks the table holds for it.
    pub(crate) before: Marks,
}

/// The keys of one partition.
pub(crate) trait Table: Send {
    /// State of a key.
    fn get(&self, key: &str) -> Result<Option<Bytes>, Fault>;
    /// Makes changes true; `next` is where the changelog goes on behind them.
    fn apply(&mut self, changes: Vec<Change>, next: Option<i64>, now: Timestamp) -> Result<(), Fault>;
    /// Up to where it knows the changelog, if it can go on there; otherwise it is emptied.
    fn checkpoint(&mut self, now: Timestamp) -> Result<Option<i64>, Fault>;
    /// Forgets everything.
    fn clear(&mut self) -> Result<(), Fault>;
    /// Takes one changelog record in; most are overwritten by later ones.
    fn restore(&mut self, key: String, value: Option<&[u8]>) -> Result<(), Fault>;
    /// The changelog has been read up to `next`.
    fn restored(&mut self, next: i64, now: Timestamp) -> Result<(), Fault>;
    /// Every key.
    fn keys(&self) -> Result<Vec<String>, Fault>;
    /// Keys with outside actions not yet answered.
    fn performing(&self) -> Result<Vec<String>, Fault>;
    /// Timers due at `now`, with their keys, at most `max`, the earliest first.
    fn due(&mut self, now: Timestamp, max: usize) -> Result<Vec<(Timestamp, String, String)>, Fault>;
    /// When the next timer is due, or earlier.
    fn next_due(&self) -> Option<Timestamp>;
    /// Number of keys; on disk an estimate.
    fn len(&self) -> usize;
    /// Number of timers; on disk an estimate.
    fn timers_len(&self) -> usize;
    /// Bytes of keys and states, or what they take on disk.
    fn bytes(&self) -> usize;
}

/// Where a stage keeps its state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StateAt {
    /// In memory: read back whole from the changelog at every start.
    #[default]
    Memory,
    /// In this folder: larger than memory, and a restart reads the tail of the changelog only.
    Disk(PathBuf),
}

/// All keys of a stage instance.
#[derive(Default)]
pub(crate) struct Store {
    /// What of other instances' partitions is followed. Before the disk it writes to.
    standby: Option<Standby>,
    partitions: BTreeMap<i32, Box<dyn Table>>,
    /// Being read back: nothing is stepped or woken there until [`Store::came`].
    coming: BTreeMap<i32, Box<dyn Table>>,
    /// Being opened since the store was made: a start has the group to join meanwhile.
    disk: Option<Arc<Mutex<Opening>>>,
}

/// Changes of one batch, by partition and key.
#[derive(Default)]
pub(crate) struct Overlay {
    changes: BTreeMap<i32, BTreeMap<String, (Held, Held)>>,
}

impl Store {
    pub(crate) fn at(at: StateAt) -> Self {
        let disk = match at {
            StateAt::Memory => None,
            StateAt::Disk(folder) => Some(Arc::new(Mutex::new(Opening::start(folder)))),
        };
        Self {
            disk,
            ..Self::default()
        }
    }

    /// Follows the partitions it does not own; in memory there is nowhere to keep them.
    pub(crate) fn follow(&mut self, stage: Arc<str>, follow: Box<dyn Follow>, metrics: Metrics) {
        let disk = self.disk.clone();
        self.standby = disk.map(|disk| Standby::start(stage, disk, follow, metrics));
    }

    /// Begins to take a partition over, with what the disk holds of it, and says where its changelog is to be read from.
    pub(crate) fn own(&mut self, partition: i32, now: Timestamp) -> Result<i64, Fault> {
        self.partitions.remove(&partition);
        self.coming.remove(&partition);
        if let Some(standby) = &self.standby {
            standby.leave(partition);
        }
        let mut table: Box<dyn Table> = match &self.disk {
            None => Box::new(Memory::default()),
            Some(disk) => {
                let disk = disk.lock().unwrap_or_else(PoisonError::into_inner).get()?;
                Box::new(disk.table(partition)?)
            }
        };
        let from = table.checkpoint(now)?.unwrap_or(0);
        self.coming.insert(partition, table);
        Ok(from)
    }

    fn table(&mut self, partition: i32) -> Result<&mut Box<dyn Table>, Fault> {
        let missing = || Fault::new(FaultCode::Internal, format!("partition {partition} is not read back"));
        self.coming.get_mut(&partition).ok_or_else(missing)
    }

    /// A partition is there, read back whole.
    pub(crate) fn came(&mut self, partition: i32) {
        let table = self.coming.remove(&partition);
        self.partitions.extend(table.map(|table| (partition, table)));
    }

    /// Forgets what is held of a partition: its changelog is not the one that was read.
    pub(crate) fn clear(&mut self, partition: i32) -> Result<(), Fault> {
        self.table(partition)?.clear()
    }

    /// Gives a partition up; what is on disk stays, for when it comes back.
    pub(crate) fn release(&mut self, partition: i32) {
        self.partitions.remove(&partition);
        self.coming.remove(&partition);
        if let Some(standby) = &self.standby {
            standby.follow(partition);
        }
    }

    /// Takes one changelog record in.
    pub(crate) fn restore(&mut self, partition: i32, key: String, value: Option<&[u8]>) -> Result<(), Fault> {
        self.table(partition)?.restore(key, value)
    }

    /// The changelog of a partition has been read up to `next`.
    pub(crate) fn restored(&mut self, partition: i32, next: i64, now: Timestamp) -> Result<(), Fault> {
        self.table(partition)?.restored(next, now)
    }

    /// Every key, in order: what follows from it must not depend on how a table is laid out.
    pub(crate) fn keys(&self) -> Result<Vec<(i32, String)>, Fault> {
        let mut keys = Vec::new();
        for (p, table) in &self.partitions {
            keys.extend(table.keys()?.into_iter().map(|k| (*p, k)));
        }
        keys.sort();
        Ok(keys)
    }

    /// Every key with its state's bytes.
    pub(crate) fn entries(&self) -> Result<Vec<(i32, String, Vec<u8>)>, Fault> {
        let mut entries = Vec::new();
        for (p, key) in self.keys()? {
            let bytes = self.get(p, &key)?;
            entries.extend(bytes.map(|bytes| (p, key, bytes.to_vec())));
        }
        Ok(entries)
    }

    /// Keys of a partition with outside actions not yet answered.
    pub(crate) fn performing(&self, partition: i32) -> Result<Vec<String>, Fault> {
        let table = self.partitions.get(&partition);
        let mut keys = table.map_or_else(|| Ok(Vec::new()), |t| t.performing())?;
        keys.sort();
        Ok(keys)
    }

    pub(crate) fn len(&self) -> usize {
        self.partitions.values().map(|t| t.len()).sum()
    }

    pub(crate) fn timers_len(&self) -> usize {
        self.partitions.values().map(|t| t.timers_len()).sum()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.partitions.values().map(|t| t.bytes()).sum()
    }

    /// Timers due at `now`, at most `max`.
    pub(crate) fn due(&mut self, now: Timestamp, max: usize) -> Result<Vec<(i32, String, Timer)>, Fault> {
        let mut all = Vec::new();
        for (p, table) in &mut self.partitions {
            if table.next_due().is_some_and(|due| due <= now) {
                all.extend(
                    table
                        .due(now, max)?
                        .into_iter()
                        .map(|(due, key, name)| (due, *p, key, name)),
                );
            }
        }
        all.sort();
        all.truncate(max);
        let timers = all.into_iter();
        Ok(timers
            .map(|(due, p, key, name)| (p, key, Timer { name, due }))
            .collect())
    }

    /// When the next timer is due, or earlier.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.partitions.values().filter_map(|t| t.next_due()).min()
    }

    fn get(&self, partition: i32, key: &str) -> Result<Option<Bytes>, Fault> {
        self.partitions.get(&partition).map_or(Ok(None), |t| t.get(key))
    }

    /// State of a key, as the overlay or else the table has it.
    pub(crate) fn load<S: State>(&self, overlay: &Overlay, partition: i32, key: &str) -> Result<Loaded<S>, Fault> {
        let changed = overlay.changes.get(&partition).and_then(|keys| keys.get(key));
        let bytes = match changed {
            Some((change, _)) => change.bytes.clone(),
            None => self.get(partition, key)?,
        };
        let (state, marks) = match bytes.as_deref().map(|bytes| read::<S>(key, bytes)).transpose()? {
            Some((state, marks)) => (state, marks),
            None => (S::default(), Marks::default()),
        };
        let held = match changed {
            Some((_, held)) => held.clone(),
            None => Held {
                bytes,
                marks: marks.clone(),
            },
        };
        Ok(Loaded {
            state,
            timers: marks.timers,
            performing: marks.performing,
            held,
        })
    }

    /// Makes an overlay true, once its transaction is; `next` says where a partition's changelog goes on behind it.
    pub(crate) fn apply(
        &mut self,
        overlay: Overlay,
        next: impl Fn(i32) -> Option<i64>,
        now: Timestamp,
    ) -> Result<(), Fault> {
        for (partition, keys) in overlay.changes {
            let changed = keys
                .into_iter()
                .filter(|(_, (change, held))| change.bytes != held.bytes);
            let changes: Vec<_> = changed
                .map(|(key, (change, held))| Change {
                    key,
                    bytes: change.bytes,
                    marks: change.marks,
                    before: held.marks,
                })
                .collect();
            if let Some(table) = self.partitions.get_mut(&partition).filter(|_| !changes.is_empty()) {
                table.apply(changes, next(partition), now)?;
            }
        }
        Ok(())
    }
}

fn read<S: State>(key: &str, bytes: &[u8]) -> Result<(S, Marks), Fault> {
    let envelope: Envelope<S> = serde_json::from_slice(bytes).map_err(|e| unreadable(key, &e.to_string()))?;
    if envelope.v > VERSION {
        let why = format!("it has version {}, this build reads up to {VERSION}", envelope.v);
        return Err(unreadable(key, &why));
    }
    let marks = Marks {
        timers: envelope.t,
        performing: envelope.p,
    };
    Ok((envelope.s, marks))
}

impl Overlay {
    /// Puts a key's state; one that equals its default, without timers or open actions, is removed.
    pub(crate) fn save<S: State>(&mut self, partition: i32, key: &str, loaded: Loaded<S>) -> Result<(), Fault> {
        let empty = loaded.timers.is_empty() && loaded.performing.is_empty() && loaded.state == S::default();
        let change = if empty {
            Held::default()
        } else {
            let envelope = Envelope {
                v: VERSION,
                s: loaded.state,
                t: loaded.timers,
                p: loaded.performing,
            };
            let bytes = serde_json::to_vec(&envelope).map_err(|e| Fault::new(FaultCode::Internal, e.to_string()))?;
            Held {
                bytes: Some(bytes.into()),
                marks: Marks {
                    timers: envelope.t,
                    performing: envelope.p,
                },
            }
        };
        let keys = self.changes.entry(partition).or_default();
        match keys.get_mut(key) {
            Some(known) => *known = (change, loaded.held),
            None => _ = keys.insert(key.to_owned(), (change, loaded.held)),
        }
        Ok(())
    }

    /// The changes as changelog records; what is as it was need not be written.
    pub(crate) fn changelog(&self, topic: &Arc<str>) -> Vec<RawEmit> {
        let all = self.changes.iter();
        let all = all.flat_map(|(partition, keys)| keys.iter().map(move |change| (*partition, change)));
        all.filter(|(_, (_, (change, held)))| change.bytes != held.bytes)
            .map(|(partition, (key, (change, _)))| RawEmit {
                topic: topic.clone(),
                partition: Some(partition),
                key: key.clone(),
                value: change.bytes.clone(),
                headers: Headers::default(),
            })
            .collect()
    }
}

/// Reads timers and open actions without reading the state.
fn marks(key: &str, bytes: &[u8]) -> Result<Marks, Fault> {
    let envelope: Envelope<&RawValue> = serde_json::from_slice(bytes).map_err(|e| unreadable(key, &e.to_string()))?;
    Ok(Marks {
        timers: envelope.t,
        performing: envelope.p,
    })
}

fn unreadable(key: &str, why: &str) -> Fault {
    let detail =
        format!("state of key {key} cannot be read by this version: {why}; go back to the version that wrote it");
    Fault::new(FaultCode::StateUnreadable, detail)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
