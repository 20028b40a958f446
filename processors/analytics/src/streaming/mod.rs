//! Streaming SQL: the views of a file over topics, exact per window. Pure: slabs and the time come in, rows and changes of state
//! go out. A local half runs where a source partition is read and leaves small partial states; a final half, by hash of the group
//! key, merges them, knows how far every source partition has come, and closes windows.
//!
//! What a checker needs to know:
//! - Whether a record is late depends on its own partition's order alone. A record is late for a view as a whole: of hopping windows
//!   the last one that holds it decides, and the others stay open to it as long.
//! - Of a value that must be unique the first record decides, late or not; later ones are dropped. Once it is forgotten (its time
//!   lies further back than the widest window and the allowed lateness), another is late for every view and goes to the late topic.
//! - Records exactly a session's gap apart are in one session.
//! - Rows told again carry the next revision; a session's row that went into a longer one comes again as deleted.
//! - The rows of a window of very many keys become visible in several transactions, each key's once.
//! - Where all partitions are idle, the one that came furthest tells the time.

pub mod backfill;
pub(crate) mod dialect;
mod distinct;
mod due;
mod enrich;
mod explain;
mod finals;
mod flat;
mod frame;
mod groups;
mod joined;
mod joins;
mod kept;
mod keys;
mod local;
mod lookups;
pub(crate) mod options;
mod pairing;
mod pairs;
mod part;
mod plan;
mod program;
mod reader;
mod results;
mod rewrite;
mod seen;
mod send;
mod sessions;
mod settings;
mod source;
mod span;
mod spread;
mod steps;
mod stream;
mod streams;
#[cfg(test)]
mod tests;
mod told;
mod views;
mod windows;

pub use local::Outcomes;
pub use program::Program;
pub use settings::{Declared, Follow, Looked, Schemas, Settings, TakeIn};
pub use stream::Streaming;
