//! `soma.Outcome`: see `avro/soma/Outcome.avsc`, which this mirrors field by field.

use serde::{Deserialize, Serialize};

use super::shared::{CallKind, FaultInfo};
use crate::values::{Timestamp, Usd};

/// What came of a call.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Call it answers.
    pub call_id: String,
    /// Run it belongs to.
    pub run_id: String,
    /// Tenant of the run.
    pub tenant: String,
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
    /// Attempt it answers.
    pub attempt: i32,
    /// Tool that acted.
    pub tool: String,
    /// Operation of the tool.
    pub operation: String,
    /// What came of it.
    pub status: OutcomeStatus,
    /// JSON value the tool returned; empty when there is none.
    #[serde(default)]
    pub result: String,
    /// Why it failed; null when it did not.
    #[serde(default)]
    pub fault: Option<FaultInfo>,
    /// Of the call.
    pub idempotency_key: String,
    /// Of the call.
    pub digest: String,
    /// From call to answer, microseconds.
    pub latency_us: i64,
    /// What it cost, US dollars.
    pub cost_usd: Usd,
    /// When the request was made.
    pub requested_at: Timestamp,
    /// When the answer was there.
    pub finished_at: Timestamp,
}

/// What came of it. UNKNOWN: it may or may not have happened, a human must look; REFUSED: it was not even tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OutcomeStatus {
    /// `SUCCEEDED`.
    #[default]
    Succeeded,
    /// `FAILED`.
    Failed,
    /// `UNKNOWN`.
    Unknown,
    /// `REFUSED`.
    Refused,
    /// `COMPENSATED`.
    Compensated,
}

crate::record!(Outcome, "Outcome");
