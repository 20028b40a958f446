//! `soma.Approval`: see `avro/soma/Approval.avsc`, which this mirrors field by field.

use serde::{Deserialize, Serialize};

use crate::values::Timestamp;

/// A human's answer to an escalation, bound to the digest of exactly what was shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Approval {
    /// `apr_` and 32 hex digits.
    pub approval_id: String,
    /// Run it belongs to.
    pub run_id: String,
    /// Tenant of the run.
    pub tenant: String,
    /// plan_id or step_id.
    pub subject_id: String,
    /// Approve or deny.
    pub decision: ApprovalDecision,
    /// Digest of exactly what was shown.
    pub digest: String,
    /// Policy revision that was shown.
    pub policy_revision: String,
    /// Who decided.
    pub approver: String,
    /// Why.
    #[serde(default)]
    pub comment: String,
    /// With DENY: it may come again, changed as the comment says.
    #[serde(default)]
    pub changes_requested: bool,
    /// When the approval ends; null for never.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    /// When it was given.
    pub decided_at: Timestamp,
}

/// The human's answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ApprovalDecision {
    /// `APPROVE`.
    #[default]
    Approve,
    /// `DENY`.
    Deny,
}

crate::record!(Approval, "Approval");
