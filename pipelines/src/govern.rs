//! Configuration of the stages that sign: the policy gate and the audit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use kernel::ConfigFault;
use serde::Deserialize;
use stages::policy_gate::constitution::Signers;
use stages::{audit, policy_gate};

use crate::config::{Pipeline, StageEntry};
use crate::keyring::KeyFiles;
use crate::registry::{own, texts};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GateConfig {
    /// Folder of the policy bundle, from the pipeline file.
    bundle: PathBuf,
    /// File with the 32-byte signing key as hex.
    signing_key_file: PathBuf,
}

/// A 32-byte key from a file of 64 hex digits.
pub(crate) fn key(path: &Path, field: &str) -> Result<[u8; 32], Vec<ConfigFault>> {
    let bad = |why: String| {
        vec![ConfigFault::new(
            field,
            format!("{}: {why}; it must hold 64 hex digits", path.display()),
        )]
    };
    let text = std::fs::read_to_string(path).map_err(|e| bad(e.to_string()))?;
    let bytes = hex::decode(text.trim()).map_err(|e| bad(e.to_string()))?;
    bytes.try_into().map_err(|_| bad("wrong length".to_owned()))
}

/// Who may sign constitutions, as the pipeline says.
pub(crate) fn signers(pipeline: &Pipeline) -> Result<Signers, Vec<ConfigFault>> {
    let file = &pipeline.constitution_signers_file;
    if file.as_os_str().is_empty() {
        return Ok(Signers::default());
    }
    signers_of(&pipeline.dir.join(file))
}

/// Reads a file of signers.
pub(crate) fn signers_of(path: &Path) -> Result<Signers, Vec<ConfigFault>> {
    let shown = path.display();
    let at = |e: String| vec![ConfigFault::new("constitution_signers_file", format!("{shown}: {e}"))];
    let text = std::fs::read_to_string(path).map_err(|e| at(e.to_string()))?;
    Signers::parse(&text).map_err(|faults| faults.into_iter().flat_map(|f| at(f.to_string())).collect())
}

/// Microseconds of a monotonic clock: the only measurement a pure stage is handed.
fn stopwatch() -> u64 {
    static START: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    u64::try_from(START.elapsed().as_micros()).unwrap_or(u64::MAX)
}

pub(crate) fn gate(
    entry: &StageEntry,
    pipeline: &Pipeline,
) -> Result<(policy_gate::PolicyGate, usize), Vec<ConfigFault>> {
    let config: GateConfig = own(entry)?;
    let bundle = policy_gate::Bundle::parse(&texts(&pipeline.dir, &[config.bundle])?)?;
    let tests = proven(&bundle)?;
    let key = key(&config.signing_key_file, "signing_key_file")?;
    let gate = policy_gate::PolicyGate::new(bundle, key, stopwatch);
    Ok((gate.with_traits(Arc::new(tools::traits())), tests))
}

/// A gate to try a bundle with: what it allows lets nothing out.
pub(crate) fn trial(bundle: policy_gate::Bundle) -> policy_gate::PolicyGate {
    let gate = policy_gate::PolicyGate::new(bundle, [0; 32], || 0);
    gate.unsigned().with_traits(Arc::new(tools::traits()))
}

/// How many tests a bundle has, all of which pass. They are run once in a process: a bundle is read when the pipeline is checked
/// and again when its stage begins, and a restart waits for both.
fn proven(bundle: &policy_gate::Bundle) -> Result<usize, Vec<ConfigFault>> {
    static PROVEN: Mutex<BTreeMap<String, usize>> = Mutex::new(BTreeMap::new());
    let mut proven = PROVEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(tests) = proven.get(bundle.revision()) {
        return Ok(*tests);
    }
    let tests = bundle.test();
    let failed = tests.iter().filter(|t| !t.passed);
    let failed: Vec<_> = failed
        .map(|t| ConfigFault::new(t.name.clone(), "policy test failed".to_owned()))
        .collect();
    if failed.is_empty() {
        proven.insert(bundle.revision().to_owned(), tests.len());
        return Ok(tests.len());
    }
    Err(failed)
}

pub(crate) fn check_policy_gate(entry: &StageEntry, pipeline: &Pipeline) -> Result<String, Vec<ConfigFault>> {
    gate(entry, pipeline).map(|(_, tests)| format!("{tests} policy tests pass"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuditConfig {
    /// File with the 32-byte key that checkpoints are signed with, as hex.
    signing_key_file: PathBuf,
    /// Folder of the tenants' keys, the same for all instances.
    keys_dir: PathBuf,
    #[serde(default)]
    stage: Option<audit::Config>,
}

pub(crate) fn audit(entry: &StageEntry) -> Result<audit::Audit, Vec<ConfigFault>> {
    let config: AuditConfig = own(entry)?;
    let key = key(&config.signing_key_file, "signing_key_file")?;
    let stage = config.stage.unwrap_or(audit::Config { checkpoint_s: 60 });
    let faults = stage.check();
    if !faults.is_empty() {
        let of = |f: ConfigFault| ConfigFault::new(format!("stage.{}", f.path), f.detail);
        return Err(faults.into_iter().map(of).collect());
    }
    let keys = KeyFiles::open(&config.keys_dir).map_err(|f| vec![ConfigFault::new("keys_dir", f.detail)])?;
    Ok(audit::Audit::new(stage, key, Arc::new(keys)))
}
