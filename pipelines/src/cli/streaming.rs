//! `soma sql check | explain`: the streaming SQL of a pipeline, looked at without a server.

use serde_json::{Value as Json, json};

use super::context::Context;
use super::failure::{Done, Failure, INPUT, OK};
use super::out;
use super::pipeline::file_of;
use crate::config::{Pipeline, StageEntry};
use crate::streaming::{self, Planned};

/// What can be asked of a pipeline's streaming SQL.
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Check a pipeline's streaming SQL: sources, results, and every fault with line and column
    #[command(after_help = "Example:
  soma sql check flights

Touches nothing outside. Exit code: 0 all good, 2 at least one fault.")]
    Check(Which),
    /// Show how a pipeline's streaming SQL runs: sources, local half, repartition key, final half, results
    #[command(after_help = "Examples:
  soma sql explain flights
  soma sql explain flights --stage views")]
    Explain(Which),
}

/// A pipeline, or one of its stages.
#[derive(clap::Args)]
pub(super) struct Which {
    /// Name (pipelines/NAME/pipeline.yaml, from here upwards) or path
    pipeline: String,
    /// Only this stage
    #[arg(long, value_name = "STAGE")]
    stage: Option<String>,
}

pub(super) fn run(command: &Command, cx: &Context) -> Done {
    let (which, explain) = match command {
        Command::Check(which) => (which, false),
        Command::Explain(which) => (which, true),
    };
    let file = file_of(&which.pipeline)?;
    let pipeline = Pipeline::load(&file, &cx.env).map_err(|faults| {
        let lines: Vec<_> = faults.iter().map(ToString::to_string).collect();
        Failure::input(
            "CONFIG_INVALID",
            lines.join("\n   "),
            "`soma check` lists the faults of the file",
        )
    })?;
    let wanted = |s: &&StageEntry| which.stage.as_deref().is_none_or(|name| name == s.name());
    let stages: Vec<_> = pipeline
        .stages
        .iter()
        .filter(|s| s.component == streaming::COMPONENT)
        .collect();
    let chosen: Vec<_> = stages.iter().copied().filter(wanted).collect();
    if chosen.is_empty() {
        let known: Vec<_> = stages.iter().map(|s| s.name()).collect();
        let help = match known.as_slice() {
            [] => format!("a stage with `use: {}` has it", streaming::COMPONENT),
            known => format!("there are {}", known.join(", ")),
        };
        let text = format!("{} has no such streaming SQL", which.pipeline);
        return Err(Failure::input("STAGE_UNKNOWN", text, help));
    }
    let (mut documents, mut good) = (Vec::new(), true);
    for entry in chosen {
        let planned = streaming::plan(entry, &pipeline);
        good &= planned.is_ok();
        if cx.json {
            documents.push(match &planned {
                Ok(planned) => document(entry, planned),
                Err(faults) => json!({"stage": entry.name(), "faults": faults.iter().map(|f| json!({"path": f.path, "detail": f.detail})).collect::<Vec<_>>()}),
            });
            continue;
        }
        match planned {
            Ok(planned) if explain => out::line(planned.program.explain().trim_end())?,
            Ok(planned) => describe(entry, &planned)?,
            Err(faults) => {
                let listed: Vec<_> = faults
                    .iter()
                    .map(|f| format!("\n   {}: {}", out::paint(out::BOLD, &f.path), f.detail))
                    .collect();
                let text = format!(
                    "{} faults in the SQL of stage {}:{}",
                    faults.len(),
                    entry.name(),
                    listed.concat()
                );
                out::error(&Failure::input("CONFIG_INVALID", text, "all are listed at once"));
            }
        }
    }
    if cx.json {
        out::json(&Json::Array(documents))?;
    }
    Ok(if good { OK } else { INPUT })
}

fn describe(entry: &StageEntry, planned: &Planned) -> Result<(), Failure> {
    let program = &planned.program;
    out::line(format!(
        "{} {} ({})",
        out::paint(out::GREEN, "ok"),
        entry.name(),
        planned.file.display()
    ))?;
    for source in program.sources() {
        out::line(format!("   reads  {source}"))?;
    }
    for lookup in program.lookups() {
        out::line(format!("   looks up in {lookup}"))?;
    }
    for result in program.results() {
        out::line(format!("   writes {} keyed by {}", result.topic, result.key.join(", ")))?;
    }
    let verdicts = super::engines::verdicts(&planned.sql);
    verdicts.iter().try_for_each(|line| out::line(format!("   {line}")))
}

fn document(entry: &StageEntry, planned: &Planned) -> Json {
    let program = &planned.program;
    let results = program.results().into_iter();
    let results: Vec<_> = results
        .map(|r| json!({"topic": r.topic, "subject": r.subject, "key": r.key, "schema": r.avro_json}))
        .collect();
    json!({
        "stage": entry.name(),
        "file": planned.file.display().to_string(),
        "sources": program.sources(),
        "lookups": program.lookups(),
        "repartitions": program.repartitions().iter().map(|s| planned.settings.topic(s)).collect::<Vec<_>>(),
        "results": results,
        "plan": program.explain(),
    })
}
