//! Humans: what is put to them, what they answer, what they hand on, and a receipt for each of their words. An answer counts only
//! for exactly what was shown, from somebody who may give it.

use kernel::{Effects, Fault, FaultCode};
use schemas::records::{
    Approval, ApprovalDecision, ApprovalRef, Ask, Delegation, FaultInfo, HandedOn, Receipt, Subject, Verdict, Waiting,
};
use schemas::{digest, topics};
use serde_json::{Value, json};

use super::judge::{mark, why};
use super::state::{Cause, Phase, RunState};
use super::{Turn, hours};
use crate::approvers::{self, Question, Refusal};

/// Most decisions handed on about one subject.
const HANDED_ON_MAX: usize = 20;

impl Turn<'_, '_> {
    /// Asks a human.
    pub(super) fn wait(
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
        let now = self.fx.now();
        // An older gate says only that it escalates: anyone but the actor may answer.
        let asks = if verdict.asks.is_empty() {
            vec![Ask::default()]
        } else {
            verdict.asks.clone()
        };
        let within_ms = asks
            .iter()
            .filter(|a| a.within_s > 0)
            .map(|a| a.within_s.saturating_mul(1000))
            .min();
        let until = now.plus_ms(within_ms.unwrap_or_else(|| hours(self.config.approval_hours)));
        self.fx.wake_at(format!("approval:{subject_id}"), until);
        for after_s in later(&asks) {
            self.fx.wake_at(
                deputy_timer(after_s, &subject_id),
                now.plus_ms(after_s.saturating_mul(1000)),
            );
        }
        let who: Vec<_> = asks.iter().map(approvers::who_may).collect();
        let facts = [
            ("subject", subject_id.as_str()),
            ("reason", &why(verdict)),
            ("approvers", &who.join("; ")),
        ];
        self.event("run.waiting", &facts)?;
        self.run.waiting.push(Waiting {
            subject,
            subject_id,
            digest,
            policy_revision: verdict.policy_revision.clone(),
            reason: why(verdict),
            arguments,
            since: now,
            asks,
            given: Vec::new(),
            handed_on: Vec::new(),
            until: Some(until),
        });
        Ok(())
    }

    fn question<'q>(&'q self, waiting: &'q Waiting) -> Question<'q> {
        let plan = &self.run.plan;
        Question {
            tenant: &plan.tenant,
            actor: &plan.actor,
            run_id: &plan.run_id,
            digest: &waiting.digest,
            revision: &waiting.policy_revision,
            asked_at: Some(waiting.since),
            now: self.fx.now(),
            members: self.fx.controls().members(),
        }
    }

    /// Takes a human's answer in.
    pub(super) fn answered_by_human(&mut self, approval: &Approval) -> Result<(), Fault> {
        let approves = approval.decision == ApprovalDecision::Approve;
        let decided = if approves { "approve" } else { "deny" };
        // Only an approval that was taken is noted: one that was refused may be sent again when it fits.
        let parts = [
            "approval",
            &approval.approval_id,
            &approval.subject_id,
            &approval.digest,
            decided,
        ];
        let mark = mark(&parts);
        if self.run.seen.contains(&mark) {
            return Ok(());
        }
        let (nth, reference) = match self.fits(approval) {
            Ok(fitting) => fitting,
            Err(refusal) => return refused(Word::of(approval), refusal, self.fx),
        };
        self.run.seen.insert(mark);
        let subject_id = approval.subject_id.clone();
        if !approves {
            self.counted(Word::of(approval), "approval.accepted", decided, String::new())?;
            return self.denied_by_human(&subject_id, approval);
        }
        // Those that have run out since go: their givers may give them again.
        let mut given = self.run.waiting[nth].given.clone();
        let question = self.question(&self.run.waiting[nth]);
        given.retain(|a| question.void(a).is_none());
        given.push(reference);
        self.run.waiting[nth].given = given;
        let waiting = &self.run.waiting[nth];
        let question = self.question(waiting);
        let good: Vec<_> = waiting.given.iter().collect();
        let open: Vec<_> = waiting
            .asks
            .iter()
            .filter_map(|ask| question.unmet(ask, &good))
            .collect();
        if let Some((_, detail)) = open.into_iter().next() {
            return self.counted(Word::of(approval), "approval.accepted", decided, detail);
        }
        let (approvals, since) = (waiting.given.clone(), waiting.since);
        self.forget_waiting(&subject_id);
        self.counted(Word::of(approval), "approval.accepted", decided, String::new())?;
        let action = match self.run.find(&subject_id) {
            Some(at) if subject_id != self.run.plan.plan_id => self.run.action_mut(at),
            _ => &mut self.run.gate,
        };
        (action.phase, action.approvals, action.asked_at) = (Phase::Approved, approvals, Some(since));
        Ok(())
    }

    /// The waiting subject a word is about, if it is for what waits.
    fn about(&self, tenant: &str, subject_id: &str, digest: &str) -> Result<usize, Refusal> {
        if tenant != self.run.plan.tenant {
            return Err(("approval.other_tenant", "the run belongs to another tenant".to_owned()));
        }
        if self.run.end.is_some() {
            return Err(("approval.run_ended", "the run has ended".to_owned()));
        }
        let Some(nth) = self.run.waiting.iter().position(|w| w.subject_id == subject_id) else {
            let detail = format!("nothing called `{subject_id}` waits for an approval");
            return Err(("approval.nothing_waits", detail));
        };
        let waiting = &self.run.waiting[nth];
        if digest != waiting.digest {
            let detail = format!("it is for digest {digest}, what waits has {}", waiting.digest);
            return Err(("approval.digest", detail));
        }
        Ok(nth)
    }

    /// Which waiting subject an answer counts for, and as what.
    fn fits(&self, approval: &Approval) -> Result<(usize, ApprovalRef), Refusal> {
        let nth = self.about(&approval.tenant, &approval.subject_id, &approval.digest)?;
        let waiting = &self.run.waiting[nth];
        let question = self.question(waiting);
        let mut reference = ApprovalRef {
            approval_id: approval.approval_id.clone(),
            approver: approval.approver.clone(),
            digest: approval.digest.clone(),
            policy_revision: approval.policy_revision.clone(),
            expires_at: approval.expires_at,
            decided_at: approval.decided_at,
            run_id: approval.run_id.clone(),
            on_behalf_of: None,
            rules: shown_rules(waiting),
        };
        let may = |person: &str| waiting.asks.iter().any(|ask| question.may(ask, person));
        if !may(&approval.approver) {
            let principal = approvers::principal(&waiting.handed_on, &approval.approver, may);
            reference.on_behalf_of = principal.map(str::to_owned);
        }
        let entitled = reference.on_behalf_of.is_some() || may(&approval.approver);
        let unfit = || waiting.asks.first().map(|ask| approvers::unfit_for(ask, &reference));
        if approval.decision == ApprovalDecision::Deny {
            // Who asked may take it back.
            return match unfit().filter(|_| !entitled && approval.approver != self.run.plan.actor) {
                Some(refusal) => Err(refusal),
                None => Ok((nth, reference)),
            };
        }
        if let Some(refusal) = question.void(&reference) {
            return Err(refusal);
        }
        let said = |a: &ApprovalRef| a.approver == approval.approver && question.void(a).is_none();
        if waiting.given.iter().any(said) {
            let detail = format!("{} has approved it already: somebody else must", approval.approver);
            return Err(("approval.twice", detail));
        }
        match unfit().filter(|_| !entitled) {
            Some(refusal) => Err(refusal),
            None => Ok((nth, reference)),
        }
    }

    fn counted(&mut self, word: Word<'_>, code: &'static str, decided: &str, detail: String) -> Result<(), Fault> {
        let facts = [
            ("subject", word.subject_id),
            ("decision", decided),
            ("approver", word.who),
            ("open", detail.as_str()),
        ];
        self.event(code, &facts)?;
        receipt(&word, true, &(code, detail.clone()), self.fx)
    }

    /// Takes in that somebody hands the decision on.
    pub(super) fn handed_on(&mut self, delegation: &Delegation) -> Result<(), Fault> {
        let parts = [
            "delegation",
            &delegation.delegation_id,
            &delegation.subject_id,
            &delegation.digest,
        ];
        let mark = mark(&parts);
        if self.run.seen.contains(&mark) {
            return Ok(());
        }
        let word = Word::handing(delegation);
        let nth = match self.may_hand_on(delegation) {
            Ok(nth) => nth,
            Err(refusal) => return refused(word, refusal, self.fx),
        };
        self.run.seen.insert(mark);
        let (from, to) = (delegation.from.clone(), delegation.to.clone());
        let detail = format!("{from} handed it on to {to}");
        self.run.waiting[nth].handed_on.push(HandedOn { from, to });
        self.counted(word, "approval.delegated", "delegate", detail)
    }

    fn may_hand_on(&self, delegation: &Delegation) -> Result<usize, Refusal> {
        let nth = self.about(&delegation.tenant, &delegation.subject_id, &delegation.digest)?;
        let waiting = &self.run.waiting[nth];
        let question = self.question(waiting);
        let (from, to) = (delegation.from.as_str(), delegation.to.as_str());
        if to.trim().is_empty() || to == from {
            return Err(("approval.incomplete", "it names nobody else to decide".to_owned()));
        }
        if to == self.run.plan.actor {
            let detail = format!("{to} asked for this and cannot approve it: hand it on to somebody else");
            return Err(("approval.self", detail));
        }
        if waiting.handed_on.len() >= HANDED_ON_MAX {
            return Err((
                "approval.incomplete",
                "it has been handed on too often: decide".to_owned(),
            ));
        }
        let may = |person: &str| waiting.asks.iter().any(|ask| question.may(ask, person));
        if may(from) || approvers::principal(&waiting.handed_on, from, may).is_some() {
            return Ok(nth);
        }
        let asked = waiting.asks.first().map(approvers::who_may).unwrap_or_default();
        Err((
            "approval.approver",
            format!("{from} may not decide it and so cannot hand it on: needed is {asked}"),
        ))
    }

    /// Nobody has answered for a while: others may now.
    pub(super) fn deputies_due(&mut self, after_s: &str, subject_id: &str) -> Result<(), Fault> {
        let Some(waiting) = self.run.waiting.iter().find(|w| w.subject_id == subject_id) else {
            return Ok(());
        };
        let due = waiting
            .asks
            .iter()
            .flat_map(|a| &a.deputies)
            .filter(|d| d.after_s.to_string() == after_s);
        let now: Vec<_> = due.flat_map(|d| d.approvers.iter().chain(&d.roles).cloned()).collect();
        let facts = [
            ("subject", subject_id),
            ("after_s", after_s),
            ("approvers", &now.join(", ")),
        ];
        self.event("approval.escalated", &facts)
    }

    /// Nobody answered in time.
    pub(super) fn approval_expired(&mut self, subject_id: &str) -> Result<(), Fault> {
        let waiting = self.run.waiting.iter().find(|w| w.subject_id == subject_id);
        let Some(waiting) = waiting.filter(|_| self.run.end.is_none()) else {
            return Ok(());
        };
        let within_s = waiting.until.map_or(0, |u| u.micros_since(waiting.since) / 1_000_000);
        let within = if within_s % 3600 == 0 {
            format!("{} hours", within_s / 3600)
        } else {
            format!("{within_s} s")
        };
        self.forget_waiting(subject_id);
        let fault = Fault::new(FaultCode::ApprovalDenied, format!("nobody answered within {within}"));
        self.denied(subject_id, fault.info(false))
    }

    fn denied_by_human(&mut self, subject_id: &str, approval: &Approval) -> Result<(), Fault> {
        self.forget_waiting(subject_id);
        let comment = match approval.comment.as_str() {
            "" => "no reason given",
            comment => comment,
        };
        let fault = if approval.changes_requested {
            let detail = format!("{} asks for changes: {comment}", approval.approver);
            Fault::new(FaultCode::ChangesRequested, detail)
        } else {
            let detail = format!("{} denied it: {comment}", approval.approver);
            Fault::new(FaultCode::ApprovalDenied, detail)
        };
        self.denied(subject_id, fault.info(false))
    }

    fn denied(&mut self, subject_id: &str, fault: FaultInfo) -> Result<(), Fault> {
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

    /// Nobody is asked about this any more.
    pub(super) fn forget_waiting(&mut self, subject_id: &str) {
        let (gone, kept) = std::mem::take(&mut self.run.waiting)
            .into_iter()
            .partition(|w| w.subject_id == subject_id);
        self.run.waiting = kept;
        self.drop_timers(gone);
    }

    /// Nobody is asked about anything any more.
    pub(super) fn close_waiting(&mut self) {
        let all = std::mem::take(&mut self.run.waiting);
        self.drop_timers(all);
    }

    fn drop_timers(&mut self, gone: Vec<Waiting>) {
        for waiting in gone {
            self.fx.drop_timer(format!("approval:{}", waiting.subject_id));
            for after_s in later(&waiting.asks) {
                self.fx.drop_timer(deputy_timer(after_s, &waiting.subject_id));
            }
        }
    }
}

/// When deputies come in, seconds, each once.
fn later(asks: &[Ask]) -> std::collections::BTreeSet<i64> {
    asks.iter().flat_map(|a| &a.deputies).map(|d| d.after_s).collect()
}

fn deputy_timer(after_s: i64, subject_id: &str) -> String {
    format!("deputy:{after_s}:{subject_id}")
}

/// The rules an approver is shown.
fn shown_rules(waiting: &Waiting) -> Vec<String> {
    let rules = waiting.asks.iter().map(|a| a.rule.clone());
    let mut rules: Vec<_> = rules.filter(|r| !r.is_empty()).collect();
    rules.sort();
    rules.dedup();
    rules
}

/// A human's word, whatever record it came in.
#[derive(Clone, Copy)]
pub(super) struct Word<'a> {
    id: &'a str,
    tenant: &'a str,
    subject_id: &'a str,
    who: &'a str,
}

impl<'a> Word<'a> {
    pub(super) fn of(approval: &'a Approval) -> Self {
        Self {
            id: &approval.approval_id,
            tenant: &approval.tenant,
            subject_id: &approval.subject_id,
            who: &approval.approver,
        }
    }

    pub(super) fn handing(delegation: &'a Delegation) -> Self {
        Self {
            id: &delegation.delegation_id,
            tenant: &delegation.tenant,
            subject_id: &delegation.subject_id,
            who: &delegation.from,
        }
    }
}

/// Says that a human's word does not count, and why.
pub(super) fn refused(word: Word<'_>, refusal: Refusal, fx: &mut Effects<'_>) -> Result<(), Fault> {
    let facts = [
        ("approval_id", word.id),
        ("subject", word.subject_id),
        ("approver", word.who),
        ("code", refusal.0),
        ("reason", refusal.1.as_str()),
    ];
    let run_id = fx.key().to_owned();
    fx.event(word.tenant, &run_id, "approval.refused", &facts)?;
    receipt(&word, false, &refusal, fx)
}

fn receipt(word: &Word<'_>, counted: bool, (code, detail): &Refusal, fx: &mut Effects<'_>) -> Result<(), Fault> {
    let run_id = fx.key().to_owned();
    let receipt = Receipt {
        receipt_id: digest::id("rcp", &[&run_id, word.id, word.subject_id, code, detail]),
        answer_id: word.id.to_owned(),
        run_id: run_id.clone(),
        tenant: word.tenant.to_owned(),
        subject_id: word.subject_id.to_owned(),
        approver: word.who.to_owned(),
        counted,
        code: (*code).to_owned(),
        detail: detail.clone(),
        receipted_at: fx.now(),
    };
    fx.emit(topics::RECEIPTS, run_id, word.tenant, &receipt)
}

/// The steps of a plan as a human is shown them.
pub(super) fn readable_steps(run: &RunState) -> String {
    let shown = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_else(|_| Value::String(text.to_owned()));
    let steps = run.plan.steps.iter().map(|s| {
        json!({"step_id": s.step_id, "tool": s.tool, "operation": s.operation, "needs": s.needs,
               "approval_required": s.approval_required, "arguments": shown(&s.arguments),
               "compensation": s.compensation.as_ref().map(|c| json!({"tool": c.tool, "operation": c.operation, "arguments": shown(&c.arguments)}))})
    });
    Value::Array(steps.collect()).to_string()
}
