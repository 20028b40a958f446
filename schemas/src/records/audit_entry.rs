//! `soma.AuditEntry`: see `avro/soma/AuditEntry.avsc`, which this mirrors field by field.

use serde::{Deserialize, Serialize};

use crate::values::Timestamp;

/// One link of an audit chain: a record that was written, bound to everything chained before it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// SHA-256, 64 hex digits, of the entry before it in its chain, as Avro binary; zeros for the first.
    pub previous: String,
    /// Which chain: the partition of the records in it.
    pub chain: i32,
    /// 1, 2, 3 and so on within its chain.
    pub seq: i64,
    /// When it was chained.
    pub chained_at: Timestamp,
    /// What was written: `Request`, `Verdict`, `Approval`, `Control`, `Call` or `Outcome`; `Unreadable` for bytes that are none.
    pub record: String,
    /// Topic it was read from.
    pub topic: String,
    /// Offset there; the partition is the chain's.
    pub offset: i64,
    /// When it was written there.
    pub written_at: Timestamp,
    /// Tenant; empty for a control of all.
    pub tenant: String,
    /// Run it belongs to; empty for a control.
    #[serde(default)]
    pub run_id: String,
    /// What it is about: the id of the verdict, approval or call, the scope of a control, the idempotency key of a request.
    #[serde(default)]
    pub subject: String,
    /// What it says in a word: `ALLOW`, `DENY`, `APPROVE`, `KILL`, `SUCCEEDED` and so on; empty for a request or a call.
    #[serde(default)]
    pub fact: String,
    /// SHA-256, 64 hex digits, of the record as canonical JSON (RFC 8785).
    pub digest: String,
    /// Key of the tenant that `body` is encrypted with; empty when the key was erased before.
    #[serde(default)]
    pub key_id: String,
    /// The record as canonical JSON, encrypted (XChaCha20-Poly1305, nonce first), base64; empty when the key was erased before.
    #[serde(default)]
    pub body: String,
}

crate::record!(AuditEntry, "AuditEntry");
