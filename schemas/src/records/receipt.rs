//! `soma.Receipt`: see `avro/soma/Receipt.avsc`, which this mirrors field by field.

use serde::{Deserialize, Serialize};

use crate::values::Timestamp;

/// What became of a human's answer: counted, or refused and why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// `rcp_` and 32 hex digits, derived from the answer and its place in the log.
    pub receipt_id: String,
    /// approval_id or delegation_id.
    pub answer_id: String,
    /// Run the answer was written to.
    pub run_id: String,
    /// Tenant the answer names.
    pub tenant: String,
    /// plan_id or step_id.
    pub subject_id: String,
    /// Who answered.
    pub approver: String,
    /// Whether it counts.
    pub counted: bool,
    /// `approval.accepted`, `approval.delegated`, or why it does not count, for example `approval.self`.
    pub code: String,
    /// The same in a sentence.
    #[serde(default)]
    pub detail: String,
    /// When it was taken in.
    pub receipted_at: Timestamp,
}

crate::record!(Receipt, "Receipt");
