//! `soma.Policy`: see `avro/soma/Policy.avsc`, which this mirrors field by field.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::values::Timestamp;

/// A policy bundle put in force at run time beside the deployed one. It tightens: what any bundle denies is denied, unless a constitution's
/// precedence lets a stronger source waive it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Tenant it is for; `*` for all.
    pub tenant: String,
    /// Capsule whose runs alone it is for; null for all.
    #[serde(default)]
    pub capsule: Option<String>,
    /// Text by path: Rego, tests, data, weighted rules. None takes the bundle out of force.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// SHA-256 of the files, 64 hex digits.
    pub revision: String,
    /// Why.
    pub reason: String,
    /// Who publishes it.
    pub actor: String,
    /// When.
    pub published_at: Timestamp,
}

crate::record!(Policy, "Policy");
