//! `soma.Strike`: see `avro/soma/Strike.avsc`, which this mirrors field by field.

use serde::{Deserialize, Serialize};

use crate::values::Timestamp;

/// A breach of moderation that counts against an actor for a while, or its pardon.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Strike {
    /// `str_` and 32 hex digits, derived from the run: a run strikes once.
    pub strike_id: String,
    /// Tenant of the actor.
    pub tenant: String,
    /// Who broke the rule.
    pub person: String,
    /// Run that was denied.
    pub run_id: String,
    /// Rule that was broken.
    pub rule: String,
    /// Verdict that denied it; empty in a pardon.
    #[serde(default)]
    pub verdict_id: String,
    /// It counts no more.
    #[serde(default)]
    pub pardoned: bool,
    /// Why: the rule's words, or the pardon's.
    pub reason: String,
    /// Who says so: the policy gate, or a person.
    pub actor: String,
    /// When the rule was broken.
    pub struck_at: Timestamp,
}

crate::record!(Strike, "Strike");
