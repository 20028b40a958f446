//! The invoker: the one place that lets a call out. It writes the intent, asks for the action, and writes the outcome; a call
//! without a valid allow for exactly its digest is refused. It is not a client of anything: a `Performer` acts on its behalf.

mod admit;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use kernel::{Approach, ConfigFault, Delivery, Effects, EventTime, Fault, FaultCode, Processor, Signal, Timer};
use schemas::records::{Call, ControlAction, Outcome, OutcomeStatus};
use schemas::topics;
use serde::{Deserialize, Serialize};

use admit::Gatekeeper;

/// Timer that drops finished calls.
const FORGET: &str = "forget";
/// Timer that looks whether a pause has ended.
const HELD: &str = "held";
/// How long a held call waits before it looks again, milliseconds.
const HELD_MS: i64 = 2_000;

/// How the invoker is set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How long after its timeout a call that was never tried may still be tried, milliseconds.
    pub grace_ms: i64,
    /// How long an outcome is kept to answer a repeated call, milliseconds.
    pub finished_ms: i64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            grace_ms: 600_000,
            finished_ms: 3_600_000,
        }
    }
}

impl Config {
    /// Every problem at once.
    pub fn check(&self) -> Vec<ConfigFault> {
        let mut faults = Vec::new();
        for (name, value) in [("grace_ms", self.grace_ms), ("finished_ms", self.finished_ms)] {
            if !(1..=86_400_000 * 30).contains(&value) {
                faults.push(ConfigFault::new(name, format!("{value} is not from 1 ms to 30 days")));
            }
        }
        faults
    }
}

/// A call that is over, kept to answer a repeat.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    /// What came of it.
    pub outcome: Outcome,
    /// When it was written.
    pub at: EventTime,
}

/// Calls of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Intents without an outcome, by call id.
    pub open: BTreeMap<String, Call>,
    /// Calls that are over, by call id.
    pub finished: BTreeMap<String, Finished>,
    /// Open calls a crash cut off that wait for a pause to end before they are looked into.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub held: BTreeSet<String>,
    /// Open calls that were taken back before they began: whoever takes over begins them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unbegun: BTreeSet<String>,
}

kernel::inputs! {
    /// What the invoker reads.
    pub enum Input { Call(Call) = topics::CALLS }
}

/// The invoker stage.
#[derive(Debug)]
pub struct Invoker {
    gatekeeper: Gatekeeper,
    config: Config,
}

impl Invoker {
    /// A stage that lets calls out which carry a permit signed by the gate of that Ed25519 public key. Bytes that are no key
    /// let nothing out. Look at [`Config::check`] first.
    pub fn new(public_key: [u8; 32], config: Config) -> Self {
        Self {
            gatekeeper: Gatekeeper::new(public_key, config.grace_ms),
            config,
        }
    }

    fn finish(&self, state: &mut State, outcome: Outcome, fx: &mut Effects<'_>) -> Result<(), Fault> {
        publish(&outcome, fx)?;
        let at = fx.now();
        state.open.remove(&outcome.call_id);
        state.finished.insert(outcome.call_id.clone(), Finished { outcome, at });
        self.forget_later(state, fx);
        Ok(())
    }

    /// Begins a call that has not begun, and looks into one a crash cut off; what a stop covers is not sent again, what is paused waits.
    fn recover(state: &mut State, call_id: &str, fx: &mut Effects<'_>) {
        state.held.remove(call_id);
        let Some(call) = state.open.get(call_id).cloned() else {
            return;
        };
        if state.unbegun.remove(call_id) {
            return fx.perform(call, Approach::Fresh);
        }
        match admit::stop(&call, fx).map(|c| c.action) {
            None => fx.perform(call, Approach::Recover),
            Some(ControlAction::Pause) => {
                state.held.insert(call_id.to_owned());
                fx.wake_at(HELD, fx.now().plus_ms(HELD_MS));
            }
            Some(_) => fx.perform(call, Approach::Inquire),
        }
    }

    fn forget_later(&self, state: &State, fx: &mut Effects<'_>) {
        if let Some(oldest) = state.finished.values().map(|f| f.at).min() {
            fx.wake_at(FORGET, oldest.plus_ms(self.config.finished_ms));
        }
    }
}

impl Processor for Invoker {
    type In = Input;
    type State = State;

    fn name(&self) -> &'static str {
        "invoker"
    }

    fn step(&self, state: &mut State, input: &Delivery<Input>, fx: &mut Effects<'_>) -> Result<(), Fault> {
        let Input::Call(call) = &input.input;
        if input.key != call.run_id {
            let detail = format!(
                "the record's key is `{}`; a call is keyed by its run_id, here `{}`",
                input.key, call.run_id
            );
            return Err(Fault::new(FaultCode::RecordInvalid, detail));
        }
        if state.open.contains_key(&call.call_id) {
            return Ok(());
        }
        if let Some(finished) = state.finished.get(&call.call_id) {
            let outcome = finished.outcome.clone();
            return fx.emit(topics::OUTCOMES, outcome.run_id.as_str(), &outcome.tenant, &outcome);
        }
        match self.gatekeeper.admit(call, fx) {
            Ok(()) => {
                state.open.insert(call.call_id.clone(), (**call).clone());
                fx.perform((**call).clone(), Approach::Fresh);
                Ok(())
            }
            Err(refused) => self.finish(state, admit::refusal(call, refused, fx.now()), fx),
        }
    }

    fn on_timer(&self, state: &mut State, timer: &Timer, fx: &mut Effects<'_>) -> Result<(), Fault> {
        if timer.name == FORGET {
            let now = fx.now();
            state
                .finished
                .retain(|_, f| f.at.plus_ms(self.config.finished_ms) > now);
            self.forget_later(state, fx);
        }
        if timer.name == HELD {
            for call_id in state.held.clone() {
                Self::recover(state, &call_id, fx);
            }
        }
        Ok(())
    }

    fn on_signal(&self, state: &mut State, signal: &Signal, fx: &mut Effects<'_>) -> Result<(), Fault> {
        match signal {
            // An answer nobody waits for any more was answered before: writing it again would be a second outcome.
            Signal::Done(outcome) if !state.open.contains_key(&outcome.call_id) => Ok(()),
            Signal::Done(outcome) => self.finish(state, (**outcome).clone(), fx),
            Signal::Withdrawn(call_id) => {
                if state.open.contains_key(call_id) {
                    state.unbegun.insert(call_id.clone());
                }
                Ok(())
            }
            Signal::Restored => {
                for call_id in state.open.keys().cloned().collect::<Vec<_>>() {
                    Self::recover(state, &call_id, fx);
                }
                Ok(())
            }
            // What is under way cannot be called back; what has not begun is refused when its record comes.
            Signal::Control(_) => Ok(()),
        }
    }
}

fn publish(outcome: &Outcome, fx: &mut Effects<'_>) -> Result<(), Fault> {
    let kind = match outcome.status {
        OutcomeStatus::Succeeded => "call.succeeded",
        OutcomeStatus::Failed => "call.failed",
        OutcomeStatus::Unknown => "call.unknown",
        OutcomeStatus::Refused => "call.refused",
        OutcomeStatus::Compensated => "call.compensated",
    };
    let latency_ms = (outcome.latency_us / 1000).to_string();
    let attempt = outcome.attempt.to_string();
    let code = outcome.fault.as_ref().map(|f| f.code.as_str()).unwrap_or_default();
    let facts = [
        ("tool", outcome.tool.as_str()),
        ("operation", outcome.operation.as_str()),
        ("step_id", outcome.step_id.as_str()),
        ("latency_ms", latency_ms.as_str()),
        ("attempt", attempt.as_str()),
        ("code", code),
    ];
    fx.emit(topics::OUTCOMES, outcome.run_id.as_str(), &outcome.tenant, outcome)?;
    fx.event(&outcome.tenant, &outcome.run_id, kind, &facts)
}
