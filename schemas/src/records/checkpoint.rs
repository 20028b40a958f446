//! `soma.Checkpoint`: see `avro/soma/Checkpoint.avsc`, which this mirrors field by field.

use serde::{Deserialize, Serialize};

use crate::values::Timestamp;

/// A signed statement of how far an audit chain goes and what is in it since the checkpoint before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Which chain.
    pub chain: i32,
    /// 1, 2, 3 and so on within its chain.
    pub number: i64,
    /// First entry it covers.
    pub first_seq: i64,
    /// Last entry it covers.
    pub last_seq: i64,
    /// SHA-256, 64 hex digits, of the last entry.
    pub head: String,
    /// Merkle root (RFC 6962) of the hashes of the entries it covers, 64 hex digits.
    pub root: String,
    /// SHA-256, 64 hex digits, of the text signed in the checkpoint before; zeros for the first.
    pub previous: String,
    /// When it was signed.
    pub signed_at: Timestamp,
    /// Ed25519 public key, 64 hex digits.
    pub public_key: String,
    /// Ed25519 signature, 128 hex digits.
    pub signature: String,
}

crate::record!(Checkpoint, "Checkpoint");
