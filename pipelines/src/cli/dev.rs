//! `soma dev`: the native dev stack, run by deploy/dev/stack.py of the checkout we stand in. Also how other commands ask it.

use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command as Program;
use std::time::Duration;

use serde_json::Value as Json;

use super::context::Context;
use super::failure::{Done, FAILED, Failure, OK};
use super::out;

/// Runs the dev stack: real servers on this machine.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  soma dev up                     sets up what is missing, starts every server, writes .soma/dev.env
  soma dev up --parts kafka,redis
  soma dev status                 health, port, pid, memory and log of each part
  soma dev logs kafka -f
  soma dev restart clickhouse     same port, same data
  soma dev down                   stops exactly what was started; data stays
  soma dev reset                  down, and removes the data")]
pub(super) struct Args {
    /// Folder of the stack (default: the one of the env file, else .soma in the checkout)
    #[arg(long, global = true, value_name = "DIR")]
    home: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Sets up what is missing and starts everything
    Up {
        /// Only these parts, separated by commas
        #[arg(long, value_name = "a,b,c")]
        parts: Option<String>,
    },
    /// Stops what was started here, or only these parts
    Down {
        /// Parts or programs
        part: Vec<String>,
    },
    /// Shows each part's health, port, pid, memory and log; exit code 1 if one is down
    Status,
    /// Stops and starts parts: same port, same data
    Restart {
        /// Parts or programs
        #[arg(required = true)]
        part: Vec<String>,
    },
    /// Stops everything and removes data, logs and secrets
    Reset {
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Shows the end of a part's log
    Logs {
        /// Part, for example kafka, or a pipeline
        part: String,
        /// Go on with what is written from now on
        #[arg(short, long)]
        follow: bool,
        /// Lines to begin with
        #[arg(short = 'n', long, default_value_t = 50)]
        lines: usize,
    },
}

/// The dev stack of a checkout.
pub(super) struct Stack {
    pub(super) root: PathBuf,
    home: PathBuf,
}

impl Stack {
    /// The nearest checkout from here upwards.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn find(cx: &Context, home: Option<&Path>) -> Result<Self, Failure> {
        let here = std::env::current_dir().unwrap_or_default();
        let root = here
            .ancestors()
            .find(|d| d.join("deploy/dev/stack.py").is_file())
            .ok_or_else(|| {
                let text = format!("there is no deploy/dev/stack.py in {} or above", here.display());
                Failure::input(
                    "CHECKOUT_MISSING",
                    text,
                    "go to a checkout of the platform; the dev stack lives there",
                )
            })?;
        // An env file written by a stack lies in that stack's home.
        let of_env = cx
            .env
            .file
            .as_deref()
            .and_then(Path::parent)
            .filter(|d| d.join("stack.json").is_file());
        let home = home.or(of_env).map_or_else(|| root.join(".soma"), Path::to_owned);
        Ok(Self {
            root: root.to_owned(),
            home: std::path::absolute(&home).unwrap_or(home),
        })
    }

    /// `stack.py VERB --home HOME ARGUMENTS`, run in the checkout.
    fn program(&self, verb: &str, arguments: &[&str]) -> Program {
        let mut program = Program::new("python3");
        program
            .arg(self.root.join("deploy/dev/stack.py"))
            .arg(verb)
            .arg("--home")
            .arg(&self.home);
        program.args(arguments).current_dir(&self.root);
        program
    }

    /// Runs it with our own input and output.
    pub(super) fn run(&self, verb: &str, arguments: &[&str]) -> Result<bool, Failure> {
        self.program(verb, arguments)
            .status()
            .map(|s| s.success())
            .map_err(|e| no_python(&e))
    }

    /// Whether a part or program of the stack runs.
    pub(super) fn runs(&self, name: &str) -> Result<bool, Failure> {
        let output = self
            .program("status", &["--json"])
            .output()
            .map_err(|e| no_python(&e))?;
        let status: Json = serde_json::from_slice(&output.stdout).map_err(|_| {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Failure::failed(
                "STACK_FAILED",
                format!("stack.py status: {said}"),
                "`soma dev status` shows the dev stack",
            )
        })?;
        Ok(is_running(&status, name))
    }
}

fn no_python(e: &std::io::Error) -> Failure {
    Failure::failed(
        "STACK_FAILED",
        format!("python3: {e}"),
        "the dev stack needs Python 3.9 or newer on the PATH",
    )
}

fn is_running(status: &Json, name: &str) -> bool {
    let parts = status["parts"].as_array();
    parts
        .into_iter()
        .flatten()
        .any(|p| p["name"] == name && matches!(p["state"].as_str(), Some("healthy" | "unhealthy")))
}

pub(super) fn run(args: &Args, cx: &Context) -> Done {
    let stack = Stack::find(cx, args.home.as_deref())?;
    let words = |part: &'static str, list: &[String]| (part, list.to_vec());
    let (verb, mut arguments) = match &args.command {
        Command::Up { parts } => words(
            "up",
            &parts
                .iter()
                .flat_map(|p| ["--parts".to_owned(), p.clone()])
                .collect::<Vec<_>>(),
        ),
        Command::Down { part } => words("down", part),
        Command::Restart { part } => words("restart", part),
        Command::Status => words("status", &[]),
        Command::Reset { yes } => {
            if !yes && !out::confirm(&format!("Remove all data of {}?", stack.home.display()))? {
                return Err(Failure::input(
                    "NOT_CONFIRMED",
                    "nothing was removed",
                    "answer y, or add -y",
                ));
            }
            words("reset", &[])
        }
        Command::Logs { part, follow, lines } => return logs(&stack.home, part, *follow, *lines),
    };
    if cx.json && verb == "status" {
        arguments.push("--json".to_owned());
    }
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    Ok(if stack.run(verb, &arguments)? { OK } else { FAILED })
}

fn logs(home: &Path, part: &str, follow: bool, lines: usize) -> Done {
    let folder = home.join("logs");
    let path = folder.join(format!("{part}.log"));
    let known = || {
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries
            .filter_map(|e| Some(e.path().file_stem()?.to_str()?.to_owned()))
            .collect();
        names.sort();
        names.join(", ")
    };
    let unreadable = |e: std::io::Error| {
        Failure::input(
            "FILE_UNREADABLE",
            format!("{}: {e}", path.display()),
            format!("there are logs of: {}", known()),
        )
    };
    let mut file = std::fs::File::open(&path).map_err(unreadable)?;
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(unreadable)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let all: Vec<_> = text.lines().collect();
    all.iter()
        .skip(all.len().saturating_sub(lines))
        .try_for_each(out::line)?;
    if follow {
        file.seek(SeekFrom::End(0)).map_err(unreadable)?;
        let mut reader = BufReader::new(file);
        loop {
            let mut line = Vec::new();
            if reader.read_until(b'\n', &mut line).map_err(unreadable)? == 0 {
                std::thread::sleep(Duration::from_millis(200));
            } else {
                out::line(String::from_utf8_lossy(&line).trim_end())?;
            }
        }
    }
    Ok(OK)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_part_that_died_does_not_run() {
        let status = json!({"parts": [{"name": "a", "state": "healthy"}, {"name": "b", "state": "died"}, {"name": "c", "state": "unhealthy"}]});
        let runs: Vec<_> = ["a", "b", "c", "d"].iter().map(|n| is_running(&status, n)).collect();
        assert_eq!(runs, [true, false, true, false]);
    }

    #[test]
    fn a_missing_log_names_those_there_are() {
        let home = std::env::temp_dir().join(format!("soma-dev-{}", std::process::id()));
        std::fs::create_dir_all(home.join("logs")).unwrap();
        std::fs::write(home.join("logs/kafka.log"), "one\ntwo\n").unwrap();
        let failure = logs(&home, "redis", false, 5).unwrap_err();
        assert!(failure.help.contains("kafka"), "{}", failure.help);
        std::fs::remove_dir_all(home).unwrap();
    }
}
