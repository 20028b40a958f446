//! `soma run list | show`: runs as `soma.runs` tells them, the last record of each key. Nothing is computed here that
//! the orchestrator has not said.

use kernel::RawRecord;
use schemas::records::{Run, RunStatus, StepStatus};
use schemas::{Record, Timestamp, topics};
use serde_json::{Value as Json, json};

use super::context::{Context, now};
use super::failure::{Done, Failure, OK};
use super::tree::{render, word};
use super::{out, watch, when};

/// Shows runs.
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Lists the latest runs
    #[command(after_help = "Examples:
  soma run list
  soma run list --status waiting_approval     what waits for a human
  soma run list --tenant acme --status failed --limit 100 --json")]
    List(List),
    /// Shows one run: every step with its status, attempts, digest, fault and times, and what waits for a human
    #[command(after_help = "Examples:
  soma run show run_3f2a91      the beginning of an id is enough, `run_` may be left out
  soma run show 3f2a91 --json   the whole record")]
    Show {
        /// Run id, or its beginning
        run: String,
    },
    /// Follows one run as a tree of its steps until it is final
    #[command(after_help = "Examples:
  soma run watch 3f2a91
  soma run watch run_3f2a91... && echo rolled out     exit code 0 only for SUCCEEDED

With a whole id it waits for a run that does not exist yet. Where no terminal listens it prints one line per change.
Exit code: 0 SUCCEEDED, 1 any other end.")]
    Watch(watch::Args),
}

/// Which runs to list.
#[derive(clap::Args)]
pub(super) struct List {
    /// Only this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Only this status, for example running, waiting_approval, failed
    #[arg(long, value_parser = status)]
    status: Option<RunStatus>,
    /// At most so many, the latest first
    #[arg(long, default_value_t = 20, value_name = "N")]
    limit: usize,
}

pub(super) fn run(command: &Command, cx: &Context) -> Done {
    match command {
        Command::List(list) => list_runs(list, cx),
        Command::Show { run } => show(&find(cx, run)?, cx),
        Command::Watch(args) => watch::run(args, cx),
    }
}

fn status(text: &str) -> Result<RunStatus, String> {
    let name = text.to_ascii_uppercase().replace('-', "_");
    serde_json::from_value(json!(name)).map_err(|_| {
        "is not a status; there are judging, waiting_approval, running, paused, compensating, succeeded, failed, denied, \
         compensated, cancelled, killed, refused, unknown"
            .to_owned()
    })
}

/// The one key that is or begins with `given`; `run_` may be left out.
///
/// # Errors
/// None or several.
pub(super) fn match_prefix<'a>(keys: impl Iterator<Item = &'a str>, given: &str) -> Result<&'a str, Failure> {
    let whole = if given.starts_with("run_") {
        given.to_owned()
    } else {
        format!("run_{given}")
    };
    let mut hits = Vec::new();
    for key in keys {
        if key == whole {
            return Ok(key);
        }
        if key.starts_with(&whole) {
            hits.push(key);
        }
    }
    match hits.as_slice() {
        [one] => Ok(one),
        [] => Err(Failure::failed(
            "RUN_UNKNOWN",
            format!("soma.runs has no run {whole}"),
            "`soma run list` shows the latest runs",
        )),
        several => {
            let some = several.iter().take(5).copied().collect::<Vec<_>>().join(", ");
            let text = format!("{} runs begin with {whole}: {some}", several.len());
            Err(Failure::input("RUN_AMBIGUOUS", text, "give more of the id"))
        }
    }
}

/// The run that `given` names, as it stands.
pub(super) fn find(cx: &Context, given: &str) -> Result<Run, Failure> {
    let prefix = if given.starts_with("run_") {
        given.to_owned()
    } else {
        format!("run_{given}")
    };
    let records = cx.fold(topics::RUNS.name, &|key| key.starts_with(&prefix))?;
    let key = match_prefix(records.keys().map(String::as_str), given)?;
    read(cx, &records[key])
}

pub(super) fn read(cx: &Context, record: &RawRecord) -> Result<Run, Failure> {
    Ok(kernel::decode(
        record.value.as_deref().unwrap_or_default(),
        cx.registry()?.as_ref(),
    )?)
}

fn list_runs(list: &List, cx: &Context) -> Done {
    let registry = cx.registry()?;
    let mut runs = Vec::new();
    for record in cx.fold(topics::RUNS.name, &|_| true)?.values() {
        let run: Run = kernel::decode(record.value.as_deref().unwrap_or_default(), registry.as_ref())?;
        if list.tenant.as_ref().is_none_or(|t| *t == run.tenant) && list.status.is_none_or(|s| s == run.status) {
            runs.push(run);
        }
    }
    runs.sort_by_key(|run| std::cmp::Reverse(run.updated_at));
    let found = runs.len();
    runs.truncate(list.limit);
    if cx.json {
        out::json(&Json::Array(runs.iter().map(as_json).collect::<Result<_, _>>()?))?;
        return Ok(OK);
    }
    out::table(
        &["RUN", "TENANT", "STATUS", "CAPSULE", "STEPS", "UPDATED", "TOOK", "WHY"],
        &runs.iter().map(row).collect::<Vec<_>>(),
    )?;
    if found > runs.len() {
        out::note(format!("{} of {found} runs; --limit shows more", runs.len()));
    }
    Ok(OK)
}

pub(super) fn as_json(run: &Run) -> Result<Json, Failure> {
    serde_json::to_value(run)
        .map_err(|e| Failure::failed("INTERNAL", format!("{}: {e}", Run::NAME), "this is a bug: report it"))
}

fn row(run: &Run) -> Vec<String> {
    let done = run
        .steps
        .iter()
        .filter(|s| matches!(s.status, StepStatus::Succeeded | StepStatus::Compensated))
        .count();
    let why = run
        .fault
        .as_ref()
        .map_or_else(|| run.reason.clone(), |f| format!("{}: {}", f.code, f.detail));
    let end = run.finished_at.unwrap_or(run.updated_at);
    vec![
        run.run_id.clone(),
        run.tenant.clone(),
        word(&run.status),
        run.capsule.clone().unwrap_or_default(),
        format!("{done}/{}", run.steps.len()),
        when::shown(run.updated_at),
        when::took(end.micros_since(run.requested_at) / 1000),
        out::short(&why, 60),
    ]
}

fn show(run: &Run, cx: &Context) -> Done {
    if cx.json {
        out::json(&as_json(run)?)?;
        return Ok(OK);
    }
    render(run, now()).iter().try_for_each(out::line)?;
    out::line(format!(
        "actor {}, key {}, cost {} USD, revision {}",
        run.actor, run.idempotency_key, run.cost_usd, run.revision
    ))?;
    out::line("")?;
    out::table(
        &[
            "STEP", "TOOL", "STATUS", "ATTEMPT", "DIGEST", "STARTED", "TOOK", "RESULT",
        ],
        &run.steps.iter().map(step_row).collect::<Vec<_>>(),
    )?;
    for waiting in &run.waiting {
        out::line(format!(
            "\nto decide: soma approve {} --step {}   (since {})",
            run.run_id,
            waiting.subject_id,
            when::shown(waiting.since)
        ))?;
    }
    Ok(OK)
}

fn step_row(step: &schemas::records::RunStep) -> Vec<String> {
    let took = |from: Timestamp, to: Timestamp| when::took(to.micros_since(from) / 1000);
    let came_of_it = step
        .fault
        .as_ref()
        .map_or_else(|| step.result.clone(), |f| format!("{}: {}", f.code, f.detail));
    vec![
        step.step_id.clone(),
        format!("{} {}", step.tool, step.operation),
        word(&step.status),
        step.attempt.to_string(),
        step.digest.chars().take(12).collect(),
        step.started_at.map(when::shown).unwrap_or_default(),
        step.started_at
            .zip(step.finished_at)
            .map(|(from, to)| took(from, to))
            .unwrap_or_default(),
        out::short(&came_of_it, 70),
    ]
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_must_name_one_run() {
        let keys = || ["run_abc1", "run_abc2", "run_abc", "run_d"].into_iter();
        assert_eq!(match_prefix(keys(), "run_d").unwrap(), "run_d");
        assert_eq!(match_prefix(keys(), "d").unwrap(), "run_d");
        assert_eq!(match_prefix(keys(), "abc").unwrap(), "run_abc");
        assert_eq!(match_prefix(keys(), "abc1").unwrap(), "run_abc1");
        let several = match_prefix(keys(), "ab").unwrap_err();
        assert!(
            several.text.contains("run_abc1") && several.code == "RUN_AMBIGUOUS",
            "{}",
            several.text
        );
        assert_eq!(match_prefix(keys(), "zz").unwrap_err().code, "RUN_UNKNOWN");
    }

    #[test]
    fn statuses_are_read_as_people_write_them() {
        assert_eq!(status("waiting-approval"), Ok(RunStatus::WaitingApproval));
        assert_eq!(status("FAILED"), Ok(RunStatus::Failed));
        assert!(status("done").unwrap_err().contains("waiting_approval"));
    }

    #[test]
    fn a_row_says_why() {
        let fault = Some(schemas::records::FaultInfo {
            code: "TOOL_FAILED".into(),
            detail: "x".into(),
            retryable: false,
        });
        let run = Run {
            fault,
            finished_at: Some(Timestamp(3_000_000)),
            requested_at: Timestamp(1_000_000),
            ..Run::default()
        };
        let row = row(&run);
        assert_eq!((row[6].as_str(), row[7].as_str()), ("2.0s", "TOOL_FAILED: x"));
    }
}
