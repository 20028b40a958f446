//! One outside action and its way back.

use schemas::records::Call;
use serde_json::Value;

use crate::Pending;
use crate::fault::Fault;

/// What may be done with a call whose intent was written but whose outcome was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// Call again: it changes nothing the second time.
    Safe,
    /// Ask [`Tool::find`] first.
    AskFirst,
    /// Never again: a human must look.
    Never,
}

/// What a successful call gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// JSON result; later steps may refer to it.
    pub result: Value,
    /// What it cost, millionths of a US dollar.
    pub cost_micros_usd: i64,
}

/// Whether a call happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// It did, with this answer.
    Happened(Answer),
    /// It did, and failed.
    Failed(Fault),
    /// It did not.
    DidNot,
    /// It cannot be told.
    Unknown,
}

/// A failed call: the fault, and what is known about its effect.
#[derive(Clone, Debug, PartialEq)]
pub struct CallFault {
    /// What went wrong.
    pub fault: Fault,
    /// Whether the call may nevertheless have had its effect.
    pub effect: Effect,
}

/// What is known about the effect of a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It certainly had none: trying again is harmless.
    None,
    /// It was answered with a failure.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// What a call would mean to the world: what policies are told of it before it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consequence {
    /// It looks and changes nothing.
    Reads,
    /// It changes something, and a call of the same tool can change it back.
    Reversible,
    /// It changes something for good, as far as the tool knows.
    Lasting,
    /// It takes something away.
    Destroys,
}

/// One outside system. No default bodies: "safe to repeat", "cannot tell" and "what it takes" must be said aloud.
pub trait Tool: Send + Sync + 'static {
    /// Name, as in a plan.
    fn name(&self) -> &'static str;
    /// Checks operation and arguments without touching the world.
    ///
    /// # Errors
    /// `TOOL_UNKNOWN` for an operation it does not have, `ARGUMENTS_INVALID` naming the field.
    fn check(&self, operation: &str, arguments: &Value) -> Result<(), Fault>;
    /// What may be done after a crash between intent and outcome.
    fn replay(&self, call: &Call) -> Replay;
    /// What a call would mean.
    fn consequence(&self, operation: &str, arguments: &Value) -> Consequence;
    /// Operation and arguments of a call that shows what this one would do and changes nothing. None where nothing can be shown: then a
    /// dry run checks the call and does not send it.
    fn rehearsal(&self, operation: &str, arguments: &Value) -> Option<(String, Value)>;
    /// Asks a call under way to stop in good order: it then ends by itself, and says what it did. False where it cannot be asked, or is
    /// not under way. Does not wait.
    fn interrupt(&self, call: &Call) -> bool;
    /// Acts.
    fn call<'a>(&'a self, call: &'a Call) -> Pending<'a, Result<Answer, CallFault>>;
    /// Looks whether an earlier attempt under the same idempotency key happened.
    fn find<'a>(&'a self, call: &'a Call) -> Pending<'a, Result<Found, Fault>>;
}
