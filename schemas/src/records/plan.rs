//! `soma.Plan`: see `avro/soma/Plan.avsc`, which this mirrors field by field.

use serde::{Deserialize, Serialize};

use super::shared::Autonomy;
use crate::values::{Timestamp, Usd};

/// What would be done for a request: the steps of a DAG, or the refusal that says why nothing will be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// `plan_` and 32 hex digits, derived from the run.
    pub plan_id: String,
    /// `run_` and 32 hex digits, derived from tenant and idempotency key.
    pub run_id: String,
    /// Tenant of the request.
    pub tenant: String,
    /// Who asked.
    pub actor: String,
    /// Roles of the actor.
    #[serde(default)]
    pub roles: Vec<String>,
    /// The goal in words.
    #[serde(default)]
    pub goal: String,
    /// Of the request.
    pub idempotency_key: String,
    /// Capsule the plan was made from, `name@version`.
    #[serde(default)]
    pub capsule: Option<String>,
    /// How much may be done without a human.
    #[serde(default)]
    pub autonomy: Autonomy,
    /// Most the run may cost, US dollars.
    #[serde(default)]
    pub budget_usd: Option<Usd>,
    /// Where the data of the run must stay, in the words of the organisation, for example `eu`; null for nowhere in particular.
    #[serde(default)]
    pub region: Option<String>,
    /// Classes of the data the run works on, in the words of the organisation, for example `personal`.
    #[serde(default)]
    pub data_classes: Vec<String>,
    /// The steps; empty only with a refusal.
    #[serde(default)]
    pub steps: Vec<Step>,
    /// Why there is no plan; null when there is one.
    #[serde(default)]
    pub refusal: Option<Refusal>,
    /// SHA-256, 64 hex digits, of the canonical steps.
    pub digest: String,
    /// Where the plan came from, for example `capsule:service_rollout@1`.
    #[serde(default)]
    pub provenance: String,
    /// When the request was made.
    pub requested_at: Timestamp,
    /// When the plan was made.
    pub created_at: Timestamp,
}

/// How often and how soon a failed step is tried again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Retry {
    /// Attempts in all, at least 1.
    #[serde(default)]
    pub attempts_max: i32,
    /// Wait before the second attempt, milliseconds; doubles each time.
    #[serde(default)]
    pub backoff_ms: i64,
    /// Longest wait between attempts, milliseconds.
    #[serde(default)]
    pub backoff_ms_max: i64,
}

/// The way back from a step that succeeded, run in reverse order when the run fails later.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Compensation {
    /// Tool that undoes the step.
    pub tool: String,
    /// Operation of that tool.
    pub operation: String,
    /// JSON object; may refer to results as `${steps.<step_id>.result.<path>}`.
    pub arguments: String,
}

/// One node of the plan's DAG.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Name of the step, unique in the plan.
    pub step_id: String,
    /// Tool that acts, for example `http`.
    pub tool: String,
    /// Operation of the tool, for example `request`.
    pub operation: String,
    /// JSON object; a string `${steps.<step_id>.result.<path>}` is replaced by that result when the step starts.
    pub arguments: String,
    /// Steps that must have succeeded first.
    #[serde(default)]
    pub needs: Vec<String>,
    /// What the step is for.
    #[serde(default)]
    pub description: String,
    /// Retry policy.
    pub retry: Retry,
    /// Longest time one attempt may take, milliseconds.
    #[serde(default)]
    pub timeout_ms: i64,
    /// The way back; null says there is none.
    #[serde(default)]
    pub compensation: Option<Compensation>,
    /// A human must approve this step whatever the policy says.
    #[serde(default)]
    pub approval_required: bool,
    /// Declared safe to repeat: an attempt whose outcome is not known may be made again.
    #[serde(default)]
    pub replay_safe: bool,
}

/// Why a request did not become a plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    /// Fault code, for example `CAPSULE_UNKNOWN`.
    pub code: String,
    /// Field of the request at fault, for example `inputs.replicas`.
    #[serde(default)]
    pub field: String,
    /// What is wrong and how to put it right.
    pub detail: String,
}

crate::record!(Plan, "Plan");
