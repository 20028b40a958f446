//! The text a permit's signature covers. The gate signs it, the invoker checks it; neither knows the other.

use crate::records::{Decision, Permit};
use crate::values::Timestamp;

/// Bytes under the signature of a step's allow: run, step, digest, decision, revision and time, length-prefixed.
pub fn signed_text(run_id: &str, step_id: &str, digest: &str, policy_revision: &str, decided_at: Timestamp) -> Vec<u8> {
    let at = decided_at.0.to_string();
    crate::digest::sha256_hex(&["permit", run_id, step_id, digest, "ALLOW", policy_revision, &at]).into_bytes()
}

impl Permit {
    /// Bytes this permit's signature must cover for the given call.
    pub fn signed_text(&self, run_id: &str, step_id: &str, digest: &str) -> Vec<u8> {
        signed_text(run_id, step_id, digest, &self.policy_revision, self.decided_at)
    }
}

impl Decision {
    /// The word used in event types and labels.
    pub fn word(self) -> &'static str {
        match self {
            Decision::Allow => "allow",
            Decision::Deny => "deny",
            Decision::Escalate => "escalate",
        }
    }
}
