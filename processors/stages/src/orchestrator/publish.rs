//! What followers see: the Run record when something visible changed, events as it happens, and the end of a run.

use kernel::Fault;
use schemas::records::{Run, RunStatus, RunStep, StepStatus};
use schemas::topics;

use super::Turn;
use super::state::{At, Phase, RunState};

/// The run as a follower sees it.
pub(super) fn view(run: &RunState) -> Run {
    let plan = &run.plan;
    Run {
        run_id: plan.run_id.clone(),
        plan_id: plan.plan_id.clone(),
        tenant: plan.tenant.clone(),
        actor: plan.actor.clone(),
        goal: plan.goal.clone(),
        capsule: plan.capsule.clone(),
        idempotency_key: plan.idempotency_key.clone(),
        status: run.status(),
        reason: reason(run),
        fault: run.fault.clone(),
        steps: (0..run.steps.len()).map(|nth| step_view(run, nth)).collect(),
        waiting: run.waiting.clone(),
        cost_usd: run.cost,
        requested_at: plan.requested_at,
        created_at: run.created_at,
        updated_at: run.updated_at,
        finished_at: run.finished_at,
        revision: run.revision,
    }
}

fn step_view(run: &RunState, nth: usize) -> RunStep {
    let (planned, state) = (&run.plan.steps[nth], &run.steps[nth]);
    RunStep {
        step_id: planned.step_id.clone(),
        tool: planned.tool.clone(),
        operation: planned.operation.clone(),
        needs: planned.needs.clone(),
        status: state.status(),
        attempt: state.action.attempt,
        digest: state.action.digest.clone(),
        result: state.result.clone(),
        fault: state.fault.clone(),
        started_at: state.started_at,
        finished_at: state.finished_at,
    }
}

fn reason(run: &RunState) -> String {
    if run.end.is_none() && !run.paused.is_empty() {
        return run.paused.clone();
    }
    match (&run.fault, run.waiting.first()) {
        (_, Some(waiting)) => format!("{}: {}", waiting.subject_id, waiting.reason),
        (Some(fault), None) => fault.detail.clone(),
        (None, None) => String::new(),
    }
}

/// The word of a final status in `run.<status>` events.
fn word(status: RunStatus) -> &'static str {
    match status {
        RunStatus::Judging => "judging",
        RunStatus::WaitingApproval => "waiting_approval",
        RunStatus::Running => "running",
        RunStatus::Paused => "paused",
        RunStatus::Compensating => "compensating",
        RunStatus::Succeeded => "succeeded",
        RunStatus::Failed => "failed",
        RunStatus::Denied => "denied",
        RunStatus::Compensated => "compensated",
        RunStatus::Cancelled => "cancelled",
        RunStatus::Killed => "killed",
        RunStatus::Refused => "refused",
        RunStatus::Unknown => "unknown",
    }
}

impl Turn<'_, '_> {
    /// An event about the run.
    pub(super) fn event(&mut self, kind: &str, facts: &[(&str, &str)]) -> Result<(), Fault> {
        let plan = &self.run.plan;
        let mut payload = vec![("capsule", plan.capsule.as_deref().unwrap_or_default())];
        payload.extend_from_slice(facts);
        self.fx.event(&plan.tenant, &plan.run_id, kind, &payload)
    }

    /// An event about one action of the run.
    pub(super) fn step_event(&mut self, kind: &str, at: At, facts: &[(&str, &str)]) -> Result<(), Fault> {
        let (tool, operation, _) = self.run.planned(at);
        let (tool, operation) = (tool.to_owned(), operation.to_owned());
        let step_id = self.run.step(at).step_id.clone();
        let attempt = self.run.action(at).attempt.to_string();
        let mut payload = vec![
            ("step", step_id.as_str()),
            ("tool", &tool),
            ("operation", &operation),
            ("attempt", &attempt),
        ];
        payload.extend_from_slice(facts);
        self.event(kind, &payload)
    }

    /// Ends the run: what has not begun never will, and nobody is asked any more.
    pub(super) fn finish(&mut self, status: RunStatus) -> Result<(), Fault> {
        self.skip_unstarted();
        for step in &mut self.run.steps {
            if step.undoing() && step.undo.phase != Phase::Calling {
                step.undo.phase = Phase::Idle;
            }
        }
        self.close_waiting();
        self.run.end = Some(status);
        self.run.finished_at = Some(self.fx.now());
        self.fx.wake_at(
            "forget",
            self.fx.now().plus_ms(crate::hours::ms(self.config.forget_hours)),
        );
        let code = self.run.fault.as_ref().map(|f| f.code.clone()).unwrap_or_default();
        let lasted_ms = (self.fx.now().micros_since(self.run.plan.requested_at) / 1000).to_string();
        let cost = self.run.cost.to_string();
        let facts = [
            ("code", code.as_str()),
            ("duration_ms", &lasted_ms),
            ("cost_usd", &cost),
        ];
        self.event(&format!("run.{}", word(status)), &facts)
    }

    /// Steps that have no call open and have not ended: SKIPPED, or FAILED when an attempt had failed before.
    pub(super) fn skip_unstarted(&mut self) {
        let now = self.fx.now();
        for nth in 0..self.run.steps.len() {
            let at = At {
                step: nth,
                kind: schemas::records::CallKind::Action,
            };
            let phase = self.run.action(at).phase;
            if self.run.steps[nth].end.is_some() || phase == Phase::Calling {
                continue;
            }
            let subject_id = self.run.subject_id(at);
            self.forget_waiting(&subject_id);
            self.fx.drop_timer(format!("retry:{subject_id}"));
            let step = &mut self.run.steps[nth];
            step.end = Some(if phase == Phase::Backoff {
                StepStatus::Failed
            } else {
                StepStatus::Skipped
            });
            step.finished_at = Some(now);
            step.action.phase = Phase::Done;
        }
    }

    /// Publishes the run when a follower would see a difference; lets go of what an ended run no longer needs.
    pub(super) fn publish(&mut self, before: &Run) -> Result<(), Fault> {
        if self.run.shrunk || view(self.run) == *before {
            return Ok(());
        }
        self.run.revision += 1;
        self.run.updated_at = self.fx.now();
        let now = view(self.run);
        self.fx.emit(topics::RUNS, now.run_id.clone(), &now.tenant, &now)?;
        if self.run.end.is_some() && !self.run.has_open_call() {
            self.shrink();
        }
        Ok(())
    }

    fn shrink(&mut self) {
        for planned in &mut self.run.plan.steps {
            planned.arguments.clear();
            planned.compensation = None;
        }
        for step in &mut self.run.steps {
            step.result.clear();
            step.offered = None;
            for action in [&mut step.action, &mut step.undo] {
                action.arguments.clear();
                action.permit = None;
                action.approvals.clear();
            }
        }
        self.run.gate.approvals.clear();
        self.run.shrunk = true;
    }
}
