//! Streaming SQL: the views of a file over topics, exact per window. Pure: slabs and the time come in, rows and changes of state
//! go out. A local half runs where a source partition is read and leaves small partial states; a final half, by hash of the group
//! key, merges them, knows how far every source partition has come, and closes windows.

pub(crate) mod dialect;
mod explain;
mod finals;
mod frame;
mod groups;
mod kept;
mod keys;
mod local;
pub(crate) mod options;
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
mod steps;
mod stream;
#[cfg(test)]
mod tests;
mod told;
mod windows;

pub use local::Outcomes;
pub use program::Program;
pub use settings::{Declared, Schemas, Settings};
pub use stream::Streaming;
