//! Kill switches, cancels and pauses, taken in before anything else of a turn. Which control is in force the kernel
//! knows.

use kernel::controls::{Covers, key_of, strength};
use kernel::{Fault, FaultCode};
use schemas::records::{CallKind, Control, ControlAction, RunStatus};

use super::Turn;
use super::state::{At, Cause, Phase, RunState};

impl Turn<'_, '_> {
    /// KILL ends the run at once; CANCEL winds it down with compensation; PAUSE holds whatever would start.
    pub(super) fn take_controls(&mut self) -> Result<(), Fault> {
        if self.run.end.is_some() {
            return Ok(());
        }
        let control = covering(self.run, self.fx);
        self.run.paused.clear();
        let Some(control) = control else {
            return Ok(());
        };
        let scope = key_of(control.scope, &control.target);
        let words = |done: &str| format!("{done} by {} at {scope}: {}", control.actor, control.reason);
        match control.action {
            ControlAction::Kill => {
                self.run.fault = Some(Fault::new(FaultCode::ControlStopped, words("killed")).info(false));
                self.finish(RunStatus::Killed)
            }
            ControlAction::Cancel => {
                // A run that is winding down already keeps its own reason.
                if self.run.cause.is_none() {
                    let fault = Fault::new(FaultCode::ControlStopped, words("cancelled")).info(false);
                    self.stop(Cause::Cancelled, &fault);
                }
                Ok(())
            }
            ControlAction::Pause => {
                self.run.paused = words("paused");
                Ok(())
            }
            ControlAction::Resume => Ok(()),
        }
    }
}

/// The strongest control over the run or over a tool it still has work for.
fn covering(run: &RunState, fx: &kernel::Effects<'_>) -> Option<Control> {
    let plan = &run.plan;
    let capsule = plan.capsule.as_deref().unwrap_or_default();
    let mut tools: Vec<&str> = run
        .all()
        .filter(|at| to_do(run, *at))
        .map(|at| run.planned(at).0)
        .collect();
    tools.push("");
    tools.sort_unstable();
    tools.dedup();
    let covers = |tool| Covers {
        tenant: &plan.tenant,
        capsule,
        tool,
        run_id: &plan.run_id,
    };
    let found = tools
        .into_iter()
        .filter_map(|tool| fx.controls().covering(covers(tool)));
    found.max_by_key(|control| strength(control.action)).cloned()
}

/// The action is still to be called or answered. A compensation counts only once the run is winding down.
fn to_do(run: &RunState, at: At) -> bool {
    let step = &run.steps[at.step];
    match at.kind {
        CallKind::Action => step.end.is_none(),
        CallKind::Compensation => {
            run.cause.is_some()
                && run.step(at).compensation.is_some()
                && step.end == Some(schemas::records::StepStatus::Succeeded)
                && step.undo.phase != Phase::Done
        }
    }
}
