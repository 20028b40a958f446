//! Verdicts, approvals and proposals: whether an action may be called. It decides nothing of its own: the gate does,
//! and humans.

use kernel::{Effects, Fault, FaultCode};
use schemas::records::{
    Approval, ApprovalDecision, ApprovalRef, Decision, FaultInfo, Permit, Proposal, ProposedStep, StepVerdict, Subject,
    Verdict, Waiting,
};
use schemas::{digest, topics};
use serde_json::{Value, json};

use super::state::{Action, At, Cause, Phase, RunState};
use super::{Turn, hours, references};

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
                self.run.gate.approval = None;
                let steps = readable_steps(self.run);
                self.wait(Subject::Plan, plan_id, verdict, steps)
            }
            Decision::Allow => {
                self.run.gate.phase = Phase::Allowed;
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
                (action.phase, action.approval) = (Phase::Waiting, None);
                let arguments = action.arguments.clone();
                self.wait(Subject::Step, subject_id, verdict, arguments)
            }
            (Decision::Allow, Some(step)) if !step.signature.is_empty() => {
                let permit = permit(verdict, step);
                let action = self.run.action_mut(at);
                (action.phase, action.permit) = (Phase::Allowed, Some(permit));
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

    /// Asks a human.
    fn wait(
        &mut self,
        subject: Subject,
        subject_id: String,
        verdict: &Verdict,
        arguments: String,
    ) -> Result<(), Fault> {
        let digest = if subject == Subject::Plan {
            self.run.plan.digest.clone()
        } else {
            self.run
                .find(&subject_id)
                .map(|at| self.run.action(at).digest.clone())
                .unwrap_or_default()
        };
        let until = self.fx.now().plus_ms(hours(self.config.approval_hours));
        self.fx.wake_at(format!("approval:{subject_id}"), until);
        self.event("run.waiting", &[("subject", &subject_id), ("reason", &why(verdict))])?;
        self.run.waiting.push(Waiting {
            subject,
            subject_id,
            digest,
            policy_revision: verdict.policy_revision.clone(),
            reason: why(verdict),
            arguments,
            since: self.fx.now(),
        });
        Ok(())
    }

    /// Takes a human's answer in. It counts only for exactly what was shown: anything else is refused and said so.
    pub(super) fn answered_by_human(&mut self, approval: &Approval) -> Result<(), Fault> {
        let decided = if approval.decision == ApprovalDecision::Approve {
            "approve"
        } else {
            "deny"
        };
        // Only an approval that was taken is noted: one that was refused may be sent again when it fits.
        let mark = mark(&[
            "approval",
            &approval.approval_id,
            &approval.subject_id,
            &approval.digest,
            decided,
        ]);
        if self.run.seen.contains(&mark) {
            return Ok(());
        }
        if let Err(reason) = self.fits(approval) {
            return refuse_approval(approval, &reason, self.fx);
        }
        self.run.seen.insert(mark);
        let subject_id = approval.subject_id.clone();
        self.forget_waiting(&subject_id);
        let facts = [
            ("subject", subject_id.as_str()),
            ("decision", decided),
            ("approver", &approval.approver),
        ];
        self.event("approval.accepted", &facts)?;
        if approval.decision == ApprovalDecision::Deny {
            let comment = if approval.comment.is_empty() {
                "no reason given"
            } else {
                &approval.comment
            };
            return self.denied(&subject_id, format!("{} denied it: {comment}", approval.approver));
        }
        let reference = ApprovalRef {
            approval_id: approval.approval_id.clone(),
            approver: approval.approver.clone(),
            digest: approval.digest.clone(),
            policy_revision: approval.policy_revision.clone(),
            expires_at: approval.expires_at,
            decided_at: approval.decided_at,
        };
        let action = match self.run.find(&subject_id) {
            Some(at) if subject_id != self.run.plan.plan_id => self.run.action_mut(at),
            _ => &mut self.run.gate,
        };
        (action.phase, action.approval) = (Phase::Approved, Some(reference));
        Ok(())
    }

    fn fits(&self, approval: &Approval) -> Result<(), String> {
        if approval.tenant != self.run.plan.tenant {
            return Err("the run belongs to another tenant".to_owned());
        }
        if self.run.end.is_some() {
            return Err("the run has ended".to_owned());
        }
        let Some(waiting) = self.run.waiting.iter().find(|w| w.subject_id == approval.subject_id) else {
            return Err(format!(
                "nothing called `{}` waits for an approval",
                approval.subject_id
            ));
        };
        if approval.digest != waiting.digest {
            return Err(format!(
                "it is for digest {}, what waits has {}",
                approval.digest, waiting.digest
            ));
        }
        if approval.decision == ApprovalDecision::Deny {
            return Ok(());
        }
        if approval.policy_revision != waiting.policy_revision {
            return Err(format!(
                "it was given under policy revision {}, what waits was judged under {}",
                approval.policy_revision, waiting.policy_revision
            ));
        }
        match approval.expires_at {
            Some(until) if until <= self.fx.now() => Err(format!("it expired at {until}")),
            _ => Ok(()),
        }
    }

    /// Nobody answered in time.
    pub(super) fn approval_expired(&mut self, subject_id: &str) -> Result<(), Fault> {
        if self.run.end.is_some() || !self.run.waiting.iter().any(|w| w.subject_id == subject_id) {
            return Ok(());
        }
        self.forget_waiting(subject_id);
        self.denied(
            subject_id,
            format!("nobody answered within {} hours", self.config.approval_hours),
        )
    }

    fn denied(&mut self, subject_id: &str, detail: String) -> Result<(), Fault> {
        let fault: FaultInfo = Fault::new(FaultCode::ApprovalDenied, detail).info(false);
        if subject_id == self.run.plan.plan_id {
            self.run.gate.phase = Phase::Done;
            self.stop(Cause::Denied, &fault);
            return Ok(());
        }
        match self.run.find(subject_id) {
            Some(at) => self.deny(at, fault),
            None => Ok(()),
        }
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
        let (plan_id, approval) = (self.run.plan.plan_id.clone(), self.run.gate.approval.clone());
        self.put_forward(Subject::Plan, plan_id, self.run.plan.digest.clone(), steps, approval)
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
            approval_required: self.run.step(at).approval_required && at.kind == schemas::records::CallKind::Action,
        };
        let approval = action.approval.clone();
        self.run.action_mut(at).phase = Phase::Judging;
        self.put_forward(
            Subject::Step,
            step.step_id.clone(),
            step.digest.clone(),
            vec![step],
            approval,
        )
    }

    fn put_forward(
        &mut self,
        subject: Subject,
        subject_id: String,
        subject_digest: String,
        steps: Vec<ProposedStep>,
        approval: Option<ApprovalRef>,
    ) -> Result<(), Fault> {
        let plan = &self.run.plan;
        let now = self.fx.now();
        let approval_id = approval.as_ref().map(|a| a.approval_id.as_str()).unwrap_or_default();
        let parts = [
            plan.run_id.as_str(),
            &subject_id,
            &subject_digest,
            approval_id,
            &now.0.to_string(),
        ];
        let proposal = Proposal {
            proposal_id: digest::id("pro", &parts),
            run_id: plan.run_id.clone(),
            tenant: plan.tenant.clone(),
            actor: plan.actor.clone(),
            roles: plan.roles.clone(),
            goal: plan.goal.clone(),
            capsule: plan.capsule.clone(),
            autonomy: plan.autonomy,
            budget_usd: plan.budget_usd,
            subject,
            subject_id,
            subject_digest,
            steps,
            approval,
            proposed_at: now,
        };
        self.fx
            .emit(topics::PROPOSALS, plan.run_id.clone(), &plan.tenant, &proposal)
    }

    /// Nobody is asked about this any more.
    pub(super) fn forget_waiting(&mut self, subject_id: &str) {
        if self.run.waiting.iter().any(|w| w.subject_id == subject_id) {
            self.run.waiting.retain(|w| w.subject_id != subject_id);
            self.fx.drop_timer(format!("approval:{subject_id}"));
        }
    }

    /// Nobody is asked about anything any more.
    pub(super) fn close_waiting(&mut self) {
        for waiting in std::mem::take(&mut self.run.waiting) {
            self.fx.drop_timer(format!("approval:{}", waiting.subject_id));
        }
    }
}

/// What is noted of a record that was taken in.
fn mark(parts: &[&str]) -> String {
    digest::sha256_hex(parts)[..16].to_owned()
}

/// Says that an approval was not taken, and why.
pub(super) fn refuse_approval(approval: &Approval, reason: &str, fx: &mut Effects<'_>) -> Result<(), Fault> {
    let facts = [
        ("approval_id", approval.approval_id.as_str()),
        ("subject", &approval.subject_id),
        ("approver", &approval.approver),
        ("reason", reason),
    ];
    fx.event(&approval.tenant, &approval.run_id, "approval.refused", &facts)
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
    }
}

/// What the rules say, each once; the verdict's own sentence when no rule spoke.
fn why(verdict: &Verdict) -> String {
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

/// The steps of a plan as a human is shown them.
fn readable_steps(run: &RunState) -> String {
    let shown = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_else(|_| Value::String(text.to_owned()));
    let steps = run.plan.steps.iter().map(|s| {
        json!({"step_id": s.step_id, "tool": s.tool, "operation": s.operation, "needs": s.needs,
               "approval_required": s.approval_required, "arguments": shown(&s.arguments),
               "compensation": s.compensation.as_ref().map(|c| json!({"tool": c.tool, "operation": c.operation, "arguments": shown(&c.arguments)}))})
    });
    Value::Array(steps.collect()).to_string()
}
