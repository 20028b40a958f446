//! `soma.Call`: see `avro/soma/Call.avsc`, which this mirrors field by field.

use serde::{Deserialize, Serialize};

use super::shared::{CallKind, Permit};
use crate::values::{Timestamp, Usd};

/// One attempt of one step, with the permit for exactly these arguments.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// `call_` and 32 hex digits, derived from run, step, kind and attempt.
    pub call_id: String,
    /// Run it belongs to.
    pub run_id: String,
    /// Tenant of the run.
    pub tenant: String,
    /// Who asked for the run.
    pub actor: String,
    /// The goal in words.
    #[serde(default)]
    pub goal: String,
    /// Capsule of the run.
    #[serde(default)]
    pub capsule: Option<String>,
    /// Step of the plan.
    pub step_id: String,
    /// The step's own action, or its compensation.
    #[serde(default)]
    pub kind: CallKind,
    /// 1 for the first.
    pub attempt: i32,
    /// Tool that acts.
    pub tool: String,
    /// Operation of the tool.
    pub operation: String,
    /// JSON object, complete.
    pub arguments: String,
    /// Derived from tenant, run, step, kind and digest: the same for every attempt at the same thing.
    pub idempotency_key: String,
    /// SHA-256, 64 hex digits, of tool, operation and canonical arguments.
    pub digest: String,
    /// The signed allow; null is refused by the invoker.
    #[serde(default)]
    pub permit: Option<Permit>,
    /// Declared safe to repeat by the plan.
    #[serde(default)]
    pub replay_safe: bool,
    /// Longest time the call may take, milliseconds.
    #[serde(default)]
    pub timeout_ms: i64,
    /// What the run may still spend; null for no limit.
    #[serde(default)]
    pub budget_left_usd: Option<Usd>,
    /// When the request was made.
    pub requested_at: Timestamp,
    /// When the call was asked for.
    pub created_at: Timestamp,
}

crate::record!(Call, "Call");
