//! `soma.Delegation`: see `avro/soma/Delegation.avsc`, which this mirrors field by field.

use serde::{Deserialize, Serialize};

use crate::values::Timestamp;

/// Somebody who may decide hands the decision on to somebody else, for exactly what was shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Delegation {
    /// `del_` and 32 hex digits.
    pub delegation_id: String,
    /// Run it belongs to.
    pub run_id: String,
    /// Tenant of the run.
    pub tenant: String,
    /// plan_id or step_id.
    pub subject_id: String,
    /// Digest of exactly what was shown.
    pub digest: String,
    /// Who hands on.
    pub from: String,
    /// Who may decide instead.
    pub to: String,
    /// Why.
    #[serde(default)]
    pub comment: String,
    /// When it was given.
    pub decided_at: Timestamp,
}

crate::record!(Delegation, "Delegation");
