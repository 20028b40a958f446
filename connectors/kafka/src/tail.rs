//! Reading without a group: a changelog to its end, and any topic for the command line and for controls.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kernel::{EachChange, Fault, FaultCode, RawRecord};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use schemas::Timestamp;

use crate::Brokers;
use crate::faults::unavailable;
use crate::send::raw;

const REQUEST: Duration = Duration::from_secs(10);
/// A changelog whose end does not come for this long has an open transaction nobody finishes, or a broker that is gone.
const RESTORE_STALL: Duration = Duration::from_secs(90);

fn consumer(brokers: &Brokers) -> Result<BaseConsumer, Fault> {
    brokers
        .client()
        .set("group.id", "soma-tail")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "earliest")
        .set("fetch.wait.max.ms", "50")
        .set("fetch.message.max.bytes", "4194304")
        .set("queued.max.messages.kbytes", "16384")
        // Not the client's second of rest whenever the queue is full.
        .set("fetch.queue.backoff.ms", "5")
        .create()
        .map_err(|e| unavailable("consumer", &e))
}

fn list(topic: &str, partition: i32, offset: Offset) -> Result<TopicPartitionList, Fault> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, offset)
        .map_err(|e| unavailable("assign", &e))?;
    Ok(list)
}

/// Reads changelogs. Connecting is most of what a short one costs, so both clients are kept.
pub(crate) struct Changelogs {
    plain: BaseConsumer,
    reader: BaseConsumer,
}

impl Changelogs {
    pub(crate) fn open(brokers: &Brokers) -> Result<Self, Fault> {
        let plain = brokers
            .client()
            .set("group.id", "soma-tail")
            .set("isolation.level", "read_uncommitted")
            .create();
        Ok(Self {
            plain: plain.map_err(|e| unavailable("consumer", &e))?,
            reader: consumer(brokers)?,
        })
    }

    /// First offset of a partition and the one behind its last, open and aborted transactions included. With read_committed the
    /// client's own idea of the end is the last stable offset; this asks without isolation for the true one.
    pub(crate) fn extent(&self, topic: &str, partition: i32) -> Result<(i64, i64), Fault> {
        let asked = self.plain.fetch_watermarks(topic, partition, REQUEST);
        asked.map_err(|e| unavailable(&format!("end of {topic}/{partition}"), &e))
    }

    /// Reads a partition from an offset until everything before `end` is read or known to be aborted; where it goes on.
    pub(crate) fn read(
        &self,
        (topic, partition): (&str, i32),
        (from, end): (i64, i64),
        each: &mut EachChange<'_>,
    ) -> Result<i64, Fault> {
        if end <= from {
            return Ok(from);
        }
        let begin = if from > 0 {
            Offset::Offset(from)
        } else {
            Offset::Beginning
        };
        self.reader
            .assign(&list(topic, partition, begin)?)
            .map_err(|e| unavailable("assign", &e))?;
        let read = self.read_assigned((topic, partition), (from, end), each);
        self.reader.unassign().map_err(|e| unavailable("unassign", &e))?;
        read
    }

    fn read_assigned(
        &self,
        (topic, partition): (&str, i32),
        (from, end): (i64, i64),
        each: &mut EachChange<'_>,
    ) -> Result<i64, Fault> {
        let started = Instant::now();
        let mut next = from;
        loop {
            match self.reader.poll(Duration::from_millis(200)) {
                Some(Ok(message)) => {
                    let offset = message.offset();
                    next = offset + 1;
                    let key = String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned();
                    each(key, message.payload(), offset)?;
                    if next >= end {
                        return Ok(next);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    // The end as readers see it. It is the true end once no open transaction holds it back.
                    let (_, stable) = self
                        .reader
                        .fetch_watermarks(topic, partition, REQUEST)
                        .map_err(|e| unavailable(&format!("end of {topic}/{partition}"), &e))?;
                    if stable >= end {
                        return Ok(end);
                    }
                }
                Some(Err(e)) => return Err(unavailable(&format!("restore {topic}/{partition}"), &e)),
                None => {}
            }
            if started.elapsed() > RESTORE_STALL {
                let detail =
                    format!("{topic}/{partition} stands at {next} of {end}: an open transaction holds it back");
                return Err(Fault::new(FaultCode::BrokerUnavailable, detail));
            }
        }
    }
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

/// Reads all partitions of a topic without a group.
pub struct Tail {
    consumer: BaseConsumer,
    partitions: usize,
    topics: Vec<Arc<str>>,
    at_end: std::collections::BTreeSet<i32>,
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
        Ok(Self {
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

    /// Whether every partition has been read to its end.
    pub fn is_at_end(&self) -> bool {
        self.at_end.len() == self.partitions
    }
}
