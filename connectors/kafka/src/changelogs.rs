//! Reads changelogs back, many at once: what a short one costs is finding its leader and its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kernel::{Changelog, Fault, FaultCode, Position, RawRecord, Restoring};
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer, DefaultConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use crate::Brokers;
use crate::faults::unavailable;
use crate::slabs::fetch;
use crate::tail::{REQUEST, consumer};

/// A changelog whose end does not come for this long has an open transaction nobody finishes, or a broker that is gone.
const STALL: Duration = Duration::from_secs(90);
/// How often the end is asked for while a transaction is open.
const ASK: Duration = Duration::from_millis(5);
/// Changelogs fetched side by side: each may hold a queue of its own.
const AT_ONCE: usize = 8;

type Queue = PartitionQueue<DefaultConsumerContext>;
type Each<'a> = dyn FnMut(String, Option<&[u8]>, i64) -> Result<(), Fault> + 'a;

/// Connecting is most of what a short changelog costs, so both clients are kept.
pub(crate) struct Changelogs {
    /// Sees what is not committed yet.
    plain: BaseConsumer,
    reader: Arc<BaseConsumer>,
    brokers: Brokers,
    /// What was asked last failed: a client that was told once that there are no brokers does not find them again for minutes.
    failed: bool,
}

impl Changelogs {
    pub(crate) fn open(brokers: &Brokers) -> Result<Self, Fault> {
        let plain = brokers
            .client()
            .set("group.id", "soma-tail")
            .set("isolation.level", "read_uncommitted")
            .create();
        let opened = Self {
            plain: plain.map_err(|e| unavailable("consumer", &e))?,
            reader: Arc::new(consumer(brokers)?),
            brokers: brokers.clone(),
            failed: false,
        };
        // Who leads what: asked for now, while the group is joined, rather than topic by topic once partitions are given.
        for client in [&opened.plain, &opened.reader] {
            client
                .fetch_metadata(None, REQUEST)
                .map_err(|e| unavailable("metadata", &e))?;
        }
        Ok(opened)
    }

    /// Reads changelogs to the ends they have now.
    pub(crate) fn read(&mut self, changelogs: &[Changelog], into: &mut dyn Restoring) -> Result<(), Fault> {
        self.with(|clients| clients.read_all(changelogs, into))
    }

    /// Asks with new clients when those at hand failed.
    fn with<T>(&mut self, ask: impl FnOnce(&Self) -> Result<T, Fault>) -> Result<T, Fault> {
        if self.failed {
            *self = Self::open(&self.brokers.clone())?;
        }
        let answer = ask(self);
        self.failed = answer.is_err();
        answer
    }

    fn read_all(&self, changelogs: &[Changelog], into: &mut dyn Restoring) -> Result<(), Fault> {
        let ends = offsets(&self.plain, changelogs, Offset::End)?;
        let firsts = offsets(&self.plain, changelogs, Offset::Beginning)?;
        let mut ranges = Vec::new();
        for (index, (first, end)) in firsts.into_iter().zip(ends).enumerate() {
            ranges.push((into.from(index, first, end)?, end));
        }
        decided(&self.reader, changelogs, &ranges)?;
        let wanted: Vec<_> = changelogs.iter().zip(ranges).enumerate().collect();
        for some in wanted.chunks(AT_ONCE) {
            let read = self.read_some(some, into);
            self.reader.unassign().map_err(|e| unavailable("unassign", &e))?;
            read?;
        }
        Ok(())
    }

    /// Records read again, whole, in the order asked for.
    pub(crate) fn fetch(&mut self, wanted: &[Position]) -> Result<Vec<RawRecord>, Fault> {
        self.with(|clients| fetch(&clients.reader, wanted))
    }

    /// Reads one after the other while the client fetches all of them.
    fn read_some(&self, wanted: &[(usize, (&Changelog, (i64, i64)))], into: &mut dyn Restoring) -> Result<(), Fault> {
        let mut places = TopicPartitionList::new();
        let mut queues = Vec::new();
        for (_, ((topic, partition), (from, end))) in wanted {
            if from >= end {
                queues.push(None);
                continue;
            }
            let begin = if *from > 0 {
                Offset::Offset(*from)
            } else {
                Offset::Beginning
            };
            places
                .add_partition_offset(topic, *partition, begin)
                .map_err(|e| unavailable("assign", &e))?;
            // Before they are assigned, so that nothing goes to the common queue: the mark of an end there does not tell its topic.
            queues.push(self.reader.split_partition_queue(topic, *partition));
        }
        if places.count() > 0 {
            self.reader.assign(&places).map_err(|e| unavailable("assign", &e))?;
        }
        for ((index, (changelog, range)), queue) in wanted.iter().zip(queues) {
            let next = match queue {
                Some(queue) => self.drain(&queue, changelog, *range, &mut |key, value, offset| {
                    into.take(*index, key, value, offset)
                })?,
                None => range.0,
            };
            into.done(*index, next)?;
        }
        Ok(())
    }

    /// Reads a partition until everything before `end` is read or known to be aborted; where it goes on.
    fn drain(
        &self,
        queue: &Queue,
        (topic, partition): &Changelog,
        (from, end): (i64, i64),
        each: &mut Each<'_>,
    ) -> Result<i64, Fault> {
        let mut next = from;
        let mut heard = Instant::now();
        loop {
            match queue.poll(Duration::from_millis(50)) {
                Some(Ok(message)) => {
                    heard = Instant::now();
                    let offset = message.offset();
                    next = offset + 1;
                    let key = String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned();
                    each(key, message.payload(), offset)?;
                    if next >= end {
                        return Ok(next);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(end.max(next)),
                Some(Err(e)) => return Err(unavailable(&format!("restore {topic}/{partition}"), &e)),
                None => {}
            }
            // What concerns no partition comes to the common queue.
            if let Some(Err(e)) = self.reader.poll(Duration::ZERO) {
                tracing::debug!(error = %e, "while restoring");
            }
            if heard.elapsed() > STALL {
                let detail = format!("{topic}/{partition} stands at {next} of {end}: the broker sends no more of it");
                return Err(Fault::new(FaultCode::BrokerUnavailable, detail));
            }
        }
    }
}

/// Waits until no open transaction holds readers back from an end. Only from then on is the end they reach the true one: an
/// open transaction may be made between their coming to it and our asking.
pub(crate) fn decided(reader: &BaseConsumer, changelogs: &[Changelog], ranges: &[(i64, i64)]) -> Result<(), Fault> {
    let began = Instant::now();
    loop {
        let stable = offsets(reader, changelogs, Offset::End)?;
        let open = changelogs.iter().zip(stable).zip(ranges);
        let mut open = open.filter(|((_, stable), (from, end))| from < end && stable < end);
        let Some((((topic, partition), stable), (_, end))) = open.next() else {
            return Ok(());
        };
        if began.elapsed() > STALL {
            let detail = format!("{topic}/{partition} stands at {stable} of {end}: an open transaction holds it back");
            return Err(Fault::new(FaultCode::BrokerUnavailable, detail));
        }
        std::thread::sleep(ASK);
    }
}

/// Where partitions begin or end, in their order; how far isolation lets this client see.
pub(crate) fn offsets(client: &BaseConsumer, of: &[Changelog], which: Offset) -> Result<Vec<i64>, Fault> {
    let mut wanted = TopicPartitionList::new();
    for (topic, partition) in of {
        wanted
            .add_partition_offset(topic, *partition, which)
            .map_err(|e| unavailable("offsets", &e))?;
    }
    // The protocol takes the ends for times: -1 is the last, -2 the first.
    let told = client.offsets_for_times(wanted, REQUEST);
    let told = told.map_err(|e| unavailable("ends of changelogs", &e))?;
    of.iter()
        .map(|(topic, partition)| {
            let place = told.find_partition(topic, *partition);
            match place.map(|p| (p.error(), p.offset())) {
                Some((Ok(()), Offset::Offset(at))) => Ok(at),
                Some((Err(e), _)) => Err(unavailable(&format!("end of {topic}/{partition}"), &e)),
                _ => {
                    let detail = format!("end of {topic}/{partition}: the broker does not tell");
                    Err(Fault::new(FaultCode::BrokerUnavailable, detail))
                }
            }
        })
        .collect()
}
