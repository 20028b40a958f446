//! Runs the terraform program to its end, in a process group of its own that dies with the call.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use kernel::{CallFault, FaultCode};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use crate::faults::{harmless, unknown};

/// Environment the tool sets itself.
pub(crate) const RESERVED_ENV: [&str; 6] = [
    "PATH",
    "HOME",
    "TF_IN_AUTOMATION",
    "TF_INPUT",
    "TF_CLI_CONFIG_FILE",
    "CHECKPOINT_DISABLE",
];
/// More output than this is not a plan anybody reads.
const OUTPUT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The program and what it is given.
#[derive(Clone, Debug)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    pub(super) search_path: String,
    pub(super) environment: BTreeMap<String, String>,
}

/// What a program said.
pub(super) struct Said {
    pub(super) code: Option<i32>,
    pub(super) out: Vec<u8>,
    pub(super) err: String,
}

impl Said {
    /// Its error text, or its output when it says nothing there.
    pub(super) fn complaint(&self) -> String {
        if self.err.trim().is_empty() {
            String::from_utf8_lossy(&self.out).into_owned()
        } else {
            self.err.clone()
        }
    }
}

impl Program {
    /// A command with nothing in its environment but what is listed.
    pub(super) fn command(&self, program: &Path, home: &Path, dir: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", &self.search_path)
            .envs(
                self.environment
                    .iter()
                    .filter(|(name, _)| !RESERVED_ENV.contains(&name.as_str())),
            )
            .env("HOME", home)
            .env("TF_IN_AUTOMATION", "1")
            .env("TF_INPUT", "0")
            .env("TF_CLI_CONFIG_FILE", "/dev/null")
            .env("CHECKPOINT_DISABLE", "1")
            .current_dir(dir);
        command
    }

    /// Runs it to its end. Dropping the future kills the whole group.
    ///
    /// # Errors
    /// `TOOL_UNREACHABLE` when it cannot be started.
    pub(super) async fn run(&self, home: &Path, dir: &Path, arguments: &[&str]) -> Result<Said, CallFault> {
        let mut child = self
            .command(&self.path, home, dir)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|e| cannot_start(&self.path, &e))?;
        let mut group = Group(child.id());
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (out, err, status) = tokio::join!(drain(out), drain(err), child.wait());
        // Waited for: the number may belong to somebody else from here on.
        group.0 = None;
        let status = status.map_err(|e| unknown(FaultCode::ToolFailed, format!("{}: {e}", self.path.display())))?;
        Ok(Said {
            code: status.code(),
            out,
            err: String::from_utf8_lossy(&err).into_owned(),
        })
    }
}

pub(super) fn cannot_start(path: &Path, error: &std::io::Error) -> CallFault {
    harmless(
        FaultCode::ToolUnreachable,
        format!(
            "cannot start {}: {error}; install it or correct its path in the tools' configuration",
            path.display()
        ),
    )
}

async fn drain(pipe: Option<impl tokio::io::AsyncRead + Unpin>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe
        && let Err(e) = pipe.take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes).await
    {
        tracing::warn!(error = %e, "output of terraform was cut off");
    }
    bytes
}

/// Kills a process group when dropped before its leader was waited for.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            signal(pid, Signal::KILL);
        }
    }
}

/// Signals the group `pid` leads. That it is gone already is no fault.
pub(super) fn signal(pid: u32, signal: Signal) {
    if let Some(group) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        kill_process_group(group, signal).ok();
    }
}
