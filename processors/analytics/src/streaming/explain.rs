//! The streaming plan as text.

use std::fmt::Write;

use arrow::datatypes::Field;

use super::joined::{How, Join};
use super::plan::View;
use super::program::{PARTIALS, Program};
use super::span;
use super::streams::Streams;

/// Sources, then for each view its local half, what it is partitioned by, its final half and where its rows go.
pub(crate) fn text(program: &Program) -> String {
    let mut out = String::new();
    lines(program, &mut out).unwrap_or_default();
    out
}

fn lines(program: &Program, out: &mut String) -> std::fmt::Result {
    for source in &program.sources {
        writeln!(out, "source {} <- topic {}", source.name, source.topic)?;
        let names: Vec<_> = source.columns.fields().iter().map(|f| f.name().as_str()).collect();
        writeln!(out, "  decode     {}", names.join(", "))?;
        writeln!(out, "  watermark  {} - {}", source.time.1, span::text(source.delay))?;
        if let Some(unique) = source.unique {
            writeln!(out, "  unique     {}", source.columns.field(unique).name())?;
        }
        let or_stage = |value: Option<i64>| value.map_or("as the stage says".to_owned(), span::text);
        writeln!(
            out,
            "  late after {}; idle after {}",
            or_stage(source.lateness),
            or_stage(source.idle)
        )?;
    }
    for lookup in &program.lookups {
        writeln!(
            out,
            "lookup {} <- topic {}, held whole by every instance",
            lookup.name, lookup.topic
        )?;
        let names: Vec<_> = lookup.columns.fields().iter().map(|f| f.name().as_str()).collect();
        writeln!(out, "  decode     {}", names.join(", "))?;
        writeln!(
            out,
            "  key        {}; the newest row that is read when a record is processed",
            lookup.key.join(", ")
        )?;
    }
    for view in &program.views {
        half(view, &view.name, out)?;
        writeln!(
            out,
            "  final      merges per window and key; closes at the least watermark of partitions that are not idle"
        )?;
        sink(&view.topic, &view.gives, out)?;
    }
    for join in &program.joins {
        for side in &join.sides {
            half(side, &side.name, out)?;
        }
        let kind = join.how.kind().to_string().to_lowercase();
        writeln!(
            out,
            "view {}, {kind} join of {} and {}",
            join.name, join.sides[0].name, join.sides[1].name
        )?;
        match join.how.as_ref() {
            How::Windows(_) => writeln!(
                out,
                "  final      merges both sides per window and key; closes at the lesser watermark of both, where neither is idle; a late record of either tells the row again"
            )?,
            How::Streams(streams) => met(join, streams, out)?,
        }
        sink(&join.topic, join.how.gives(), out)?;
    }
    Ok(())
}

/// How two streams meet, and what is kept of them how long.
fn met(join: &Join, streams: &Streams, out: &mut String) -> std::fmt::Result {
    let names = |which: usize| {
        let fields = streams.keys[which]
            .iter()
            .map(|i| streams.inputs[which].field(*i).name());
        fields.cloned().collect::<Vec<_>>().join(", ")
    };
    let keys = if streams.keys[0].is_empty() {
        "the window alone".to_owned()
    } else {
        format!("the window and {} = {}", names(0), names(1))
    };
    let also = if streams.on.is_some() {
        "; and what else ON says"
    } else {
        ""
    };
    writeln!(
        out,
        "  meet       rows of both sides by {keys}{also}; a window's pairs are never held together"
    )?;
    writeln!(
        out,
        "  final      {} by {}, of the pairs of a window; closes at the lesser watermark of both, where neither is idle; a late record of either tells what it changes again",
        streams.aggregate.names().join(", "),
        if join.keys.is_empty() {
            "nothing".to_owned()
        } else {
            join.keys.join(", ")
        }
    )?;
    writeln!(
        out,
        "  state      rows of both sides, equal ones once with their count, until that watermark is {} behind their pane and the greater allowed lateness has passed",
        span::text(join.sides[0].window.kept(0))
    )
}

/// From the source to the repartition topic.
fn half(view: &View, name: &str, out: &mut String) -> std::fmt::Result {
    let key = |i: &usize| {
        view.keys
            .get(i - usize::from(*i > view.aggregate.pane))
            .map_or("", String::as_str)
    };
    let keys: Vec<_> = view.home.iter().map(key).collect();
    let keys = if keys.is_empty() {
        "nothing (one partition)".to_owned()
    } else {
        keys.join(", ")
    };
    writeln!(out, "view {name} over {}", view.source)?;
    for lookup in view.before.lookups() {
        let else_ = if lookup.outer {
            "without a row: nulls"
        } else {
            "without a row: left out"
        };
        writeln!(out, "  lookup     {} by its primary key; {else_}", lookup.table)?;
    }
    writeln!(out, "  window     {}", view.window.describe())?;
    writeln!(
        out,
        "  local      {} by {keys}, per source partition, between commits",
        view.aggregate.names().join(", ")
    )?;
    writeln!(out, "  repartition by hash of {keys} -> topic {PARTIALS}")
}

fn sink(topic: &str, gives: &[(usize, Field)], out: &mut String) -> std::fmt::Result {
    let own: Vec<_> = gives.iter().map(|(_, f)| f.name().as_str()).collect();
    writeln!(
        out,
        "  sink       {topic} <- window_start, window_end, {}, revision, deleted",
        own.join(", ")
    )
}
