//! Applies and destroys: they outlive the platform, and leave marks that say afterwards whether they happened.
//!
//! In `calls/`, per idempotency key:
//! - `.started`: process id and attempt, on disk before the process is told to go. Absent: it did not happen.
//! - `.running`: the process was told to go. Absent and the process dead: it did not happen.
//! - `.done`: exit code, written after the end. `.out`, `.err`, `.outputs`: what it said.
//!
//! The process is a shell that leads a session of its own. It waits for a word on its standard input before it begins: when we die
//! before that word it ends without having acted, when we die after it, it goes on to `.done`. Linux only (it reads /proc).

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use kernel::{CallFault, FaultCode};
use rustix::process::Signal;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep, timeout};

use super::process::{Program, cannot_start, signal};
use super::workspace::{Workspace, disk};
use crate::faults::unknown;

/// `$1` is the prefix of the marks, the rest the command. SIGINT reaches terraform, which stops in good order; the shell stays to note it.
const SCRIPT: &str = r#"
read -r word || exit 75
[ "$word" = go ] || exit 75
trap : INT TERM HUP
marks=$1
shift
: > "$marks.running" || exit 75
"$@" > "$marks.out" 2> "$marks.err" < /dev/null
code=$?
"$1" output -json -no-color > "$marks.outputs" 2> /dev/null < /dev/null
printf %s "$code" > "$marks.code"
sync "$marks.code" "$marks.out" "$marks.outputs" 2> /dev/null
mv "$marks.code" "$marks.done"
"#;

/// How long terraform may take to stop in good order once told.
const STOP: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(50);

/// The marks of one call.
pub(super) struct Marks {
    prefix: PathBuf,
    attempt: i32,
}

/// What the marks say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// This attempt did not begin, and no earlier one succeeded.
    Absent,
    /// It is under way.
    Running(u32),
    /// It ended with this exit code.
    Done(i32),
    /// It began, and nobody noted its end.
    Lost,
}

impl Marks {
    pub(super) fn new(workspace: &Workspace, idempotency_key: &str, attempt: i32) -> Self {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
        let fits = (1..=128).contains(&idempotency_key.len()) && idempotency_key.bytes().all(plain);
        let name = if fits {
            idempotency_key.to_owned()
        } else {
            schemas::digest::sha256_hex(&["call", idempotency_key])
        };
        Self {
            prefix: workspace.calls().join(name),
            attempt,
        }
    }

    pub(super) fn path(&self, mark: &str) -> PathBuf {
        let mut path = self.prefix.clone().into_os_string();
        path.push(".");
        path.push(mark);
        path.into()
    }

    pub(super) fn text(&self, mark: &str) -> String {
        fs::read(self.path(mark))
            .map(|b| String::from_utf8_lossy(&b).into_owned())
            .unwrap_or_default()
    }

    /// Reads the marks. A failure of an earlier attempt is known to whoever asks for the next one, and does not stand in its way.
    pub(super) fn standing(&self) -> Standing {
        let started = self.text("started");
        let mut words = started.split_whitespace();
        let Some(pid) = words.next().and_then(|w| w.parse::<u32>().ok()) else {
            return Standing::Absent;
        };
        let earlier = words
            .next()
            .and_then(|w| w.parse::<i32>().ok())
            .is_some_and(|a| a < self.attempt);
        // Alive is looked at before done: it may end in between, but it never comes back to life.
        let alive = is_alive(pid, &self.prefix);
        match self.text("done").trim().parse::<i32>() {
            Ok(0) => Standing::Done(0),
            Ok(_) if earlier => Standing::Absent,
            Ok(code) => Standing::Done(code),
            Err(_) if alive => Standing::Running(pid),
            Err(_) if earlier || !self.path("running").exists() => Standing::Absent,
            Err(_) => Standing::Lost,
        }
    }

    /// Forgets an earlier attempt. `.started` goes first: without it nothing else counts.
    fn clear(&self) -> Result<(), CallFault> {
        for mark in ["started", "running", "done", "code", "out", "err", "outputs"] {
            let path = self.path(mark);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(disk("remove", &path, &e)),
                _ => {}
            }
        }
        Ok(())
    }

    fn write_started(&self, pid: u32) -> Result<(), CallFault> {
        let path = self.path("started");
        let write = || -> std::io::Result<()> {
            let mut file = fs::File::create(&path)?;
            writeln!(file, "{pid} {}", self.attempt)?;
            file.sync_all()?;
            path.parent().map_or(Ok(()), |dir| fs::File::open(dir)?.sync_all())
        };
        write().map_err(|e| disk("write", &path, &e))
    }

    /// Starts `arguments` of the program. When it returns, `.started` is on disk.
    pub(super) async fn start(
        &self,
        program: &Program,
        home: &Path,
        dir: &Path,
        arguments: &[&str],
    ) -> Result<(), CallFault> {
        self.clear()?;
        let mut child = program
            .command(Path::new("setsid"), home, dir)
            .args(["sh", "-c", SCRIPT, "soma-call"])
            .arg(&self.prefix)
            .arg(&program.path)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| cannot_start(Path::new("setsid"), &e))?;
        // Without a word on its standard input it ends by itself, so every way out of here before that is harmless.
        let pid = child.id().unwrap_or_default();
        let mut stdin = child.stdin.take();
        self.write_started(pid)?;
        if let Some(stdin) = stdin.as_mut() {
            let told = async { stdin.write_all(b"go\n").await.and(stdin.flush().await) };
            told.await.map_err(|e| {
                unknown(
                    FaultCode::ToolFailed,
                    format!("the process {pid} could not be told to go: {e}"),
                )
            })?;
        }
        // Reaps it when it ends while we live.
        tokio::spawn(async move { child.wait().await.map(drop) });
        Ok(())
    }

    /// Waits for the end of what is under way. Past `limit` it is told to stop, and killed when it does not.
    pub(super) async fn wait(&self, limit: Duration) -> Standing {
        if let Ok(standing) = timeout(limit, self.ended()).await {
            return standing;
        }
        let Standing::Running(pid) = self.standing() else {
            return self.standing();
        };
        tracing::warn!(pid, "terraform is told to stop: its time is over");
        signal(pid, Signal::INT);
        if let Ok(standing) = timeout(STOP, self.ended()).await {
            return standing;
        }
        signal(pid, Signal::KILL);
        timeout(STOP, self.ended()).await.unwrap_or(Standing::Lost)
    }

    /// Tells what is under way to stop in good order; whether there was anything.
    pub(super) fn interrupt(&self) -> bool {
        let Standing::Running(pid) = self.standing() else {
            return false;
        };
        signal(pid, Signal::INT);
        true
    }

    async fn ended(&self) -> Standing {
        let begun = Instant::now();
        loop {
            match self.standing() {
                Standing::Running(_) => {
                    sleep(if begun.elapsed() < Duration::from_secs(2) {
                        LOOK
                    } else {
                        LOOK * 5
                    })
                    .await
                }
                other => return other,
            }
        }
    }
}

/// Whether the process is there and is the one we started: numbers are used again, its arguments name our marks.
fn is_alive(pid: u32, prefix: &Path) -> bool {
    let marks = prefix.as_os_str().as_encoded_bytes();
    match fs::read(format!("/proc/{pid}/cmdline")) {
        // A process has no arguments for a moment while setsid becomes the shell, and none any more once it is a zombie.
        Ok(line) if line.is_empty() => !is_zombie(pid),
        Ok(line) => line.split(|b| *b == 0).any(|word| word == marks),
        Err(_) => false,
    }
}

fn is_zombie(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
    state.is_none_or(|s| s == "Z" || s == "X")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn marks(name: &str, attempt: i32) -> Marks {
        let dir = std::env::temp_dir().join(format!("soma-marks-{}-{name}", std::process::id()));
        let workspace = Workspace { dir };
        workspace.make().unwrap();
        let marks = Marks::new(&workspace, "key", attempt);
        marks.clear().unwrap();
        marks
    }

    fn write(marks: &Marks, mark: &str, text: &str) {
        fs::write(marks.path(mark), text).unwrap();
    }

    fn forget(marks: &Marks) {
        fs::remove_dir_all(marks.prefix.parent().unwrap().parent().unwrap()).unwrap();
    }

    #[test]
    fn marks_tell_whether_a_call_happened() {
        let marks = marks("tell", 1);
        assert_eq!(marks.standing(), Standing::Absent);
        // Our own process is alive, but it is not the one that was started.
        write(&marks, "started", &format!("{} 1\n", std::process::id()));
        assert_eq!(marks.standing(), Standing::Absent, "never told to go");
        write(&marks, "running", "");
        assert_eq!(marks.standing(), Standing::Lost);
        write(&marks, "done", "1");
        assert_eq!(marks.standing(), Standing::Done(1));
        write(&marks, "done", "0");
        assert_eq!(marks.standing(), Standing::Done(0));
        forget(&marks);
    }

    #[test]
    fn a_failed_attempt_does_not_stand_in_the_way_of_the_next() {
        let marks = marks("next", 2);
        write(&marks, "started", "1 1\n");
        write(&marks, "running", "");
        write(&marks, "done", "1");
        assert_eq!(marks.standing(), Standing::Absent);
        write(&marks, "done", "0");
        assert_eq!(marks.standing(), Standing::Done(0), "but a success is never repeated");
        forget(&marks);
    }

    #[test]
    fn a_key_never_leaves_its_folder() {
        let workspace = Workspace { dir: "/w".into() };
        let path = Marks::new(&workspace, "../../etc/x", 1).path("done");
        assert_eq!(path.parent().unwrap(), Path::new("/w/calls"));
    }
}
