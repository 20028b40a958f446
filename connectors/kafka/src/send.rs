//! The client's shapes: records out and in, positions, and what can go wrong with them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use kernel::{Committed, Fault, FaultCode, Position, RawRecord};
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext, PurgeConfig};
use rdkafka::{Offset, TopicPartitionList};
use schemas::Timestamp;

use crate::faults::unavailable;
use crate::headers::from_wire;
use crate::log::REQUEST;

/// Where the changelogs go on behind what was delivered to them.
#[derive(Default)]
pub(crate) struct Deliveries(pub(crate) Mutex<Committed>);

/// Delivered to a changelog: its place is wanted.
const CHANGE: usize = 1;

impl ClientContext for Deliveries {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = false;
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, what: usize) {
        // A record the broker had already has no offset here; the place is then an earlier one, which does no harm.
        let Some(message) = result.as_ref().ok().filter(|m| what == CHANGE && m.offset() >= 0) else {
            return;
        };
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (message.topic().to_owned(), message.partition());
        let next = places.entry(place).or_default();
        *next = (*next).max(message.offset() + 1);
    }
}

pub(crate) type Sender = BaseProducer<Deliveries>;

/// What can go wrong while a transaction is made.
pub(crate) enum KafkaOrFault {
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

pub(crate) fn clock_micros() -> i64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

pub(crate) fn send(
    producer: &Sender,
    topic: &str,
    partition: Option<i32>,
    key: &str,
    value: Option<&[u8]>,
    headers: OwnedHeaders,
) -> Result<(), KafkaError> {
    let opaque = if partition.is_some() { CHANGE } else { 0 };
    let mut record: BaseRecord<'_, str, [u8], usize> =
        BaseRecord::with_opaque_to(topic, opaque).key(key).headers(headers);
    record.partition = partition;
    record.payload = value;
    let mut full: Option<Instant> = None;
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again))
                if full.get_or_insert_with(Instant::now).elapsed() < REQUEST =>
            {
                record = again;
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
pub(crate) fn acknowledged(producer: &Sender) -> Result<(), KafkaError> {
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

/// Drops what has not been acknowledged, before an abort: the client's abort waits for the reports of all records, and without
/// somebody who takes them for the whole of its time.
pub(crate) fn dropped(producer: &Sender) {
    let started = Instant::now();
    producer.purge(PurgeConfig::default().queue().inflight());
    while producer.in_flight_count() > 0 && started.elapsed() < REQUEST {
        producer.poll(Duration::ZERO);
        std::thread::sleep(Duration::from_micros(500));
    }
}

pub(crate) fn offsets(positions: &[Position]) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::new();
    for p in positions {
        list.add_partition_offset(&p.topic, p.partition, Offset::Offset(p.offset))?;
    }
    Ok(list)
}

/// Partitions with where to begin.
pub(crate) fn places(at: &BTreeMap<(String, i32), Offset>) -> Result<TopicPartitionList, Fault> {
    let mut list = TopicPartitionList::new();
    for ((topic, partition), offset) in at {
        list.add_partition_offset(topic, *partition, *offset)
            .map_err(|e| unavailable("offsets", &e))?;
    }
    Ok(list)
}

/// Nothing was committed, and nothing can be: this instance's partitions may be others' by now.
pub(crate) fn lost(why: &str) -> Fault {
    Fault::new(FaultCode::CommitFailed, why)
}

pub(crate) fn partitions(parts: &[(String, i32)]) -> TopicPartitionList {
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
