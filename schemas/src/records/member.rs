//! `soma.Member`: see `avro/soma/Member.avsc`, which this mirrors field by field.

use serde::{Deserialize, Serialize};

use crate::values::Timestamp;

/// Somebody's roles in a tenant, as they stand; no roles end them. Approvers are held against this when they approve and when what they approved is called.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Tenant; `*` for all.
    pub tenant: String,
    /// Who.
    pub person: String,
    /// Roles held now.
    #[serde(default)]
    pub roles: Vec<String>,
    /// Why.
    pub reason: String,
    /// Who says so.
    pub actor: String,
    /// When.
    pub changed_at: Timestamp,
}

crate::record!(Member, "Member");
