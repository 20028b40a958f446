//! The shapes a capability may take: a pure [`Processor`], a [`Window`] over event time, or a [`Sink`] that keeps batches.

use schemas::records::{Call, Control, Metric, Outcome};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Pending;
use crate::delivery::{Delivery, Input, RawRecord};
use crate::effects::{Effects, EventTime, Timer};
use crate::fault::Fault;

/// State of one key. A state equal to its default is not kept: the key is removed from the changelog.
pub trait State: Default + PartialEq + Clone + Serialize + DeserializeOwned + Send + 'static {}
impl<T: Default + PartialEq + Clone + Serialize + DeserializeOwned + Send + 'static> State for T {}

/// Something other than a record or a timer that a key must react to.
#[derive(Clone, Debug)]
pub enum Signal {
    /// A control came into force or was lifted. Given to every key that has state.
    Control(Box<Control>),
    /// An outside action this key asked for has been answered.
    Done(Box<Outcome>),
    /// An outside action this key asked for was taken back before it began: nothing came of it here, and nothing will.
    Withdrawn(String),
    /// The key's state was restored on this instance: actions without an outcome must be looked into.
    Restored,
}

/// Decides. Same (state, delivery, now, controls) gives the same effects. Never awaits, reads no clock, no environment.
pub trait Processor: Send + Sync + 'static {
    /// What it reads.
    type In: Input;
    /// State of one key; `()` when stateless.
    type State: State;

    /// Stage name, for example `policy_gate`.
    fn name(&self) -> &'static str;

    /// The one key that all state of a partition is kept under; `None` keeps it under the key of each record.
    fn state_key(&self) -> Option<&'static str> {
        None
    }

    /// Takes one record.
    ///
    /// # Errors
    /// See [`Blame`](crate::Blame) for what the loop does with each kind; state and effects of a failed step are dropped.
    fn step(&self, state: &mut Self::State, input: &Delivery<Self::In>, fx: &mut Effects<'_>) -> Result<(), Fault>;

    /// Takes a timer that is due.
    ///
    /// # Errors
    /// As [`Processor::step`].
    fn on_timer(&self, _state: &mut Self::State, _timer: &Timer, _fx: &mut Effects<'_>) -> Result<(), Fault> {
        Ok(())
    }

    /// Takes a signal.
    ///
    /// # Errors
    /// As [`Processor::step`].
    fn on_signal(&self, _state: &mut Self::State, _signal: &Signal, _fx: &mut Effects<'_>) -> Result<(), Fault> {
        Ok(())
    }
}

/// Performs outside actions for a stage. Bounded concurrency and time limits live behind it; it always answers.
pub trait Performer: Send + Sync + 'static {
    /// Performs one action. Never fails: what went wrong is in the outcome.
    fn perform(&self, call: Call, approach: crate::Approach) -> Pending<'static, Outcome>;
    /// Takes a call back that waits for its turn. True: it has not begun, and never will; its answer does not come.
    fn withdraw(&self, _call_id: &str) -> bool {
        false
    }
}

/// Aggregates over event time. One value holds all partitions of an instance; each partition's part can be told apart.
pub trait Window: Send + 'static {
    /// What it reads.
    type In: Input;

    /// Stage name.
    fn name(&self) -> &'static str;

    /// Takes a batch of one or more partitions. Late records give corrections at once.
    ///
    /// # Errors
    /// `Ourselves` when the query engine fails.
    fn on_batch(&mut self, batch: &[Delivery<Self::In>], now: EventTime) -> Result<Vec<Metric>, Fault>;

    /// Time passes without records: windows that are over close.
    ///
    /// # Errors
    /// As [`Window::on_batch`].
    fn on_tick(&mut self, now: EventTime) -> Result<Vec<Metric>, Fault>;

    /// State of one partition as bytes; `None` when there is none.
    ///
    /// # Errors
    /// `Internal` when it cannot be written.
    fn snapshot(&self, partition: i32) -> Result<Option<Vec<u8>>, Fault>;

    /// Takes over a partition with its state, or gives it up.
    ///
    /// # Errors
    /// `StateUnreadable` when the bytes are not a snapshot this version reads.
    fn restore(&mut self, partition: i32, snapshot: Option<&[u8]>) -> Result<(), Fault>;

    /// Gives a partition up.
    fn release(&mut self, partition: i32);
}

/// A record a sink would not keep, and why; it goes to the dead-letter topic.
#[derive(Debug)]
pub struct Rejected {
    /// Index in the batch.
    pub index: usize,
    /// Why.
    pub fault: Fault,
}

/// Keeps a batch. `Ok` means durable; writing the same batch twice changes nothing.
pub trait Sink: Send + 'static {
    /// Stage name, for example `clickhouse_sink`.
    fn name(&self) -> &'static str;
    /// Topics it keeps.
    fn topics(&self) -> Vec<&'static str>;
    /// Keeps a batch: raw records of its topics, in log order per partition.
    ///
    /// # Errors
    /// A dependency fault: nothing is lost, the same batch comes again.
    fn write<'a>(
        &'a mut self,
        batch: &'a [RawRecord],
        decoder: &'a dyn crate::Decoder,
    ) -> Pending<'a, Result<Vec<Rejected>, Fault>>;
    /// Partitions were assigned or given up: forget what was cached about them.
    fn reassigned(&mut self);
}
