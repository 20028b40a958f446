//! Reads changelogs back, many at once: what a short one costs is finding its leader and its end. It is done in pieces, between which the stage goes
//! on with the partitions it has.

use std::collections::VecDeque;
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

/// Changelogs that are being read.
struct Reading {
    of: Vec<Changelog>,
    /// From where to where each is read; empty until it was asked.
    ranges: Vec<(i64, i64)>,
    /// Whether no open transaction holds an end back any more.
    decided: bool,
    /// The one that is read, and where it goes on.
    at: usize,
    next: i64,
    /// Of it and those behind it that are fetched; none for those with nothing to read.
    queues: VecDeque<Option<Queue>>,
    /// When something last came, or was decided.
    heard: Instant,
}

impl Reading {
    fn range(&self, index: usize) -> (i64, i64) {
        self.ranges.get(index).copied().unwrap_or_default()
    }
}

/// Connecting is most of what a short changelog costs, so both clients are kept.
pub(crate) struct Changelogs {
    /// Sees what is not committed yet.
    plain: BaseConsumer,
    reader: Arc<BaseConsumer>,
    brokers: Brokers,
    /// What was asked last failed: a client that was told once that there are no brokers does not find them again for minutes.
    failed: bool,
    reading: Option<Reading>,
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
            reading: None,
        };
        // Who leads what: asked for now, while the group is joined, rather than topic by topic once partitions are given.
        for client in [&opened.plain, &opened.reader] {
            client
                .fetch_metadata(None, REQUEST)
                .map_err(|e| unavailable("metadata", &e))?;
        }
        Ok(opened)
    }

    /// Begins to read changelogs to the ends they have now; what was begun before is dropped.
    pub(crate) fn begin(&mut self, of: &[Changelog]) {
        if self.reading.take().is_some() {
            self.unassign();
        }
        self.reading = Some(Reading {
            of: of.to_vec(),
            ranges: Vec::new(),
            decided: false,
            at: 0,
            next: 0,
            queues: VecDeque::new(),
            heard: Instant::now(),
        });
    }

    /// Goes on for about so long, or until nothing is there for [`ASK`]. True when all is read.
    pub(crate) fn more(&mut self, into: &mut dyn Restoring, at_most: Duration) -> Result<bool, Fault> {
        let Some(mut reading) = self.reading.take() else {
            return Ok(true);
        };
        let until = Instant::now() + at_most;
        let went = self.with(|clients| clients.go_on(&mut reading, into, until));
        if matches!(went, Ok(false)) {
            self.reading = Some(reading);
        } else {
            drop(reading);
            self.unassign();
        }
        went
    }

    /// Queues of partitions go before their assignment does.
    fn unassign(&self) {
        if let Err(e) = self.reader.unassign() {
            tracing::debug!(error = %e, "changelogs are still assigned");
        }
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

    fn go_on(&self, reading: &mut Reading, into: &mut dyn Restoring, until: Instant) -> Result<bool, Fault> {
        if reading.ranges.is_empty() {
            let ends = offsets(&self.plain, &reading.of, Offset::End)?;
            let firsts = offsets(&self.plain, &reading.of, Offset::Beginning)?;
            for (index, (first, end)) in firsts.into_iter().zip(ends).enumerate() {
                reading.ranges.push((into.from(index, first, end)?, end));
            }
        }
        if !reading.decided {
            if let Some(open) = open(&self.reader, &reading.of, &reading.ranges)? {
                stalled(reading.heard, &open)?;
                std::thread::sleep(ASK);
                return Ok(false);
            }
            (reading.decided, reading.heard) = (true, Instant::now());
        }
        while reading.at < reading.of.len() {
            if reading.queues.is_empty() {
                self.fetch_some(reading)?;
            }
            if !self.drain(reading, into, until)? {
                return Ok(false);
            }
            into.done(reading.at, reading.next)?;
            drop(reading.queues.pop_front());
            reading.at += 1;
            reading.next = reading.range(reading.at).0;
        }
        Ok(true)
    }

    /// Records read again, whole, in the order asked for.
    pub(crate) fn fetch(&mut self, wanted: &[Position]) -> Result<Vec<RawRecord>, Fault> {
        self.with(|clients| fetch(&clients.reader, wanted))
    }

    /// The client fetches the next few; they are read one after the other.
    fn fetch_some(&self, reading: &mut Reading) -> Result<(), Fault> {
        self.reader.unassign().map_err(|e| unavailable("unassign", &e))?;
        let mut places = TopicPartitionList::new();
        let wanted = reading.of.iter().zip(&reading.ranges).skip(reading.at).take(AT_ONCE);
        for ((topic, partition), (from, end)) in wanted {
            if from >= end {
                reading.queues.push_back(None);
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
            let queue = self.reader.split_partition_queue(topic, *partition);
            reading.queues.push_back(queue);
        }
        (reading.next, reading.heard) = (reading.range(reading.at).0, Instant::now());
        if places.count() > 0 {
            self.reader.assign(&places).map_err(|e| unavailable("assign", &e))?;
        }
        Ok(())
    }

    /// Reads a partition until everything before its end is read or known to be aborted. False when that is not yet so.
    fn drain(&self, reading: &mut Reading, into: &mut dyn Restoring, until: Instant) -> Result<bool, Fault> {
        let (from, end) = reading.range(reading.at);
        let Some(Some(queue)) = reading.queues.front() else {
            reading.next = from;
            return Ok(true);
        };
        while Instant::now() < until {
            match queue.poll(ASK) {
                Some(Ok(message)) => {
                    reading.heard = Instant::now();
                    let offset = message.offset();
                    reading.next = offset + 1;
                    let key = String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned();
                    into.take(reading.at, key, message.payload(), offset)?;
                    if reading.next >= end {
                        return Ok(true);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    reading.next = end.max(reading.next);
                    return Ok(true);
                }
                Some(Err(e)) => return Err(unavailable(&format!("restore {:?}", reading.of.get(reading.at)), &e)),
                None => {
                    // What concerns no partition comes to the common queue.
                    if let Some(Err(e)) = self.reader.poll(Duration::ZERO) {
                        tracing::debug!(error = %e, "while restoring");
                    }
                    stalled(reading.heard, "the broker sends no more of a changelog")?;
                    return Ok(false);
                }
            }
        }
        Ok(false)
    }
}

/// Nothing came for too long.
fn stalled(since: Instant, why: &str) -> Result<(), Fault> {
    if since.elapsed() > STALL {
        return Err(Fault::new(FaultCode::BrokerUnavailable, why));
    }
    Ok(())
}

/// Waits until no open transaction holds readers back from an end. Only from then on is the end they reach the true one: an
/// open transaction may be made between their coming to it and our asking.
pub(crate) fn decided(reader: &BaseConsumer, changelogs: &[Changelog], ranges: &[(i64, i64)]) -> Result<(), Fault> {
    let began = Instant::now();
    while let Some(open) = open(reader, changelogs, ranges)? {
        stalled(began, &open)?;
        std::thread::sleep(ASK);
    }
    Ok(())
}

/// Which open transaction holds readers back from an end, if any.
fn open(reader: &BaseConsumer, changelogs: &[Changelog], ranges: &[(i64, i64)]) -> Result<Option<String>, Fault> {
    let stable = offsets(reader, changelogs, Offset::End)?;
    let all = changelogs.iter().zip(stable).zip(ranges);
    let mut held = all.filter(|((_, stable), (from, end))| from < end && stable < end);
    Ok(held.next().map(|(((topic, partition), stable), (_, end))| {
        format!("{topic}/{partition} stands at {stable} of {end}: an open transaction holds it back")
    }))
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
