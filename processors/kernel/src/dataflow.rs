//! What a streaming query is to the loop that runs it: values of many records in one piece of memory go in, rows for topics and
//! changes of state come out before each commit. It sees bytes, not records: a query decodes them itself, column by column.

use std::sync::Arc;

use schemas::Timestamp;

use crate::effects::EventTime;
use crate::fault::Fault;
use crate::log::RawEmit;

/// Records of one partition, in order, value after value in one piece of memory. Tombstones are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slab {
    /// Topic.
    pub topic: Arc<str>,
    /// Partition.
    pub partition: i32,
    /// All values, one after the other.
    pub values: Vec<u8>,
    /// Where each value ends in `values`.
    pub ends: Vec<usize>,
    /// Offset of each record.
    pub offsets: Vec<i64>,
    /// When the broker or producer stamped each record.
    pub at: Vec<Timestamp>,
}

impl Slab {
    /// The slab of a partition among others, put there when it is missing.
    pub fn of<'a>(
        all: &'a mut Vec<Self>,
        topic: &str,
        partition: i32,
        named: impl FnOnce() -> Arc<str>,
    ) -> &'a mut Self {
        // Records come in runs of one partition: the last one asked for is most often the one.
        let found = all.iter().rposition(|s| s.partition == partition && *s.topic == *topic);
        let at = found.unwrap_or_else(|| {
            all.push(Self {
                topic: named(),
                partition,
                ..Self::default()
            });
            all.len() - 1
        });
        let last = all.len() - 1;
        all.swap(at, last);
        &mut all[last]
    }

    /// How many records it holds.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The bytes of one value; empty where there is no such record.
    pub fn value(&self, index: usize) -> &[u8] {
        let begin = if index == 0 {
            0
        } else {
            self.ends.get(index - 1).copied().unwrap_or(usize::MAX)
        };
        let end = self.ends.get(index).copied().unwrap_or(0);
        self.values.get(begin..end).unwrap_or_default()
    }

    /// Puts a record at the end.
    pub fn push(&mut self, value: &[u8], offset: i64, at: Timestamp) {
        self.values.extend_from_slice(value);
        self.ends.push(self.values.len());
        self.offsets.push(offset);
        self.at.push(at);
    }
}

/// A record a query could not take, and why; it goes to the dead-letter topic of its topic, as it is.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Topic.
    pub topic: Arc<str>,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Why.
    pub fault: Fault,
}

/// A change of a query's state: a record of its changelog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Partition of the changelog.
    pub partition: i32,
    /// Key.
    pub key: String,
    /// Value; `None` takes the key away.
    pub value: Option<Vec<u8>>,
}

/// What a query asks for since it was asked last. All of it and the offsets read until then become true together.
#[derive(Debug, Default)]
pub struct Flow {
    /// Rows for result topics, late records, and partial results for the query's own repartition topics.
    pub emits: Vec<RawEmit>,
    /// State.
    pub changes: Vec<Change>,
    /// Records for the dead-letter topics.
    pub refused: Vec<Refused>,
}

impl Flow {
    /// Nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.emits.is_empty() && self.changes.is_empty() && self.refused.is_empty()
    }
}

/// A streaming query, the part of it that one instance runs. The same slabs in the same order give the same results, however they
/// are cut into batches and commits; only idle partitions and ticks depend on `now`.
pub trait Dataflow: Send + 'static {
    /// Stage name.
    fn name(&self) -> &str;
    /// Takes records in: of its sources, and of its own repartition topics.
    ///
    /// # Errors
    /// `Dependency` when a schema cannot be had (the batch comes again after a restore), `Ourselves` when the engine fails.
    fn on_batch(&mut self, slabs: &[Slab], now: EventTime) -> Result<(), Fault>;
    /// These partitions have records it was not given yet: they are not idle, however long those take to come.
    fn unread(&mut self, _partitions: &[(Arc<str>, i32)], _now: EventTime) {}
    /// Everything that is to become true by the next commit. Also called, every half second at least, when no records come: time
    /// passes, idle partitions stop holding the watermark back.
    ///
    /// # Errors
    /// `Ourselves` when the engine fails.
    fn flush(&mut self, now: EventTime) -> Result<Flow, Fault>;
    /// Whether the last flush left something for the next, which is then asked for as soon as the transaction is true.
    fn has_more(&self) -> bool {
        false
    }
    /// What is counted of it, by name: for gauges.
    fn gauges(&self) -> Vec<(&'static str, usize)> {
        Vec::new()
    }
    /// One record of the changelog of a partition that was just assigned, in order.
    ///
    /// # Errors
    /// `StateUnreadable` when this version does not read it.
    fn restore(&mut self, partition: i32, key: &str, value: Option<&[u8]>) -> Result<(), Fault>;
    /// Its changelog is read: the partition is owned.
    fn begin(&mut self, partition: i32);
    /// Gives a partition up: everything known of it is forgotten.
    fn release(&mut self, partition: i32);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slab_gives_each_value_back() {
        let mut slab = Slab::default();
        for (value, offset) in [(&b"one"[..], 4), (b"", 5), (b"three", 9)] {
            slab.push(value, offset, Timestamp(offset));
        }
        let values: Vec<_> = (0..4).map(|i| slab.value(i)).collect();
        assert_eq!(values, [&b"one"[..], b"", b"three", b""]);
        assert_eq!((slab.len(), slab.offsets), (3, vec![4, 5, 9]));
    }
}
