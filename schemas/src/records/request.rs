//! `soma.Request`: see `avro/soma/Request.avsc`, which this mirrors field by field.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::shared::Autonomy;
use crate::values::{Timestamp, Usd};

/// A goal somebody wants reached: the first record of every run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Tenant the request belongs to; 1 to 64 of a-z, 0-9, `-` and `_`.
    pub tenant: String,
    /// Who asks: a user or a service.
    pub actor: String,
    /// Chosen by the producer, unique per tenant; a repeat is dropped.
    pub idempotency_key: String,
    /// The goal in words; alone it needs a planner.
    #[serde(default)]
    pub goal: String,
    /// Capsule of the catalogue to run, as `name` or `name@version`.
    #[serde(default)]
    pub capsule: Option<String>,
    /// Wizard whose answered questions are in `inputs`.
    #[serde(default)]
    pub wizard: Option<String>,
    /// Inputs by name, as text; the capsule's declared type says how each is read (lists as JSON).
    #[serde(default)]
    pub inputs: BTreeMap<String, String>,
    /// Persona the agents should take.
    #[serde(default)]
    pub persona: Option<String>,
    /// Roles of the actor, for the policy.
    #[serde(default)]
    pub roles: Vec<String>,
    /// How much may be done without a human.
    #[serde(default)]
    pub autonomy: Autonomy,
    /// Most the run may cost, US dollars; null for no limit.
    #[serde(default)]
    pub budget_usd: Option<Usd>,
    /// Where the data of the run must stay, in the words of the organisation, for example `eu`; null for nowhere in particular.
    #[serde(default)]
    pub region: Option<String>,
    /// Classes of the data the run works on, in the words of the organisation, for example `personal`.
    #[serde(default)]
    pub data_classes: Vec<String>,
    /// When the request was made.
    pub requested_at: Timestamp,
}

crate::record!(Request, "Request");
