//! What the composition root hands to a streaming query, and what the query says of the topics it needs. Reads no file.

use std::sync::Arc;

use kernel::Fault;
use schemas::Timestamp;

/// How one stage runs its query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Pipeline.
    pub pipeline: String,
    /// Stage: with the pipeline it begins the names of the query's own topics.
    pub stage: String,
    /// A partition without a record for this long no longer holds the watermark back, unless its source says `soma.idle`.
    pub idle_ms: i64,
    /// How long after its end a window may still be corrected, unless its source says `soma.allowed_lateness`.
    pub allowed_lateness_ms: i64,
    /// A record further ahead of now than this has a wrong clock and is refused.
    pub future_max_ms: i64,
    /// How many partitions the sources, and so the repartition topics, have.
    pub partitions: i32,
    /// Most bytes that open windows may take in this instance; beyond them the stage halts rather than the machine.
    pub state_bytes_max: usize,
    /// Most rows of windows that one transaction tells, about; the rest follows in the next.
    pub told_rows_max: usize,
    /// Most bytes that lookups may take in this instance; beyond them the stage halts.
    pub lookup_bytes_max: usize,
}

impl Settings {
    /// Name of a topic of this query: `<pipeline>.<stage>.<suffix>`.
    pub fn topic(&self, suffix: &str) -> String {
        format!("{}.{}.{suffix}", self.pipeline, self.stage)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            pipeline: String::new(),
            stage: String::new(),
            idle_ms: 10_000,
            allowed_lateness_ms: 3_600_000,
            future_max_ms: 86_400_000,
            partitions: 1,
            state_bytes_max: 2 << 30,
            told_rows_max: 200_000,
            lookup_bytes_max: 256 << 20,
        }
    }
}

/// Where the schemas are that records were written with.
pub trait Schemas: Send + Sync {
    /// The Avro JSON of a schema id that a record of `topic` carries.
    ///
    /// # Errors
    /// `SCHEMA_UNKNOWN` refuses the record; a `Dependency` fault makes the batch come again.
    fn writer(&self, topic: &str, id: i32) -> Result<String, Fault>;
}

/// A record of a lookup topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    /// Topic.
    pub topic: Arc<str>,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// When the broker or producer stamped it.
    pub at: Timestamp,
    /// Key.
    pub key: Vec<u8>,
    /// Value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
}

/// Takes records in; an error ends the reading.
pub type TakeIn<'a> = dyn FnMut(Vec<Looked>) -> Result<(), Fault> + 'a;

/// Where the records of the lookup topics ([`super::Program::lookups`]) come from: all of them from the beginning, in order within each
/// partition, only what is committed.
pub trait Follow: Send {
    /// What has come since the last call; does not wait.
    ///
    /// # Errors
    /// A `Dependency` fault makes the stage wait and read its state back.
    fn at_hand(&mut self) -> Result<Vec<Looked>, Fault>;
    /// Everything from where it stands up to the ends the topics have now, in pieces.
    ///
    /// # Errors
    /// As [`Follow::at_hand`]; what `take_in` says.
    fn to_the_ends(&mut self, take_in: &mut TakeIn<'_>) -> Result<(), Fault>;
}

/// A result topic: its schema is to be registered before the query starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Topic the rows go to.
    pub topic: String,
    /// Subject in the registry.
    pub subject: String,
    /// The rows' schema.
    pub avro_json: String,
    /// Columns whose values, joined by `|` and followed by the window's start, are a row's key.
    pub key: Vec<String>,
}
