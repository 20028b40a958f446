//! `soma.Verdict`: see `avro/soma/Verdict.avsc`, which this mirrors field by field.

use serde::{Deserialize, Serialize};

use super::shared::{Ask, Decision, Obligation, Severity, Subject};
use crate::values::Timestamp;

/// What the policy gate decided about a plan or a step, and why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// `ver_` and 32 hex digits, derived from what was judged.
    pub verdict_id: String,
    /// Run it belongs to.
    pub run_id: String,
    /// Tenant of the run.
    pub tenant: String,
    /// Plan or step.
    pub subject: Subject,
    /// plan_id or step_id.
    pub subject_id: String,
    /// Allow, deny or escalate to a human.
    pub decision: Decision,
    /// 1 minus the weights of the violations, not below 0, six decimals.
    pub score: f64,
    /// Band of the score.
    pub severity: Severity,
    /// Every rule that spoke against it.
    #[serde(default)]
    pub violations: Vec<Violation>,
    /// Why, in one sentence; empty for a plain allow.
    #[serde(default)]
    pub reason: String,
    /// SHA-256 of everything it was judged by: policy bundles and constitutions.
    pub policy_revision: String,
    /// Hash of the constitution over the tenant; null when there is none.
    #[serde(default)]
    pub constitution_hash: Option<String>,
    /// SHA-256 of exactly what was judged.
    pub digest: String,
    /// The judgement of each step.
    #[serde(default)]
    pub steps: Vec<StepVerdict>,
    /// Approval the decision rests on.
    #[serde(default)]
    pub approval_id: Option<String>,
    /// All approvals the decision rests on.
    #[serde(default)]
    pub approval_ids: Vec<String>,
    /// With ESCALATE: what humans are asked for.
    #[serde(default)]
    pub asks: Vec<Ask>,
    /// Everything an allow is bound to.
    #[serde(default)]
    pub obligations: Vec<Obligation>,
    /// Conflicts between the sources of rules, and how they were resolved.
    #[serde(default)]
    pub adjudications: Vec<Adjudication>,
    /// Time the evaluation took, microseconds.
    pub evaluation_us: i64,
    /// When it was decided.
    pub decided_at: Timestamp,
}

/// One rule that spoke against the subject.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Violation {
    /// Rule name, for example `destroy_needs_approval`.
    pub rule: String,
    /// What the rule is for, in a sentence a user can act on.
    pub description: String,
    /// Severity the rule declares.
    pub severity: Severity,
    /// Weight taken off the score, 0 to 1.
    pub weight: f64,
    /// The text that matched with at most 40 characters either side; empty when the rule does not match text.
    #[serde(default)]
    pub excerpt: String,
    /// Step the violation is about; null for the whole plan.
    #[serde(default)]
    pub step_id: Option<String>,
    /// Where the rule stands: `gate`, `constitution`, `base`, `tenant` or `capsule`.
    #[serde(default)]
    pub source: String,
    /// It counts against the actor (`soma.strikes`).
    #[serde(default)]
    pub strike: bool,
}

/// A rule of one source that would lift what a rule of another says, and which of them holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Adjudication {
    /// Rule that spoke against the subject.
    pub rule: String,
    /// Where it stands.
    pub source: String,
    /// Step it is about; null for the whole plan.
    #[serde(default)]
    pub step_id: Option<String>,
    /// Where the rule stands that would lift it.
    pub waived_by: String,
    /// Why it would, in its own words.
    pub reason: String,
    /// Whether the violation stays.
    pub upheld: bool,
    /// What decided between them.
    pub why: String,
}

/// The judgement of one step with its exact arguments.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepVerdict {
    /// Step judged.
    pub step_id: String,
    /// Allow, deny or escalate.
    pub decision: Decision,
    /// SHA-256, 64 hex digits, of tool, operation and canonical arguments.
    pub digest: String,
    /// Why, in one sentence; empty for a plain allow.
    #[serde(default)]
    pub reason: String,
    /// Ed25519 signature, 128 hex digits, when the decision is ALLOW; else empty.
    #[serde(default)]
    pub signature: String,
    /// What its allow is bound to; under the signature.
    #[serde(default)]
    pub obligations: Vec<Obligation>,
}

crate::record!(Verdict, "Verdict");
