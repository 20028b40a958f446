//! `soma.Metric`: see `avro/soma/Metric.avsc`, which this mirrors field by field.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::values::Timestamp;

/// A number over a window of event time. Late events give the same window again with a higher revision.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Prometheus name, for example `soma_events_per_minute`.
    pub name: String,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// First instant of the window.
    pub window_start: Timestamp,
    /// First instant after the window.
    pub window_end: Timestamp,
    /// The number.
    pub value: f64,
    /// 0 when the window closed, then 1, 2 ... for each correction.
    #[serde(default)]
    pub revision: i32,
    /// When it was computed.
    pub emitted_at: Timestamp,
}

crate::record!(Metric, "Metric");
