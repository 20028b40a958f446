//! `soma.Event`: see `avro/soma/Event.avsc`, which this mirrors field by field.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::values::Timestamp;

/// Something that happened: the analytics stream every stage writes to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// `evt_` and 32 hex digits.
    pub event_id: String,
    /// When it happened (event time).
    pub ts: Timestamp,
    /// Tenant.
    pub tenant: String,
    /// Run; empty when it is about none.
    #[serde(default)]
    pub run_id: String,
    /// Kind of event, for example `verdict.allow`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Facts as text.
    #[serde(default)]
    pub payload: BTreeMap<String, String>,
}

crate::record!(Event, "Event");
