//! What is kept of a run between records. Plain data and questions about it; it decides nothing.

use std::collections::BTreeSet;

use kernel::EventTime;
use schemas::Usd;
use schemas::records::{
    ApprovalRef, CallKind, FaultInfo, Obligation, Permit, Plan, RunStatus, Step, StepStatus, Verdict, Waiting,
};
use serde::{Deserialize, Serialize};

/// State of one key: the run, and a verdict that came before its plan (they travel on different topics).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Verdict that came before the plan.
    #[serde(default)]
    pub(super) early: Option<Box<Verdict>>,
    /// The run, once its plan is here.
    #[serde(default)]
    pub(super) run: Option<Box<RunState>>,
}

/// How far an action has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Phase {
    /// Not begun.
    #[default]
    Idle,
    /// Put before the gate; its verdict is awaited.
    Judging,
    /// Escalated; a human's answer is awaited.
    Waiting,
    /// A human approved; it is to be put before the gate again.
    Approved,
    /// The gate allowed it; it is to be called.
    Allowed,
    /// A call is open.
    Calling,
    /// An attempt failed; the next one waits for its time.
    Backoff,
    /// Answered for the last time.
    Done,
}

/// One thing that is judged and then called: a step's action or its compensation. The plan's own judgement uses it too.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Action {
    pub(super) phase: Phase,
    /// Calls made so far.
    pub(super) attempt: i32,
    /// Calls the invoker refused because of a pause: they do not use up attempts.
    pub(super) held: i32,
    /// Arguments with every reference filled in; empty before that.
    pub(super) arguments: String,
    /// Digest of exactly these arguments.
    pub(super) digest: String,
    pub(super) permit: Option<Permit>,
    /// When the verdict that gave the permit was taken in.
    pub(super) allowed_at: Option<EventTime>,
    pub(super) approvals: Vec<ApprovalRef>,
    /// When humans were asked for them.
    pub(super) asked_at: Option<EventTime>,
    pub(super) retry_at: Option<EventTime>,
    /// The open call; empty when there is none.
    pub(super) call_id: String,
}

/// A step of the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct StepState {
    /// How it ended; `None` while it has not.
    pub(super) end: Option<StepStatus>,
    pub(super) result: String,
    pub(super) fault: Option<FaultInfo>,
    pub(super) started_at: Option<EventTime>,
    pub(super) finished_at: Option<EventTime>,
    /// Order of success within the run, from 1; compensation goes backwards through it.
    pub(super) nth: u32,
    /// The plan verdict's permit and the digest it is for.
    pub(super) offered: Option<(String, Permit)>,
    pub(super) action: Action,
    pub(super) undo: Action,
}

/// Why a run is winding down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Cause {
    Failed,
    Denied,
    Cancelled,
    Unknown,
}

/// A run from its plan to its end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct RunState {
    pub(super) plan: Plan,
    /// Judgement of the plan as a whole.
    pub(super) gate: Action,
    /// In the plan's order.
    pub(super) steps: Vec<StepState>,
    pub(super) waiting: Vec<Waiting>,
    /// Digests of verdicts and approvals already taken: a second delivery changes nothing.
    pub(super) seen: BTreeSet<String>,
    /// Why it is held; empty when it is not.
    pub(super) paused: String,
    pub(super) cause: Option<Cause>,
    /// The first fault.
    pub(super) fault: Option<FaultInfo>,
    pub(super) cost: Usd,
    /// The lowest cap that an allow was bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) budget_cap: Option<Usd>,
    pub(super) finished_steps: u32,
    /// Put before the gate again so far: tells one proposal of a subject from another.
    #[serde(default)]
    pub(super) proposals: u32,
    /// How it ended; `None` while it runs.
    pub(super) end: Option<RunStatus>,
    pub(super) created_at: EventTime,
    pub(super) updated_at: EventTime,
    pub(super) finished_at: Option<EventTime>,
    pub(super) revision: i64,
    /// Ended, with arguments and results dropped: nothing is published any more.
    pub(super) shrunk: bool,
}

/// One action of a run: which step, and whether its own action or its compensation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct At {
    pub(super) step: usize,
    pub(super) kind: CallKind,
}

/// What follows a step's id in the id of its compensation.
pub(super) const UNDO: &str = ".compensation";

impl Action {
    /// Under way: somebody other than a human will move it.
    pub(super) fn in_motion(&self) -> bool {
        !matches!(self.phase, Phase::Idle | Phase::Waiting | Phase::Done)
    }
}

impl StepState {
    /// The status a follower sees.
    pub(super) fn status(&self) -> StepStatus {
        match (self.end, self.action.phase) {
            (Some(StepStatus::Succeeded), _) if self.undoing() => StepStatus::Compensating,
            (Some(end), _) => end,
            (None, Phase::Idle | Phase::Done) => StepStatus::Pending,
            (None, Phase::Judging | Phase::Approved | Phase::Allowed) => StepStatus::Judging,
            (None, Phase::Waiting) => StepStatus::WaitingApproval,
            (None, Phase::Calling) => StepStatus::Running,
            (None, Phase::Backoff) => StepStatus::Retrying,
        }
    }

    /// Its call was gone through without its effect: there is nothing to undo, and nothing was done.
    pub(super) fn was_rehearsed(&self) -> bool {
        let bound = self.action.permit.iter().flat_map(|p| &p.obligations);
        bound.into_iter().any(|o| o.kind == Obligation::DRY_RUN)
    }

    /// Its compensation has begun and not ended.
    pub(super) fn undoing(&self) -> bool {
        self.end == Some(StepStatus::Succeeded) && self.undo.phase != Phase::Idle
    }
}

impl RunState {
    /// The definition of an action's step.
    pub(super) fn step(&self, at: At) -> &Step {
        &self.plan.steps[at.step]
    }

    /// Tool, operation and arguments as planned.
    pub(super) fn planned(&self, at: At) -> (&str, &str, &str) {
        let step = self.step(at);
        match (&step.compensation, at.kind) {
            (Some(undo), CallKind::Compensation) => (&undo.tool, &undo.operation, &undo.arguments),
            _ => (&step.tool, &step.operation, &step.arguments),
        }
    }

    pub(super) fn action(&self, at: At) -> &Action {
        let step = &self.steps[at.step];
        if at.kind == CallKind::Action {
            &step.action
        } else {
            &step.undo
        }
    }

    pub(super) fn action_mut(&mut self, at: At) -> &mut Action {
        let step = &mut self.steps[at.step];
        if at.kind == CallKind::Action {
            &mut step.action
        } else {
            &mut step.undo
        }
    }

    /// Name of an action before the gate, in approvals and in timers.
    pub(super) fn subject_id(&self, at: At) -> String {
        let id = &self.step(at).step_id;
        if at.kind == CallKind::Action {
            id.clone()
        } else {
            format!("{id}{UNDO}")
        }
    }

    /// The action of a name.
    pub(super) fn find(&self, subject_id: &str) -> Option<At> {
        let (id, kind) = match subject_id.strip_suffix(UNDO) {
            Some(id) => (id, CallKind::Compensation),
            None => (subject_id, CallKind::Action),
        };
        let step = self.plan.steps.iter().position(|s| s.step_id == id)?;
        Some(At { step, kind })
    }

    /// Every action of the run.
    pub(super) fn all(&self) -> impl Iterator<Item = At> + use<> {
        (0..self.steps.len()).flat_map(|step| [CallKind::Action, CallKind::Compensation].map(|kind| At { step, kind }))
    }

    /// The action whose open call this is.
    pub(super) fn find_call(&self, call_id: &str) -> Option<At> {
        self.all().find(|at| {
            let action = self.action(*at);
            action.phase == Phase::Calling && action.call_id == call_id
        })
    }

    /// A call has not been answered yet.
    pub(super) fn has_open_call(&self) -> bool {
        self.all().any(|at| self.action(at).phase == Phase::Calling)
    }

    /// All needs of a step have succeeded.
    pub(super) fn ready(&self, step: usize) -> bool {
        self.plan.steps[step]
            .needs
            .iter()
            .all(|need| self.result(need).is_some())
    }

    /// Result of a step that succeeded; compensated ones still have theirs.
    pub(super) fn result(&self, step_id: &str) -> Option<&str> {
        let index = self.plan.steps.iter().position(|s| s.step_id == step_id)?;
        let step = &self.steps[index];
        (step.nth > 0).then_some(step.result.as_str())
    }

    /// What may be spent in all, as asked for and as capped; `None` for no limit.
    pub(super) fn budget(&self) -> Option<Usd> {
        self.plan.budget_usd.into_iter().chain(self.budget_cap).min()
    }

    /// Holds the run to the caps of an allow.
    pub(super) fn cap(&mut self, obligations: &[Obligation]) {
        let caps = obligations
            .iter()
            .filter(|o| o.kind == Obligation::CAP_BUDGET)
            .filter_map(|o| o.usd);
        self.budget_cap = caps.chain(self.budget_cap).min();
    }

    /// What may still be spent; `None` for no limit.
    pub(super) fn budget_left(&self) -> Option<Usd> {
        self.budget().map(|budget| Usd(budget.0.saturating_sub(self.cost.0)))
    }

    /// The status a follower sees.
    pub(super) fn status(&self) -> RunStatus {
        if let Some(end) = self.end {
            return end;
        }
        if !self.paused.is_empty() {
            return RunStatus::Paused;
        }
        let moving = self.gate.phase != Phase::Allowed && self.gate.in_motion()
            || self.all().any(|at| self.action(at).in_motion());
        if !self.waiting.is_empty() && !moving {
            return RunStatus::WaitingApproval;
        }
        if self.steps.iter().any(StepState::undoing) {
            return RunStatus::Compensating;
        }
        if self.gate.phase == Phase::Allowed {
            RunStatus::Running
        } else {
            RunStatus::Judging
        }
    }
}
