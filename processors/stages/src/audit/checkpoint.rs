//! Signed checkpoints: what their signature covers, and whether it holds.

use ed25519_dalek::{Signature, Signer, SigningKey, Verifier, VerifyingKey};
use schemas::digest;
use schemas::records::Checkpoint;

/// Hash before the first of a chain.
pub const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Digest of everything a checkpoint says, 64 hex digits: what is signed, and what the next one names as `previous`.
pub fn signed_text(c: &Checkpoint) -> String {
    let number = |n: i64| n.to_string();
    digest::sha256_hex(&[
        "audit checkpoint",
        &number(c.chain.into()),
        &number(c.number),
        &number(c.first_seq),
        &number(c.last_seq),
        &c.head,
        &c.root,
        &c.previous,
        &number(c.signed_at.0),
        &c.public_key,
    ])
}

/// Signs it; `public_key` is filled in.
pub(super) fn sign(mut c: Checkpoint, key: &SigningKey) -> Checkpoint {
    c.public_key = hex::encode(key.verifying_key().to_bytes());
    c.signature = hex::encode(key.sign(signed_text(&c).as_bytes()).to_bytes());
    c
}

/// Whether the signature holds, by the key it names.
///
/// # Errors
/// Why it does not.
pub fn verify(c: &Checkpoint) -> Result<(), String> {
    let bytes = |name: &str, text: &str| hex::decode(text).map_err(|e| format!("{name} is not hex: {e}"));
    let public: [u8; 32] = bytes("public_key", &c.public_key)?
        .try_into()
        .map_err(|_| "public_key is not 32 bytes")?;
    let key = VerifyingKey::from_bytes(&public).map_err(|e| format!("public_key: {e}"))?;
    let signature = Signature::from_slice(&bytes("signature", &c.signature)?).map_err(|e| format!("signature: {e}"))?;
    key.verify(signed_text(c).as_bytes(), &signature)
        .map_err(|_| "the signature does not hold".to_owned())
}
