//! `soma.Heartbeat`: see `avro/soma/Heartbeat.avsc`, which this mirrors field by field.

use serde::{Deserialize, Serialize};

use crate::values::Timestamp;

/// Somebody watches: a pipeline with `dead_man_s` holds everything when it has not heard one for so long.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Who watches.
    pub actor: String,
    /// When.
    pub beat_at: Timestamp,
}

crate::record!(Heartbeat, "Heartbeat");
