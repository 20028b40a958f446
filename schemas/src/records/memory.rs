//! `soma.Memory`: see `avro/soma/Memory.avsc`, which this mirrors field by field.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::values::Timestamp;

/// Something worth remembering, of one tenant, and where it came from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// `mem_` and 32 hex digits, derived from its source.
    pub memory_id: String,
    /// Tenant it belongs to.
    pub tenant: String,
    /// Run it came from.
    pub run_id: String,
    /// Step it came from; empty when of the whole run.
    #[serde(default)]
    pub step_id: String,
    /// Kind of memory.
    #[serde(default)]
    pub kind: MemoryKind,
    /// What is remembered, as a sentence: the text that is embedded.
    pub text: String,
    /// Facts to filter by, such as tool, capsule and status.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
    /// When it happened.
    pub created_at: Timestamp,
    /// When it may be forgotten; null for never.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
}

/// What kind of memory it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MemoryKind {
    /// `OUTCOME`.
    #[default]
    Outcome,
    /// `NOTE`.
    Note,
}

crate::record!(Memory, "Memory");
