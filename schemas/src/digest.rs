//! Digests and the ids made from them. Everything here is a pure function of its arguments: the same input gives the same
//! id in every process, which is what makes redelivery harmless.

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::records::Step;

const DIGITS: [u8; 16] = *b"0123456789abcdef";

/// SHA-256 of the parts, each preceded by its length so that ("ab","c") and ("a","bc") differ. 64 hex digits.
pub fn sha256_hex(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hex(&hash.finalize())
}

/// Bytes as hex digits in lower case, two for each.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
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
    canonical_value(&value)
}

/// The same of JSON that was read already.
///
/// # Errors
/// It holds a number JSON cannot carry.
pub fn canonical_value(value: &Value) -> Result<String, String> {
    let mut text = String::with_capacity(256);
    crate::canonical::write(value, &mut text)?;
    Ok(text)
}

/// Digest of one action: tool, operation and canonical arguments. What a verdict, a permit and an approval are bound to.
///
/// # Errors
/// `arguments` is not JSON.
pub fn action(tool: &str, operation: &str, arguments: &str) -> Result<String, String> {
    Ok(canonical_action(tool, operation, &canonical(arguments)?))
}

/// The same, of arguments in canonical form.
pub fn canonical_action(tool: &str, operation: &str, arguments: &str) -> String {
    sha256_hex(&["action", tool, operation, arguments])
}

/// Digest of a plan's steps, in order.
///
/// # Errors
/// A step cannot be written as JSON.
pub fn plan(run_id: &str, steps: &[Step]) -> Result<String, String> {
    let mut text = String::with_capacity(512 * steps.len());
    crate::canonical::write_steps(steps, &mut text)?;
    Ok(sha256_hex(&["plan", run_id, &text]))
}

/// Partition of a key among `partitions`, as librdkafka's default partitioner has it: CRC-32 of the key's bytes.
pub fn partition(key: &str, partitions: u32) -> u32 {
    crc32fast::hash(key.as_bytes()).checked_rem(partitions).unwrap_or(0)
}

/// Every number of partitions that divides this keeps a run beside its request: 1 to 6, 8, 10, 12, 15, 16, 20, 24, 30, 32, 40, ...
const HOMES: u32 = 960;

/// The run of a request: one per tenant and idempotency key, whoever computes it. Its last four digits are chosen so that it falls into the
/// partition of its request ([`partition`]): one task can then take a request and run it in one transaction.
pub fn run_id(tenant: &str, idempotency_key: &str) -> String {
    let digest = sha256_hex(&["run", tenant, idempotency_key]);
    let home = partition(&format!("{tenant}:{idempotency_key}"), HOMES);
    let begin = format!("run_{}", &digest[..28]);
    let mut hash = crc32fast::Hasher::new();
    hash.update(begin.as_bytes());
    let fits = |tail: &[u8; 4]| {
        let mut hash = hash.clone();
        hash.update(tail);
        hash.finalize() % HOMES == home
    };
    // One in HOMES fits: that none of 65536 does is not to be expected, and would only cost a transaction.
    let tail = (0..=u16::MAX).map(tail).find(fits).unwrap_or_else(|| tail(0));
    begin + &String::from_utf8_lossy(&tail)
}

/// Four hex digits.
fn tail(n: u16) -> [u8; 4] {
    [12, 8, 4, 0].map(|shift| DIGITS[usize::from(n >> shift & 15)])
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
    fn a_run_falls_into_the_partition_of_its_request() {
        for n in 0..200 {
            let run = run_id("acme", &format!("order-{n}"));
            assert_eq!((run.len(), &run[..4]), (36, "run_"));
            for partitions in [1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96] {
                let of_request = partition(&format!("acme:order-{n}"), partitions);
                assert_eq!(partition(&run, partitions), of_request, "{run} of {partitions}");
            }
        }
    }

    #[test]
    fn parts_do_not_run_together() {
        assert_ne!(sha256_hex(&["ab", "c"]), sha256_hex(&["a", "bc"]));
    }
}
