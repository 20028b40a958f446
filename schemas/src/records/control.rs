//! `soma.Control`: see `avro/soma/Control.avsc`, which this mirrors field by field.

use serde::{Deserialize, Serialize};

use crate::values::Timestamp;

/// A kill switch, a pause or their end, at a scope.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Control {
    /// How far it reaches.
    pub scope: Scope,
    /// Tenant, capsule, tool or run id; empty for GLOBAL.
    #[serde(default)]
    pub target: String,
    /// What is asked.
    pub action: ControlAction,
    /// Why.
    pub reason: String,
    /// Who asks.
    pub actor: String,
    /// When.
    pub issued_at: Timestamp,
    /// For GLOBAL: another person who asks for the same; a KILL or CANCEL of everything without one only holds, as PAUSE does.
    #[serde(default)]
    pub seconded_by: Option<String>,
}

/// How far a control reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Scope {
    /// `GLOBAL`.
    #[default]
    Global,
    /// `TENANT`.
    Tenant,
    /// `CAPSULE`.
    Capsule,
    /// `TOOL`.
    Tool,
    /// `RUN`.
    Run,
}

/// What is asked. KILL and CANCEL end runs (CANCEL compensates), PAUSE holds new effects, RESUME lifts all three.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ControlAction {
    /// `KILL`.
    #[default]
    Kill,
    /// `PAUSE`.
    Pause,
    /// `RESUME`.
    Resume,
    /// `CANCEL`.
    Cancel,
}

crate::record!(Control, "Control");
