//! A topic from its first record to the end it has now, partition after partition: bounded reading, without a group. What is read
//! does not depend on when: open transactions before the end are waited for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kernel::{Changelog, Fault, FaultCode};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use schemas::Timestamp;

use crate::Brokers;
use crate::changelogs::{decided, offsets};
use crate::faults::unavailable;
use crate::tail::{REQUEST, consumer};

/// A broker that sends nothing for so long, though more is to come, is not answering.
const STALL: Duration = Duration::from_secs(15);

/// A record of the past, as it lies in the client's memory.
#[derive(Clone, Copy, Debug)]
pub struct Past<'a> {
    /// Key; empty where it has none.
    pub key: &'a [u8],
    /// Value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Offset.
    pub offset: i64,
    /// When the broker or producer stamped it.
    pub at: Timestamp,
}

/// A topic up to the end it had when this was opened.
pub struct History {
    reader: BaseConsumer,
    places: Vec<Changelog>,
    ranges: Vec<(i64, i64)>,
}

impl History {
    /// Finds partitions and ends; waits until every transaction before the ends is decided.
    ///
    /// # Errors
    /// `TOPICS_MISMATCHED` when there is no such topic; `BROKER_UNAVAILABLE`.
    pub fn open(brokers: &Brokers, topic: &str) -> Result<Self, Fault> {
        let plain: BaseConsumer = brokers
            .client()
            .set("group.id", "soma-tail")
            .set("isolation.level", "read_uncommitted")
            .create()
            .map_err(|e| unavailable("consumer", &e))?;
        let reader = consumer(brokers)?;
        let known = plain
            .fetch_metadata(Some(topic), REQUEST)
            .map_err(|e| unavailable("metadata", &e))?;
        let partitions = known.topics().iter().flat_map(|t| t.partitions());
        let mut numbers: Vec<i32> = partitions.map(rdkafka::metadata::MetadataPartition::id).collect();
        numbers.sort_unstable();
        if numbers.is_empty() {
            let detail = format!("there is no topic {topic}; `soma topics apply` makes those of the pipelines");
            return Err(Fault::new(FaultCode::TopicsMismatched, detail));
        }
        let name: Arc<str> = topic.into();
        let places: Vec<Changelog> = numbers.into_iter().map(|p| (Arc::clone(&name), p)).collect();
        let ends = offsets(&plain, &places, Offset::End)?;
        let firsts = offsets(&plain, &places, Offset::Beginning)?;
        let ranges: Vec<_> = firsts.into_iter().zip(ends).collect();
        decided(&reader, &places, &ranges)?;
        Ok(Self { reader, places, ranges })
    }

    /// Its partitions, each with its first offset and the one behind its last.
    pub fn partitions(&self) -> impl Iterator<Item = (i32, i64, i64)> {
        let all = self.places.iter().zip(&self.ranges);
        all.map(|((_, partition), (first, end))| (*partition, *first, *end))
    }

    /// Gives every record of a partition, in order.
    ///
    /// # Errors
    /// `BROKER_UNAVAILABLE`; what `each` says.
    pub fn read(&self, partition: i32, each: &mut dyn FnMut(Past<'_>) -> Result<(), Fault>) -> Result<(), Fault> {
        let Some(i) = self.places.iter().position(|(_, p)| *p == partition) else {
            return Ok(());
        };
        let (topic, (first, end)) = (&self.places[i].0, self.ranges[i]);
        if first >= end {
            return Ok(());
        }
        let failed = |e: KafkaError| unavailable(&format!("read {topic}/{partition}"), &e);
        let mut place = TopicPartitionList::new();
        place
            .add_partition_offset(topic, partition, Offset::Offset(first))
            .map_err(failed)?;
        self.reader.assign(&place).map_err(failed)?;
        let read = self.drain(topic, (partition, end), each);
        self.reader.unassign().map_err(failed)?;
        read
    }

    fn drain(
        &self,
        topic: &str,
        (partition, end): (i32, i64),
        each: &mut dyn FnMut(Past<'_>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut heard = Instant::now();
        loop {
            match self.reader.poll(Duration::from_millis(100)) {
                Some(Ok(message)) if message.partition() == partition => {
                    heard = Instant::now();
                    let offset = message.offset();
                    if offset < end {
                        each(Past {
                            key: message.key().unwrap_or_default(),
                            value: message.payload(),
                            offset,
                            at: Timestamp::from_millis(message.timestamp().to_millis().unwrap_or_default()),
                        })?;
                    }
                    if offset + 1 >= end {
                        return Ok(());
                    }
                }
                // What is left over of the partition before this one says nothing.
                Some(Err(KafkaError::PartitionEOF(p))) if p == partition => return Ok(()),
                // The client reconnects by itself; only an outage that lasts is reported.
                Some(Err(e)) if heard.elapsed() > STALL => {
                    return Err(unavailable(&format!("read {topic}/{partition}"), &e));
                }
                None if heard.elapsed() > STALL => {
                    let detail =
                        format!("{topic}/{partition}: the broker sends no more, though its end is not reached");
                    return Err(Fault::new(FaultCode::BrokerUnavailable, detail));
                }
                _ => {}
            }
        }
    }
}
