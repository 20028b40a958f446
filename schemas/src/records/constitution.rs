//! `soma.Constitution`: see `avro/soma/Constitution.avsc`, which this mirrors field by field.

use serde::{Deserialize, Serialize};

use crate::values::Timestamp;

/// A version of the constitution of a tenant, signed. What it says stands above every bundle.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Constitution {
    /// Tenant it is for; `*` for all.
    pub tenant: String,
    /// 1 for the first.
    pub version: i64,
    /// The document as canonical JSON (RFC 8785): principles, requirements, precedence.
    pub document: String,
    /// SHA-256 of the document, 64 hex digits.
    pub hash: String,
    /// Ed25519 public key that signed it, 64 hex digits.
    pub signer: String,
    /// Ed25519 signature over `soma constitution` and the hash, 128 hex digits.
    pub signature: String,
    /// Why it was published.
    pub reason: String,
    /// Who published it.
    pub actor: String,
    /// When.
    pub published_at: Timestamp,
}

crate::record!(Constitution, "Constitution");
