//! Runs a plan's DAG: judges each step with its exact arguments, calls it, retries, waits for humans, compensates in
//! reverse.
//! Deliberately not here: calling tools (the invoker), deciding what is allowed (the policy gate), reading a clock.
//!
//! Every input first only writes down a fact (a verdict, an answer, an approval); then one function, `Turn::advance`,
//! starts
//! whatever may start now. That is why a pause is one condition in one place and a second delivery starts nothing
//! twice.

mod compensate;
mod controls;
mod dag;
mod drive;
mod humans;
mod judge;
mod publish;
mod references;
mod state;
#[cfg(test)]
mod tests;

use kernel::{ConfigFault, Delivery, Effects, Fault, FaultCode, Processor, Signal, Timer};
use schemas::records::{Approval, Delegation, FaultInfo, Outcome, Plan, Verdict};
use schemas::topics::{APPROVALS, DELEGATIONS, OUTCOMES, PLANS, VERDICTS};

use humans::Word;

pub use state::State;
use state::{Cause, Phase, RunState, StepState};

kernel::inputs! {
    /// What the orchestrator reads.
    pub enum Input {
        Plan(Plan) = PLANS,
        Verdict(Verdict) = VERDICTS,
        Approval(Approval) = APPROVALS,
        Delegation(Delegation) = DELEGATIONS,
        Outcome(Outcome) = OUTCOMES,
    }
}

/// Waiting times of the orchestrator.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How long a human may take to answer before it counts as a denial, hours.
    pub approval_hours: i64,
    /// How long past its timeout a call may stay unanswered before an event says so, milliseconds.
    pub grace_ms: i64,
    /// How long after a verdict a call may go out without a fresh one, milliseconds.
    pub permit_ms: i64,
    /// How long an ended run is kept, so that late records change nothing, hours or parts of one.
    pub forget_hours: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            approval_hours: 7 * 24,
            grace_ms: 60_000,
            permit_ms: 1_000,
            forget_hours: 24.0,
        }
    }
}

impl Config {
    /// Every value out of range, each with its path.
    pub fn check(&self) -> Vec<ConfigFault> {
        let mut faults = Vec::new();
        for (path, value, min) in [
            ("approval_hours", self.approval_hours, 1),
            ("grace_ms", self.grace_ms, 0),
            ("permit_ms", self.permit_ms, 0),
        ] {
            if value < min {
                faults.push(ConfigFault::new(path, format!("{value} is too little; at least {min}")));
            }
        }
        faults.extend(crate::hours::fault("forget_hours", self.forget_hours));
        faults
    }
}

/// The orchestrator. One key is one run.
pub struct Orchestrator {
    config: Config,
}

impl Orchestrator {
    /// An orchestrator with these waiting times.
    pub fn new(config: Config) -> Self {
        Self { config }
    }

    /// One input of a run that has begun: take the controls in, write the fact down, start what may start, publish.
    fn turn(
        &self,
        run: &mut RunState,
        fx: &mut Effects<'_>,
        fact: impl FnOnce(&mut Turn<'_, '_>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let before = publish::view(run);
        let mut turn = Turn {
            run,
            fx,
            config: &self.config,
        };
        turn.take_controls()?;
        fact(&mut turn)?;
        turn.advance()?;
        turn.publish(&before)
    }

    fn on_plan(&self, state: &mut State, plan: &Plan, fx: &mut Effects<'_>) -> Result<(), Fault> {
        if let Some(run) = &state.run {
            return fx.event(
                &plan.tenant,
                &plan.run_id,
                "plan.duplicate",
                &[("plan_id", &plan.plan_id), ("kept", &run.plan.plan_id)],
            );
        }
        fx.drop_timer("forget");
        let early = state.early.take();
        let mut run = RunState {
            plan: plan.clone(),
            created_at: fx.now(),
            ..RunState::default()
        };
        run.steps.resize(plan.steps.len(), StepState::default());
        run.gate = state::Action {
            phase: Phase::Judging,
            digest: plan.digest.clone(),
            ..state::Action::default()
        };
        let mut turn = Turn {
            run: &mut run,
            fx,
            config: &self.config,
        };
        turn.begin(early.as_deref())?;
        turn.publish(&schemas::records::Run::default())?;
        state.run = Some(Box::new(run));
        Ok(())
    }

    fn on_verdict(&self, state: &mut State, verdict: &Verdict, fx: &mut Effects<'_>) -> Result<(), Fault> {
        match &mut state.run {
            Some(run) => self.turn(run, fx, |turn| turn.judged(verdict)),
            None => {
                // Its plan is on the way; should it never come, the verdict is not kept for ever.
                fx.wake_at("forget", fx.now().plus_ms(crate::hours::ms(self.config.forget_hours)));
                state.early = Some(Box::new(verdict.clone()));
                Ok(())
            }
        }
    }

    fn on_approval(&self, state: &mut State, approval: &Approval, fx: &mut Effects<'_>) -> Result<(), Fault> {
        match &mut state.run {
            Some(run) => self.turn(run, fx, |turn| turn.answered_by_human(approval)),
            None => humans::refused(Word::of(approval), no_run(), fx),
        }
    }

    fn on_delegation(&self, state: &mut State, delegation: &Delegation, fx: &mut Effects<'_>) -> Result<(), Fault> {
        match &mut state.run {
            Some(run) => self.turn(run, fx, |turn| turn.handed_on(delegation)),
            None => humans::refused(Word::handing(delegation), no_run(), fx),
        }
    }
}

impl Processor for Orchestrator {
    type In = Input;
    type State = State;

    fn name(&self) -> &'static str {
        "orchestrator"
    }

    fn step(&self, state: &mut State, input: &Delivery<Input>, fx: &mut Effects<'_>) -> Result<(), Fault> {
        let (what, run_id) = match &input.input {
            Input::Plan(plan) => ("plan", &plan.run_id),
            Input::Verdict(verdict) => ("verdict", &verdict.run_id),
            Input::Approval(approval) if approval.run_id != fx.key() => {
                let refusal = other_run(&approval.run_id, fx);
                return humans::refused(Word::of(approval), refusal, fx);
            }
            Input::Delegation(delegation) if delegation.run_id != fx.key() => {
                let refusal = other_run(&delegation.run_id, fx);
                return humans::refused(Word::handing(delegation), refusal, fx);
            }
            Input::Approval(approval) => ("approval", &approval.run_id),
            Input::Delegation(delegation) => ("delegation", &delegation.run_id),
            Input::Outcome(outcome) => ("outcome", &outcome.run_id),
        };
        if run_id != fx.key() {
            let detail = format!(
                "field `run_id` of the {what} is `{run_id}` but its key is `{}`; write it with run_id as key",
                fx.key()
            );
            return Err(Fault::new(FaultCode::RecordInvalid, detail));
        }
        match &input.input {
            Input::Plan(plan) => self.on_plan(state, plan, fx),
            Input::Verdict(verdict) => self.on_verdict(state, verdict, fx),
            Input::Approval(approval) => self.on_approval(state, approval, fx),
            Input::Delegation(delegation) => self.on_delegation(state, delegation, fx),
            Input::Outcome(outcome) => match &mut state.run {
                Some(run) => self.turn(run, fx, |turn| turn.answered(outcome)),
                None => Ok(()),
            },
        }
    }

    fn on_timer(&self, state: &mut State, timer: &Timer, fx: &mut Effects<'_>) -> Result<(), Fault> {
        if timer.name == "forget" {
            *state = State::default();
            return Ok(());
        }
        let Some(run) = &mut state.run else {
            return Ok(());
        };
        self.turn(run, fx, |turn| match timer.name.split_once(':') {
            Some(("approval", subject_id)) => turn.approval_expired(subject_id),
            Some(("deputy", of)) => match of.split_once(':') {
                Some((after_s, subject_id)) => turn.deputies_due(after_s, subject_id),
                None => Ok(()),
            },
            Some(("overdue", call_id)) => turn.overdue(call_id),
            Some(("retry", subject_id)) => {
                turn.retry_due(subject_id, timer.due);
                Ok(())
            }
            _ => Ok(()),
        })
    }

    fn on_signal(&self, state: &mut State, signal: &Signal, fx: &mut Effects<'_>) -> Result<(), Fault> {
        match (signal, &mut state.run) {
            // The control itself is already part of `fx.controls()`, which every turn looks at first.
            (Signal::Control(_), Some(run)) => self.turn(run, fx, |_| Ok(())),
            _ => Ok(()),
        }
    }
}

/// One input being worked on.
struct Turn<'a, 'b> {
    run: &'a mut RunState,
    fx: &'a mut Effects<'b>,
    config: &'a Config,
}

impl Turn<'_, '_> {
    /// The first turn of a run: refused at once, or put on its way.
    fn begin(&mut self, early: Option<&Verdict>) -> Result<(), Fault> {
        if let Some(refusal) = self.run.plan.refusal.clone() {
            let detail = if refusal.field.is_empty() {
                refusal.detail
            } else {
                format!("{}: {}", refusal.field, refusal.detail)
            };
            return self.refuse(FaultInfo {
                code: refusal.code,
                detail,
                retryable: false,
            });
        }
        if let Err(detail) = dag::validate(&self.run.plan) {
            return self.refuse(Fault::new(FaultCode::PlanInvalid, detail).info(false));
        }
        let count = self.run.steps.len().to_string();
        self.event("run.started", &[("steps", &count)])?;
        self.take_controls()?;
        if let Some(verdict) = early {
            self.judged(verdict)?;
        }
        self.advance()
    }

    fn refuse(&mut self, fault: FaultInfo) -> Result<(), Fault> {
        self.run.fault = Some(fault);
        self.finish(schemas::records::RunStatus::Refused)
    }

    /// Notes the first reason why the run cannot go on. What came first stays.
    fn stop(&mut self, cause: Cause, fault: &FaultInfo) {
        if self.run.end.is_some() {
            return;
        }
        // UNKNOWN outranks the rest: it forbids compensation.
        if self.run.cause.is_none() || cause == Cause::Unknown {
            self.run.cause = Some(cause);
        }
        self.run.fault.get_or_insert_with(|| fault.clone());
    }
}

fn no_run() -> crate::approvers::Refusal {
    ("approval.no_run", "there is no such run".to_owned())
}

/// An answer to one run put under the key of another.
fn other_run(run_id: &str, fx: &Effects<'_>) -> crate::approvers::Refusal {
    let detail = format!("it was given for run {run_id} and written with key {}", fx.key());
    ("approval.other_run", detail)
}

fn hours(count: i64) -> i64 {
    count.saturating_mul(3_600_000)
}
