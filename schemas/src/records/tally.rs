//! `soma.Tally`: see `avro/soma/Tally.avsc`, which this mirrors field by field.

use serde::{Deserialize, Serialize};

use crate::values::Timestamp;

/// A step that was allowed and that a policy or a constitution counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// `tly_` and 32 hex digits, derived from name, run and step: a step counts once, however often it is judged.
    pub tally_id: String,
    /// Tenant of the run.
    pub tenant: String,
    /// What is counted: `constitution.` and a requirement's id, or a name that a policy gave.
    pub name: String,
    /// Run of the step.
    pub run_id: String,
    /// Step.
    pub step_id: String,
    /// Who asked for the run.
    pub actor: String,
    /// Verdict that allowed it.
    pub verdict_id: String,
    /// When it was allowed.
    pub counted_at: Timestamp,
}

crate::record!(Tally, "Tally");
