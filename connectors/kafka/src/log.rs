//! The log of one stage on Kafka: a consumer and a transactional producer that commit together.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use kernel::{Commit, Committed, EachChange, Fault, FaultCode, Log, Polled};
use rdkafka::Offset;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::Producer;
use schemas::Timestamp;

use crate::faults::{is_fenced, is_too_large, unavailable};
use crate::group::{Deferred, LINGERS_MS, Rebalance, consumer};
use crate::headers::{CloudEvent, add, header, to_wire};
use crate::send::{
    Deliveries, KafkaOrFault, Sender, acknowledged, clock_micros, dropped, lost, offsets, partitions, places, raw, send,
};
use crate::tail::{Extents, read_to_end};
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
    consumer: BaseConsumer<Deferred>,
    producer: Option<Sender>,
    owned: Vec<(String, i32)>,
    /// Next offset to read of every partition that is owned, as the group has it.
    committed: BTreeMap<(String, i32), i64>,
    paused: bool,
    extents: Option<Extents>,
}

impl KafkaLog {
    /// Joins the group and fences whoever used this transactional id before.
    ///
    /// # Errors
    /// `BROKER_UNAVAILABLE` when no broker answers in time.
    pub fn open(config: LogConfig, registry: Arc<Registry>) -> Result<Self, Fault> {
        let mut log = Self {
            consumer: consumer(&config)?,
            config,
            registry,
            producer: None,
            owned: Vec::new(),
            committed: BTreeMap::new(),
            paused: false,
            extents: None,
        };
        log.producer = Some(log.new_producer()?);
        let subscribed = if log.config.copartitioned {
            1
        } else {
            log.config.topics.len()
        };
        let topics: Vec<&str> = log.config.topics.iter().take(subscribed).map(String::as_str).collect();
        log.consumer
            .subscribe(&topics)
            .map_err(|e| unavailable("subscribe", &e))?;
        Ok(log)
    }

    fn new_producer(&self) -> Result<Sender, Fault> {
        let id = format!("{}.{}", self.config.group, self.config.instance);
        let mut client = self.config.brokers.client();
        client
            .set("transactional.id", &id)
            .set("client.id", &id)
            .set("transaction.timeout.ms", self.config.transaction_timeout_ms.to_string())
            .set("compression.type", "lz4")
            .set("linger.ms", "0")
            .set("message.max.bytes", "10485760")
            .set("queue.buffering.max.kbytes", "65536");
        let producer =
            Sender::from_config_and_context(&client, Deliveries::default()).map_err(|e| unavailable("producer", &e))?;
        producer
            .init_transactions(REQUEST)
            .map_err(|e| unavailable(&format!("init transactions of {id}"), &e))?;
        Ok(producer)
    }

    /// The same partitions of every topic that goes along.
    fn along(&self, parts: &[(String, i32)]) -> Vec<(String, i32)> {
        if !self.config.copartitioned {
            return parts.to_vec();
        }
        let numbers: std::collections::BTreeSet<i32> = parts.iter().map(|p| p.1).collect();
        self.config
            .topics
            .iter()
            .flat_map(|t| numbers.iter().map(move |n| (t.clone(), *n)))
            .collect()
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

    /// How long a poll gathers after its first record; a long linger has passed at the broker already.
    fn linger_ms(&self) -> u64 {
        if self.config.linger_ms >= LINGERS_MS {
            0
        } else {
            self.config.linger_ms
        }
    }

    fn try_commit(&self, producer: &Sender, commit: &Commit) -> Result<Committed, KafkaOrFault> {
        let started = Instant::now();
        producer.begin_transaction()?;
        let places = || producer.context().0.lock().unwrap_or_else(PoisonError::into_inner);
        places().clear();
        let now = Timestamp(clock_micros()).to_string();
        for (i, emit) in commit.emits.iter().enumerate() {
            let value = self.registry.frame(&emit.topic, emit.schema_text, emit.avro.clone())?;
            let trace = commit.traces.get(i).and_then(Option::as_deref);
            let stage = if emit.stage.is_empty() {
                &self.config.stage
            } else {
                &emit.stage
            };
            let event = CloudEvent {
                source: &format!("soma/{}/{stage}", self.config.pipeline),
                record: emit.record,
                time: &now,
                tenant: &emit.tenant,
                traceparent: trace,
            };
            let mut headers = event.wire(1 + emit.headers.0.len());
            if !emit.taken_by.is_empty() {
                headers = headers.insert(header(kernel::TAKEN_BY, emit.taken_by.join(",").as_bytes()));
            }
            let headers = add(headers, &emit.headers);
            send(producer, &emit.topic, None, &emit.key, Some(&value), headers)?;
        }
        for raw in &commit.raw {
            send(
                producer,
                &raw.topic,
                raw.partition,
                &raw.key,
                raw.value.as_deref(),
                to_wire(&raw.headers),
            )?;
        }
        let sent = started.elapsed();
        self.send_offsets(producer, commit)?;
        let offsets = started.elapsed();
        acknowledged(producer)?;
        let acknowledged = started.elapsed();
        producer.commit_transaction(REQUEST)?;
        tracing::debug!(
            group = %self.config.group,
            sent_us = sent.as_micros(),
            offsets_us = (offsets - sent).as_micros(),
            acknowledged_us = (acknowledged - offsets).as_micros(),
            committed_us = (started.elapsed() - acknowledged).as_micros(),
            "transaction"
        );
        Ok(std::mem::take(&mut *places()))
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

    /// Leaves no transaction open: aborts, or where that cannot be told, re-creates the producer, whose start resolves it (KIP-890).
    fn settle(&mut self, e: &KafkaError) -> Result<(), Fault> {
        let definite = matches!(e, KafkaError::Transaction(t) if t.txn_requires_abort() && !t.is_fatal())
            || !matches!(e, KafkaError::Transaction(_));
        if let Some(producer) = self.producer.as_ref().filter(|_| definite) {
            dropped(producer);
            if producer.abort_transaction(REQUEST).is_ok() {
                return Ok(());
            }
        }
        self.producer = None;
        self.producer = Some(self.new_producer()?);
        Ok(())
    }
}

impl Log for KafkaLog {
    fn poll(&mut self, records_max: usize, wait_ms: u64) -> Result<Polled, Fault> {
        if let Some(event) = self.rebalance() {
            return Ok(event);
        }
        let mut records = Vec::new();
        let mut bytes = 0;
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
                    records.push(raw(&message));
                    // Whole milliseconds: the client spins through a rest that is shorter.
                    let left = gathered.saturating_duration_since(Instant::now());
                    wait = Duration::from_millis(u64::try_from(left.as_millis()).unwrap_or(0));
                }
                Some(Err(e)) if is_fenced(&e) => {
                    let (group, instance) = (&self.config.group, &self.config.instance);
                    let detail = format!("another instance joined {group} as {instance}: {e}");
                    return Err(Fault::new(FaultCode::Fenced, detail));
                }
                // librdkafka reconnects by itself; what it already fetched is still good.
                Some(Err(e)) if records.is_empty() => return Err(unavailable("poll", &e)),
                Some(Err(_)) => break,
            }
        }
        if !records.is_empty() {
            return Ok(Polled::Records(records));
        }
        Ok(self.rebalance().unwrap_or(Polled::Idle))
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
            let read = commit
                .offsets
                .iter()
                .map(|p| ((p.topic.clone(), p.partition), p.offset));
            self.committed.extend(read);
            return Ok(Committed::new());
        }
        if self.producer.is_none() {
            self.producer = Some(self.new_producer()?);
        }
        let Some(producer) = self.producer.as_ref() else {
            return Err(Fault::new(FaultCode::Internal, "no producer"));
        };
        match self.try_commit(producer, commit) {
            Ok(places) => {
                let read = commit
                    .offsets
                    .iter()
                    .map(|p| ((p.topic.clone(), p.partition), p.offset));
                self.committed.extend(read);
                Ok(places)
            }
            Err(KafkaOrFault::Fault(fault)) => {
                self.settle(&KafkaError::Canceled)?;
                Err(fault)
            }
            Err(KafkaOrFault::Kafka(e)) => {
                let too_large = is_too_large(&e);
                self.settle(&e)?;
                let code = if too_large {
                    FaultCode::RecordTooLarge
                } else {
                    FaultCode::CommitFailed
                };
                Err(Fault::new(code, e.to_string()))
            }
        }
    }

    fn extent(&mut self, topic: &str, partition: i32) -> Result<(i64, i64), Fault> {
        let extents = match self.extents.take() {
            Some(extents) => extents,
            None => Extents::open(&self.config.brokers)?,
        };
        self.extents.insert(extents).of(topic, partition)
    }

    fn restore(&mut self, topic: &str, partition: i32, from: i64, each: &mut EachChange<'_>) -> Result<i64, Fault> {
        let (_, end) = self.extent(topic, partition)?;
        read_to_end(&self.config.brokers, (topic, partition), (from, end), each)
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
        let parts = &self.along(parts);
        let at = self.positions(parts)?;
        let fresh = |p: &(String, i32)| !self.owned.contains(p);
        let (new, known): (BTreeMap<_, _>, BTreeMap<_, _>) = at.clone().into_iter().partition(|(p, _)| fresh(p));
        if !known.is_empty() {
            self.consumer
                .seek_partitions(places(&known)?, REQUEST)
                .map_err(|e| unavailable("rewind", &e))?;
        }
        if !new.is_empty() {
            let list = places(&new)?;
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
        match self.consumer.incremental_unassign(&partitions(parts)) {
            Ok(()) => Ok(()),
            Err(e) => {
                tracing::debug!(error = %e, "partitions were already lost");
                Ok(())
            }
        }
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
