//! Verdicts and proposals: whether an action may be called. It decides nothing of its own: the gate does, and humans
//! (`humans`).

use kernel::{Fault, FaultCode};
use schemas::records::{
    ApprovalRef, CallKind, Decision, Done, Permit, Proposal, ProposedStep, Step, StepVerdict, Subject, Verdict,
};
use schemas::{Timestamp, digest, topics};

use super::humans::readable_steps;
use super::state::{Action, At, Cause, Phase, RunState, StepState};
use super::{Turn, references};

impl Turn<'_, '_> {
    /// Takes a verdict in. One that was taken in before, or that nobody waits for, changes nothing.
    pub(super) fn judged(&mut self, verdict: &Verdict) -> Result<(), Fault> {
        let decided_at = verdict.decided_at.0.to_string();
        let approval_id = verdict.approval_id.as_deref().unwrap_or_default();
        let decision = verdict.decision.word();
        let mark = mark(&[
            "verdict",
            &verdict.verdict_id,
            &verdict.digest,
            decision,
            approval_id,
            &decided_at,
        ]);
        if self.run.end.is_some() || !self.run.seen.insert(mark) {
            return Ok(());
        }
        match verdict.subject {
            Subject::Plan => self.plan_judged(verdict),
            Subject::Step => match self.run.find(&verdict.subject_id) {
                Some(at) if awaits(self.run.action(at)) => self.step_judged(at, verdict),
                _ => Ok(()),
            },
        }
    }

    fn plan_judged(&mut self, verdict: &Verdict) -> Result<(), Fault> {
        if !awaits(&self.run.gate) || self.run.cause.is_some() {
            return Ok(());
        }
        if verdict.decision != Decision::Deny && verdict.digest != self.run.plan.digest {
            return self.ignored(verdict, "it is about another digest than this plan's");
        }
        let plan_id = self.run.plan.plan_id.clone();
        self.forget_waiting(&plan_id);
        match verdict.decision {
            Decision::Deny => {
                self.run.gate.phase = Phase::Done;
                self.stop(
                    Cause::Denied,
                    &Fault::new(FaultCode::PolicyDenied, why(verdict)).info(false),
                );
                Ok(())
            }
            Decision::Escalate => {
                self.run.gate.phase = Phase::Waiting;
                self.run.gate.approvals.clear();
                let steps = readable_steps(self.run);
                self.wait(Subject::Plan, plan_id, verdict, steps)
            }
            Decision::Allow => {
                self.run.gate.phase = Phase::Allowed;
                self.run.gate.allowed_at = Some(self.fx.now());
                self.run.cap(&verdict.obligations);
                for step in verdict
                    .steps
                    .iter()
                    .filter(|s| s.decision == Decision::Allow && !s.signature.is_empty())
                {
                    if let Some(at) = self.run.find(&step.step_id) {
                        self.run.steps[at.step].offered = Some((step.digest.clone(), permit(verdict, step)));
                    }
                }
                Ok(())
            }
        }
    }

    fn step_judged(&mut self, at: At, verdict: &Verdict) -> Result<(), Fault> {
        let (digest, subject_id) = (self.run.action(at).digest.clone(), self.run.subject_id(at));
        let step = verdict
            .steps
            .iter()
            .find(|s| s.step_id == subject_id && s.digest == digest);
        let decision = step.map_or(verdict.decision, |s| stricter(s.decision, verdict.decision));
        if decision != Decision::Deny && verdict.digest != digest && step.is_none() {
            return self.ignored(verdict, "it is about another digest than this step's");
        }
        self.forget_waiting(&subject_id);
        match (decision, step) {
            (Decision::Deny, _) => self.deny(at, Fault::new(FaultCode::PolicyDenied, why(verdict)).info(false)),
            (Decision::Escalate, _) => {
                let action = self.run.action_mut(at);
                action.phase = Phase::Waiting;
                action.approvals.clear();
                let arguments = action.arguments.clone();
                self.wait(Subject::Step, subject_id, verdict, arguments)
            }
            (Decision::Allow, Some(step)) if !step.signature.is_empty() => {
                let permit = permit(verdict, step);
                self.run.cap(&verdict.obligations);
                let now = self.fx.now();
                let action = self.run.action_mut(at);
                (action.phase, action.permit, action.allowed_at) = (Phase::Allowed, Some(permit), Some(now));
                Ok(())
            }
            (Decision::Allow, _) => {
                let detail = format!(
                    "verdict {} allows `{subject_id}` without a signature; the invoker would refuse it",
                    verdict.verdict_id
                );
                self.fail(at, Fault::new(FaultCode::PermitInvalid, detail).info(false))
            }
        }
    }

    fn ignored(&mut self, verdict: &Verdict, reason: &str) -> Result<(), Fault> {
        self.event(
            "verdict.ignored",
            &[
                ("verdict_id", &verdict.verdict_id),
                ("subject", &verdict.subject_id),
                ("reason", reason),
            ],
        )
    }

    /// Puts the plan before the gate again, with the approval. Steps whose arguments are not known yet come one by
    /// one later.
    pub(super) fn propose_plan(&mut self) -> Result<(), Fault> {
        let mut steps = Vec::new();
        for step in self
            .run
            .plan
            .steps
            .iter()
            .filter(|s| references::is_static(&s.arguments))
        {
            let digest = digest::action(&step.tool, &step.operation, &step.arguments)
                .map_err(|e| Fault::new(FaultCode::Internal, format!("step `{}`: {e}", step.step_id)))?;
            steps.push(ProposedStep {
                step_id: step.step_id.clone(),
                tool: step.tool.clone(),
                operation: step.operation.clone(),
                arguments: step.arguments.clone(),
                digest,
                approval_required: step.approval_required,
            });
        }
        self.run.gate.phase = Phase::Judging;
        let resting = Resting::on(&self.run.gate);
        let (plan_id, digest) = (self.run.plan.plan_id.clone(), self.run.plan.digest.clone());
        self.put_forward(Subject::Plan, plan_id, digest, steps, resting)
    }

    /// Puts one action before the gate with its exact arguments.
    pub(super) fn propose(&mut self, at: At) -> Result<(), Fault> {
        let (tool, operation, _) = self.run.planned(at);
        let action = self.run.action(at);
        let step = ProposedStep {
            step_id: self.run.subject_id(at),
            tool: tool.to_owned(),
            operation: operation.to_owned(),
            arguments: action.arguments.clone(),
            digest: action.digest.clone(),
            approval_required: self.run.step(at).approval_required && at.kind == CallKind::Action,
        };
        let resting = self.resting(at);
        self.run.action_mut(at).phase = Phase::Judging;
        self.put_forward(
            Subject::Step,
            step.step_id.clone(),
            step.digest.clone(),
            vec![step],
            resting,
        )
    }

    /// What an action's judgement may rest on: approvals of its own, or those of the plan where the gate has allowed exactly
    /// this step since.
    fn resting(&self, at: At) -> Resting {
        let action = self.run.action(at);
        if !action.approvals.is_empty() || at.kind == CallKind::Compensation {
            return Resting::on(action);
        }
        let offered = self.run.steps[at.step].offered.as_ref();
        let earlier = offered.filter(|(digest, _)| *digest == action.digest);
        match earlier {
            Some((_, permit)) if !self.run.gate.approvals.is_empty() => Resting {
                permit: Some(permit.clone()),
                ..Resting::on(&self.run.gate)
            },
            _ => Resting::default(),
        }
    }

    fn put_forward(
        &mut self,
        subject: Subject,
        subject_id: String,
        subject_digest: String,
        steps: Vec<ProposedStep>,
        resting: Resting,
    ) -> Result<(), Fault> {
        self.run.proposals += 1;
        let nth = self.run.proposals.to_string();
        let plan = &self.run.plan;
        let now = self.fx.now();
        let approval = resting.approvals.first().cloned();
        let approval_id = approval.as_ref().map(|a| a.approval_id.as_str()).unwrap_or_default();
        let parts = [plan.run_id.as_str(), &subject_id, &subject_digest, approval_id, &nth];
        let proposal = Proposal {
            proposal_id: digest::id("pro", &parts),
            run_id: plan.run_id.clone(),
            tenant: plan.tenant.clone(),
            actor: plan.actor.clone(),
            roles: plan.roles.clone(),
            goal: plan.goal.clone(),
            capsule: plan.capsule.clone(),
            autonomy: plan.autonomy,
            region: plan.region.clone(),
            data_classes: plan.data_classes.clone(),
            budget_usd: self.run.budget(),
            subject,
            subject_id,
            subject_digest,
            steps,
            approval,
            approvals: resting.approvals,
            asked_at: resting.asked_at,
            permit: resting.permit,
            done: done(self.run),
            proposed_at: now,
        };
        self.fx
            .emit(topics::PROPOSALS, plan.run_id.clone(), &plan.tenant, &proposal)
    }
}

/// What has succeeded so far, in order; what was undone since is in it all the same, what was only rehearsed is not.
fn done(run: &RunState) -> Vec<Done> {
    let mut all: Vec<_> = run
        .steps
        .iter()
        .zip(&run.plan.steps)
        .filter(|(state, _)| state.nth > 0 && !state.was_rehearsed())
        .collect();
    all.sort_by_key(|(state, _)| state.nth);
    let one = |(state, step): (&StepState, &Step)| Done {
        step_id: step.step_id.clone(),
        tool: step.tool.clone(),
        operation: step.operation.clone(),
        finished_at: state.finished_at.unwrap_or_default(),
    };
    all.into_iter().map(one).collect()
}

/// Humans' word that a proposal brings.
#[derive(Default)]
struct Resting {
    approvals: Vec<ApprovalRef>,
    asked_at: Option<Timestamp>,
    permit: Option<Permit>,
}

impl Resting {
    fn on(action: &Action) -> Self {
        Self {
            approvals: action.approvals.clone(),
            asked_at: action.asked_at,
            permit: None,
        }
    }
}

/// What is noted of a record that was taken in.
pub(super) fn mark(parts: &[&str]) -> String {
    digest::sha256_hex(parts)[..16].to_owned()
}

/// A verdict is wanted. While a human is asked too: the gate may have changed its mind.
fn awaits(action: &Action) -> bool {
    matches!(action.phase, Phase::Judging | Phase::Waiting)
}

fn stricter(a: Decision, b: Decision) -> Decision {
    match (a, b) {
        (Decision::Deny, _) | (_, Decision::Deny) => Decision::Deny,
        (Decision::Escalate, _) | (_, Decision::Escalate) => Decision::Escalate,
        _ => Decision::Allow,
    }
}

fn permit(verdict: &Verdict, step: &StepVerdict) -> Permit {
    Permit {
        verdict_id: verdict.verdict_id.clone(),
        policy_revision: verdict.policy_revision.clone(),
        decided_at: verdict.decided_at,
        signature: step.signature.clone(),
        obligations: step.obligations.clone(),
    }
}

/// What the rules say, each once; the verdict's own sentence when no rule spoke.
pub(super) fn why(verdict: &Verdict) -> String {
    let mut said: Vec<&str> = Vec::new();
    for violation in &verdict.violations {
        if !said.contains(&violation.description.as_str()) {
            said.push(&violation.description);
        }
    }
    if said.is_empty() {
        return if verdict.reason.is_empty() {
            "the policy gave no reason".to_owned()
        } else {
            verdict.reason.clone()
        };
    }
    said.join("; ")
}
