//! The log of one stage on Kafka: a consumer and a transactional producer that commit together.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use kernel::{Commit, Fault, FaultCode, Log, Polled, Position, RawRecord};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use schemas::Timestamp;

use crate::faults::{is_fenced, is_too_large, unavailable};
use crate::group::{Deferred, LINGERS_MS, Rebalance, consumer};
use crate::headers::{cloud_event, from_wire, to_wire};
use crate::{Brokers, Registry};

const REQUEST: Duration = Duration::from_secs(15);
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
    producer: Option<BaseProducer>,
    owned: Vec<(String, i32)>,
    paused: bool,
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
            paused: false,
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

    fn new_producer(&self) -> Result<BaseProducer, Fault> {
        let id = format!("{}.{}", self.config.group, self.config.instance);
        let producer: BaseProducer = self
            .config
            .brokers
            .client()
            .set("transactional.id", &id)
            .set("client.id", &id)
            .set("transaction.timeout.ms", self.config.transaction_timeout_ms.to_string())
            .set("compression.type", "lz4")
            .set("linger.ms", "0")
            .set("message.max.bytes", "10485760")
            .set("queue.buffering.max.kbytes", "65536")
            .create()
            .map_err(|e| unavailable("producer", &e))?;
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

    fn try_commit(&self, producer: &BaseProducer, commit: &Commit) -> Result<(), KafkaOrFault> {
        let started = Instant::now();
        producer.begin_transaction()?;
        let now = Timestamp(clock_micros());
        for (i, emit) in commit.emits.iter().enumerate() {
            let value = self.registry.frame(&emit.topic, emit.schema_text, emit.avro.clone())?;
            let trace = commit.traces.get(i).and_then(Option::as_deref);
            let stage = if emit.stage.is_empty() {
                &self.config.stage
            } else {
                &emit.stage
            };
            let source = format!("soma/{}/{stage}", self.config.pipeline);
            let mut headers = cloud_event(&source, emit.record, now, &emit.tenant, trace);
            if !emit.taken_by.is_empty() {
                headers.set(kernel::TAKEN_BY, emit.taken_by.join(","));
            }
            headers.0.extend(emit.headers.0.iter().cloned());
            send(producer, &emit.topic, None, &emit.key, Some(&value), &headers)?;
        }
        for raw in &commit.raw {
            send(
                producer,
                &raw.topic,
                raw.partition,
                &raw.key,
                raw.value.as_deref(),
                &raw.headers,
            )?;
        }
        let sent = started.elapsed();
        if !commit.offsets.is_empty() {
            let group = self.consumer.group_metadata().ok_or(KafkaError::Canceled)?;
            producer.send_offsets_to_transaction(&offsets(&commit.offsets)?, &group, REQUEST)?;
        }
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
        Ok(())
    }

    /// Leaves no transaction open: aborts, or where that cannot be told, re-creates the producer, whose start resolves it (KIP-890).
    fn settle(&mut self, e: &KafkaError) -> Result<(), Fault> {
        let definite = matches!(e, KafkaError::Transaction(t) if t.txn_requires_abort() && !t.is_fatal())
            || !matches!(e, KafkaError::Transaction(_));
        if definite
            && self
                .producer
                .as_ref()
                .is_some_and(|p| p.abort_transaction(REQUEST).is_ok())
        {
            return Ok(());
        }
        self.producer = None;
        self.producer = Some(self.new_producer()?);
        Ok(())
    }
}

/// What can go wrong while a transaction is made.
enum KafkaOrFault {
    Kafka(KafkaError),
    Fault(Fault),
}
impl From<KafkaError> for KafkaOrFault {
    fn from(e: KafkaError) -> Self {
        Self::Kafka(e)
    }
}
impl From<Fault> for KafkaOrFault {
    fn from(e: Fault) -> Self {
        Self::Fault(e)
    }
}

fn clock_micros() -> i64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

fn send(
    producer: &BaseProducer,
    topic: &str,
    partition: Option<i32>,
    key: &str,
    value: Option<&[u8]>,
    headers: &kernel::Headers,
) -> Result<(), KafkaError> {
    let started = Instant::now();
    loop {
        let mut record: BaseRecord<'_, str, [u8]> = BaseRecord::to(topic).key(key).headers(to_wire(headers));
        record.partition = partition;
        record.payload = value;
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) if started.elapsed() < REQUEST => {
                producer.poll(Duration::ZERO);
                std::thread::sleep(Duration::from_millis(1));
            }
            Err((e, _)) => return Err(e),
        }
    }
}

/// Waits until the brokers have everything. Neither the client's flush nor its timed poll will do: flush polls in slices of
/// 100 ms and stays for the whole slice, and a timed poll spins through the last millisecond of its time, which at one
/// transaction after another was half of the processor time of this process.
fn acknowledged(producer: &BaseProducer) -> Result<(), KafkaError> {
    const PAUSE: Duration = Duration::from_micros(500);
    let started = Instant::now();
    let mut left = producer.in_flight_count();
    while left > 0 {
        // One poll takes one report, which is one partition's: go on while there are more.
        producer.poll(Duration::ZERO);
        let now = producer.in_flight_count();
        if now == left {
            if started.elapsed() > REQUEST {
                return Err(KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut));
            }
            std::thread::sleep(PAUSE);
        }
        left = now;
    }
    Ok(())
}

fn offsets(positions: &[Position]) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::new();
    for p in positions {
        list.add_partition_offset(&p.topic, p.partition, Offset::Offset(p.offset))?;
    }
    Ok(list)
}

fn partitions(parts: &[(String, i32)]) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (topic, partition) in parts {
        list.add_partition(topic, *partition);
    }
    list
}

pub(crate) fn raw(message: &BorrowedMessage<'_>) -> RawRecord {
    RawRecord {
        position: Position {
            topic: message.topic().to_owned(),
            partition: message.partition(),
            offset: message.offset(),
        },
        key: message
            .key()
            .map(|k| String::from_utf8_lossy(k).into_owned())
            .unwrap_or_default(),
        value: message.payload().map(<[u8]>::to_vec),
        headers: from_wire(message),
        at: Timestamp::from_millis(message.timestamp().to_millis().unwrap_or_default()),
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

    fn commit(&mut self, commit: &Commit) -> Result<(), Fault> {
        if commit.is_empty() {
            return Ok(());
        }
        if commit.emits.is_empty() && commit.raw.is_empty() {
            let list = offsets(&commit.offsets).map_err(|e| unavailable("offsets", &e))?;
            let done = self.consumer.commit(&list, rdkafka::consumer::CommitMode::Sync);
            return done.map_err(|e| Fault::new(FaultCode::CommitFailed, format!("offsets: {e}")));
        }
        if self.producer.is_none() {
            self.producer = Some(self.new_producer()?);
        }
        let Some(producer) = self.producer.as_ref() else {
            return Err(Fault::new(FaultCode::Internal, "no producer"));
        };
        match self.try_commit(producer, commit) {
            Ok(()) => Ok(()),
            Err(KafkaOrFault::Fault(fault)) => {
                self.settle(&KafkaError::Canceled)?;
                Err(fault)
            }
            Err(KafkaOrFault::Kafka(e)) if is_fenced(&e) => Err(Fault::new(
                FaultCode::Fenced,
                format!(
                    "{}.{} is used by another instance: {e}",
                    self.config.group, self.config.instance
                ),
            )),
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

    fn restore(
        &mut self,
        topic: &str,
        partition: i32,
        each: &mut dyn FnMut(String, Option<Vec<u8>>),
    ) -> Result<(), Fault> {
        crate::tail::read_to_end(&self.config.brokers, topic, partition, each)
    }

    fn start(&mut self, parts: &[(String, i32)]) -> Result<(), Fault> {
        let parts = &self.along(parts);
        let fresh: Vec<_> = parts.iter().filter(|p| !self.owned.contains(p)).cloned().collect();
        let known: Vec<_> = parts.iter().filter(|p| self.owned.contains(p)).cloned().collect();
        if !known.is_empty() {
            let mut at = self
                .consumer
                .committed_offsets(partitions(&known), REQUEST)
                .map_err(|e| unavailable("committed offsets", &e))?;
            let none: Vec<_> = at
                .elements()
                .iter()
                .filter(|e| e.offset() == Offset::Invalid)
                .map(|e| (e.topic().to_owned(), e.partition()))
                .collect();
            for (topic, partition) in none {
                at.set_partition_offset(&topic, partition, Offset::Beginning)
                    .map_err(|e| unavailable("rewind", &e))?;
            }
            self.consumer
                .seek_partitions(at, REQUEST)
                .map_err(|e| unavailable("rewind", &e))?;
        }
        if !fresh.is_empty() {
            self.consumer
                .incremental_assign(&partitions(&fresh))
                .map_err(|e| unavailable("assign", &e))?;
            if self.paused {
                self.consumer
                    .pause(&partitions(&fresh))
                    .map_err(|e| unavailable("pause", &e))?;
            }
            self.owned.extend(fresh);
        }
        Ok(())
    }

    fn release(&mut self, parts: &[(String, i32)]) -> Result<(), Fault> {
        let parts = &self.along(parts);
        self.owned.retain(|p| !parts.contains(p));
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
