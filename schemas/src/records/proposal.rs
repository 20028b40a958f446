//! `soma.Proposal`: see `avro/soma/Proposal.avsc`, which this mirrors field by field.

use serde::{Deserialize, Serialize};

use super::shared::{Autonomy, Permit, Subject};
use crate::values::{Timestamp, Usd};

/// Steps whose exact arguments became known only while running, put before the policy gate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Proposal {
    /// `pro_` and 32 hex digits.
    pub proposal_id: String,
    /// Run it belongs to.
    pub run_id: String,
    /// Tenant of the run.
    pub tenant: String,
    /// Who asked for the run.
    pub actor: String,
    /// Roles of the actor.
    #[serde(default)]
    pub roles: Vec<String>,
    /// The goal in words.
    #[serde(default)]
    pub goal: String,
    /// Capsule of the run.
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
    /// Whether a whole plan or one step is put forward (again).
    pub subject: Subject,
    /// plan_id or step_id.
    pub subject_id: String,
    /// Digest of the subject as a whole.
    pub subject_digest: String,
    /// The steps to be judged.
    #[serde(default)]
    pub steps: Vec<ProposedStep>,
    /// The first of `approvals`; null when none was given.
    #[serde(default)]
    pub approval: Option<ApprovalRef>,
    /// The humans' approvals it rests on.
    #[serde(default)]
    pub approvals: Vec<ApprovalRef>,
    /// When humans were asked; null when they were not.
    #[serde(default)]
    pub asked_at: Option<Timestamp>,
    /// The gate's earlier permit for exactly this step, which rested on an approval of the whole plan; null when there is none.
    #[serde(default)]
    pub permit: Option<Permit>,
    /// What the run has done so far, in the order it was done.
    #[serde(default)]
    pub done: Vec<Done>,
    /// When it was put forward.
    pub proposed_at: Timestamp,
}

/// A step with the exact arguments it would be called with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProposedStep {
    /// Step of the plan.
    pub step_id: String,
    /// Tool that would act.
    pub tool: String,
    /// Operation of the tool.
    pub operation: String,
    /// JSON object, complete: nothing left to fill in.
    pub arguments: String,
    /// SHA-256, 64 hex digits, of tool, operation and canonical arguments.
    pub digest: String,
    /// The plan demands a human's approval for it.
    #[serde(default)]
    pub approval_required: bool,
}

/// A step that has succeeded in this run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// Step of the plan.
    pub step_id: String,
    /// Tool that acted.
    pub tool: String,
    /// Operation of the tool.
    pub operation: String,
    /// When it succeeded.
    pub finished_at: Timestamp,
}

/// A human's approval carried to the gate, which checks it against what is true now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ApprovalRef {
    /// Approval record, `apr_...`.
    pub approval_id: String,
    /// Who approved.
    pub approver: String,
    /// Digest the human approved.
    pub digest: String,
    /// Policy revision the human was shown.
    pub policy_revision: String,
    /// When the approval ends; null for never.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    /// When it was given.
    pub decided_at: Timestamp,
    /// Run it was given for; empty from older writers.
    #[serde(default)]
    pub run_id: String,
    /// Who handed the decision on to the approver; null when nobody did.
    #[serde(default)]
    pub on_behalf_of: Option<String>,
    /// Rules that were shown as the reason; empty from older writers.
    #[serde(default)]
    pub rules: Vec<String>,
}

crate::record!(Proposal, "Proposal");
