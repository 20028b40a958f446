//! Streaming SQL: the views of a file over topics, exact per window. Pure: slabs and the time come in, rows and changes of state
//! go out. A local half runs where a source partition is read and leaves small partial states; a final half, by hash of the group
//! key, merges them, knows how far every source partition has come, and closes windows.

mod program;
mod settings;
mod stream;

pub use program::Program;
pub use settings::{Declared, Schemas, Settings};
pub use stream::Streaming;
