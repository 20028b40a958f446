//! Keys of tenants, a file each in one folder that all instances share. Erasing a key leaves a mark in its place, so that no new one
//! is made: what was encrypted with it stays unreadable, and what comes is chained without its words.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use kernel::{Fault, FaultCode};
use schemas::digest;
use stages::audit::{Key, Keyring};

/// A folder of keys.
pub(crate) struct KeyFiles {
    folder: PathBuf,
    known: Mutex<BTreeMap<String, Key>>,
}

fn failed(path: &Path, e: impl std::fmt::Display) -> Fault {
    Fault::new(FaultCode::AuditKeyUnreadable, format!("{}: {e}", path.display()))
}

impl KeyFiles {
    /// Keys in this folder, which is made when it is missing.
    ///
    /// # Errors
    /// `AUDIT_KEY_UNREADABLE`.
    pub(crate) fn open(folder: &Path) -> Result<Self, Fault> {
        std::fs::create_dir_all(folder).map_err(|e| failed(folder, e))?;
        Ok(Self {
            folder: folder.to_owned(),
            known: Mutex::default(),
        })
    }

    /// What entries name a tenant's key by. Not the tenant's name: that may be any text, and need not be shown for ever.
    fn id(tenant: &str) -> String {
        digest::id("key", &["audit key", tenant])
    }

    fn file(&self, tenant: &str, kind: &str) -> PathBuf {
        self.folder.join(format!("{}.{kind}", Self::id(tenant)))
    }

    /// Erases a tenant's key for good. What the mark says is for people.
    ///
    /// # Errors
    /// `AUDIT_KEY_UNREADABLE`.
    pub(crate) fn erase(&self, tenant: &str, mark: &str) -> Result<(), Fault> {
        let (key, erased) = (self.file(tenant, "key"), self.file(tenant, "erased"));
        // The mark first: between the two the key may be read, never made anew.
        private(&erased, mark).map_err(|e| failed(&erased, e))?;
        if key.exists() {
            let zeros = "0".repeat(64);
            std::fs::write(&key, zeros).map_err(|e| failed(&key, e))?;
            std::fs::remove_file(&key).map_err(|e| failed(&key, e))?;
        }
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(tenant);
        Ok(())
    }

    /// The key, if it is there; makes none.
    ///
    /// # Errors
    /// `AUDIT_KEY_UNREADABLE`.
    pub(crate) fn read(&self, tenant: &str) -> Result<Option<Key>, Fault> {
        let path = self.file(tenant, "key");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(&path, e)),
        };
        let bytes = hex::decode(text.trim()).map_err(|e| failed(&path, e))?;
        let secret = bytes
            .try_into()
            .map_err(|_| failed(&path, "does not hold 64 hex digits"))?;
        let id = Self::id(tenant);
        Ok(Some(Key { id, secret }))
    }

    fn make(&self, tenant: &str) -> Result<(), Fault> {
        let path = self.file(tenant, "key");
        let secret = random().map_err(|e| failed(Path::new("/dev/urandom"), e))?;
        // Whole under its name or not at all; of two instances that make it at once the first wins.
        let part = self
            .folder
            .join(format!("{}.{}.part", Self::id(tenant), std::process::id()));
        private(&part, &hex::encode(secret)).map_err(|e| failed(&part, e))?;
        let linked = std::fs::hard_link(&part, &path);
        std::fs::remove_file(&part).map_err(|e| failed(&part, e))?;
        match linked {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(failed(&path, e)),
            _ => Ok(()),
        }
    }
}

/// 32 bytes nobody can guess.
pub(crate) fn random() -> std::io::Result<[u8; 32]> {
    let mut secret = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut secret)?;
    Ok(secret)
}

/// Writes a file that only its owner reads.
pub(crate) fn private(path: &Path, text: &str) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

impl Keyring for KeyFiles {
    fn key(&self, tenant: &str) -> Result<Option<Key>, Fault> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if self.file(tenant, "erased").exists() {
            known.remove(tenant);
            return Ok(None);
        }
        if let Some(key) = known.get(tenant) {
            return Ok(Some(key.clone()));
        }
        if self.read(tenant)?.is_none() {
            self.make(tenant)?;
        }
        let path = self.file(tenant, "key");
        let key = self
            .read(tenant)?
            .ok_or_else(|| failed(&path, "was made and is gone"))?;
        known.insert(tenant.to_owned(), key.clone());
        Ok(Some(key))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_once_erased_never_again() {
        let folder = std::env::temp_dir().join(format!("soma-keys-{}", std::process::id()));
        let (one, other) = (KeyFiles::open(&folder).unwrap(), KeyFiles::open(&folder).unwrap());
        assert_eq!(one.read("../acme").unwrap(), None);
        let key = one.key("../acme").unwrap().unwrap();
        assert_eq!(other.key("../acme").unwrap().unwrap(), key);
        assert_ne!(one.key("").unwrap().unwrap().secret, key.secret);
        one.erase("../acme", "ada: asked for").unwrap();
        assert_eq!(
            (one.key("../acme").unwrap(), other.key("../acme").unwrap()),
            (None, None)
        );
        assert_eq!(other.read("../acme").unwrap(), None);
        std::fs::write(one.file("b", "key"), "short").unwrap();
        let fault = one.key("b").unwrap_err();
        assert_eq!(fault.code, FaultCode::AuditKeyUnreadable);
        assert!(
            fault.detail.contains("64 hex digits") || fault.detail.contains("key_"),
            "{}",
            fault.detail
        );
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
