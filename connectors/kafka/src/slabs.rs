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

use crate::faults::unavailable;
use crate::send::raw;

/// Most bytes of one poll.
const BYTES_MAX: usize = 16 << 20;
/// What is left of a poll's memory once a stage has taken it in: about a record each, for the usual sizes.
const BYTES_EACH: usize = 64;
/// Records as far apart are asked for one by one rather than read past.
const APART: i64 = 2_000;
/// A broker that sends nothing for so long, though a record was asked for, is not answering.
const STALL: Duration = Duration::from_secs(15);

/// What a poll gathered.
#[derive(Default)]
pub(crate) struct Gathered {
    pub(crate) slabs: Vec<Slab>,
    pub(crate) records: usize,
    /// Why it ended, when not for want of records.
    pub(crate) failed: Option<KafkaError>,
}

/// Gathers what the client has: it waits for the first record only.
pub(crate) fn gather<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topics: &mut Vec<Arc<str>>,
    records_max: usize,
    wait: Duration,
) -> Gathered {
    let (mut gathered, mut bytes, mut wait) = (Gathered::default(), 0, wait);
    while gathered.records < records_max && bytes < BYTES_MAX {
        match consumer.poll(wait) {
            None => break,
            Some(Ok(message)) => {
                gathered.records += 1;
                bytes += take(&mut gathered.slabs, topics, &message, records_max);
                wait = Duration::ZERO;
            }
            Some(Err(e)) => {
                gathered.failed = Some(e);
                break;
            }
        }
    }
    gathered
}

/// Puts a message's value where it belongs; how many bytes it has. A tombstone has none, and no place.
fn take(slabs: &mut Vec<Slab>, topics: &mut Vec<Arc<str>>, message: &BorrowedMessage<'_>, records_max: usize) -> usize {
    let Some(value) = message.payload() else { return 0 };
    let name = message.topic();
    let known = || {
        topics.iter().find(|t| ***t == *name).cloned().unwrap_or_else(|| {
            topics.push(name.into());
            name.into()
        })
    };
    let slab = Slab::of(slabs, name, message.partition(), known);
    if slab.is_empty() {
        // Grown once, not a dozen times.
        slab.values.reserve(records_max.min(16_384) * BYTES_EACH);
        slab.ends.reserve(records_max.min(16_384));
    }
    let at = Timestamp::from_millis(message.timestamp().to_millis().unwrap_or_default());
    slab.push(value, message.offset(), at);
    value.len()
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
