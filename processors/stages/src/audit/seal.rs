//! Bodies of entries: packed, then encrypted with a key of their tenant, so that erasing the key erases what they say, while the chain,
//! which is over what was encrypted, stays whole.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use kernel::{Fault, FaultCode};
use sha2::{Digest, Sha256};

use super::pack;

const NONCE: usize = 24;

/// A tenant's key.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    /// What entries name it by.
    pub id: String,
    /// The secret.
    pub secret: [u8; 32],
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

/// Keys of tenants. A key is made when it is first asked for, and once erased never made again.
pub trait Keyring: Send + Sync {
    /// The key of a tenant; `None` once it has been erased. The tenant `""` is the platform itself.
    ///
    /// # Errors
    /// `AUDIT_KEY_UNREADABLE`: nothing is chained until it can be read.
    fn key(&self, tenant: &str) -> Result<Option<Key>, Fault>;
}

fn place(chain: i32, seq: i64) -> Vec<u8> {
    [&chain.to_be_bytes()[..], &seq.to_be_bytes()].concat()
}

/// Packs a body and encrypts it for its place. The nonce derives from key, place and what is encrypted, not the text: a step that is
/// made again at the same place after an aborted transaction, with other text or packed by another version, does not use one twice.
pub(super) fn seal(key: &Key, (chain, seq): (i32, i64), text: &str) -> Result<String, Fault> {
    let place = place(chain, seq);
    let packed = pack::pack(text)?;
    let hash = Sha256::new().chain_update(key.secret).chain_update(b"audit body nonce");
    let hash = hash.chain_update(&place).chain_update(&packed).finalize();
    let nonce = XNonce::from_slice(&hash[..NONCE]);
    let payload = Payload {
        msg: &packed,
        aad: &place,
    };
    let sealed = XChaCha20Poly1305::new(&key.secret.into()).encrypt(nonce, payload);
    let sealed = sealed.map_err(|_| Fault::new(FaultCode::Internal, "an audit body cannot be encrypted"))?;
    Ok(STANDARD.encode([nonce.as_slice(), &sealed].concat()))
}

/// What a body says.
///
/// # Errors
/// It was not encrypted with this key, for this place; or it has been changed.
pub fn unseal(key: &Key, (chain, seq): (i32, i64), body: &str) -> Result<String, String> {
    let bytes = STANDARD
        .decode(body)
        .map_err(|e| format!("the body is not base64: {e}"))?;
    let (nonce, sealed) = bytes.split_at_checked(NONCE).ok_or("the body is too short")?;
    let place = place(chain, seq);
    let payload = Payload {
        msg: sealed,
        aad: &place,
    };
    let packed = XChaCha20Poly1305::new(&key.secret.into()).decrypt(XNonce::from_slice(nonce), payload);
    let packed = packed.map_err(|_| format!("the body was not encrypted with key {} for this place", key.id))?;
    pack::unpack(packed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_read_with_its_key_at_its_place_only() {
        let key = |n| Key {
            id: format!("key_{n}"),
            secret: [n; 32],
        };
        let body = seal(&key(1), (2, 7), "{\"who\":\"ada\"}").unwrap();
        assert!(!body.contains("ada"));
        assert_eq!(unseal(&key(1), (2, 7), &body).unwrap(), "{\"who\":\"ada\"}");
        assert!(unseal(&key(2), (2, 7), &body).unwrap_err().contains("key_2"));
        assert!(unseal(&key(1), (2, 8), &body).is_err());
        assert!(unseal(&key(1), (2, 7), &body.replacen(&body[40..41], "-", 1)).is_err());
        assert_ne!(body, seal(&key(1), (2, 7), "{\"who\":\"bob\"}").unwrap());
    }

    /// Sealed by the version before, which did not pack.
    #[test]
    fn a_body_that_was_not_packed_is_read() {
        let key = Key {
            id: "key_1".into(),
            secret: [1; 32],
        };
        let payload = Payload {
            msg: b"{\"who\":\"ada\"}",
            aad: &place(2, 7),
        };
        let nonce = [9; NONCE];
        let sealed = XChaCha20Poly1305::new(&key.secret.into()).encrypt(&nonce.into(), payload);
        let body = STANDARD.encode([&nonce[..], &sealed.unwrap()].concat());
        assert_eq!(unseal(&key, (2, 7), &body).unwrap(), "{\"who\":\"ada\"}");
    }
}
