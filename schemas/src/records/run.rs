//! `soma.Run`: see `avro/soma/Run.avsc`, which this mirrors field by field.

use serde::{Deserialize, Serialize};

use super::proposal::ApprovalRef;
use super::shared::{Ask, FaultInfo, Subject};
use crate::values::{Timestamp, Usd};

/// The whole state of a run, for anyone who wants to follow it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// `run_` and 32 hex digits.
    pub run_id: String,
    /// Its plan.
    pub plan_id: String,
    /// Tenant.
    pub tenant: String,
    /// Who asked.
    pub actor: String,
    /// The goal in words.
    #[serde(default)]
    pub goal: String,
    /// Capsule, `name@version`.
    #[serde(default)]
    pub capsule: Option<String>,
    /// Of the request.
    pub idempotency_key: String,
    /// Where the run stands.
    pub status: RunStatus,
    /// Why it stands there; empty when all is well.
    #[serde(default)]
    pub reason: String,
    /// The fault that ended it.
    #[serde(default)]
    pub fault: Option<FaultInfo>,
    /// Its steps.
    #[serde(default)]
    pub steps: Vec<RunStep>,
    /// What a human has to decide.
    #[serde(default)]
    pub waiting: Vec<Waiting>,
    /// Spent so far, US dollars.
    pub cost_usd: Usd,
    /// When the request was made.
    pub requested_at: Timestamp,
    /// When the run began.
    pub created_at: Timestamp,
    /// When this state was reached.
    pub updated_at: Timestamp,
    /// When it ended; null while it runs.
    #[serde(default)]
    pub finished_at: Option<Timestamp>,
    /// Counts the states of this run from 1.
    pub revision: i64,
}

/// Where a run stands; the states from SUCCEEDED on are final.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RunStatus {
    /// `JUDGING`.
    #[default]
    Judging,
    /// `WAITING_APPROVAL`.
    WaitingApproval,
    /// `RUNNING`.
    Running,
    /// `PAUSED`.
    Paused,
    /// `COMPENSATING`.
    Compensating,
    /// `SUCCEEDED`.
    Succeeded,
    /// `FAILED`.
    Failed,
    /// `DENIED`.
    Denied,
    /// `COMPENSATED`.
    Compensated,
    /// `CANCELLED`.
    Cancelled,
    /// `KILLED`.
    Killed,
    /// `REFUSED`.
    Refused,
    /// `UNKNOWN`.
    Unknown,
}

/// Where a step stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum StepStatus {
    /// `PENDING`.
    #[default]
    Pending,
    /// `JUDGING`.
    Judging,
    /// `WAITING_APPROVAL`.
    WaitingApproval,
    /// `RUNNING`.
    Running,
    /// `RETRYING`.
    Retrying,
    /// `SUCCEEDED`.
    Succeeded,
    /// `FAILED`.
    Failed,
    /// `UNKNOWN`.
    Unknown,
    /// `DENIED`.
    Denied,
    /// `SKIPPED`.
    Skipped,
    /// `COMPENSATING`.
    Compensating,
    /// `COMPENSATED`.
    Compensated,
    /// `COMPENSATION_FAILED`.
    CompensationFailed,
}

/// A step of the run as it stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunStep {
    /// Step of the plan.
    pub step_id: String,
    /// Tool that acts.
    pub tool: String,
    /// Operation of the tool.
    pub operation: String,
    /// Steps that come first.
    #[serde(default)]
    pub needs: Vec<String>,
    /// Where the step stands.
    pub status: StepStatus,
    /// Attempts begun so far.
    #[serde(default)]
    pub attempt: i32,
    /// Digest of the arguments last judged; empty before that.
    #[serde(default)]
    pub digest: String,
    /// JSON result of the step; empty until it succeeded.
    #[serde(default)]
    pub result: String,
    /// Why it failed; null when it did not.
    #[serde(default)]
    pub fault: Option<FaultInfo>,
    /// First attempt's call time.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    /// When the step came to its end.
    #[serde(default)]
    pub finished_at: Option<Timestamp>,
}

/// Something a human has to decide.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    /// Plan or step.
    pub subject: Subject,
    /// plan_id or step_id.
    pub subject_id: String,
    /// Digest of exactly what is to be approved.
    pub digest: String,
    /// Policy revision that escalated it.
    pub policy_revision: String,
    /// Why a human is asked.
    pub reason: String,
    /// The exact arguments as JSON, for a human to read.
    #[serde(default)]
    pub arguments: String,
    /// When the wait began.
    pub since: Timestamp,
    /// Who may approve, and how many have to.
    #[serde(default)]
    pub asks: Vec<Ask>,
    /// Approvals counted so far.
    #[serde(default)]
    pub given: Vec<ApprovalRef>,
    /// Decisions handed on.
    #[serde(default)]
    pub handed_on: Vec<HandedOn>,
    /// When it counts as denied.
    #[serde(default)]
    pub until: Option<Timestamp>,
}

/// A decision handed on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HandedOn {
    /// Who may decide.
    pub from: String,
    /// Who may decide instead.
    pub to: String,
}

crate::record!(Run, "Run");
