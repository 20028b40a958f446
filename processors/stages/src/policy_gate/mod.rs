//! The policy gate: a verdict for every plan and every proposal, and a signed permit for each step it allows. It keeps no state
//! and touches nothing; the invoker knows only its public key. Beside its input it knows what is in force when it judges: the
//! bundles on its shelf, the constitutions, and who holds which roles.

mod adjudicate;
#[cfg(test)]
mod alike;
mod answer;
mod approval;
mod bundle;
mod bytecode;
mod case;
pub mod constitution;
mod cyclonedx;
mod document;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod humans;
mod judge;
mod machine;
mod moderation;
mod recursion;
mod rego;
mod rules;
mod run;
mod runner;
pub mod sbom;
mod shelf;
mod tally;
#[cfg(test)]
mod tests;
mod walks;

use ed25519_dalek::{Signature, Signer, SigningKey};
use kernel::members::Members;
use kernel::{Delivery, Effects, EventTime, Fault, FaultCode, Processor};
use schemas::records::{Decision, Obligation, Plan, Proposal, ProposedStep, StepVerdict, Subject, Verdict, Violation};
use schemas::{Timestamp, digest, permit, topics};

use crate::approvers::Question;

pub use answer::Source;
use answer::{Finding, Tallied};
pub use bundle::{Bundle, Coverage, TestResult, unsound};
use case::{Case, plan_case, proposal_case};
use judge::Judge;
pub use rego::Rego;
pub use shelf::{Shelf, combined};

kernel::inputs! {
    /// What the gate judges.
    pub enum Input { Plan(Plan) = topics::PLANS, Proposal(Proposal) = topics::PROPOSALS }
}

/// The Ed25519 public key that belongs to a signing key: all the invoker may know of it.
pub fn public_key(signing_key: [u8; 32]) -> [u8; 32] {
    SigningKey::from_bytes(&signing_key).verifying_key().to_bytes()
}

/// The policy gate stage.
pub struct PolicyGate {
    judge: Judge,
    revision: String,
    shelf: Shelf,
    traits: Option<Traits>,
    key: SigningKey,
    signs: bool,
    stopwatch: fn() -> u64,
}

/// What is known of a call before it is made, by tool, operation and arguments; null where nothing is.
pub type Traits = std::sync::Arc<dyn Fn(&str, &str, &str) -> serde_json::Value + Send + Sync>;

/// The id of a verdict. `cause` tells a judgement from another of the same subject: `plan`, or the id of the proposal.
pub fn verdict_id(run_id: &str, kind: &str, subject_id: &str, digest: &str, revision: &str, cause: &str) -> String {
    digest::id("ver", &["ver", run_id, kind, subject_id, digest, revision, cause])
}

/// A verdict, and what is to be counted of the steps it lets go.
type Judged = (Verdict, Vec<Tallied>);

/// What is known of a subject beside the case itself.
struct Subjected<'a> {
    run_id: &'a str,
    /// When humans were asked about it.
    asked_at: Option<Timestamp>,
    members: &'a Members,
    /// What tells this judgement from another of the same subject: the proposal, or `plan`.
    cause: &'a str,
    digest: String,
    findings: Vec<Finding>,
}

impl PolicyGate {
    /// A gate over a bundle. `signing_key` is the Ed25519 secret; `stopwatch` gives microseconds from any fixed start.
    pub fn new(bundle: Bundle, signing_key: [u8; 32], stopwatch: fn() -> u64) -> Self {
        let revision = bundle.revision().to_owned();
        Self {
            judge: Judge::new(bundle, Source::Base),
            revision,
            shelf: Shelf::default(),
            traits: None,
            key: SigningKey::from_bytes(&signing_key),
            signs: true,
            stopwatch,
        }
    }

    /// Another gate like this one, nothing of which is evaluated yet: a bundle is read, proven and compiled once.
    #[must_use]
    pub fn another(&self) -> Self {
        Self {
            judge: self.judge.another(),
            revision: self.revision.clone(),
            shelf: self.shelf.clone(),
            traits: self.traits.clone(),
            key: self.key.clone(),
            signs: self.signs,
            stopwatch: self.stopwatch,
        }
    }

    /// The Ed25519 public key that its permits are checked with.
    pub fn public_key(&self) -> [u8; 32] {
        self.key.verifying_key().to_bytes()
    }

    /// The same gate with this shelf.
    pub fn with_shelf(self, shelf: Shelf) -> Self {
        Self { shelf, ..self }
    }

    /// The same gate whose permits are never signed: what it allows lets nothing out. For trying policies on history.
    pub fn unsigned(self) -> Self {
        Self { signs: false, ..self }
    }

    /// The same gate that tells policies what the tools say of their calls.
    pub fn with_traits(self, traits: Traits) -> Self {
        Self {
            traits: Some(traits),
            ..self
        }
    }

    /// Revision of the bundle it was deployed with.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// The verdict on what is put before it, at a time, while these people hold these roles.
    ///
    /// # Errors
    /// `RECORD_INVALID` for a plan that has no digest.
    pub fn judge(&self, input: &Input, now: EventTime, members: &Members) -> Result<Verdict, Fault> {
        Ok(self.judge_digested(input, digest_of(input)?, now, members))
    }

    /// The same of what was digested already: `digest` is what [`digest_of`] gave of it.
    pub fn judge_digested(&self, input: &Input, digest: String, now: EventTime, members: &Members) -> Verdict {
        self.judged(input, digest, now, members).0
    }

    fn judged(&self, input: &Input, digest: String, now: EventTime, members: &Members) -> Judged {
        match input {
            Input::Plan(plan) => self.judge_plan(plan, digest, now, members),
            Input::Proposal(proposal) => self.judge_proposal(proposal, digest, now, members),
        }
    }

    /// The input document that policies are given for what is put before the gate at a time: what `soma policy explain` shows.
    pub fn document(&self, input: &Input, now: EventTime) -> serde_json::Value {
        let mut case = match input {
            Input::Plan(plan) => plan_case(plan, now),
            Input::Proposal(proposal) => proposal_case(proposal, now),
        };
        let over = self.shelf.over(case.tenant, case.capsule);
        case.constitutions = over.constitutions.iter().map(|c| c.shown()).collect();
        case.know = self.traits.clone();
        self.judge.document(&case)
    }

    fn judge_plan(&self, plan: &Plan, digest: String, now: EventTime, members: &Members) -> Judged {
        let case = plan_case(plan, now);
        let findings = plan_findings(plan, &digest);
        self.verdict(
            case,
            Subjected {
                run_id: &plan.run_id,
                asked_at: None,
                members,
                cause: "plan",
                digest,
                findings,
            },
        )
    }

    fn judge_proposal(&self, proposal: &Proposal, digest: String, now: EventTime, members: &Members) -> Judged {
        let mut case = proposal_case(proposal, now);
        let deny = |detail: &str| Finding::own(Decision::Deny, FaultCode::PermitInvalid.as_str(), detail, None);
        let mut findings = Vec::new();
        match (proposal.subject, proposal.steps.as_slice()) {
            (Subject::Step, [step]) => {
                if step.step_id != proposal.subject_id || digest != proposal.subject_digest {
                    findings.push(deny(
                        "the proposal's subject_id and subject_digest are not those of its step",
                    ));
                }
            }
            (Subject::Step, _) => findings.push(deny("a proposal of a step carries exactly that step")),
            (Subject::Plan, _) => {}
        }
        if self.allowed_before(proposal, &digest) {
            for approval in &mut case.approvals {
                approval.digest.clone_from(&digest);
            }
        }
        self.verdict(
            case,
            Subjected {
                run_id: &proposal.run_id,
                asked_at: proposal.asked_at,
                members,
                cause: &proposal.proposal_id,
                digest,
                findings,
            },
        )
    }

    /// Whether the proposal brings this gate's own permit for exactly this step: then an approval of the whole plan, on which
    /// that permit rested, speaks for the step too.
    fn allowed_before(&self, proposal: &Proposal, digest: &str) -> bool {
        let Some(permit) = &proposal.permit else { return false };
        let bytes = hex::decode(&permit.signature).unwrap_or_default();
        let text = permit.signed_text(&proposal.run_id, &proposal.subject_id, digest);
        let key = self.key.verifying_key();
        Signature::from_slice(&bytes).is_ok_and(|signature| key.verify_strict(&text, &signature).is_ok())
    }

    fn verdict<'a>(&self, mut case: Case<'a>, subject: Subjected<'a>) -> Judged {
        let began = (self.stopwatch)();
        let over = self.shelf.over(case.tenant, case.capsule);
        let revisions = over.bundles.iter().map(|s| s.revision.as_str());
        let revisions: Vec<_> = revisions
            .chain(over.constitutions.iter().map(|c| c.hash.as_str()))
            .collect();
        let revision = combined(&self.revision, &revisions);
        case.constitutions = over.constitutions.iter().map(|c| c.shown()).collect();
        case.strikes = subject.members.strikes(case.tenant, case.actor, case.now);
        case.tallies = subject.members.tallies().ages(case.tenant, case.run_id, case.now);
        case.know = self.traits.clone();
        let mut findings = subject.findings;
        findings.extend(judge::digest_findings(&mut case.steps, &case.arguments, case.digested));
        findings.extend(case.steps.iter().filter(|s| s.approval_required).map(judge::required));
        let mut said = self.judge.answer(&case);
        over.bundles.iter().for_each(|b| said.add(b.judge.answer(&case)));
        over.constitutions
            .iter()
            .for_each(|c| said.add(c.answer(&case, &over.sboms)));
        findings.extend(
            over.distrusted
                .iter()
                .map(|(tenant, why)| constitution::untrusted(tenant, why)),
        );
        findings.append(&mut said.findings);
        let adjudications = adjudicate::apply(&mut findings, &said.waivers, &over.constitutions);
        let mut obligations = said.obligations;
        answer::in_order(&mut obligations);
        let question = Question {
            tenant: case.tenant,
            actor: case.actor,
            run_id: subject.run_id,
            digest: &subject.digest,
            revision: &revision,
            asked_at: subject.asked_at,
            now: case.now,
            members: subject.members,
        };
        let approval_ids = approval::apply(&mut findings, &case.approvals, &question);
        let decision = strongest(&findings, |_| true);
        let steps = case.steps.iter().map(|step| {
            self.step_verdict(
                step,
                &findings,
                &obligations,
                decision,
                (subject.run_id, &revision, case.now),
            )
        });
        let steps = steps.collect();
        let asks = findings.iter().filter_map(|f| f.ask.clone());
        let asks = if decision == Decision::Escalate {
            asks.collect()
        } else {
            Vec::new()
        };
        let violations: Vec<Violation> = findings.into_iter().map(|f| f.violation).collect();
        let score = rules::score(&violations);
        let kind = if case.subject == Subject::Plan { "PLAN" } else { "STEP" };
        let verdict_id = verdict_id(
            subject.run_id,
            kind,
            case.subject_id,
            &subject.digest,
            &revision,
            subject.cause,
        );
        let verdict = Verdict {
            verdict_id,
            run_id: subject.run_id.to_owned(),
            tenant: case.tenant.to_owned(),
            subject: case.subject,
            subject_id: case.subject_id.to_owned(),
            decision,
            score,
            severity: rules::band(score),
            reason: reason(violations.iter()),
            violations,
            policy_revision: revision,
            constitution_hash: shelf::constitution_hash(&over.constitutions),
            digest: subject.digest,
            steps,
            approval_id: approval_ids.first().cloned(),
            approval_ids,
            asks,
            obligations,
            adjudications,
            evaluation_us: i64::try_from((self.stopwatch)().saturating_sub(began)).unwrap_or(i64::MAX),
            decided_at: case.now,
        };
        (verdict, said.tallies)
    }

    /// A step is allowed when nothing speaks against it or against the subject as a whole. Only an allow of exact arguments in
    /// a subject that is not denied is signed.
    fn step_verdict(
        &self,
        step: &ProposedStep,
        all: &[Finding],
        obligations: &[Obligation],
        subject: Decision,
        (run_id, revision, now): (&str, &str, EventTime),
    ) -> StepVerdict {
        let mine = |v: &Violation| v.step_id.as_ref().is_none_or(|id| *id == step.step_id);
        let decision = strongest(all, |f| mine(&f.violation));
        let signed = decision == Decision::Allow && subject != Decision::Deny && judge::is_exact(&step.arguments);
        let mut binding = Vec::new();
        let signature = if signed && self.signs {
            binding = answer::binding(obligations, &step.step_id);
            let text = permit::signed_text(run_id, &step.step_id, &step.digest, revision, now, &binding);
            digest::hex(&self.key.sign(&text).to_bytes())
        } else {
            String::new()
        };
        StepVerdict {
            step_id: step.step_id.clone(),
            decision,
            digest: step.digest.clone(),
            reason: reason(all.iter().map(|f| &f.violation).filter(|v| mine(v))),
            signature,
            obligations: binding,
        }
    }
}

impl Processor for PolicyGate {
    type In = Input;
    type State = ();

    fn name(&self) -> &'static str {
        "policy_gate"
    }

    fn step(&self, _state: &mut (), input: &Delivery<Input>, fx: &mut Effects<'_>) -> Result<(), Fault> {
        let members = fx.controls().members();
        let (verdict, tallied) = self.judged(&input.input, digest_of(&input.input)?, fx.now(), members);
        let (tools, actor) = match &input.input {
            Input::Plan(plan) => {
                let tools = plan.steps.iter().map(|s| s.tool.as_str());
                (join(tools.collect()), &plan.actor)
            }
            Input::Proposal(proposal) => {
                let tools = proposal.steps.iter().map(|s| s.tool.as_str());
                (join(tools.collect()), &proposal.actor)
            }
        };
        let rules = join(verdict.violations.iter().map(|v| v.rule.as_str()).collect());
        let subject = if verdict.subject == Subject::Plan {
            "PLAN"
        } else {
            "STEP"
        };
        let (score, evaluation_us) = (verdict.score.to_string(), verdict.evaluation_us.to_string());
        let facts = [
            ("subject", subject),
            ("subject_id", verdict.subject_id.as_str()),
            ("tool", tools.as_str()),
            ("rule", rules.as_str()),
            ("score", score.as_str()),
            ("evaluation_us", evaluation_us.as_str()),
        ];
        fx.emit(topics::VERDICTS, verdict.run_id.as_str(), &verdict.tenant, &verdict)?;
        fx.event(
            &verdict.tenant,
            &verdict.run_id,
            &format!("verdict.{}", verdict.decision.word()),
            &facts,
        )?;
        tally::count(&verdict, actor, &tallied, fx)?;
        match &input.input {
            Input::Plan(plan) => moderation::strike(plan, &verdict, fx),
            Input::Proposal(_) => Ok(()),
        }
    }
}

/// The digest of what is put before the gate: of its steps, of its one step, or the one a proposal of a plan names.
///
/// # Errors
/// `RECORD_INVALID` for a plan that has no digest.
pub fn digest_of(input: &Input) -> Result<String, Fault> {
    match input {
        Input::Plan(plan) => {
            digest::plan(&plan.run_id, &plan.steps).map_err(|e| Fault::new(FaultCode::RecordInvalid, e))
        }
        Input::Proposal(proposal) => Ok(match (proposal.subject, proposal.steps.as_slice()) {
            (Subject::Step, [step]) => digest::action(&step.tool, &step.operation, &step.arguments).unwrap_or_default(),
            _ => proposal.subject_digest.clone(),
        }),
    }
}

/// What is wrong with a plan before any policy is asked.
fn plan_findings(plan: &Plan, digest: &str) -> Vec<Finding> {
    if let Some(refusal) = &plan.refusal {
        let detail = format!("{}: {}", refusal.code, refusal.detail);
        return vec![Finding::own(Decision::Deny, "intake.refusal", detail, None)];
    }
    let mut findings = Vec::new();
    if plan.digest != digest {
        let detail = format!("the plan says digest {}, its steps give {digest}", plan.digest);
        findings.push(Finding::own(
            Decision::Deny,
            FaultCode::PermitInvalid.as_str(),
            detail,
            None,
        ));
    }
    for step in &plan.steps {
        // `<step>.compensation` is judged more gently than a step, so no step may bear such a name.
        let letters = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if step.step_id.is_empty() || !step.step_id.bytes().all(letters) {
            let detail = format!("step id `{}` is not made of letters, digits, `_` and `-`", step.step_id);
            findings.push(Finding::own(
                Decision::Deny,
                FaultCode::PlanInvalid.as_str(),
                detail,
                None,
            ));
        }
    }
    findings
}

/// Deny over escalate over allow.
fn strongest(findings: &[Finding], mine: impl Fn(&Finding) -> bool) -> Decision {
    let decisions = || findings.iter().filter(|f| mine(f)).map(|f| f.decision);
    if decisions().any(|d| d == Decision::Deny) {
        Decision::Deny
    } else if decisions().any(|d| d == Decision::Escalate) {
        Decision::Escalate
    } else {
        Decision::Allow
    }
}

fn reason<'a>(violations: impl Iterator<Item = &'a Violation>) -> String {
    let texts: Vec<_> = violations.map(|v| format!("{}: {}", v.rule, v.description)).collect();
    texts.join("; ")
}

fn join(mut words: Vec<&str>) -> String {
    let mut seen = std::collections::BTreeSet::new();
    words.retain(|w| seen.insert(*w));
    words.join(",")
}
