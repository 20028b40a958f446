//! The way back: awaiting what still runs, then undoing what succeeded in reverse order of finishing, one after
//! another.

use std::collections::BTreeSet;

use kernel::Fault;
use schemas::records::{CallKind, FaultInfo, RunStatus, StepStatus};

use super::Turn;
use super::dag;
use super::state::{At, Cause, Phase, RunState, StepState};

impl Turn<'_, '_> {
    /// Takes a run that cannot go on to its end, as far as it goes now.
    pub(super) fn wind_down(&mut self) -> Result<(), Fault> {
        self.skip_unstarted();
        if self.run.steps.iter().any(|step| step.action.phase == Phase::Calling) {
            return Ok(());
        }
        // What may have happened must be looked into by a human before anything is undone around it.
        if self.run.steps.iter().any(|step| step.end == Some(StepStatus::Unknown)) {
            return self.finish(RunStatus::Unknown);
        }
        while let Some(step) = next(self.run) {
            if !self.run.paused.is_empty() {
                return Ok(());
            }
            self.push(At {
                step,
                kind: CallKind::Compensation,
            })?;
            if self.run.steps[step].undoing() {
                return Ok(());
            }
        }
        self.finish(last_word(self.run))
    }

    /// A compensation did its work.
    pub(super) fn compensated(&mut self, at: At) -> Result<(), Fault> {
        let step = &mut self.run.steps[at.step];
        (step.end, step.fault) = (Some(StepStatus::Compensated), None);
        self.step_event("step.compensated", at, &[])
    }

    /// A compensation failed, was denied, or cannot be told. The run still goes back as far as it safely can.
    pub(super) fn compensation_failed(&mut self, at: At, fault: FaultInfo) -> Result<(), Fault> {
        let step = &mut self.run.steps[at.step];
        (step.end, step.undo.phase) = (Some(StepStatus::CompensationFailed), Phase::Done);
        step.fault = Some(fault.clone());
        self.step_event("step.compensation_failed", at, &[("code", &fault.code)])
    }
}

/// The step being undone, or the next one: the last to succeed of those that have a way back. What a step still
/// stands on
/// because its own compensation failed is left standing.
fn next(run: &RunState) -> Option<usize> {
    if let Some(current) = run.steps.iter().position(StepState::undoing) {
        return Some(current);
    }
    let steps = &run.plan.steps;
    let held: BTreeSet<&str> = (0..steps.len())
        .filter(|nth| run.steps[*nth].end == Some(StepStatus::CompensationFailed))
        .flat_map(|nth| dag::ancestors(steps, &steps[nth].step_id))
        .collect();
    (0..steps.len())
        .filter(|nth| run.steps[*nth].end == Some(StepStatus::Succeeded) && steps[*nth].compensation.is_some())
        .filter(|nth| !held.contains(steps[*nth].step_id.as_str()) && !run.steps[*nth].was_rehearsed())
        .max_by_key(|nth| run.steps[*nth].nth)
}

fn last_word(run: &RunState) -> RunStatus {
    let any = |end| run.steps.iter().any(|step| step.end == Some(end));
    match run.cause {
        _ if any(StepStatus::CompensationFailed) => RunStatus::Failed,
        Some(Cause::Cancelled) => RunStatus::Cancelled,
        Some(Cause::Unknown) => RunStatus::Unknown,
        _ if any(StepStatus::Compensated) => RunStatus::Compensated,
        Some(Cause::Denied) => RunStatus::Denied,
        Some(Cause::Failed) | None => RunStatus::Failed,
    }
}
