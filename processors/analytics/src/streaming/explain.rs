//! The streaming plan as text.

use std::fmt::Write;

use super::program::{PARTIALS, Program};
use super::span;

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
    for view in &program.views {
        let keys = if view.keys.is_empty() {
            "nothing (one partition)".to_owned()
        } else {
            view.keys.join(", ")
        };
        writeln!(out, "view {} over {}", view.name, view.source)?;
        writeln!(out, "  window     {}", view.window.describe())?;
        writeln!(
            out,
            "  local      {} by {keys}, per source partition, between commits",
            view.aggregate.names().join(", ")
        )?;
        writeln!(out, "  repartition by hash of {keys} -> topic {PARTIALS}")?;
        writeln!(
            out,
            "  final      merges per window and key; closes at the least watermark of partitions that are not idle"
        )?;
        let own: Vec<_> = view.gives.iter().map(|(_, f)| f.name().as_str()).collect();
        writeln!(
            out,
            "  sink       {} <- window_start, window_end, {}, revision, deleted",
            view.topic,
            own.join(", ")
        )?;
    }
    Ok(())
}
