//! `soma topics apply | list`: the catalogue of topics.yaml beside what the broker has.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kafka::{Admin, TopicState};
use schemas::topics::{Catalogue, Cleanup, Entry};
use serde_json::{Value as Json, json};

use super::context::Context;
use super::failure::{Done, FAILED, Failure, OK};
use super::pipeline::file_of;
use super::{describe, out};
use crate::apply;

/// Shows and makes topics.
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Creates missing topics and registers the schemas; refuses an incompatible change with the field named
    #[command(after_help = "Examples:
  soma topics apply --dry-run      what would be done
  soma topics apply                safe to repeat; never changes the partitions of a topic that is there
  soma topics apply my/pipeline.yaml     also those of a pipeline that is not below pipelines/")]
    Apply {
        /// Pipelines beside those of pipelines/*: names or paths
        pipeline: Vec<String>,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Lists the catalogue beside what the broker has
    #[command(after_help = "Examples:
  soma topics list
  soma topics list --all     with dead-letter topics, changelogs and whatever else the broker holds

Exit code: 1 when a topic of the catalogue is missing or partitioned otherwise; `soma topics apply` makes what is missing.")]
    List {
        /// Also topics that are not in the catalogue
        #[arg(long)]
        all: bool,
    },
    /// Shows a topic's record: every field with its type, default and meaning
    #[command(after_help = "Example:
  soma topics describe soma.requests")]
    Describe {
        /// Topic
        topic: String,
    },
}

pub(super) fn run(command: &Command, cx: &Context) -> Done {
    match command {
        Command::Apply { pipeline, dry_run } => {
            let files: Vec<_> = pipeline.iter().map(|p| file_of(p)).collect::<Result<_, _>>()?;
            apply_all(&files, *dry_run, cx)
        }
        Command::List { all } => list(*all, cx),
        Command::Describe { topic } => describe::run(topic, cx),
    }
}

pub(super) fn apply_all(also: &[PathBuf], dry_run: bool, cx: &Context) -> Done {
    let done = cx.runtime()?.block_on(apply::topics(&cx.env, also, dry_run))?;
    if cx.json {
        let lines: Vec<_> = done
            .iter()
            .map(|(name, what)| json!({"name": name, "done": what}))
            .collect();
        out::json(&Json::Array(lines))?;
    } else {
        let rows: Vec<_> = done.into_iter().map(|(name, what)| vec![name, what]).collect();
        out::table(&["TOPIC OR SUBJECT", "WHAT WAS DONE"], &rows)?;
    }
    Ok(OK)
}

pub(super) fn catalogue() -> Result<Catalogue, Failure> {
    Catalogue::load().map_err(|e| Failure::failed("CONFIG_INVALID", e, "schemas/topics.yaml of this build is broken"))
}

/// How a topic of the catalogue stands on the broker.
fn state(entry: &Entry, have: Option<&TopicState>) -> &'static str {
    match have {
        None => "missing",
        Some(have) if i32::try_from(have.partitions) == Ok(entry.partitions) => "ok",
        Some(_) => "mismatched",
    }
}

fn list(all: bool, cx: &Context) -> Done {
    let catalogue = catalogue()?;
    let have: BTreeMap<_, _> = Admin::open(&cx.brokers()?)?
        .list()?
        .into_iter()
        .map(|t| (t.name.clone(), t))
        .collect();
    let mut lines: Vec<_> = catalogue
        .topics
        .iter()
        .map(|entry| line(entry, have.get(&entry.name)))
        .collect();
    let wrong = lines.iter().filter(|l| l["state"] != "ok").count();
    if all {
        let others = have.values().filter(|t| catalogue.get(&t.name).is_none());
        lines.extend(
            others.map(|t| json!({"topic": t.name, "partitions": t.partitions, "records": t.records, "state": "-"})),
        );
    }
    if cx.json {
        out::json(&Json::Array(lines))?;
    } else {
        const COLUMNS: [&str; 8] = [
            "topic",
            "record",
            "key",
            "partitions",
            "records",
            "kept",
            "owner",
            "state",
        ];
        let text = |v: &Json| {
            v.as_str().map_or_else(
                || if v.is_null() { "-".to_owned() } else { v.to_string() },
                str::to_owned,
            )
        };
        let rows: Vec<Vec<_>> = lines
            .iter()
            .map(|l| COLUMNS.iter().map(|c| text(&l[*c])).collect())
            .collect();
        out::table(
            &[
                "TOPIC",
                "RECORD",
                "KEY",
                "PARTITIONS",
                "RECORDS",
                "KEPT",
                "OWNER",
                "STATE",
            ],
            &rows,
        )?;
    }
    if wrong > 0 {
        let text = format!("{wrong} topics of the catalogue are missing or partitioned otherwise");
        out::error(&Failure::failed(
            "TOPICS_MISMATCHED",
            text,
            "`soma topics apply` makes what is missing and says what it cannot change",
        ));
    }
    Ok(if wrong == 0 { OK } else { FAILED })
}

fn line(entry: &Entry, have: Option<&TopicState>) -> Json {
    let kept = match (entry.cleanup, entry.retention_hours) {
        (Cleanup::Compact, _) => "last of each key".to_owned(),
        (Cleanup::Delete, 0) => "for ever".to_owned(),
        (Cleanup::Delete, hours) => format!("{} d", hours / 24),
    };
    json!({
        "topic": entry.name, "record": entry.record, "key": entry.key, "owner": entry.owner, "kept": kept,
        "partitions": have.map_or(i64::from(entry.partitions), |t| i64::try_from(t.partitions).unwrap_or_default()),
        "records": have.map(|t| t.records), "state": state(entry, have),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn what_the_broker_lacks_is_seen() {
        let catalogue = catalogue().unwrap();
        let entry = catalogue.get("soma.runs").unwrap();
        let with = |partitions| TopicState {
            name: entry.name.clone(),
            partitions,
            records: 1,
        };
        assert_eq!(
            (
                state(entry, None),
                state(entry, Some(&with(4))),
                state(entry, Some(&with(3)))
            ),
            ("missing", "ok", "mismatched")
        );
    }
}
