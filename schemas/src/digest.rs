//! Digests and the ids made from them. Everything here is a pure function of its arguments: the same input gives the same
//! id in every process, which is what makes redelivery harmless.

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::records::Step;

/// SHA-256 of the parts, each preceded by its length so that ("ab","c") and ("a","bc") differ. 64 hex digits.
pub fn sha256_hex(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hex::encode(hash.finalize())
}

/// An id: the prefix and the first 32 hex digits of the digest of `parts`.
pub fn id(prefix: &str, parts: &[&str]) -> String {
    format!("{prefix}_{}", &sha256_hex(parts)[..32])
}

/// JSON in canonical form (RFC 8785), so that equal values have equal bytes.
///
/// # Errors
/// The text is not JSON, or holds a number JSON cannot carry.
pub fn canonical(json: &str) -> Result<String, String> {
    let value: Value = serde_json::from_str(json).map_err(|e| format!("not JSON: {e}"))?;
    serde_json_canonicalizer::to_string(&value).map_err(|e| format!("not canonical JSON: {e}"))
}

/// Digest of one action: tool, operation and canonical arguments. What a verdict, a permit and an approval are bound to.
///
/// # Errors
/// `arguments` is not JSON.
pub fn action(tool: &str, operation: &str, arguments: &str) -> Result<String, String> {
    Ok(sha256_hex(&["action", tool, operation, &canonical(arguments)?]))
}

/// Digest of a plan's steps, in order.
///
/// # Errors
/// A step cannot be written as JSON.
pub fn plan(run_id: &str, steps: &[Step]) -> Result<String, String> {
    let text = serde_json::to_string(steps).map_err(|e| e.to_string())?;
    Ok(sha256_hex(&["plan", run_id, &canonical(&text)?]))
}

/// The run of a request: one per tenant and idempotency key, whoever computes it.
pub fn run_id(tenant: &str, idempotency_key: &str) -> String {
    id("run", &["run", tenant, idempotency_key])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_order_and_space_do_not_change_a_digest() {
        let a = action("http", "request", r#"{"url":"http://x","n":1}"#);
        let b = action("http", "request", r#"{ "n": 1, "url": "http://x" }"#);
        assert_eq!(a, b);
        assert_ne!(a, action("http", "request", r#"{"url":"http://x","n":2}"#));
        assert!(action("http", "request", "{").is_err());
    }

    #[test]
    fn parts_do_not_run_together() {
        assert_ne!(sha256_hex(&["ab", "c"]), sha256_hex(&["a", "bc"]));
    }
}
