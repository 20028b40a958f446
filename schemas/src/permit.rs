//! The text a permit's signature covers. The gate signs it, the invoker checks it; neither knows the other.

use crate::records::{Decision, Obligation, Permit};
use crate::values::Timestamp;

/// Bytes under the signature of a step's allow: run, step, digest, decision, revision, time and obligations, length-prefixed. An allow
/// bound to nothing has none of the last.
pub fn signed_text(
    run_id: &str,
    step_id: &str,
    digest: &str,
    policy_revision: &str,
    decided_at: Timestamp,
    obligations: &[Obligation],
) -> Vec<u8> {
    let at = decided_at.0.to_string();
    let mut parts = vec!["permit", run_id, step_id, digest, "ALLOW", policy_revision, &at];
    let bound = serde_json::to_string(obligations).unwrap_or_default();
    let bound = crate::digest::canonical(&bound).unwrap_or_default();
    if !obligations.is_empty() {
        parts.push(&bound);
    }
    crate::digest::sha256_hex(&parts).into_bytes()
}

impl Permit {
    /// Bytes this permit's signature must cover for the given call.
    pub fn signed_text(&self, run_id: &str, step_id: &str, digest: &str) -> Vec<u8> {
        signed_text(
            run_id,
            step_id,
            digest,
            &self.policy_revision,
            self.decided_at,
            &self.obligations,
        )
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
