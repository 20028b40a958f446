//! Reading a topic without a group, for the command line and for controls.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kernel::{Fault, FaultCode, RawRecord};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use schemas::Timestamp;

use crate::Brokers;
use crate::faults::unavailable;
use crate::send::raw;

pub(crate) const REQUEST: Duration = Duration::from_secs(10);

pub(crate) fn consumer(brokers: &Brokers) -> Result<BaseConsumer, Fault> {
    brokers
        .client()
        .set("group.id", "soma-tail")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "earliest")
        .set("fetch.wait.max.ms", "50")
        .set("fetch.message.max.bytes", "4194304")
        .set("queued.max.messages.kbytes", "8192")
        // Not the client's second of rest whenever the queue is full.
        .set("fetch.queue.backoff.ms", "5")
        .create()
        .map_err(|e| unavailable("consumer", &e))
}

/// Where to begin reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The first record kept.
    Beginning,
    /// What is written from now on.
    End,
    /// An offset, in every partition.
    Offset(i64),
    /// The first record stamped at or after this time.
    Time(Timestamp),
}

/// A record as it is: its key not read as text, without headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plain {
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// When the broker or producer stamped it.
    pub at: Timestamp,
    /// Key bytes; none where it has no key.
    pub key: Vec<u8>,
    /// Value bytes; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
}

/// Reads all partitions of a topic without a group.
pub struct Tail {
    consumer: BaseConsumer,
    partitions: usize,
    topics: Vec<Arc<str>>,
    at_end: std::collections::BTreeSet<i32>,
    topic: String,
    /// Where each partition goes on.
    next: BTreeMap<i32, Offset>,
}

impl Tail {
    /// Begins to read a topic.
    ///
    /// # Errors
    /// `BROKER_UNAVAILABLE`; `TOPICS_MISMATCHED` when there is no such topic.
    pub fn open(brokers: &Brokers, topic: &str, from: From) -> Result<Self, Fault> {
        let consumer = consumer(brokers)?;
        let meta = consumer
            .fetch_metadata(Some(topic), REQUEST)
            .map_err(|e| unavailable("metadata", &e))?;
        let ids: Vec<i32> = meta
            .topics()
            .iter()
            .flat_map(|t| t.partitions())
            .map(rdkafka::metadata::MetadataPartition::id)
            .collect();
        if ids.is_empty() {
            let detail = format!("there is no topic {topic}; `soma topics list` shows what there is");
            return Err(Fault::new(FaultCode::TopicsMismatched, detail));
        }
        let mut wanted = TopicPartitionList::new();
        for id in &ids {
            let offset = match from {
                From::Beginning => Offset::Beginning,
                From::End => {
                    let (_, end) = consumer
                        .fetch_watermarks(topic, *id, REQUEST)
                        .map_err(|e| unavailable("end", &e))?;
                    Offset::Offset(end)
                }
                From::Offset(o) => Offset::Offset(o),
                From::Time(at) => Offset::Offset(at.millis()),
            };
            wanted
                .add_partition_offset(topic, *id, offset)
                .map_err(|e| unavailable("assign", &e))?;
        }
        if matches!(from, From::Time(_)) {
            wanted = consumer
                .offsets_for_times(wanted, REQUEST)
                .map_err(|e| unavailable("offsets for time", &e))?;
        }
        consumer.assign(&wanted).map_err(|e| unavailable("assign", &e))?;
        let next = wanted.elements().iter().map(|e| (e.partition(), e.offset())).collect();
        Ok(Self {
            topic: topic.to_owned(),
            next,
            consumer,
            partitions: ids.len(),
            topics: Vec::new(),
            at_end: std::collections::BTreeSet::new(),
        })
    }

    /// The next record, if one comes within `wait_ms`.
    ///
    /// # Errors
    /// `BROKER_UNAVAILABLE`; reading may be tried again.
    pub fn next(&mut self, wait_ms: u64) -> Result<Option<RawRecord>, Fault> {
        match self.consumer.poll(Duration::from_millis(wait_ms)) {
            Some(Ok(message)) => {
                self.at_end.remove(&message.partition());
                self.next
                    .insert(message.partition(), Offset::Offset(message.offset() + 1));
                Ok(Some(raw(&message, &mut self.topics)))
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                self.at_end.insert(partition);
                Ok(None)
            }
            Some(Err(e)) => Err(unavailable("read", &e)),
            None => Ok(None),
        }
    }

    /// As [`Tail::next`], with the key's bytes.
    ///
    /// # Errors
    /// As [`Tail::next`].
    pub fn next_plain(&mut self, wait_ms: u64) -> Result<Option<Plain>, Fault> {
        match self.consumer.poll(Duration::from_millis(wait_ms)) {
            Some(Ok(message)) => {
                self.at_end.remove(&message.partition());
                self.next
                    .insert(message.partition(), Offset::Offset(message.offset() + 1));
                Ok(Some(Plain {
                    partition: message.partition(),
                    offset: message.offset(),
                    at: Timestamp::from_millis(message.timestamp().to_millis().unwrap_or_default()),
                    key: message.key().unwrap_or_default().to_vec(),
                    value: message.payload().map(<[u8]>::to_vec),
                }))
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                self.at_end.insert(partition);
                Ok(None)
            }
            Some(Err(e)) => Err(unavailable("read", &e)),
            None => Ok(None),
        }
    }

    /// Goes on where it stands, so that [`Tail::is_at_end`] speaks of the ends that are there from now on.
    ///
    /// # Errors
    /// `BROKER_UNAVAILABLE`.
    pub fn again(&mut self) -> Result<(), Fault> {
        let mut wanted = TopicPartitionList::new();
        for (partition, offset) in &self.next {
            wanted
                .add_partition_offset(&self.topic, *partition, *offset)
                .map_err(|e| unavailable("assign", &e))?;
        }
        self.at_end.clear();
        self.consumer.assign(&wanted).map_err(|e| unavailable("assign", &e))
    }

    /// Whether every partition has been read to its end.
    pub fn is_at_end(&self) -> bool {
        self.at_end.len() == self.partitions
    }
}
