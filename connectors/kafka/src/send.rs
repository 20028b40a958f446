//! The client's shapes: records out and in, positions, and what can go wrong with them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kernel::{Committed, Fault, FaultCode, Position, RawEmit, RawRecord};
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext, PurgeConfig};
use rdkafka::{Offset, TopicPartitionList};
use schemas::Timestamp;

use crate::direct::Failure;
use crate::faults::unavailable;
use crate::headers::{from_wire, to_wire};
use crate::log::REQUEST;

/// Where the changelogs go on behind what was delivered to them: few places, asked for with every record.
#[derive(Default)]
pub(crate) struct Deliveries(Mutex<Vec<(Arc<str>, i32, i64)>>);

impl Deliveries {
    /// The places since this was asked last.
    pub(crate) fn take(&self) -> Committed {
        let all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        all.into_iter().map(|(topic, p, next)| ((topic, p), next)).collect()
    }
}

/// What is sent is a change of state, whose place in the changelog is wanted.
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
        let (topic, partition, next) = (message.topic(), message.partition(), message.offset() + 1);
        match places.iter_mut().find(|(t, p, _)| *p == partition && **t == *topic) {
            Some((.., known)) => *known = next.max(*known),
            None => places.push((topic.into(), partition, next)),
        }
    }
}

pub(crate) type Sender = BaseProducer<Deliveries>;

/// What can go wrong while a transaction is made.
pub(crate) enum KafkaOrFault {
    Kafka(KafkaError),
    Direct(Failure),
    Fault(Fault),
}
impl From<Failure> for KafkaOrFault {
    fn from(e: Failure) -> Self {
        Self::Direct(e)
    }
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

/// A record of a topic, for a partition or for where its key belongs.
pub(crate) fn record<'a>(
    (topic, partition): (&'a str, Option<i32>),
    key: &'a str,
    value: Option<&'a [u8]>,
    headers: OwnedHeaders,
) -> BaseRecord<'a, str, [u8], usize> {
    let mut record: BaseRecord<'_, str, [u8], usize> = BaseRecord::with_opaque_to(topic, 0).key(key).headers(headers);
    record.partition = partition;
    record.payload = value;
    record
}

/// What goes to a partition as it is: a change of state, or a dead letter.
pub(crate) fn as_it_is(raw: &RawEmit) -> BaseRecord<'_, str, [u8], usize> {
    let place = (&*raw.topic, raw.partition);
    let mut record = record(place, &raw.key, raw.value.as_deref(), to_wire(&raw.headers));
    record.delivery_opaque = if raw.partition.is_some() { CHANGE } else { 0 };
    record
}

/// Queues a record. Into a full queue it waits until half of it is acknowledged: with room made record by record, each was sent alone as soon
/// as it was queued, a thousand a second, and a transaction larger than the queue never came to its end within its time.
pub(crate) fn send(producer: &Sender, mut record: BaseRecord<'_, str, [u8], usize>) -> Result<(), KafkaError> {
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((full @ KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                record = again;
                if !drained(producer, producer.in_flight_count() / 2) {
                    return Err(full);
                }
            }
            Err((e, _)) => return Err(e),
        }
    }
}

/// Waits until the brokers have everything.
pub(crate) fn acknowledged(producer: &Sender) -> Result<(), KafkaError> {
    if drained(producer, 0) {
        return Ok(());
    }
    Err(KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut))
}

/// Waits until at most so many records are on their way; false when none arrives for [`REQUEST`]. A transaction may be large: that it goes on
/// is enough, the broker has a limit for the whole. Neither the client's flush nor its timed poll will do: flush polls in slices of
/// 100 ms and stays for the whole slice, and a timed poll spins through the last millisecond of its time, which at one
/// transaction after another was half of the processor time of this process.
fn drained(producer: &Sender, most: i32) -> bool {
    const PAUSE: Duration = Duration::from_micros(500);
    let mut went_on = Instant::now();
    let mut left = producer.in_flight_count();
    while left > most {
        // One poll takes one report, which is one partition's: go on while there are more.
        producer.poll(Duration::ZERO);
        let now = producer.in_flight_count();
        if now == left {
            if went_on.elapsed() > REQUEST {
                return false;
            }
            std::thread::sleep(PAUSE);
        } else {
            went_on = Instant::now();
        }
        left = now;
    }
    true
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
    Fault::new(FaultCode::TransactionAborted, why)
}

pub(crate) fn partitions(parts: &[(String, i32)]) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (topic, partition) in parts {
        list.add_partition(topic, *partition);
    }
    list
}

/// A message as a record; `topics` are those already named.
pub(crate) fn raw(message: &BorrowedMessage<'_>, topics: &mut Vec<Arc<str>>) -> RawRecord {
    let name = message.topic();
    let topic = topics.iter().find(|t| ***t == *name).cloned().unwrap_or_else(|| {
        topics.push(name.into());
        name.into()
    });
    RawRecord {
        position: Position {
            topic,
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
