//! The vocabulary of the platform: what a capability is, what it asks for, what can go wrong. No I/O, no tokio, no clock.
#![warn(missing_docs)]

pub mod controls;
mod dataflow;
mod delivery;
mod effects;
mod fault;
mod log;
pub mod members;
mod processor;
mod standby;
pub mod tallies;
mod tool;

pub use dataflow::{Change, Dataflow, Flow, Refused, Slab};
pub use delivery::{Decoder, Delivery, Headers, Input, Position, RawRecord, decode};
pub use effects::{Approach, Effects, Emit, EventTime, Perform, TAKEN_BY, Timer};
pub use fault::{Blame, ConfigFault, Fault, FaultCode};
pub use log::{Changelog, Clock, Commit, Committed, Log, Polled, RawEmit, Restoring};
pub use processor::{Performer, Processor, Rejected, Signal, Sink, State, Window};
pub use standby::{Follow, Followed};
pub use tool::{Answer, CallFault, Consequence, Effect, Found, Replay, Tool};

/// A future somebody else will drive.
pub type Pending<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Turns text into vectors of the same length. Implemented by a model, used by a sink that must not know which.
pub trait Embedder: Send + Sync + 'static {
    /// Length of every vector.
    fn dimensions(&self) -> usize;
    /// One unit-length vector per text.
    ///
    /// # Errors
    /// `MODEL_UNAVAILABLE` when the model cannot be run.
    fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, Fault>;
}
