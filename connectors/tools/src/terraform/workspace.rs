//! A workspace on disk, one per tenant and name, and who may work in it.
//!
//! `module/` holds the files, the variables and terraform's state; `plans/<plan_id>.tfplan`, `.json` and `.files.json` what may be applied;
//! `calls/<idempotency_key>.*` the marks of applies and destroys. Everything is readable by our user only: a state holds secrets.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use kernel::{CallFault, FaultCode};
use serde_json::Value;
use tokio::sync::OwnedMutexGuard;

use crate::faults::harmless;

/// Where the variables of the last plan are: terraform reads it by itself.
pub(super) const VARIABLES: &str = "soma.auto.tfvars.json";
/// Digest of the files `init` was last run for.
const INIT: &str = "init.digest";

/// A workspace's folders.
#[derive(Clone, Debug)]
pub(super) struct Workspace {
    pub(super) dir: PathBuf,
}

impl Workspace {
    /// The place of a workspace. The names have been checked.
    pub(super) fn at(root: &Path, tenant: &str, name: &str) -> Self {
        Self {
            dir: root.join(tenant).join(name),
        }
    }

    pub(super) fn module(&self) -> PathBuf {
        self.dir.join("module")
    }

    pub(super) fn plan(&self, plan_id: &str) -> PathBuf {
        self.dir.join("plans").join(format!("{plan_id}.tfplan"))
    }

    pub(super) fn plan_summary(&self, plan_id: &str) -> PathBuf {
        self.dir.join("plans").join(format!("{plan_id}.json"))
    }

    fn plan_files(&self, plan_id: &str) -> PathBuf {
        self.dir.join("plans").join(format!("{plan_id}.files.json"))
    }

    /// Keeps the files a plan was made from: another plan may be made before this one is applied.
    pub(super) fn keep_plan_files(&self, plan_id: &str, files: &BTreeMap<String, String>) -> Result<(), CallFault> {
        let to = self.plan_files(plan_id);
        fs::write(&to, serde_json::json!(files).to_string()).map_err(|e| disk("write", &to, &e))
    }

    /// The files a plan was made from.
    pub(super) fn files_of_plan(&self, plan_id: &str) -> Result<BTreeMap<String, String>, CallFault> {
        let from = self.plan_files(plan_id);
        let text = fs::read(&from).map_err(|e| disk("read", &from, &e))?;
        serde_json::from_slice(&text).map_err(|e| disk("read", &from, &e.into()))
    }

    pub(super) fn calls(&self) -> PathBuf {
        self.dir.join("calls")
    }

    pub(super) fn exists(&self) -> bool {
        self.module().is_dir()
    }

    /// Makes the folders.
    pub(super) fn make(&self) -> Result<(), CallFault> {
        for dir in [self.module(), self.dir.join("plans"), self.calls()] {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
            made.map_err(|e| disk("create", &dir, &e))?;
        }
        Ok(())
    }

    /// The module's files as they are, without what terraform keeps there.
    pub(super) fn files(&self) -> Result<BTreeMap<String, String>, CallFault> {
        let dir = self.module();
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(&dir).map_err(|e| disk("read", &dir, &e))? {
            let entry = entry.map_err(|e| disk("read", &dir, &e))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let ours = !name.starts_with('.') && !name.contains(".tfstate");
            if ours && entry.file_type().is_ok_and(|t| t.is_file()) {
                let text = fs::read_to_string(entry.path()).map_err(|e| disk("read", &entry.path(), &e))?;
                files.insert(name, text);
            }
        }
        Ok(files)
    }

    /// Makes the module's files exactly these.
    pub(super) fn set_files(&self, files: &BTreeMap<String, String>) -> Result<(), CallFault> {
        let dir = self.module();
        for name in self.files()?.into_keys().filter(|n| !files.contains_key(n)) {
            fs::remove_file(dir.join(&name)).map_err(|e| disk("remove", &dir.join(&name), &e))?;
        }
        for (name, text) in files {
            fs::write(dir.join(name), text).map_err(|e| disk("write", &dir.join(name), &e))?;
        }
        Ok(())
    }

    /// Digest of the state a plan starts from; moves with every change.
    pub(super) fn state_digest(&self) -> String {
        let state = fs::read_to_string(self.module().join("terraform.tfstate")).unwrap_or_default();
        schemas::digest::sha256_hex(&["state", &state])
    }

    pub(super) fn is_initialised(&self, files_digest: &str) -> bool {
        fs::read_to_string(self.dir.join(INIT)).is_ok_and(|d| d == files_digest)
    }

    pub(super) fn initialised(&self, files_digest: &str) -> Result<(), CallFault> {
        let path = self.dir.join(INIT);
        fs::write(&path, files_digest).map_err(|e| disk("write", &path, &e))
    }

    /// What `plan` said of a saved plan.
    pub(super) fn summary(&self, plan_id: &str) -> Option<Value> {
        serde_json::from_slice(&fs::read(self.plan_summary(plan_id)).ok()?).ok()
    }
}

/// A disk that refuses: nothing outside was touched.
pub(super) fn disk(verb: &str, path: &Path, error: &io::Error) -> CallFault {
    harmless(
        FaultCode::ToolUnreachable,
        format!(
            "cannot {verb} {}: {error}; give the platform's user a writable workspaces_dir with free space",
            path.display()
        ),
    )
}

/// New files in a module; the former ones come back unless the plan made from them is kept, so that a plan that failed (or was cut off)
/// never stands between a workspace and its destruction.
pub(super) struct Staged {
    workspace: Workspace,
    former: Option<BTreeMap<String, String>>,
}

impl Staged {
    pub(super) fn new(workspace: &Workspace, files: &BTreeMap<String, String>) -> Result<Self, CallFault> {
        let staged = Self {
            workspace: workspace.clone(),
            former: Some(workspace.files()?),
        };
        workspace.set_files(files)?;
        Ok(staged)
    }

    pub(super) fn keep(mut self) {
        self.former = None;
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(former) = self.former.take()
            && let Err(e) = self.workspace.set_files(&former)
        {
            tracing::warn!(fault = %e.fault, "the files of the last good plan could not be put back");
        }
    }
}

/// One operation at a time per workspace.
#[derive(Default)]
pub(super) struct Locks(Mutex<HashMap<PathBuf, Arc<tokio::sync::Mutex<()>>>>);

impl Locks {
    pub(super) async fn lock(&self, workspace: &Workspace) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if locks.len() >= 1024 {
                locks.retain(|_, l| Arc::strong_count(l) > 1);
            }
            Arc::clone(locks.entry(workspace.dir.clone()).or_default())
        };
        lock.lock_owned().await
    }
}
