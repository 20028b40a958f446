//! `soma backfill`: a view of a pipeline's streaming SQL over history, and windows rewritten by revision.

use std::path::PathBuf;
use std::sync::Arc;

use analytics::streaming::backfill::{Ask, Backfill, Difference, Differences, Kind};
use kernel::{EventTime, Fault, FaultCode};
use serde_json::{Map, Value as Json, json};

use super::context::{Context, now};
use super::failure::{Done, Failure, OK};
use super::pipeline::file_of;
use super::{out, sql, when};
use crate::backfill::{Around, Source, Write};
use crate::config::Pipeline;
use crate::streaming::{self, Planned};

/// Rows of a table for people.
const ROWS: usize = 20;

/// Computes windows of the past again and corrects those that stand otherwise.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  soma backfill flights --view per_hour --from 2001-01-01T00:00:00Z --to 2001-01-02T00:00:00Z --dry-run
  soma backfill flights --view per_hour --from 2001-01-01T00:00:00Z --to 2001-01-02T00:00:00Z
  soma backfill flights --view busy --from 7d --to 1d --nothing-late --dry-run --out csv
  soma backfill flights --view per_hour --from 2001-01-01T00:00:00Z --to 2001-02-01T00:00:00Z --source january.parquet
  soma backfill flights --view per_hour --from 2001-01-01T00:00:00Z --to 2001-02-01T00:00:00Z --source clickhouse:archive.flights

The view runs here, by the stream's own engine, over its source topic from the beginning to the end it has now, or over files or
a table with the columns of its source. Of the topic, records count that counted in the stream: what was too late then stays out,
unless --nothing-late. In a file or a table nothing is late. Rows that stand otherwise in the result topic are written with the next
revision, rows that should not be come again as deleted, rows that are the same are not written: run twice, the second
writes nothing. Windows the running stage may still tell again are refused.
Exit code: 0 done, 1 the stage runs another text of the view or another backfill of it goes on, 2 the view, the range or the history is
wrong, 3 a server does not answer.")]
pub(super) struct Args {
    /// Name (pipelines/NAME/pipeline.yaml, from here upwards) or path
    pipeline: String,
    /// View: the sink table's name in the SQL
    #[arg(long, value_name = "VIEW")]
    view: String,
    /// First window: a time (RFC 3339), or a duration back from now; widened to the border of a window
    #[arg(long, value_name = "WHEN")]
    from: String,
    /// End of the last window, likewise
    #[arg(long, value_name = "WHEN")]
    to: String,
    /// The history: `topic`, a FILE.parquet (also several times), or `clickhouse:TABLE`
    #[arg(long, value_name = "SOURCE", default_value = "topic")]
    source: Vec<String>,
    /// Count records of the topic that came too late for their windows
    #[arg(long)]
    nothing_late: bool,
    /// Write nothing: show what differs
    #[arg(long)]
    dry_run: bool,
    /// How to show rows
    #[arg(long, value_enum, default_value_t = Form::Table, value_name = "FORM")]
    out: Form,
    /// Show rows that are the same too
    #[arg(long)]
    all: bool,
    /// Where retention has taken rows of the result topic: write those it does not have from this revision on
    #[arg(long, value_name = "N")]
    first_revision: Option<i32>,
}

/// How rows are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// The first rows, for people
    Table,
    /// All rows, one document
    Json,
    /// All rows, with a heading
    Csv,
}

/// Reads `--source`.
fn source(given: &[String]) -> Result<Source, Failure> {
    let help = "--source topic, --source FILE.parquet, or --source clickhouse:TABLE";
    let wrong = |text: String| Failure::input("USAGE", text, help);
    match given {
        [one] if one == "topic" => Ok(Source::Topic),
        [one] if one.starts_with("clickhouse:") => {
            let table = one.trim_start_matches("clickhouse:");
            let plain = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
            if table.is_empty() || !table.chars().all(plain) {
                return Err(wrong(format!("`{table}` is not the name of a table")));
            }
            Ok(Source::ClickHouse(table.to_owned()))
        }
        files if files.iter().all(|f| f.ends_with(".parquet")) => {
            Ok(Source::Parquet(files.iter().map(PathBuf::from).collect()))
        }
        other => Err(wrong(format!("`{}` is no history", other.join("`, `")))),
    }
}

/// The stage whose SQL has the view.
fn planned(pipeline: &Pipeline, view: &str) -> Result<Arc<Planned>, Failure> {
    let mut views = Vec::new();
    for entry in pipeline.stages.iter().filter(|s| s.component == streaming::COMPONENT) {
        let planned = streaming::plan(entry, pipeline).map_err(|faults| invalid(&faults))?;
        let here = planned.program.views();
        if here.iter().any(|v| v == view) {
            return Ok(planned);
        }
        views.extend(here);
    }
    let help = match views.as_slice() {
        [] => format!("a stage with `use: {}` has views", streaming::COMPONENT),
        known => format!("there are {}", known.join(", ")),
    };
    let text = format!("{} has no view `{view}`", pipeline.pipeline);
    Err(Failure::input("VIEW_UNKNOWN", text, help))
}

fn invalid(faults: &[kernel::ConfigFault]) -> Failure {
    let lines: Vec<_> = faults.iter().map(ToString::to_string).collect();
    Failure::input("CONFIG_INVALID", lines.join("\n   "), "`soma check` lists every fault")
}

pub(super) fn run(args: &Args, cx: &Context) -> Done {
    let (asked, source) = (now(), source(&args.source)?);
    let at = |text: &str| when::instant(text, asked).map_err(|e| Failure::input("USAGE", e, "--from 7d --to 1d"));
    let ask = Ask {
        view: args.view.clone(),
        from: at(&args.from)?.0,
        to: at(&args.to)?.0,
        nothing_late: args.nothing_late,
        by_columns: source != Source::Topic,
    };
    let pipeline = Pipeline::load(&file_of(&args.pipeline)?, &cx.env).map_err(|faults| invalid(&faults))?;
    let planned = planned(&pipeline, &args.view)?;
    let around = Around {
        planned: &planned,
        brokers: &pipeline.connections.kafka,
        registry: cx.registry()?,
        handle: cx.runtime()?.handle().clone(),
        now: asked,
    };
    let mut backfill = around.start(&ask).map_err(failure)?;
    let range = widened(&backfill, &ask);
    settled(&around, &backfill, args.dry_run)?;
    let clickhouse = || sql::config(cx).map_err(|f| Fault::new(FaultCode::ConfigInvalid, f.text));
    around.read(&mut backfill, &source, &clickhouse).map_err(failure)?;
    let outcomes = backfill.outcomes();
    out::note(format!(
        "read: {} records count, {} came too late for a window, {} are duplicates, {} are refused",
        outcomes.counted, outcomes.late, outcomes.duplicate, outcomes.refused
    ));
    let kinds = [Kind::Corrected, Kind::Added, Kind::Deleted, Kind::Same];
    let form = if cx.json { Form::Json } else { args.out };
    let most = if form == Form::Table { ROWS } else { usize::MAX };
    let how = Write {
        dry_run: args.dry_run,
        first_revision: args.first_revision,
        show: (&kinds[..if args.all { 4 } else { 3 }], most),
    };
    let found = around.write(backfill, &args.source.join(","), &how).map_err(failure)?;
    tell(args, &found, range, form)?;
    Ok(OK)
}

/// What a fault means here.
fn failure(fault: Fault) -> Failure {
    let detail = fault.detail.clone();
    match fault.code {
        FaultCode::InputInvalid => Failure::input(
            "HISTORY_UNFIT",
            detail,
            "pipelines/flights/README.md, The past again, says what a history must have",
        ),
        FaultCode::StateUnreadable => Failure::failed(
            "TEXT_CHANGED",
            detail,
            "use the SQL the stage runs, or give the changed view another sink table's name",
        ),
        FaultCode::Fenced => Failure::failed("FENCED", detail, "another backfill of this view goes on; let it end"),
        FaultCode::CommitFailed => {
            let help = "run it again: what is written already is not written twice";
            Failure::unreachable("COMMIT_FAILED", detail, help)
        }
        _ => fault.into(),
    }
}

/// A time as it is written on the command line.
fn said(at: EventTime) -> String {
    at.to_string().replace(".000000Z", "Z")
}

/// Says how a range was widened; the range.
fn widened(backfill: &Backfill, ask: &Ask) -> (EventTime, EventTime) {
    let (from, to) = backfill.range();
    if (from.0, to.0) != (ask.from, ask.to) {
        let (from, to) = (said(from), said(to));
        out::note(format!(
            "note: windows from {from} to {to}: the range is widened to their borders"
        ));
    }
    (from, to)
}

/// Refuses windows the stage may tell again; a dry run only says so.
fn settled(around: &Around<'_>, backfill: &Backfill, dry_run: bool) -> Result<(), Failure> {
    let (settled, to) = (around.settled(backfill), backfill.range().1);
    let (text, help) = match settled {
        Ok(Some(at)) if to <= at => return Ok(()),
        Ok(Some(at)) => {
            let last = said(backfill.border(at));
            let text = format!("windows that end after {last} the running stage may still tell again");
            (
                text,
                format!("--to {last} at the latest; that moves on with the watermark"),
            )
        }
        Ok(None) => {
            let text = "the stage has not told a window of this view yet".to_owned();
            (
                text,
                "`soma start` runs it; once its watermark is past the range, come back".to_owned(),
            )
        }
        Err(fault) if dry_run => {
            let text = format!("how far the stage is, is not known: {}", fault.detail);
            (text, "this is refused".to_owned())
        }
        Err(fault) => return Err(failure(fault)),
    };
    if dry_run {
        out::note(format!("note: {text}; without --dry-run: {help}"));
        return Ok(());
    }
    Err(Failure::input("RANGE_OPEN", text, help))
}

fn tell(args: &Args, found: &Differences, (from, to): (EventTime, EventTime), form: Form) -> Result<(), Failure> {
    if !found.unsteady.is_empty() {
        out::note(format!(
            "note: {} depends on the order of merging and makes no row differ by itself",
            found.unsteady.join(", ")
        ));
    }
    if found.beyond > 0 {
        out::note(format!(
            "note: {} sessions reach out of the range and are left as they are",
            found.beyond
        ));
    }
    let written = if args.dry_run { 0 } else { found.emits.len() };
    let figures = format!(
        "backfill windows={} same={} corrected={} added={} deleted={} written={written}",
        found.windows, found.same, found.corrected, found.added, found.deleted
    );
    match form {
        Form::Table => {
            if !found.rows.is_empty() {
                table(found)?;
            }
            let wanted = found.windows - if args.all { 0 } else { found.same };
            if wanted > found.rows.len() {
                out::note(format!("{} more rows; --out csv shows all", wanted - found.rows.len()));
            }
            out::line(figures)
        }
        Form::Csv => {
            let heading = ["change", "revision"]
                .into_iter()
                .chain(found.columns.iter().map(String::as_str));
            out::line(
                heading
                    .map(|name| sql::quoted(name.to_owned()))
                    .collect::<Vec<_>>()
                    .join(","),
            )?;
            for row in &found.rows {
                let cells = cells(row, &found.columns, |_, value| text(value));
                out::line(cells.into_iter().map(sql::quoted).collect::<Vec<_>>().join(","))?;
            }
            out::note(figures);
            Ok(())
        }
        Form::Json => out::json(&json!({
            "view": args.view, "from": said(from), "to": said(to), "source": args.source, "dry_run": args.dry_run,
            "windows": found.windows, "same": found.same, "corrected": found.corrected, "added": found.added,
            "deleted": found.deleted, "beyond": found.beyond, "written": written,
            "rows": found.rows.iter().map(document).collect::<Vec<_>>(),
        })),
    }
}

fn document(row: &Difference) -> Json {
    let mut document = json!({"change": row.kind.name(), "revision": row.revision, "row": row.row});
    if row.kind == Kind::Corrected {
        document["before"] = Json::Object(row.before.clone());
    }
    document
}

fn table(found: &Differences) -> Result<(), Failure> {
    let heading: Vec<_> = ["change", "revision"]
        .into_iter()
        .chain(found.columns.iter().map(String::as_str))
        .collect();
    let arrow = |before: Option<&Json>, value: &Json| match before {
        Some(before) => format!("{} → {}", text(before), text(value)),
        None => text(value),
    };
    let rows: Vec<_> = found.rows.iter().map(|row| cells(row, &found.columns, arrow)).collect();
    out::table(&heading, &rows)
}

fn cells(row: &Difference, columns: &[String], show: impl Fn(Option<&Json>, &Json) -> String) -> Vec<String> {
    let value = |of: &Map<String, Json>, name: &String| of.get(name).cloned();
    let own = columns.iter().map(|name| {
        let now = value(&row.row, name).unwrap_or_default();
        show(value(&row.before, name).as_ref(), &now)
    });
    [row.kind.name().to_owned(), row.revision.to_string()]
        .into_iter()
        .chain(own)
        .collect()
}

fn text(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        Json::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn histories_are_told_apart() {
        let of = |given: &[&str]| source(&given.iter().map(|g| (*g).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&["topic"]).unwrap(), Source::Topic);
        assert_eq!(of(&["clickhouse:a.b"]).unwrap(), Source::ClickHouse("a.b".to_owned()));
        let files = Source::Parquet(vec!["a.parquet".into(), "b.parquet".into()]);
        assert_eq!(of(&["a.parquet", "b.parquet"]).unwrap(), files);
        for bad in [
            &["a.csv"][..],
            &["topic", "a.parquet"],
            &["clickhouse:"],
            &["clickhouse:a;b"],
        ] {
            assert!(of(bad).unwrap_err().help.contains("--source topic"), "{bad:?}");
        }
    }

    #[test]
    fn rows_show_what_was_before() {
        let map = |json: Json| json.as_object().cloned().unwrap();
        let row = Difference {
            kind: Kind::Corrected,
            revision: 2,
            row: map(json!({"origin": "JFK", "flights": 7})),
            before: map(json!({"flights": 6})),
        };
        let columns = ["origin".to_owned(), "flights".to_owned()];
        let shown = cells(&row, &columns, |before, now| match before {
            Some(before) => format!("{} → {}", text(before), text(now)),
            None => text(now),
        });
        assert_eq!(shown, ["corrected", "2", "JFK", "6 → 7"]);
        assert_eq!(document(&row)["before"], json!({"flights": 6}));
    }
}
