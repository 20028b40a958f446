//! The log of one stage on Kafka: a consumer and a transactional producer that commit together.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use kernel::{Changelog, Commit, Committed, Fault, FaultCode, Log, Polled, Position, RawRecord, Restoring, Slab};
use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::Producer;

use crate::changelogs::Changelogs;
use crate::faults::{is_fenced, is_too_large, unavailable};
use crate::group::{Deferred, LINGERS_MS, Rebalance, consumer};
use crate::send::{KafkaOrFault, Sender, acknowledged, dropped, lost, offsets, partitions, places, raw};
use crate::slabs::Queues;
use crate::transaction::{new_producer, write};
use crate::{Brokers, Registry};

pub(crate) const REQUEST: Duration = Duration::from_secs(15);
const BATCH_BYTES_MAX: usize = 8 << 20;

/// What one stage instance needs to know about its log.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Brokers.
    pub brokers: Brokers,
    /// `<pipeline>.<stage>`: the consumer group.
    pub group: String,
    /// Name of this instance; `<group>.<instance>` is the transactional id and must be unique among living instances.
    pub instance: String,
    /// Topics to read.
    pub topics: Vec<String>,
    /// All topics are partitioned alike by the same key. Only the first is subscribed to; each of its partitions brings the
    /// same partition of the others along, so that one instance sees one key whole. No assignor promises that together with
    /// cooperative rebalancing.
    pub copartitioned: bool,
    /// How long a poll gathers after its first record, milliseconds: fewer, larger transactions where latency does not matter.
    pub linger_ms: u64,
    /// Records come in slabs: much may be fetched ahead.
    pub bulk: bool,
    /// Pipeline and stage: the CloudEvents source of what it writes.
    pub pipeline: String,
    /// Stage; a record that names its own stage goes before.
    pub stage: String,
    /// Milliseconds after which a silent instance loses its partitions.
    pub session_timeout_ms: u32,
    /// Milliseconds after which the broker aborts a transaction nobody finishes.
    pub transaction_timeout_ms: u32,
}

/// A [`Log`] over Kafka.
pub struct KafkaLog {
    config: LogConfig,
    registry: Arc<Registry>,
    consumer: Arc<BaseConsumer<Deferred>>,
    /// Of a log that gives slabs.
    queues: Queues<Deferred>,
    /// They take turns: until a transaction's markers are written its producer may not begin another, and the client tries again
    /// only after 20 ms. Both carry the group's offsets, which fence them.
    producers: Vec<Option<Sender>>,
    turn: usize,
    owned: Vec<(String, i32)>,
    /// Next offset to read of every partition that is owned, as the group has it.
    committed: BTreeMap<(String, i32), i64>,
    /// Partitions of each topic.
    counts: BTreeMap<String, usize>,
    /// That number, when all have the same.
    partitions: Option<u32>,
    /// Topics records came from.
    topics: Vec<Arc<str>>,
    paused: bool,
    changelogs: Option<Changelogs>,
}

impl KafkaLog {
    /// Joins the group and fences whoever used this transactional id before.
    ///
    /// # Errors
    /// `BROKER_UNAVAILABLE` when no broker answers in time.
    pub fn open(config: LogConfig, registry: Arc<Registry>) -> Result<Self, Fault> {
        let mut log = Self {
            consumer: Arc::new(consumer(&config)?),
            queues: Queues::default(),
            config,
            registry,
            producers: Vec::new(),
            turn: 0,
            owned: Vec::new(),
            committed: BTreeMap::new(),
            counts: BTreeMap::new(),
            partitions: None,
            topics: Vec::new(),
            paused: false,
            changelogs: None,
        };
        // The group and the transactions' coordinator work side by side.
        let subscribed = if log.config.copartitioned {
            1
        } else {
            log.config.topics.len()
        };
        let topics: Vec<&str> = log.config.topics.iter().take(subscribed).map(String::as_str).collect();
        log.consumer
            .subscribe(&topics)
            .map_err(|e| unavailable("subscribe", &e))?;
        // A sink writes dead letters only.
        let copartitioned = log.config.copartitioned;
        let producers = if copartitioned { 2 } else { 1 };
        (log.producers, log.changelogs) = std::thread::scope(|scope| {
            let config = &log.config;
            let changelogs = copartitioned.then(|| scope.spawn(|| Changelogs::open(&config.brokers)));
            let begun: Vec<_> = (0..producers)
                .map(|turn| scope.spawn(move || new_producer(config, turn)))
                .collect();
            let panicked = |_| Fault::new(FaultCode::Internal, "a client's start panicked");
            let made = begun.into_iter().map(|made| made.join().map_err(panicked)?.map(Some));
            let made = made.collect::<Result<_, Fault>>()?;
            let changelogs = changelogs.map(|opened| opened.join().map_err(panicked)?);
            Ok::<_, Fault>((made, changelogs.transpose()?))
        })?;
        Ok(log)
    }

    /// A new producer in place of one: whatever its predecessor left open is settled by its start.
    fn renew(&mut self, turn: usize) -> Result<(), Fault> {
        if let Some(slot) = self.producers.get_mut(turn) {
            *slot = None;
            *slot = Some(new_producer(&self.config, turn)?);
        }
        Ok(())
    }

    /// The same partitions of every topic that goes along, as far as it has them.
    fn along(&self, parts: &[(String, i32)]) -> Vec<(String, i32)> {
        if !self.config.copartitioned {
            return parts.to_vec();
        }
        let numbers: std::collections::BTreeSet<i32> = parts.iter().map(|p| p.1).collect();
        let there = |topic: &String, n: i32| {
            let count = self.counts.get(topic);
            count.is_none_or(|count| usize::try_from(n).is_ok_and(|n| n < *count))
        };
        let topics = self.config.topics.iter();
        let all = topics.flat_map(|t| numbers.iter().map(move |n| (t, *n)));
        all.filter(|(t, n)| there(t, *n)).map(|(t, n)| (t.clone(), n)).collect()
    }

    /// Where the group stands on these partitions.
    fn positions(&self, parts: &[(String, i32)]) -> Result<BTreeMap<(String, i32), Offset>, Fault> {
        let committed = self
            .consumer
            .committed_offsets(partitions(parts), REQUEST)
            .map_err(|e| unavailable("committed offsets", &e))?;
        let at = committed.elements().into_iter().map(|e| {
            let at = match e.offset() {
                Offset::Offset(at) => Offset::Offset(at),
                _ => Offset::Beginning,
            };
            ((e.topic().to_owned(), e.partition()), at)
        });
        Ok(at.collect())
    }

    fn rebalance(&mut self) -> Option<Polled> {
        let mut queue = self
            .consumer
            .context()
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if queue.is_empty() {
            return None;
        }
        Some(match queue.remove(0) {
            Rebalance::Assigned(parts) => Polled::Assigned(parts),
            Rebalance::Revoked(parts) => Polled::Revoked(parts),
            Rebalance::Lost(parts) => Polled::Lost(parts),
        })
    }

    /// What an error of the client means to a poll: it reconnects by itself, and what it already fetched is still good.
    fn broken(&self, e: &KafkaError, has_nothing: bool) -> Result<(), Fault> {
        if is_fenced(e) {
            let (group, instance) = (&self.config.group, &self.config.instance);
            let detail = format!("another instance joined {group} as {instance}: {e}");
            return Err(Fault::new(FaultCode::Fenced, detail));
        }
        if has_nothing {
            Err(unavailable("poll", e))
        } else {
            Ok(())
        }
    }

    /// How long a poll gathers after its first record; a long linger has passed at the broker already.
    fn linger_ms(&self) -> u64 {
        let own = Some(self.config.linger_ms);
        own.filter(|ms| *ms < LINGERS_MS).unwrap_or(0)
    }

    fn try_commit(&self, producer: &Sender, commit: &Commit) -> Result<Committed, KafkaOrFault> {
        let started = Instant::now();
        producer.begin_transaction()?;
        // What an aborted one left.
        producer.context().take();
        write(producer, &self.registry, &self.config, commit)?;
        let sent = started.elapsed();
        // Before the offsets, which any member may send: frozen between the two, an instance would wake and write and commit the
        // rest after its successor had read the changelogs and seen nothing open (ARCHITECTURE.md).
        acknowledged(producer)?;
        let acknowledged = started.elapsed();
        self.send_offsets(producer, commit)?;
        let offsets = started.elapsed();
        producer.commit_transaction(REQUEST)?;
        tracing::debug!(
            group = %self.config.group,
            sent_us = sent.as_micros(),
            acknowledged_us = (acknowledged - sent).as_micros(),
            offsets_us = (offsets - acknowledged).as_micros(),
            committed_us = (started.elapsed() - offsets).as_micros(),
            "transaction"
        );
        Ok(producer.context().take())
    }

    /// Offsets in a transaction are what fences a zombie: the group's coordinator refuses those of a member it has thrown out.
    /// So every transaction has some, if only where we stand already.
    fn send_offsets(&self, producer: &Sender, commit: &Commit) -> Result<(), KafkaOrFault> {
        let mut list = offsets(&commit.offsets)?;
        if commit.offsets.is_empty() {
            let place = self.committed.iter().next();
            let ((topic, partition), at) = place.ok_or_else(|| lost("no partition is owned"))?;
            list.add_partition_offset(topic, *partition, Offset::Offset(*at))?;
        }
        let group = self.consumer.group_metadata().ok_or(KafkaError::Canceled)?;
        // Thrown out, the client forgets who it was, and the coordinator takes offsets of nobody for those of an old client.
        // Asked in this order: whoever was forgotten before is known as lost now.
        if self.consumer.assignment_lost() {
            return Err(lost("the group has gone on without this instance").into());
        }
        producer.send_offsets_to_transaction(&list, &group, REQUEST)?;
        Ok(())
    }

    fn changelogs(&mut self) -> Result<&mut Changelogs, Fault> {
        let kept = match self.changelogs.take() {
            Some(kept) => kept,
            None => Changelogs::open(&self.config.brokers)?,
        };
        Ok(self.changelogs.insert(kept))
    }

    fn read_up_to(&mut self, commit: &Commit) {
        let read = commit.offsets.iter();
        self.committed
            .extend(read.map(|p| ((p.topic.to_string(), p.partition), p.offset)));
    }

    /// How many partitions each of the topics has.
    fn count(&self) -> Result<BTreeMap<String, usize>, Fault> {
        let known = self.consumer.fetch_metadata(None, REQUEST);
        let known = known.map_err(|e| unavailable("metadata", &e))?;
        let topics = known.topics().iter();
        let ours = topics.filter(|t| self.config.topics.iter().any(|o| o == t.name()));
        Ok(ours.map(|t| (t.name().to_owned(), t.partitions().len())).collect())
    }

    fn alike(&self) -> Option<u32> {
        let mut counts = self.config.topics.iter().map(|t| self.counts.get(t).copied());
        let first = counts.next().flatten()?;
        counts
            .all(|n| n == Some(first))
            .then(|| u32::try_from(first).ok())
            .flatten()
    }

    /// Leaves no transaction open: aborts, or where that cannot be told, re-creates the producer, whose start resolves it (KIP-890).
    /// True when it was aborted.
    fn settle(&mut self, turn: usize, e: &KafkaError) -> Result<bool, Fault> {
        let definite = matches!(e, KafkaError::Transaction(t) if t.txn_requires_abort() && !t.is_fatal())
            || !matches!(e, KafkaError::Transaction(_));
        let producer = self.producers.get(turn).and_then(Option::as_ref);
        if let Some(producer) = producer.filter(|_| definite) {
            dropped(producer);
            if producer.abort_transaction(REQUEST).is_ok() {
                return Ok(true);
            }
        }
        self.renew(turn)?;
        Ok(false)
    }
}

impl Log for KafkaLog {
    fn poll(&mut self, records_max: usize, wait_ms: u64) -> Result<Polled, Fault> {
        if let Some(event) = self.rebalance() {
            return Ok(event);
        }
        let (mut records, mut bytes) = (Vec::new(), 0);
        let mut wait = Duration::from_millis(wait_ms);
        let mut gathered = Instant::now();
        while records.len() < records_max && bytes < BATCH_BYTES_MAX {
            match self.consumer.poll(wait) {
                None => break,
                Some(Ok(message)) => {
                    if records.is_empty() {
                        gathered = Instant::now() + Duration::from_millis(self.linger_ms());
                    }
                    bytes += message.payload_len();
                    records.push(raw(&message, &mut self.topics));
                    // Whole milliseconds: the client spins through a rest that is shorter.
                    let left = gathered.saturating_duration_since(Instant::now());
                    wait = Duration::from_millis(u64::try_from(left.as_millis()).unwrap_or(0));
                }
                Some(Err(e)) => {
                    self.broken(&e, records.is_empty())?;
                    break;
                }
            }
        }
        if !records.is_empty() {
            return Ok(Polled::Records(records));
        }
        Ok(self.rebalance().unwrap_or(Polled::Idle))
    }

    fn poll_slabs(&mut self, records_max: usize, wait_ms: u64) -> Result<Polled<Vec<Slab>>, Fault> {
        if let Some(event) = self.rebalance() {
            return Ok(event.map(|_| Vec::new()));
        }
        let context = self.consumer.context();
        let asked = || !context.queue.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        let most = (records_max, Duration::from_millis(wait_ms));
        let gathered = self.queues.gather(&self.consumer, most, asked);
        if let Some(e) = &gathered.failed {
            self.broken(e, gathered.records == 0)?;
        }
        if gathered.records > 0 {
            return Ok(Polled::Records(gathered.slabs));
        }
        Ok(self.rebalance().map_or(Polled::Idle, |event| event.map(|_| Vec::new())))
    }

    fn unread(&self) -> Vec<(Arc<str>, i32)> {
        self.queues.unread()
    }

    fn fetch(&mut self, positions: &[Position]) -> Result<Vec<RawRecord>, Fault> {
        self.changelogs()?.fetch(positions)
    }

    fn commit(&mut self, commit: &Commit) -> Result<Committed, Fault> {
        if commit.is_empty() {
            return Ok(Committed::new());
        }
        if commit.emits.is_empty() && commit.raw.is_empty() {
            let list = offsets(&commit.offsets).map_err(|e| unavailable("offsets", &e))?;
            self.consumer
                .commit(&list, rdkafka::consumer::CommitMode::Sync)
                .map_err(|e| Fault::new(FaultCode::CommitFailed, format!("offsets: {e}")))?;
            self.read_up_to(commit);
            return Ok(Committed::new());
        }
        let turn = self.turn;
        self.turn = (turn + 1) % self.producers.len();
        if self.producers.get(turn).is_some_and(Option::is_none) {
            self.renew(turn)?;
        }
        let Some(producer) = self.producers.get(turn).and_then(Option::as_ref) else {
            return Err(Fault::new(FaultCode::Internal, "no producer"));
        };
        match self.try_commit(producer, commit) {
            Ok(places) => {
                self.read_up_to(commit);
                Ok(places)
            }
            Err(KafkaOrFault::Fault(fault)) => {
                self.settle(turn, &KafkaError::Canceled)?;
                Err(fault)
            }
            Err(KafkaOrFault::Kafka(e)) => {
                let aborted = self.settle(turn, &e)?;
                let code = match (is_too_large(&e), aborted) {
                    (true, _) => FaultCode::RecordTooLarge,
                    (_, true) => FaultCode::TransactionAborted,
                    (_, false) => FaultCode::CommitFailed,
                };
                Err(Fault::new(code, e.to_string()))
            }
        }
    }

    fn restore(&mut self, changelogs: &[Changelog], into: &mut dyn Restoring) -> Result<(), Fault> {
        self.changelogs()?.read(changelogs, into)
    }

    fn start(&mut self, parts: &[(String, i32)]) -> Result<(), Fault> {
        if parts.is_empty() {
            // Nothing to begin, but the group waits to hear so.
            let none = rdkafka::TopicPartitionList::new();
            return self
                .consumer
                .incremental_assign(&none)
                .map_err(|e| unavailable("assign", &e));
        }
        self.counts = self.count()?;
        self.partitions = self.alike();
        let parts = &self.along(parts);
        let at = self.positions(parts)?;
        let fresh = |p: &(String, i32)| !self.owned.contains(p);
        let (new, known): (BTreeMap<_, _>, BTreeMap<_, _>) = at.clone().into_iter().partition(|(p, _)| fresh(p));
        if !known.is_empty() {
            self.consumer
                .seek_partitions(places(&known)?, REQUEST)
                .map_err(|e| unavailable("rewind", &e))?;
            self.queues.rewound();
        }
        if !new.is_empty() {
            let list = places(&new)?;
            if self.config.bulk {
                self.queues.open(&self.consumer, new.keys())?;
            }
            self.consumer
                .incremental_assign(&list)
                .map_err(|e| unavailable("assign", &e))?;
            // The client keeps a partition paused that was paused when it was lost, and tells nobody when it is given back.
            let set = if self.paused {
                self.consumer.pause(&list)
            } else {
                self.consumer.resume(&list)
            };
            set.map_err(|e| unavailable("pause", &e))?;
            self.owned.extend(new.into_keys());
        }
        let at = at.into_iter().map(|(place, at)| match at {
            Offset::Offset(at) => (place, at),
            _ => (place, 0),
        });
        self.committed.extend(at);
        Ok(())
    }

    fn release(&mut self, parts: &[(String, i32)]) -> Result<(), Fault> {
        let parts = &self.along(parts);
        self.owned.retain(|p| !parts.contains(p));
        self.committed.retain(|p, _| !parts.contains(p));
        self.queues
            .close(|topic, p| parts.iter().any(|part| part.0 == topic && part.1 == p));
        match self.consumer.incremental_unassign(&partitions(parts)) {
            Ok(()) => Ok(()),
            Err(e) => {
                tracing::debug!(error = %e, "partitions were already lost");
                Ok(())
            }
        }
    }

    fn home(&self, key: &str) -> Option<i32> {
        let partitions = self.partitions?;
        i32::try_from(schemas::digest::partition(key, partitions)).ok()
    }

    fn pause(&mut self, paused: bool) -> Result<(), Fault> {
        self.paused = paused;
        if self.owned.is_empty() {
            return Ok(());
        }
        let list = partitions(&self.owned);
        let done = if paused {
            self.consumer.pause(&list)
        } else {
            self.consumer.resume(&list)
        };
        done.map_err(|e| unavailable("pause", &e))
    }
}

impl Drop for KafkaLog {
    fn drop(&mut self) {
        // Before the client they belong to.
        self.queues.close(|_, _| true);
        self.consumer
            .context()
            .closing
            .store(true, std::sync::atomic::Ordering::SeqCst);
        // Rebalances nobody will answer would keep the close waiting.
        self.consumer
            .context()
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        if !self.owned.is_empty() && self.consumer.incremental_unassign(&partitions(&self.owned)).is_err() {
            tracing::debug!("partitions were already lost");
        }
    }
}
