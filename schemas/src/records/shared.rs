//! Types that more than one record uses.

use serde::{Deserialize, Serialize};

use crate::values::{Timestamp, Usd};

/// Band of a score: LOW from 0.8, MEDIUM from 0.5, HIGH from 0.2, else CRITICAL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Severity {
    /// `LOW`.
    #[default]
    Low,
    /// `MEDIUM`.
    Medium,
    /// `HIGH`.
    High,
    /// `CRITICAL`.
    Critical,
}

/// How much the run may do without a human.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Autonomy {
    /// `SUPERVISED`.
    #[default]
    Supervised,
    /// `AUTONOMOUS`.
    Autonomous,
}

/// What the policy gate says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Decision {
    /// `ALLOW`.
    #[default]
    Allow,
    /// `DENY`.
    Deny,
    /// `ESCALATE`.
    Escalate,
}

/// What is judged: a whole plan or one step with its exact arguments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Subject {
    /// `PLAN`.
    #[default]
    Plan,
    /// `STEP`.
    Step,
}

/// A step's own action, or the way back from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CallKind {
    /// `ACTION`.
    #[default]
    Action,
    /// `COMPENSATION`.
    Compensation,
}

/// Why something failed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FaultInfo {
    /// Fault code, for example `TOOL_TIMED_OUT`; each has a page in deploy/runbooks.
    pub code: String,
    /// What happened, naming the field or the system.
    pub detail: String,
    /// Whether another attempt may succeed without harm.
    #[serde(default)]
    pub retryable: bool,
}

/// The policy gate's signed allow for exactly one digest; the invoker checks it before every call.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Permit {
    /// Verdict this permit was taken from, `ver_...`.
    pub verdict_id: String,
    /// Revision of the policy bundle that allowed it.
    pub policy_revision: String,
    /// When the verdict was given.
    pub decided_at: Timestamp,
    /// Ed25519 signature, 128 hex digits, over run_id, step_id, digest, decision, policy_revision, decided_at and obligations.
    pub signature: String,
    /// What the allow is bound to.
    #[serde(default)]
    pub obligations: Vec<Obligation>,
}

/// What an allow is bound to: it holds only when this is done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Obligation {
    /// Rule that obliges.
    pub rule: String,
    /// `redact`, `cap_budget` or `dry_run`.
    pub kind: String,
    /// Step it is about; null for every step.
    #[serde(default)]
    pub step_id: Option<String>,
    /// With `redact`: JSON pointers (RFC 6901) into the result; `*` stands for every name or place.
    #[serde(default)]
    pub fields: Vec<String>,
    /// With `cap_budget`: what the run may spend at most, US dollars.
    #[serde(default)]
    pub usd: Option<Usd>,
}

impl Obligation {
    /// Parts of a result are taken out before anybody sees it.
    pub const REDACT: &str = "redact";
    /// The run may spend so much at most.
    pub const CAP_BUDGET: &str = "cap_budget";
    /// The call is gone through without its effect.
    pub const DRY_RUN: &str = "dry_run";
}

/// What one rule wants before it gives way: who may approve, and how many of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ask {
    /// Rule that asks.
    pub rule: String,
    /// Step it is about; null for the whole plan.
    #[serde(default)]
    pub step_id: Option<String>,
    /// Names of those who may approve; with no roles either, anyone but the actor.
    #[serde(default)]
    pub approvers: Vec<String>,
    /// Roles whose holders may approve.
    #[serde(default)]
    pub roles: Vec<String>,
    /// How many of them have to.
    #[serde(default = "one")]
    pub quorum: i32,
    /// Seconds within which; 0 leaves it to the orchestrator.
    #[serde(default)]
    pub within_s: i64,
    /// Escalation chain.
    #[serde(default)]
    pub deputies: Vec<Deputy>,
}

fn one() -> i32 {
    1
}

impl Default for Ask {
    fn default() -> Self {
        Self {
            rule: String::new(),
            step_id: None,
            approvers: Vec::new(),
            roles: Vec::new(),
            quorum: 1,
            within_s: 0,
            deputies: Vec::new(),
        }
    }
}

/// Who else may decide once nobody has answered for a while.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Deputy {
    /// Seconds after the question was put.
    pub after_s: i64,
    /// Names.
    #[serde(default)]
    pub approvers: Vec<String>,
    /// Roles, one of which the person holds.
    #[serde(default)]
    pub roles: Vec<String>,
}
