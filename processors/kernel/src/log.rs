//! The log as the loop sees it. `commit` is the whole delivery guarantee: outputs, state changes and consumed offsets, all or nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use schemas::Timestamp;

use crate::dataflow::Slab;
use crate::delivery::{Headers, Position, RawRecord};
use crate::effects::Emit;
use crate::fault::{Fault, FaultCode};

/// What a poll gave: records one by one, or gathered in another shape.
#[derive(Debug)]
pub enum Polled<R = Vec<RawRecord>> {
    /// Records, in order within each partition.
    Records(R),
    /// Partitions (numbers, the same for all inputs) this instance now owns. Answer with [`Log::restore`] and [`Log::start`].
    Assigned(Vec<(String, i32)>),
    /// Partitions to give up. Answer with [`Log::release`] once drained.
    Revoked(Vec<(String, i32)>),
    /// Partitions that are gone: others may own them by now. Nothing of them may be committed. Answer with [`Log::release`].
    Lost(Vec<(String, i32)>),
    /// Nothing for now.
    Idle,
}

impl<R> Polled<R> {
    /// The same with its records in another shape.
    pub fn map<S>(self, shape: impl FnOnce(R) -> S) -> Polled<S> {
        match self {
            Self::Records(records) => Polled::Records(shape(records)),
            Self::Assigned(parts) => Polled::Assigned(parts),
            Self::Revoked(parts) => Polled::Revoked(parts),
            Self::Lost(parts) => Polled::Lost(parts),
            Self::Idle => Polled::Idle,
        }
    }
}

/// Bytes for a topic, as they are: dead letters and state changes.
#[derive(Clone, Debug)]
pub struct RawEmit {
    /// Topic.
    pub topic: Arc<str>,
    /// Partition; `None` lets the key decide.
    pub partition: Option<i32>,
    /// Key.
    pub key: String,
    /// Value; `None` is a tombstone.
    pub value: Option<Arc<[u8]>>,
    /// Headers.
    pub headers: Headers,
}

/// Everything that becomes true together.
#[derive(Debug, Default)]
pub struct Commit {
    /// Records.
    pub emits: Vec<Emit>,
    /// State changes and dead letters.
    pub raw: Vec<RawEmit>,
    /// Next offset to read, per topic and partition.
    pub offsets: Vec<Position>,
    /// Trace the emitted records continue: W3C `traceparent`, by index into `emits`.
    pub traces: Vec<Option<Arc<str>>>,
}

impl Commit {
    /// Nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.emits.is_empty() && self.raw.is_empty() && self.offsets.is_empty()
    }
}

/// By topic and partition, where a changelog goes on behind what a transaction wrote to it; those it wrote to whose place the
/// broker told.
pub type Committed = BTreeMap<(Arc<str>, i32), i64>;

/// A partition of a changelog.
pub type Changelog = (Arc<str>, i32);

/// Takes changelogs in while [`Log::restore_more`] reads them; `index` says which of those asked for.
pub trait Restoring {
    /// Where to begin, given the first offset kept and the one the next record will have.
    ///
    /// # Errors
    /// What keeps it from taking the changelog in.
    fn from(&mut self, index: usize, first: i64, end: i64) -> Result<i64, Fault>;
    /// One record: key, value, offset.
    ///
    /// # Errors
    /// As [`Restoring::from`].
    fn take(&mut self, index: usize, key: String, value: Option<&[u8]>, offset: i64) -> Result<(), Fault>;
    /// Everything before `next` has been read.
    ///
    /// # Errors
    /// As [`Restoring::from`].
    fn done(&mut self, index: usize, next: i64) -> Result<(), Fault>;
}

/// Records as slabs, one a partition.
fn slabs(records: &[RawRecord]) -> Vec<Slab> {
    let mut all: Vec<Slab> = Vec::new();
    for record in records {
        let at = &record.position;
        if let Some(value) = &record.value {
            Slab::of(&mut all, &at.topic, at.partition, || at.topic.clone()).push(value, at.offset, record.at);
        }
    }
    all
}

/// The log of one stage instance.
pub trait Log: Send {
    /// Waits at most `wait_ms` for something to do.
    ///
    /// # Errors
    /// A dependency fault when the broker does not answer; `FENCED` when another instance took our place.
    fn poll(&mut self, records_max: usize, wait_ms: u64) -> Result<Polled, Fault>;
    /// As [`Log::poll`], the values of each partition in one piece of memory; keys, headers and tombstones are left out.
    ///
    /// # Errors
    /// As [`Log::poll`].
    fn poll_slabs(&mut self, records_max: usize, wait_ms: u64) -> Result<Polled<Vec<Slab>>, Fault> {
        let polled = self.poll(records_max, wait_ms)?;
        Ok(polled.map(|records| slabs(&records)))
    }
    /// Partitions of a log that gives slabs which are not read to their ends.
    fn unread(&self) -> Vec<(Arc<str>, i32)> {
        Vec::new()
    }
    /// Records again, whole, in the order asked for; without a value where the log has them no more. For the few records of a slab
    /// that nobody could take.
    ///
    /// # Errors
    /// A dependency fault when the broker does not answer; `INTERNAL` of a log that cannot.
    fn fetch(&mut self, positions: &[Position]) -> Result<Vec<RawRecord>, Fault> {
        let detail = format!("this log gives no record again ({} asked for)", positions.len());
        Err(Fault::new(FaultCode::Internal, detail))
    }
    /// All or nothing.
    ///
    /// # Errors
    /// `TRANSACTION_ABORTED`: nothing of it is true, make it again. `COMMIT_FAILED`: it cannot be told whether it is; go on after
    /// [`Log::start`] on what is owned, with state restored. `RECORD_TOO_LARGE` names the topic.
    fn commit(&mut self, commit: &Commit) -> Result<Committed, Fault>;
    /// As [`Log::commit`], beside other work: the next is begun when the answer to this one is known. Whoever goes on meanwhile has state
    /// ahead of what is true, and reads it back when the answer is a fault.
    ///
    /// # Errors
    /// As [`Log::commit`], of this one or of the one before.
    fn commit_later(&mut self, commit: Commit) -> Result<(), Fault> {
        self.commit(&commit).map(drop)
    }
    /// Whether no transaction is under way any more; with `wait` it is waited for.
    ///
    /// # Errors
    /// As [`Log::commit`]: what came of the one that was.
    fn answer(&mut self, _wait: bool) -> Result<bool, Fault> {
        Ok(true)
    }
    /// Begins to read changelogs to the ends they have now, one after the other; what was begun before is dropped.
    ///
    /// # Errors
    /// A dependency fault when there is no client.
    fn restore_begin(&mut self, changelogs: &[Changelog]) -> Result<(), Fault>;
    /// Goes on with it for about so long, less when there is nothing to read for now: transactions open in them are waited for. True when
    /// all is read.
    ///
    /// # Errors
    /// A dependency fault when the broker does not answer; what `into` says. It is to be begun anew then; what was taken in may be partial.
    fn restore_more(&mut self, into: &mut dyn Restoring, at_most: Duration) -> Result<bool, Fault>;
    /// Reads changelogs to the ends they have now.
    ///
    /// # Errors
    /// As [`Log::restore_more`].
    fn restore(&mut self, changelogs: &[Changelog], into: &mut dyn Restoring) -> Result<(), Fault> {
        self.restore_begin(changelogs)?;
        while !self.restore_more(into, Duration::from_secs(1))? {}
        Ok(())
    }
    /// Begins reading partitions at their committed offsets; on partitions already begun, goes back to them.
    ///
    /// # Errors
    /// A dependency fault when the broker does not answer.
    fn start(&mut self, partitions: &[(String, i32)]) -> Result<(), Fault>;
    /// Gives partitions up. The answer to a transaction under way has to be taken first ([`Log::answer`]).
    ///
    /// # Errors
    /// A dependency fault when the broker does not answer; `INTERNAL` while a transaction is under way.
    fn release(&mut self, partitions: &[(String, i32)]) -> Result<(), Fault>;
    /// Partition of this stage's topics that a key belongs to; `None` when they are not known, or not partitioned alike.
    fn home(&self, key: &str) -> Option<i32>;
    /// Stops or goes on handing out records; while stopped, `poll` still keeps the group membership alive.
    ///
    /// # Errors
    /// A dependency fault when the client refuses.
    fn pause(&mut self, paused: bool) -> Result<(), Fault>;
}

/// Reads the clock. The only one in the loop; the simulator has its own.
pub trait Clock: Send + Sync {
    /// Now, UTC. May jump.
    fn now(&self) -> Timestamp;
    /// Time since some fixed start. Never goes back.
    fn elapsed(&self) -> std::time::Duration;
}
