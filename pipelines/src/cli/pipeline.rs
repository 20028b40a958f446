//! `soma start | check | deploy`: a pipeline from its file to a running process. What is checked and how it is wired the crate's
//! own modules know; here is only the order of things.

use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};

use super::context::Context;
use super::dev::Stack;
use super::failure::{Done, FAILED, Failure, INPUT, OK};
use super::{engines, out, topics};
use crate::{apply, check, wire};

/// Seconds a rolled pipeline may take to be ready: it reads its state back first.
const READY_S: &str = "120";

/// Runs a pipeline in the foreground until SIGTERM or Ctrl-C, then drains and ends.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  soma start control-tower
  soma start pipelines/control-tower/pipeline.yaml --env-file prod.env

SIGTERM drains and ends; its partitions wait for it to come back until its session (6 s) runs out, as when it is rolled. Ctrl-C
(SIGINT) drains, ends and leaves for good: the other instances get its partitions at once, as when scaling in.
Logs are JSON lines on stderr. A dependency that is down is waited for. The admin endpoint of the pipeline file serves
/health, /ready and /metrics.")]
pub(super) struct Start {
    /// Name (pipelines/NAME/pipeline.yaml, from here upwards) or path
    pipeline: String,
}

/// Checks pipeline files as a whole, with their stages, catalogue and policies; touches nothing outside.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  soma check                     every pipeline of the checkout
  soma check control-tower

Every fault is listed at once, with its file and path. Exit code: 0 all good, 2 at least one fault.")]
pub(super) struct Check {
    /// Names or paths (default: every pipelines/*/pipeline.yaml)
    pipeline: Vec<String>,
}

/// Checks a pipeline, applies topics, schemas and tables, and rolls the running process without losing a record.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  soma deploy control-tower
  soma deploy flights --engine flink --dry-run     the statements a Flink cluster would be sent
  soma deploy flights --engine flink               its streaming SQL runs there; SOMA_FLINK_URL names the SQL gateway

Steps, each printed: check, topics and schemas, ClickHouse migrations, stop the old process (SIGTERM: it drains and commits
what is in flight), start the new one, wait until /ready answers. It stops at the first step that fails; until the old
process is stopped, nothing that runs has been touched. Uses the dev stack of this checkout (`soma dev`).")]
pub(super) struct Deploy {
    /// Name, or path of its pipeline file
    pipeline: String,
    #[command(flatten)]
    on: engines::Options,
}

pub(super) fn start(args: &Start, cx: &Context) -> Done {
    wire::start(&file_of(&args.pipeline)?, &cx.env)?;
    Ok(OK)
}

/// The pipeline file that is meant.
pub(super) fn file_of(given: &str) -> Result<PathBuf, Failure> {
    let path = Path::new(given);
    if path.is_file() {
        return Ok(path.to_owned());
    }
    if path.join("pipeline.yaml").is_file() {
        return Ok(path.join("pipeline.yaml"));
    }
    let here = std::env::current_dir().unwrap_or_default();
    let named = here
        .ancestors()
        .map(|d| d.join("pipelines").join(given).join("pipeline.yaml"))
        .find(|p| p.is_file());
    named.ok_or_else(|| {
        let known: Vec<_> = known_files().iter().filter_map(|f| name_of(f)).collect();
        let help = if known.is_empty() {
            "give the path of a pipeline file, or go to a checkout of the platform".to_owned()
        } else {
            format!("there are {}", known.join(", "))
        };
        Failure::input(
            "PIPELINE_UNKNOWN",
            format!("there is no pipeline {given}, and no such file"),
            help,
        )
    })
}

fn known_files() -> Vec<PathBuf> {
    apply::pipelines_dir()
        .map(|dir| apply::pipeline_files(&dir))
        .unwrap_or_default()
}

fn name_of(file: &Path) -> Option<String> {
    Some(file.parent()?.file_name()?.to_str()?.to_owned())
}

pub(super) fn check(args: &Check, cx: &Context) -> Done {
    let files = match args.pipeline.as_slice() {
        [] => known_files(),
        named => named.iter().map(|n| file_of(n)).collect::<Result<_, _>>()?,
    };
    if files.is_empty() {
        return Err(Failure::input(
            "PIPELINE_UNKNOWN",
            "there is no pipelines/*/pipeline.yaml here or above",
            "give a path, or go to a checkout",
        ));
    }
    let mut documents = Vec::new();
    let mut good = true;
    for file in &files {
        let (lines, faults) = match check::pipeline(file, &cx.env) {
            Ok(lines) => (lines, Vec::new()),
            Err(faults) => (Vec::new(), faults),
        };
        good &= faults.is_empty();
        let shown = file.display().to_string();
        if cx.json {
            let faults: Vec<_> = faults
                .iter()
                .map(|f| json!({"path": f.path, "detail": f.detail}))
                .collect();
            documents.push(json!({"file": shown, "checked": lines, "faults": faults}));
            continue;
        }
        if faults.is_empty() {
            out::line(format!("{} {shown}", out::paint(out::GREEN, "ok")))?;
            lines.iter().try_for_each(|line| out::line(format!("   {line}")))?;
        } else {
            let listed: Vec<_> = faults
                .iter()
                .map(|f| format!("\n   {}: {}", out::paint(out::BOLD, &f.path), f.detail))
                .collect();
            let text = format!("{} faults in {shown}:{}", faults.len(), listed.concat());
            out::error(&Failure::input(
                "CONFIG_INVALID",
                text,
                "each line names the place in the file; all are listed at once",
            ));
        }
    }
    if cx.json {
        out::json(&Json::Array(documents))?;
    }
    Ok(if good { OK } else { INPUT })
}

pub(super) fn deploy(args: &Deploy, cx: &Context) -> Done {
    if let Some(engine) = args.on.engine {
        return engines::deploy(&args.pipeline, engine, &args.on, cx);
    }
    let file = file_of(&args.pipeline)?;
    let name = name_of(&file).unwrap_or_else(|| "pipeline".to_owned());
    let stack = Stack::find(cx, None)?;
    step(1, "check")?;
    if check(
        &Check {
            pipeline: vec![file.display().to_string()],
        },
        cx,
    )? != OK
    {
        return Ok(INPUT);
    }
    step(2, "topics and schemas")?;
    topics::apply_all(std::slice::from_ref(&file), false, cx)?;
    step(3, "ClickHouse migrations")?;
    let migrated = cx.runtime()?.block_on(apply::migrations(&cx.env))?;
    migrated.iter().try_for_each(|what| out::line(format!("   {what}")))?;
    step(4, "stop the old process; it drains what is in flight")?;
    if !stack.runs(&name)? {
        out::line("   none runs")?;
    } else if !stack.run("down", &[&name])? {
        return Err(Failure::failed(
            "STACK_FAILED",
            format!("{name} could not be stopped"),
            format!("`soma dev logs {name}` shows why"),
        ));
    }
    step(5, "start the new one and wait until it is ready")?;
    let program = std::env::current_exe().map_err(|e| {
        Failure::failed(
            "STACK_FAILED",
            format!("path of this program: {e}"),
            "run soma by its full path",
        )
    })?;
    let (program, path) = (
        program.display().to_string(),
        std::path::absolute(&file).unwrap_or(file).display().to_string(),
    );
    let health = "http://127.0.0.1:$SOMA_ADMIN_PORT/ready";
    let started = stack.run(
        "run",
        &[
            "--health", health, "--wait", READY_S, &name, "--", &program, "start", &path,
        ],
    )?;
    if !started {
        let text = format!("{name} did not become ready; the records it has not committed wait on their topics");
        out::error(&Failure::failed(
            "PIPELINE_UNREADY",
            text,
            format!("`soma stages` and `soma dev logs {name}` show why"),
        ));
    }
    Ok(if started { OK } else { FAILED })
}

fn step(number: u8, what: &str) -> Result<(), Failure> {
    out::line(out::paint(out::BOLD, &format!("{number}/5 {what}")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_pipeline_by_file_or_folder() {
        let dir = std::env::temp_dir()
            .join(format!("soma-pipeline-{}", std::process::id()))
            .join("shop");
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("pipeline.yaml");
        std::fs::write(&file, "pipeline: shop\n").unwrap();
        assert_eq!(file_of(&file.display().to_string()).unwrap(), file);
        assert_eq!(file_of(&dir.display().to_string()).unwrap(), file);
        assert_eq!(name_of(&file).as_deref(), Some("shop"));
        assert_eq!(file_of("no-such-pipeline").unwrap_err().code, "PIPELINE_UNKNOWN");
        std::fs::remove_dir_all(dir.parent().unwrap()).unwrap();
    }
}
