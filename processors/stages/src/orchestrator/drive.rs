//! Starting what may start, and taking in what came of calls: readiness, calls, retries, the result. Judging is in
//! `judge`.

use kernel::{EventTime, Fault, FaultCode};
use schemas::records::{Call, CallKind, FaultInfo, Outcome, OutcomeStatus, RunStatus, StepStatus};
use schemas::{digest, topics};

use super::Turn;
use super::references;
use super::state::{At, Cause, Phase, RunState};

/// Times in a row the invoker may refuse a call because of a pause we have not seen yet.
const HELD_MAX: i32 = 100;
/// Wait after such a refusal, milliseconds: the control is on its way to us.
const HELD_WAIT_MS: i64 = 1000;
/// Largest result kept when no other step refers to it; larger ones are kept as an excerpt. Bytes.
const UNUSED_RESULT_BYTES_MAX: usize = 16 * 1024;
/// Largest sum of results kept per run, so that Run and state fit their topics. Bytes.
const RESULTS_BYTES_MAX: usize = 512 * 1024;
/// Largest arguments of a call once results are filled in. Bytes.
const ARGUMENTS_BYTES_MAX: usize = 512 * 1024;

impl Turn<'_, '_> {
    /// Starts whatever may start now, and ends the run when nothing is left.
    pub(super) fn advance(&mut self) -> Result<(), Fault> {
        if self.run.end.is_some() {
            return Ok(());
        }
        if self.run.cause.is_none() {
            match self.run.gate.phase {
                Phase::Approved if self.run.paused.is_empty() => self.propose_plan()?,
                Phase::Allowed => self.start_ready()?,
                _ => {}
            }
        }
        if self.run.cause.is_some() {
            return self.wind_down();
        }
        if self.run.steps.iter().all(|s| s.end == Some(StepStatus::Succeeded)) {
            return self.finish(RunStatus::Succeeded);
        }
        Ok(())
    }

    fn start_ready(&mut self) -> Result<(), Fault> {
        for step in 0..self.run.steps.len() {
            if self.run.cause.is_some() || !self.run.paused.is_empty() {
                return Ok(());
            }
            if self.run.steps[step].end.is_none() && self.run.ready(step) {
                self.push(At {
                    step,
                    kind: CallKind::Action,
                })?;
            }
        }
        Ok(())
    }

    /// Takes one action as far as it can go by itself.
    pub(super) fn push(&mut self, at: At) -> Result<(), Fault> {
        let action = self.run.action(at);
        match action.phase {
            Phase::Idle => self.prepare(at),
            Phase::Approved => self.propose(at),
            Phase::Allowed => self.call_or_judge_again(at),
            Phase::Backoff if action.retry_at.is_none_or(|due| due <= self.fx.now()) => self.call_or_judge_again(at),
            _ => Ok(()),
        }
    }

    /// Fills the arguments in and looks for a permit for exactly these.
    fn prepare(&mut self, at: At) -> Result<(), Fault> {
        let (tool, operation, planned) = self.run.planned(at);
        let filled = references::resolve(planned, |id| self.run.result(id))
            .map_err(|detail| Fault::new(FaultCode::ReferenceInvalid, detail))
            .and_then(|arguments| match arguments.len() {
                0..=ARGUMENTS_BYTES_MAX => Ok(arguments),
                size => Err(Fault::new(
                    FaultCode::ArgumentsInvalid,
                    format!("the arguments come to {size} bytes with results filled in; at most {ARGUMENTS_BYTES_MAX}"),
                )),
            })
            .and_then(|arguments| match digest::action(tool, operation, &arguments) {
                Ok(digest) => Ok((arguments, digest)),
                Err(detail) => Err(Fault::new(FaultCode::ArgumentsInvalid, detail)),
            });
        let (arguments, digest) = match filled {
            Ok(filled) => filled,
            Err(fault) => return self.fail(at, fault.info(false)),
        };
        let offered = match at.kind {
            CallKind::Action if !self.approval_is_over(&self.run.gate) => self.run.steps[at.step].offered.clone(),
            _ => None,
        };
        let permit = offered.filter(|(of, _)| *of == digest).map(|(_, permit)| permit);
        let permit = permit.filter(|_| !self.is_stale(&self.run.gate));
        let allowed_at = self.run.gate.allowed_at;
        let action = self.run.action_mut(at);
        (action.arguments, action.digest) = (arguments, digest);
        match permit {
            Some(permit) => {
                (action.phase, action.permit, action.allowed_at) = (Phase::Allowed, Some(permit), allowed_at);
                self.call(at)
            }
            None => self.propose(at),
        }
    }

    /// Between the verdict and the call may lie a pause or a retry's wait: an approval that ran out no longer counts, and what
    /// was judged a while ago is judged again with what is true now.
    fn call_or_judge_again(&mut self, at: At) -> Result<(), Fault> {
        let action = self.run.action(at);
        if self.approval_is_over(action) {
            self.run.action_mut(at).approvals.clear();
        } else if !self.is_stale(action) {
            return self.call(at);
        }
        self.run.action_mut(at).permit = None;
        self.propose(at)
    }

    /// Allowed too long ago for a call now.
    fn is_stale(&self, action: &super::state::Action) -> bool {
        let age = |at: EventTime| self.fx.now().micros_since(at) / 1000;
        action.allowed_at.is_some_and(|at| age(at) > self.config.permit_ms)
    }

    fn approval_is_over(&self, action: &super::state::Action) -> bool {
        let mut ends = action.approvals.iter().filter_map(|a| a.expires_at);
        ends.any(|until| until <= self.fx.now())
    }

    fn call(&mut self, at: At) -> Result<(), Fault> {
        // The way back is walked even when the money is spent: leaving things half done costs more.
        if at.kind == CallKind::Action && self.run.budget_left().is_some_and(|left| left.0 <= 0) {
            let budget = self.run.budget().unwrap_or_default();
            let capped = self.run.budget_cap == Some(budget);
            let help = if capped {
                "a policy caps it"
            } else {
                "ask again with a larger budget_usd"
            };
            let detail = format!(
                "the run's budget of {budget} USD is spent ({} USD so far); {help}",
                self.run.cost
            );
            return self.fail(at, Fault::new(FaultCode::PolicyDenied, detail).info(false));
        }
        let now = self.fx.now();
        let action = self.run.action_mut(at);
        action.attempt += 1;
        let call = call_record(self.run, at, now);
        let action = self.run.action_mut(at);
        (action.phase, action.call_id, action.retry_at) = (Phase::Calling, call.call_id.clone(), None);
        self.fx.emit(topics::CALLS, call.run_id.clone(), &call.tenant, &call)?;
        let overdue = now.plus_ms(call.timeout_ms.saturating_add(self.config.grace_ms));
        self.fx.wake_at(format!("overdue:{}", call.call_id), overdue);
        if call.attempt > 1 {
            return Ok(());
        }
        if at.kind == CallKind::Compensation {
            return self.step_event("step.compensating", at, &[]);
        }
        self.run.steps[at.step].started_at = Some(now);
        self.step_event("step.started", at, &[])
    }

    /// Takes in what came of a call. Answers to calls that are not open are late or repeated: nothing changes.
    pub(super) fn answered(&mut self, outcome: &Outcome) -> Result<(), Fault> {
        let Some(at) = self.run.find_call(&outcome.call_id) else {
            return Ok(());
        };
        self.fx.drop_timer(format!("overdue:{}", outcome.call_id));
        self.run.cost = self.run.cost.plus(outcome.cost_usd);
        let action = self.run.action_mut(at);
        (action.phase, action.call_id) = (Phase::Done, String::new());
        let fault = outcome.fault.clone().unwrap_or_else(|| unexplained(outcome));
        match outcome.status {
            OutcomeStatus::Succeeded | OutcomeStatus::Compensated => self.succeeded(at, outcome),
            OutcomeStatus::Unknown => self.unknown(at, fault),
            OutcomeStatus::Failed if fault.retryable && self.may_retry(at) => self.retry(at, fault),
            OutcomeStatus::Refused if self.is_held(at, &fault) => {
                self.run.action_mut(at).held += 1;
                self.retry(at, fault)
            }
            OutcomeStatus::Failed | OutcomeStatus::Refused => self.fail(at, fault),
        }
    }

    fn succeeded(&mut self, at: At, outcome: &Outcome) -> Result<(), Fault> {
        if at.kind == CallKind::Compensation {
            return self.compensated(at);
        }
        let result = kept_result(self.run, at, &outcome.result);
        self.run.finished_steps += 1;
        let nth = self.run.finished_steps;
        let step = &mut self.run.steps[at.step];
        (step.end, step.nth, step.result) = (Some(StepStatus::Succeeded), nth, result);
        (step.finished_at, step.fault) = (Some(self.fx.now()), None);
        self.step_event("step.succeeded", at, &[])
    }

    fn unknown(&mut self, at: At, fault: FaultInfo) -> Result<(), Fault> {
        if at.kind == CallKind::Compensation {
            return self.fail(at, fault);
        }
        let step = &mut self.run.steps[at.step];
        (step.end, step.finished_at, step.fault) =
            (Some(StepStatus::Unknown), Some(self.fx.now()), Some(fault.clone()));
        self.stop(Cause::Unknown, &fault);
        self.step_event("step.unknown", at, &[("code", &fault.code)])
    }

    /// Once a run winds down its actions are not tried again; the way back is.
    fn goes_on(&self, at: At) -> bool {
        self.run.end.is_none() && (at.kind == CallKind::Compensation || self.run.cause.is_none())
    }

    fn may_retry(&self, at: At) -> bool {
        let action = self.run.action(at);
        self.goes_on(at) && action.attempt - action.held < self.run.step(at).retry.attempts_max
    }

    /// The invoker saw a pause before we did: it was not even tried, so it may be asked again and uses up no attempt.
    fn is_held(&self, at: At, fault: &FaultInfo) -> bool {
        fault.code == FaultCode::ControlStopped.as_str() && self.goes_on(at) && self.run.action(at).held < HELD_MAX
    }

    fn retry(&mut self, at: At, fault: FaultInfo) -> Result<(), Fault> {
        let held = fault.code == FaultCode::ControlStopped.as_str();
        let wait_ms = if held { HELD_WAIT_MS } else { backoff_ms(self.run, at) };
        let due = self.fx.now().plus_ms(wait_ms);
        let action = self.run.action_mut(at);
        (action.phase, action.retry_at) = (Phase::Backoff, Some(due));
        let subject_id = self.run.subject_id(at);
        if wait_ms > 0 {
            self.fx.wake_at(format!("retry:{subject_id}"), due);
        }
        self.step_event(
            "step.retrying",
            at,
            &[("code", &fault.code), ("wait_ms", &wait_ms.to_string())],
        )?;
        self.run.steps[at.step].fault = Some(fault);
        Ok(())
    }

    /// The timer of a retry: its time has come, whatever the clock reads to the microsecond.
    pub(super) fn retry_due(&mut self, subject_id: &str, due: EventTime) {
        let now = self.fx.now();
        if let Some(at) = self.run.find(subject_id) {
            let action = self.run.action_mut(at);
            if action.phase == Phase::Backoff && action.retry_at.is_some_and(|wanted| wanted <= due) {
                action.retry_at = Some(now);
            }
        }
    }

    /// An action came to a bad end.
    pub(super) fn fail(&mut self, at: At, fault: FaultInfo) -> Result<(), Fault> {
        if at.kind == CallKind::Compensation {
            return self.compensation_failed(at, fault);
        }
        self.end_badly(at, StepStatus::Failed, Cause::Failed, fault, "step.failed")
    }

    /// The gate or a human said no to an action.
    pub(super) fn deny(&mut self, at: At, fault: FaultInfo) -> Result<(), Fault> {
        if at.kind == CallKind::Compensation {
            return self.compensation_failed(at, fault);
        }
        self.end_badly(at, StepStatus::Denied, Cause::Denied, fault, "step.denied")
    }

    fn end_badly(&mut self, at: At, end: StepStatus, cause: Cause, fault: FaultInfo, kind: &str) -> Result<(), Fault> {
        let step = &mut self.run.steps[at.step];
        (step.end, step.finished_at, step.fault) = (Some(end), Some(self.fx.now()), Some(fault.clone()));
        step.action.phase = Phase::Done;
        self.stop(cause, &fault);
        self.step_event(kind, at, &[("code", &fault.code)])
    }

    /// A call is past its time. The invoker always answers, so this is for an operator to see, not for the run to act
    /// on.
    pub(super) fn overdue(&mut self, call_id: &str) -> Result<(), Fault> {
        match self.run.find_call(call_id) {
            Some(at) => self.step_event("call.overdue", at, &[("call_id", call_id)]),
            None => Ok(()),
        }
    }
}

fn call_record(run: &RunState, at: At, now: EventTime) -> Call {
    let (plan, step, action) = (&run.plan, run.step(at), run.action(at));
    let (tool, operation, _) = run.planned(at);
    let kind = match at.kind {
        CallKind::Action => "ACTION",
        CallKind::Compensation => "COMPENSATION",
    };
    Call {
        call_id: digest::id(
            "call",
            &[&plan.run_id, &step.step_id, kind, &action.attempt.to_string()],
        ),
        run_id: plan.run_id.clone(),
        tenant: plan.tenant.clone(),
        actor: plan.actor.clone(),
        goal: plan.goal.clone(),
        capsule: plan.capsule.clone(),
        step_id: step.step_id.clone(),
        kind: at.kind,
        attempt: action.attempt,
        tool: tool.to_owned(),
        operation: operation.to_owned(),
        arguments: action.arguments.clone(),
        idempotency_key: digest::id(
            "idem",
            &[&plan.tenant, &plan.run_id, &step.step_id, kind, &action.digest],
        ),
        digest: action.digest.clone(),
        permit: action.permit.clone(),
        // The plan's word is about the action; nobody vouched for its compensation.
        replay_safe: step.replay_safe && at.kind == CallKind::Action,
        timeout_ms: step.timeout_ms,
        budget_left_usd: run.budget_left(),
        requested_at: plan.requested_at,
        created_at: now,
    }
}

/// Doubles with every attempt, up to the step's limit. Milliseconds.
fn backoff_ms(run: &RunState, at: At) -> i64 {
    let (retry, action) = (&run.step(at).retry, run.action(at));
    let doublings = u32::try_from(action.attempt - action.held - 1).unwrap_or(0).min(40);
    let limit = if retry.backoff_ms_max > 0 {
        retry.backoff_ms_max
    } else {
        retry.backoff_ms
    };
    retry.backoff_ms.saturating_mul(1 << doublings).min(limit)
}

/// The result as the run keeps it: whole when another step refers to it and there is room, else bounded.
fn kept_result(run: &RunState, at: At, result: &str) -> String {
    let reference = format!("${{steps.{}.result", run.step(at).step_id);
    let refers = |text: &str| text.contains(&reference);
    let used = run
        .plan
        .steps
        .iter()
        .any(|s| refers(&s.arguments) || s.compensation.as_ref().is_some_and(|c| refers(&c.arguments)));
    let kept: usize = run.steps.iter().map(|s| s.result.len()).sum();
    let room = RESULTS_BYTES_MAX.saturating_sub(kept);
    let limit = if used { room } else { room.min(UNUSED_RESULT_BYTES_MAX) };
    if result.len() <= limit {
        return result.to_owned();
    }
    let excerpt: String = result.chars().take(1000).collect();
    serde_json::json!({"truncated": true, "bytes": result.len(), "excerpt": excerpt}).to_string()
}

fn unexplained(outcome: &Outcome) -> FaultInfo {
    let (code, words) = match outcome.status {
        OutcomeStatus::Unknown => (
            FaultCode::OutcomeUnknown,
            "may or may not have happened; look before doing anything",
        ),
        _ => (FaultCode::ToolFailed, "failed without saying why"),
    };
    Fault::new(code, format!("{} {} {words}", outcome.tool, outcome.operation)).info(false)
}
