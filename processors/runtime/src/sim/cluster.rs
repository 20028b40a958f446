//! What the brokers know: records with the state of their transactions, committed offsets, who owns what, and schemas.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kernel::{Commit, Decoder, Fault, FaultCode, Headers, Polled, Position, RawRecord};
use schemas::{Record, Schema, Timestamp, topics::Topic};

use super::Rng;

/// How often each thing goes wrong, times in a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chances {
    /// The process dies before its transaction reaches the broker.
    pub crash_before: u64,
    /// The process dies after its transaction is true and before it hears of it.
    pub crash_after: u64,
    /// The broker refuses a transaction: nothing of it is true.
    pub commit_refused: u64,
    /// A transaction is true and the producer is told it failed.
    pub commit_unknown: u64,
    /// A transaction is decided but readers do not see it for a while.
    pub commit_slow: u64,
    /// The registry does not answer.
    pub registry_down: u64,
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

struct Entry {
    record: RawRecord,
    /// Readers see it from this broker tick on.
    visible_at: u64,
}

#[derive(Default)]
pub(super) struct Inner {
    topics: BTreeMap<String, Vec<Vec<Entry>>>,
    offsets: BTreeMap<(String, String, i32), i64>,
    owners: BTreeMap<(String, i32), String>,
    inbox: BTreeMap<(String, String), VecDeque<Polled>>,
    schemas: Vec<(&'static str, Arc<Schema>)>,
    tick: u64,
    broken: Vec<String>,
    pub(super) counts: Counts,
    pub(super) chances: Chances,
    pub(super) rng: Option<Rng>,
}

impl Inner {
    pub(super) fn chance(&mut self, per_mille: u64) -> bool {
        self.rng.as_mut().is_some_and(|rng| rng.chance(per_mille))
    }

    fn partition_of(&self, topic: &str, key: &str) -> usize {
        let count = self.topics.get(topic).map_or(1, Vec::len);
        let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
        });
        usize::try_from(hash % u64::try_from(count).unwrap_or(1)).unwrap_or(0)
    }

    fn append(&mut self, topic: &str, partition: Option<i32>, record: RawRecord, visible_at: u64) {
        let at = partition
            .and_then(|p| usize::try_from(p).ok())
            .unwrap_or_else(|| self.partition_of(topic, &record.key));
        let Some(entries) = self
            .topics
            .entry(topic.to_owned())
            .or_insert_with(|| vec![Vec::new()])
            .get_mut(at)
        else {
            return;
        };
        let position = Position {
            topic: topic.to_owned(),
            partition: i32::try_from(at).unwrap_or_default(),
            offset: i64::try_from(entries.len()).unwrap_or_default(),
        };
        entries.push(Entry {
            record: RawRecord { position, ..record },
            visible_at,
        });
    }

    fn frame(&mut self, text: &'static str, schema: fn() -> &'static Schema, avro: &[u8]) -> Vec<u8> {
        let id = self
            .schemas
            .iter()
            .position(|(known, _)| *known == text)
            .unwrap_or_else(|| {
                self.schemas.push((text, Arc::new(schema().clone())));
                self.schemas.len() - 1
            });
        let mut framed = vec![0];
        framed.extend(u32::try_from(id).unwrap_or_default().to_be_bytes());
        framed.extend(avro);
        framed
    }

    pub(super) fn owns(&self, group: &str, instance: &str, partition: i32) -> bool {
        self.owners
            .get(&(group.to_owned(), partition))
            .is_some_and(|o| o == instance)
    }

    /// Makes a transaction true.
    pub(super) fn apply(&mut self, group: &str, commit: &Commit, at: Timestamp, slow: bool) {
        self.counts.commits += 1;
        let visible_at = if slow { self.tick + 20 } else { 0 };
        for (i, emit) in commit.emits.iter().enumerate() {
            let value = self.frame(emit.schema_text, emit.schema, &emit.avro);
            let mut headers = emit.headers.clone();
            if let Some(trace) = commit.traces.get(i).and_then(Option::as_deref) {
                headers.set("traceparent", trace);
            }
            if !emit.taken_by.is_empty() {
                headers.set(kernel::TAKEN_BY, emit.taken_by.join(","));
            }
            let record = RawRecord {
                key: emit.key.clone(),
                value: Some(value),
                headers,
                at,
                ..RawRecord::default()
            };
            self.append(&emit.topic, None, record, visible_at);
        }
        for raw in &commit.raw {
            let record = RawRecord {
                key: raw.key.clone(),
                value: raw.value.clone(),
                headers: raw.headers.clone(),
                at,
                ..RawRecord::default()
            };
            self.append(&raw.topic, raw.partition, record, visible_at);
        }
        for p in &commit.offsets {
            let place = (group.to_owned(), p.topic.clone(), p.partition);
            let before = self.offsets.insert(place, p.offset).unwrap_or(0);
            if p.offset < before {
                self.broken
                    .push(format!("offsets never go back: {group} {p} after {before}"));
            }
        }
    }

    pub(super) fn next_event(&mut self, group: &str, instance: &str) -> Option<Polled> {
        self.inbox
            .get_mut(&(group.to_owned(), instance.to_owned()))?
            .pop_front()
    }

    pub(super) fn committed(&self, group: &str, topic: &str, partition: i32) -> i64 {
        let place = (group.to_owned(), topic.to_owned(), partition);
        self.offsets.get(&place).copied().unwrap_or(0)
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
            .take_while(|e| e.visible_at <= self.tick)
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
            rng: Some(Rng::of(seed)),
            chances,
            ..Inner::default()
        };
        Self(Arc::new(Mutex::new(inner)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        inner.append(topic.name, None, record, 0);
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
        self.lock().append(topic, None, record, 0);
    }

    /// Everything on a topic, whatever readers may see yet.
    pub fn raw(&self, topic: &str) -> Vec<RawRecord> {
        let inner = self.lock();
        let all = inner.topics.get(topic).into_iter().flatten().flatten();
        all.map(|e| e.record.clone()).collect()
    }

    /// Every readable record of a topic, decoded.
    pub fn read<R: Record>(&self, topic: Topic<R>) -> Vec<R> {
        let raw = self.raw(topic.name);
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

    /// Gives partitions to instances: `owners` by partition. Former owners are told; one that is dead is not asked. Instances
    /// that never polled again stay fenced out.
    pub fn assign(&self, group: &str, topic: &str, owners: &BTreeMap<i32, String>, dead: &BTreeSet<String>) {
        let mut inner = self.lock();
        for (&partition, owner) in owners {
            let place = (group.to_owned(), partition);
            let before = inner.owners.insert(place, owner.clone());
            if before.as_ref() == Some(owner) && !dead.contains(owner) {
                continue;
            }
            let parts = vec![(topic.to_owned(), partition)];
            if let Some(before) = before.filter(|b| b != owner && !dead.contains(b)) {
                let inbox = inner.inbox.entry((group.to_owned(), before)).or_default();
                inbox.push_back(Polled::Revoked(parts.clone()));
            }
            let inbox = inner.inbox.entry((group.to_owned(), owner.clone())).or_default();
            inbox.push_back(Polled::Assigned(parts));
        }
    }

    /// A process begins: what its predecessor of the same name was told is forgotten, and it is given what it owns.
    pub fn join(&self, group: &str, topic: &str, instance: &str) {
        let mut inner = self.lock();
        let mine: Vec<_> = inner
            .owners
            .iter()
            .filter(|((g, _), owner)| g == group && *owner == instance)
            .map(|((_, p), _)| (topic.to_owned(), *p))
            .collect();
        let inbox = VecDeque::from([Polled::Assigned(mine)]);
        inner.inbox.insert((group.to_owned(), instance.to_owned()), inbox);
    }
}

struct SimDecoder {
    cluster: Cluster,
    falters: bool,
}

impl Decoder for SimDecoder {
    fn unframe<'a>(&self, value: &'a [u8]) -> Result<(Arc<Schema>, &'a [u8]), Fault> {
        let mut inner = self.cluster.lock();
        let chance = inner.chances.registry_down;
        if self.falters && inner.chance(chance) {
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
