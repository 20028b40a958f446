//! What the brokers know: records with the state of their transactions, committed offsets, who owns what, and schemas.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kernel::{Decoder, Fault, FaultCode, Headers, Polled, Position, RawRecord};
use schemas::{Record, Schema, Timestamp, Written, topics::Topic};

use super::Rng;
use super::fate::{Fate, Struck};
use super::transaction::{Freeze, Transaction};

/// How often each thing goes wrong, times in a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chances {
    /// The process dies before its transaction reaches the broker.
    pub crash_before: u64,
    /// The process dies in the middle of its transaction, which stays open until the broker's patience ends or a successor of the
    /// same name begins.
    pub crash_within: u64,
    /// The process dies after its transaction is true and before it hears of it.
    pub crash_after: u64,
    /// The process dies with the records it was just given, or in the middle of reading its state back.
    pub crash_reading: u64,
    /// The broker refuses a transaction: nothing of it is true.
    pub commit_refused: u64,
    /// A transaction is true and the producer is told it failed.
    pub commit_unknown: u64,
    /// A transaction is decided but readers do not see it for a while.
    pub commit_slow: u64,
    /// The registry does not answer.
    pub registry_down: u64,
    /// State cannot be read back, or reading cannot begin, this time.
    pub restore_failed: u64,
    /// A store does not answer, before or after it has kept a batch.
    pub store_down: u64,
    /// A process is killed while the calls it made are under way.
    pub killed_in_flight: u64,
    /// An instance stands still in the middle of its next commit.
    pub frozen: u64,
    /// A poll fails.
    pub poll_failed: u64,
    /// A poll gives one record only.
    pub short_poll: u64,
}

/// What went wrong so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Processes killed.
    pub crashes: u64,
    /// Transactions refused or reported failed.
    pub failed_commits: u64,
    /// Transactions of an instance that no longer owned the partition.
    pub fenced: u64,
    /// Transactions made.
    pub commits: u64,
}

/// What became of the transaction a record was written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing yet: readers come no further.
    Open,
    /// It is true.
    True,
    /// It was undone: readers pass it over.
    Void,
}

struct Entry {
    record: RawRecord,
    standing: Standing,
    /// Readers see it from this broker tick on.
    visible_at: u64,
}

#[derive(Default)]
pub(super) struct Inner {
    topics: BTreeMap<String, Vec<Vec<Entry>>>,
    offsets: BTreeMap<(String, String, i32), i64>,
    pub(super) owners: BTreeMap<(String, i32), String>,
    /// Partitions their owner is asked to give up, and who is to have them then.
    pub(super) handing: BTreeMap<(String, i32), String>,
    pub(super) inbox: BTreeMap<(String, String), VecDeque<Polled>>,
    /// By the instance whose commit it is.
    pub(super) transactions: BTreeMap<String, Transaction>,
    /// Instances whose next commit stands still.
    pub(super) freezes: BTreeMap<String, Freeze>,
    schemas: Vec<(&'static str, Arc<Written>)>,
    tick: u64,
    broken: Vec<String>,
    /// What the instances did, when it is asked for.
    trace: Option<Vec<String>>,
    pub(super) counts: Counts,
    pub(super) chances: Chances,
    pub(super) fate: Fate,
}

impl Inner {
    /// Whether something goes wrong here.
    pub(super) fn strikes(&mut self, who: &str, what: &str, per_mille: u64) -> bool {
        let struck = self.fate.strikes(who, what, per_mille).is_some();
        if struck {
            self.note(|| format!("{who}: {what}"));
        }
        struck
    }

    /// Whether the process dies here.
    pub(super) fn dies(&mut self, who: &str, what: &str, per_mille: u64) -> bool {
        let boundary = self.fate.boundary();
        if boundary {
            self.note(|| format!("{who}: {what}"));
        }
        let dies = self.strikes(who, what, per_mille) || boundary;
        self.counts.crashes += u64::from(dies);
        dies
    }

    /// Whether the process dies in the middle of its transaction, which it leaves open.
    pub(super) fn dies_within(&mut self, who: &str, per_mille: u64) -> bool {
        let what = "dies within its transaction";
        // No draw where it cannot happen: the other draws of a history stay what they were.
        let dies = if per_mille > 0 {
            self.dies(who, what, per_mille)
        } else {
            self.dies_here(who, what)
        };
        if dies {
            self.orphan(who);
        }
        dies
    }

    /// Whether this is the place where a process is to die.
    fn dies_here(&mut self, who: &str, what: &str) -> bool {
        let boundary = self.fate.boundary();
        if boundary {
            self.note(|| format!("{who}: {what}"));
            self.counts.crashes += 1;
        }
        boundary
    }

    pub(super) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(line());
        }
    }

    pub(super) fn partition_of(&self, topic: &str, key: &str) -> usize {
        let count = self.topics.get(topic).map_or(1, Vec::len);
        let count = u32::try_from(count).unwrap_or(1);
        usize::try_from(schemas::digest::partition(key, count)).unwrap_or(0)
    }

    pub(super) fn traces(&self) -> bool {
        self.trace.is_some()
    }

    /// Writes a record; in which partition, at which offset.
    pub(super) fn append(
        &mut self,
        topic: &str,
        partition: Option<i32>,
        record: RawRecord,
        standing: Standing,
    ) -> (usize, usize) {
        let at = partition
            .and_then(|p| usize::try_from(p).ok())
            .unwrap_or_else(|| self.partition_of(topic, &record.key));
        let Some(entries) = self
            .topics
            .entry(topic.to_owned())
            .or_insert_with(|| vec![Vec::new()])
            .get_mut(at)
        else {
            return (at, 0);
        };
        let offset = entries.len();
        let position = Position {
            topic: topic.into(),
            partition: i32::try_from(at).unwrap_or_default(),
            offset: i64::try_from(offset).unwrap_or_default(),
        };
        entries.push(Entry {
            record: RawRecord { position, ..record },
            standing,
            visible_at: 0,
        });
        (at, offset)
    }

    fn entry_mut(&mut self, (topic, partition, offset): &(Arc<str>, usize, usize)) -> Option<&mut Entry> {
        self.topics.get_mut(&**topic)?.get_mut(*partition)?.get_mut(*offset)
    }

    pub(super) fn entry(&self, topic: &str, partition: usize, offset: usize) -> Option<&RawRecord> {
        Some(&self.topics.get(topic)?.get(partition)?.get(offset)?.record)
    }

    /// A transaction is over: what was written in it is true or void, for readers perhaps a while later.
    pub(super) fn decide(&mut self, written: &[(Arc<str>, usize, usize)], standing: Standing, slow: bool) {
        let visible_at = if slow { self.tick + 20 } else { 0 };
        for place in written {
            if let Some(entry) = self.entry_mut(place) {
                (entry.standing, entry.visible_at) = (standing, visible_at);
            }
        }
    }

    pub(super) fn move_offsets(&mut self, group: &str, offsets: &[Position]) {
        for p in offsets {
            let place = (group.to_owned(), p.topic.to_string(), p.partition);
            let before = self.offsets.insert(place, p.offset).unwrap_or(0);
            if p.offset < before {
                self.broken
                    .push(format!("offsets never go back: {group} {p} after {before}"));
            }
        }
    }

    pub(super) fn frame(&mut self, text: &'static str, schema: fn() -> &'static Schema, avro: &[u8]) -> Vec<u8> {
        let id = self
            .schemas
            .iter()
            .position(|(known, _)| *known == text)
            .unwrap_or_else(|| {
                self.schemas.push((text, Arc::new(Written::with(schema().clone()))));
                self.schemas.len() - 1
            });
        let mut framed = vec![0];
        framed.extend(u32::try_from(id).unwrap_or_default().to_be_bytes());
        framed.extend(avro);
        framed
    }

    pub(super) fn committed(&self, group: &str, topic: &str, partition: i32) -> i64 {
        let place = (group.to_owned(), topic.to_owned(), partition);
        self.offsets.get(&place).copied().unwrap_or(0)
    }

    /// Where a partition ends, for those who see open transactions too.
    pub(super) fn end_of(&self, topic: &str, partition: i32) -> i64 {
        let entries = self
            .topics
            .get(topic)
            .zip(usize::try_from(partition).ok())
            .and_then(|(t, p)| t.get(p));
        i64::try_from(entries.map_or(0, Vec::len)).unwrap_or_default()
    }

    /// Records readers may see from an offset on, in order: nothing beyond one that is not visible yet.
    pub(super) fn visible(&self, topic: &str, partition: i32, from: i64) -> impl Iterator<Item = &RawRecord> {
        let entries = self
            .topics
            .get(topic)
            .zip(usize::try_from(partition).ok())
            .and_then(|(t, p)| t.get(p));
        let from = usize::try_from(from).unwrap_or(0);
        entries
            .into_iter()
            .flatten()
            .skip(from)
            .take_while(|e| e.standing != Standing::Open && e.visible_at <= self.tick)
            .filter(|e| e.standing == Standing::True)
            .map(|e| &e.record)
    }

    /// Waits, as a restore does, until everything written is decided for readers too.
    pub(super) fn settle(&mut self) {
        self.tick += 1000;
    }

    pub(super) fn tick(&mut self) {
        self.tick += 1;
    }
}

/// A simulated cluster, shared by its clients.
#[derive(Clone, Default)]
pub struct Cluster(Arc<Mutex<Inner>>);

impl Cluster {
    /// A cluster whose misfortunes follow from a seed.
    pub fn new(seed: u64, chances: Chances) -> Self {
        let inner = Inner {
            fate: Fate::of(seed),
            chances,
            ..Inner::default()
        };
        Self(Arc::new(Mutex::new(inner)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Only these misfortunes strike, of all that the chances would allow.
    pub fn only(&self, only: BTreeSet<u64>) {
        self.lock().fate.only = Some(only);
    }

    /// Some process dies at its `nth` place where one may: before and after every transaction, with records in hand, with its
    /// state half read.
    pub fn die_at(&self, nth: u64) {
        self.lock().fate.dies_at = Some(nth);
    }

    /// Places where a process may die, so far.
    pub fn boundaries(&self) -> u64 {
        self.lock().fate.boundaries
    }

    /// What has gone wrong, in order.
    pub fn struck(&self) -> Vec<Struck> {
        self.lock().fate.struck.clone()
    }

    /// Writes down from now on what the instances do.
    pub fn keep_trace(&self) {
        self.lock().trace = Some(Vec::new());
    }

    /// What the instances did since [`Cluster::keep_trace`].
    pub fn trace(&self) -> Vec<String> {
        self.lock().trace.clone().unwrap_or_default()
    }

    /// Whether something else goes wrong here, and the draws that say how.
    pub fn strikes(&self, what: &str, per_mille: u64) -> Option<Rng> {
        let mut inner = self.lock();
        let struck = inner.fate.strikes("", what, per_mille);
        if struck.is_some() {
            inner.note(|| what.to_owned());
        }
        struck
    }

    /// Whether a store does not answer this time.
    pub fn store_is_down(&self) -> bool {
        let mut inner = self.lock();
        let chance = inner.chances.store_down;
        inner.strikes("store", "does not answer", chance)
    }

    /// Whether a process with calls under way is killed here.
    pub fn kills(&self, who: &str) -> bool {
        let mut inner = self.lock();
        let chance = inner.chances.killed_in_flight;
        let dies = inner.strikes(who, "is killed with calls under way", chance);
        inner.counts.crashes += u64::from(dies);
        dies
    }

    /// Makes a topic.
    pub fn create(&self, topic: &str, partitions: usize) {
        let entries = (0..partitions).map(|_| Vec::new()).collect();
        self.lock().topics.insert(topic.to_owned(), entries);
    }

    /// From now on nothing goes wrong.
    pub fn calm(&self) {
        self.lock().chances = Chances::default();
    }

    /// What went wrong so far.
    pub fn counts(&self) -> Counts {
        self.lock().counts
    }

    /// Invariants the cluster itself saw broken.
    pub fn broken(&self) -> Vec<String> {
        self.lock().broken.clone()
    }

    /// Writes a record as a client outside any transaction.
    pub fn produce<R: Record>(&self, topic: Topic<R>, key: &str, record: &R, at: Timestamp) {
        let mut inner = self.lock();
        let Ok(avro) = record.to_avro() else { return };
        let value = inner.frame(R::schema_text(), R::schema, &avro);
        let record = RawRecord {
            key: key.to_owned(),
            value: Some(value),
            at,
            ..RawRecord::default()
        };
        inner.append(topic.name, None, record, Standing::True);
    }

    /// Writes bytes that are no record.
    pub fn produce_raw(&self, topic: &str, key: &str, value: &[u8], at: Timestamp) {
        let record = RawRecord {
            key: key.to_owned(),
            value: Some(value.to_vec()),
            headers: Headers::default(),
            at,
            ..RawRecord::default()
        };
        self.lock().append(topic, None, record, Standing::True);
    }

    /// Everything true on a topic, whatever readers may see yet.
    pub fn raw(&self, topic: &str) -> Vec<RawRecord> {
        let inner = self.lock();
        let all = inner.topics.get(topic).into_iter().flatten().flatten();
        let all = all.filter(|e| e.standing == Standing::True);
        all.map(|e| e.record.clone()).collect()
    }

    /// Every readable record of a topic, decoded.
    pub fn read<R: Record>(&self, topic: Topic<R>) -> Vec<R> {
        self.decoded(&self.raw(topic.name))
    }

    /// What transactions that are not over have written to a topic or will, decoded.
    pub fn under_way<R: Record>(&self, topic: Topic<R>) -> Vec<R> {
        let raw = self.lock().under_way(topic.name);
        self.decoded(&raw)
    }

    fn decoded<R: Record>(&self, raw: &[RawRecord]) -> Vec<R> {
        let decoder = SimDecoder {
            cluster: self.clone(),
            falters: false,
        };
        raw.iter()
            .filter_map(|r| kernel::decode::<R>(r.value.as_deref()?, &decoder).ok())
            .collect()
    }

    /// Whether a group has read its topics to their ends.
    pub fn is_read(&self, group: &str, topics: &[String]) -> bool {
        let inner = self.lock();
        topics.iter().all(|topic| {
            let partitions = inner.topics.get(topic).map_or(0, Vec::len);
            (0..partitions).all(|p| {
                let p = i32::try_from(p).unwrap_or_default();
                inner
                    .visible(topic, p, inner.committed(group, topic, p))
                    .next()
                    .is_none()
            })
        })
    }

    /// A decoder of what this cluster frames; it falters as the registry does.
    pub fn decoder(&self) -> Arc<dyn Decoder> {
        Arc::new(SimDecoder {
            cluster: self.clone(),
            falters: true,
        })
    }
}

struct SimDecoder {
    cluster: Cluster,
    falters: bool,
}

impl Decoder for SimDecoder {
    fn unframe<'a>(&self, value: &'a [u8]) -> Result<(Arc<Written>, &'a [u8]), Fault> {
        let mut inner = self.cluster.lock();
        let chance = inner.chances.registry_down;
        if self.falters && inner.strikes("registry", "does not answer", chance) {
            return Err(Fault::new(FaultCode::RegistryUnavailable, "simulated"));
        }
        let [0, a, b, c, d, avro @ ..] = value else {
            return Err(Fault::new(FaultCode::RecordNotFramed, "no magic byte"));
        };
        let id = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
        let schema = inner.schemas.get(id).map(|(_, s)| s.clone());
        let schema = schema.ok_or_else(|| Fault::new(FaultCode::SchemaUnknown, format!("id {id}")))?;
        Ok((schema, avro))
    }
}
