//! What a stage's log is told.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::Brokers;

/// What one stage instance needs to know about its log.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Brokers.
    pub brokers: Brokers,
    /// `<pipeline>.<stage>`: the consumer group.
    pub group: String,
    /// Name of this instance; `<group>.<instance>` is the transactional id and must be unique among living instances.
    pub instance: String,
    /// Topics to read.
    pub topics: Vec<String>,
    /// All topics are partitioned alike by the same key. Only the first is subscribed to; each of its partitions brings the
    /// same partition of the others along, so that one instance sees one key whole. No assignor promises that together with
    /// cooperative rebalancing.
    pub copartitioned: bool,
    /// How long a poll gathers after its first record, milliseconds: fewer, larger transactions where latency does not matter.
    pub linger_ms: u64,
    /// Records come in slabs: much may be fetched ahead.
    pub bulk: bool,
    /// Pipeline and stage: the CloudEvents source of what it writes.
    pub pipeline: String,
    /// Stage; a record that names its own stage goes before.
    pub stage: String,
    /// Milliseconds after which a silent instance loses its partitions.
    pub session_timeout_ms: u32,
    /// Milliseconds after which the broker aborts a transaction nobody finishes.
    pub transaction_timeout_ms: u32,
    /// Set before the log is dropped when this instance will not come back: it says so, and its partitions go to the others at once.
    /// Otherwise they wait for it until its session runs out.
    pub leaving: Arc<AtomicBool>,
}

impl LogConfig {
    /// How many of its topics it subscribes to: the others go along.
    pub(crate) fn subscribed(&self) -> usize {
        if self.copartitioned { 1 } else { self.topics.len() }
    }

    /// What the group knows it by.
    pub(crate) fn client_id(&self) -> String {
        format!("{}.{}", self.group, self.instance)
    }
}
