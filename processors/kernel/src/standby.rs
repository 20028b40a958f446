//! A changelog read along while another instance writes it.

use crate::delivery::RawRecord;
use crate::fault::Fault;

/// What came of a changelog.
#[derive(Debug, Default)]
pub struct Followed {
    /// Records, in order within each partition.
    pub records: Vec<RawRecord>,
    /// Partitions read to the ends they have now.
    pub ended: Vec<i32>,
}

/// Follows partitions of one changelog. What it gives is true: nothing of a transaction that is open or undone.
pub trait Follow: Send {
    /// All partitions of the changelog.
    ///
    /// # Errors
    /// A dependency fault when the broker does not answer or has no such topic.
    fn partitions(&mut self) -> Result<Vec<i32>, Fault>;
    /// The first offset a partition keeps, and the one its next record will have.
    ///
    /// # Errors
    /// A dependency fault when the broker does not answer.
    fn range(&mut self, partition: i32) -> Result<(i64, i64), Fault>;
    /// Follows these partitions and no others, each from an offset on.
    ///
    /// # Errors
    /// A dependency fault when the client refuses.
    fn follow(&mut self, from: &[(i32, i64)]) -> Result<(), Fault>;
    /// What has come, at most `records_max`; waits at most `wait_ms` for the first.
    ///
    /// # Errors
    /// A dependency fault when the broker does not answer.
    fn poll(&mut self, records_max: usize, wait_ms: u64) -> Result<Followed, Fault>;
}
