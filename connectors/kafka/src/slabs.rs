//! Many records at once: values of a poll in one piece of memory per partition, and single records read again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernel::{Fault, Position, RawRecord, Slab};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};
use schemas::Timestamp;

use crate::bulk::{Bell, Bulk, Taken};
use crate::faults::unavailable;
use crate::send::{places, raw};
use crate::tail::REQUEST;

/// Most bytes of one poll.
const BYTES_MAX: usize = 16 << 20;
/// What is left of a poll's memory once a stage has taken it in: about a record each, for the usual sizes.
const BYTES_EACH: usize = 64;
/// Records as far apart are asked for one by one rather than read past.
const APART: i64 = 2_000;
/// A broker that sends nothing for so long, though a record was asked for, is not answering.
const STALL: Duration = Duration::from_secs(15);
/// How often is looked for what concerns no partition, while there are no records: those ring.
const LOOK: Duration = Duration::from_millis(10);

/// What a poll gathered.
#[derive(Default)]
pub(crate) struct Gathered {
    pub(crate) slabs: Vec<Slab>,
    pub(crate) records: usize,
    bytes: usize,
    /// Why it ended, when not for want of records.
    pub(crate) failed: Option<KafkaError>,
}

/// A partition with a queue of its own: none waits behind what was fetched of another, and its end is known.
struct Part<C: ConsumerContext + 'static> {
    topic: Arc<str>,
    partition: i32,
    queue: Bulk<C>,
    at_end: bool,
    /// Where it goes on: behind the last record taken.
    next: Offset,
}

/// The partitions of a stage that reads slabs.
pub(crate) struct Queues<C: ConsumerContext + 'static> {
    parts: Vec<Part<C>>,
    bell: Arc<Bell>,
}

impl<C: ConsumerContext> Default for Queues<C> {
    fn default() -> Self {
        Self {
            parts: Vec::new(),
            bell: Arc::default(),
        }
    }
}

impl<C: ConsumerContext> Queues<C> {
    /// Gives partitions queues; to be called before they are assigned, so that nothing of them goes to the common one.
    pub(crate) fn open<'a>(
        &mut self,
        consumer: &Arc<BaseConsumer<C>>,
        places: impl Iterator<Item = (&'a (String, i32), &'a Offset)>,
    ) -> Result<(), Fault> {
        for ((topic, partition), next) in places {
            self.close(|t, p| t == topic && p == *partition);
            let queue = Bulk::open(consumer, topic, *partition, &self.bell);
            self.parts.push(Part {
                queue: queue
                    .ok_or_else(|| unavailable(&format!("queue of {topic}/{partition}"), &KafkaError::Canceled))?,
                topic: topic.as_str().into(),
                partition: *partition,
                at_end: false,
                next: *next,
            });
        }
        Ok(())
    }

    /// Lets queues go.
    pub(crate) fn close(&mut self, which: impl Fn(&str, i32) -> bool) {
        self.parts.retain(|part| !which(&part.topic, part.partition));
    }

    /// Goes on where they were read to, after a pause.
    ///
    /// A pause makes the client drop what it has fetched and nobody has taken, and go back. But the mark of a transaction's end that
    /// was fetched before, and is met in a partition's queue afterwards, counts as read (librdkafka 2.12.1: `rd_kafka_q_serve` takes it in before
    /// it looks whether it is outdated), and the next resumption goes on behind it: a whole transaction is passed over. A rebalance is such
    /// a pause of all that a group's member reads, which is one reason why members read nothing (`group.rs`).
    pub(crate) fn go_on(&mut self, consumer: &BaseConsumer<C>) -> Result<(), Fault> {
        let place = |part: &Part<C>| ((part.topic.to_string(), part.partition), part.next);
        let standing: BTreeMap<_, _> = self.parts.iter().map(place).collect();
        if standing.is_empty() {
            return Ok(());
        }
        self.rewind(consumer, &standing)
    }

    /// Reads partitions of this consumer from elsewhere: where they end is not known.
    pub(crate) fn rewind(
        &mut self,
        consumer: &BaseConsumer<C>,
        to: &BTreeMap<(String, i32), Offset>,
    ) -> Result<(), Fault> {
        let done = consumer.seek_partitions(places(to)?, REQUEST);
        for place in done.map_err(|e| unavailable("rewind", &e))?.elements() {
            let what = || format!("rewind {}/{}", place.topic(), place.partition());
            place.error().map_err(|e| unavailable(&what(), &e))?;
        }
        for part in &mut self.parts {
            if let Some(next) = to.get(&(part.topic.to_string(), part.partition)) {
                (part.at_end, part.next) = (false, *next);
            }
        }
        Ok(())
    }

    /// Partitions that are not read to their end.
    pub(crate) fn unread(&self) -> Vec<(Arc<str>, i32)> {
        let unread = self.parts.iter().filter(|part| !part.at_end);
        unread.map(|part| (part.topic.clone(), part.partition)).collect()
    }

    /// Gathers what there is, from all partitions alike; waits for the first record only. `broken_off` says whether something else
    /// is to be done first.
    pub(crate) fn gather(
        &mut self,
        consumer: &BaseConsumer<C>,
        (records_max, wait): (usize, Duration),
        broken_off: impl Fn() -> bool,
    ) -> Gathered {
        let mut gathered = Gathered::default();
        let until = Instant::now() + wait;
        loop {
            // What concerns no partition comes to the common queue, and the group wants to be served.
            if let Some(Err(e)) = consumer.poll(Duration::ZERO) {
                gathered.failed = Some(e);
            }
            let each = records_max / self.parts.len().max(1) + 1;
            for part in &mut self.parts {
                part.take(&mut gathered, each);
            }
            let now = Instant::now();
            if gathered.records > 0 || gathered.failed.is_some() || now >= until || broken_off() {
                return gathered;
            }
            self.bell.wait(LOOK.min(until - now));
        }
    }
}

impl<C: ConsumerContext> Part<C> {
    /// Takes records of this partition, as long as there are any.
    fn take(&mut self, gathered: &mut Gathered, most: usize) {
        let mut slab: Option<Slab> = None;
        let (mut records, mut failed) = (0, None);
        let mut left = BYTES_MAX.saturating_sub(gathered.bytes);
        let (topic, partition, at_end, next) = (&self.topic, self.partition, &mut self.at_end, &mut self.next);
        if left == 0 {
            return;
        }
        self.queue.take(&mut |taken| {
            match taken {
                Taken::Record(Some(value), offset, at_ms) => {
                    records += 1;
                    *at_end = false;
                    *next = Offset::Offset(offset + 1);
                    left = left.saturating_sub(value.len());
                    let slab = slab.get_or_insert_with(|| new_slab(topic, partition, most));
                    slab.push(value, offset, Timestamp::from_millis(at_ms));
                }
                // A tombstone, or the mark of a transaction: it has no place.
                Taken::Record(None, ..) => {}
                Taken::End => *at_end = true,
                Taken::Failed(e) => failed = Some(e),
            }
            records < most && left > 0 && failed.is_none()
        });
        gathered.bytes = BYTES_MAX - left;
        gathered.records += records;
        gathered.failed = failed.or(gathered.failed.take());
        gathered.slabs.extend(slab.filter(|slab| !slab.is_empty()));
    }
}

fn new_slab(topic: &Arc<str>, partition: i32, most: usize) -> Slab {
    let records = most.min(16_384);
    Slab {
        topic: topic.clone(),
        partition,
        // Grown once, not a dozen times.
        values: Vec::with_capacity(records * BYTES_EACH),
        ends: Vec::with_capacity(records),
        offsets: Vec::with_capacity(records),
        at: Vec::with_capacity(records),
    }
}

/// Records read again, whole, in the order asked for.
pub(crate) fn fetch(reader: &BaseConsumer, wanted: &[Position]) -> Result<Vec<RawRecord>, Fault> {
    let mut sorted: Vec<&Position> = wanted.iter().collect();
    sorted.sort_by(|a, b| (&a.topic, a.partition, a.offset).cmp(&(&b.topic, b.partition, b.offset)));
    let mut found = Vec::new();
    let near =
        |a: &&Position, b: &&Position| a.topic == b.topic && a.partition == b.partition && b.offset - a.offset <= APART;
    for run in sorted.chunk_by(near) {
        let read = range(reader, run, &mut found);
        reader.unassign().map_err(|e| unavailable("unassign", &e))?;
        read?;
    }
    let place = |p: &Position| (p.topic.clone(), p.partition, p.offset);
    let mut found: BTreeMap<_, _> = found.into_iter().map(|r| (place(&r.position), r)).collect();
    let gone = |position: &Position| RawRecord {
        position: position.clone(),
        ..RawRecord::default()
    };
    let of = |p: &Position| found.remove(&place(p)).unwrap_or_else(|| gone(p));
    Ok(wanted.iter().map(of).collect())
}

/// Reads from the first to the last of some records of one partition, and keeps those asked for.
fn range(reader: &BaseConsumer, run: &[&Position], found: &mut Vec<RawRecord>) -> Result<(), Fault> {
    let (Some(first), Some(last)) = (run.first(), run.last()) else {
        return Ok(());
    };
    let mut place = TopicPartitionList::new();
    let failed = |e: KafkaError| unavailable(&format!("read {first} again"), &e);
    place
        .add_partition_offset(&first.topic, first.partition, Offset::Offset(first.offset))
        .map_err(failed)?;
    reader.assign(&place).map_err(failed)?;
    let mut topics = vec![first.topic.clone()];
    let mut heard = Instant::now();
    while heard.elapsed() < STALL {
        let message: KafkaResult<BorrowedMessage<'_>> = match reader.poll(Duration::from_millis(100)) {
            None => continue,
            Some(message) => message,
        };
        heard = Instant::now();
        match message {
            Ok(message) => {
                let offset = message.offset();
                if run.binary_search_by_key(&offset, |p| p.offset).is_ok() {
                    found.push(raw(&message, &mut topics));
                }
                if offset >= last.offset {
                    return Ok(());
                }
            }
            Err(KafkaError::PartitionEOF(_)) => return Ok(()),
            Err(e) => return Err(failed(e)),
        }
    }
    Err(failed(KafkaError::Canceled))
}
