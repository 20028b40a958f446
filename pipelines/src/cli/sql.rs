//! `soma sql STATEMENT`: one statement to ClickHouse, its answer as a table, JSON or CSV. Reading only; the sinks' reader enforces it.

use std::io::Read;
use std::path::PathBuf;

use serde_json::{Value as Json, json};
use sinks::clickhouse::{Config, Reader, Table};

use super::context::Context;
use super::failure::{Done, Failure, OK};
use super::{out, streaming};

/// Asks ClickHouse; or looks at a pipeline's streaming SQL.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "Examples:
  soma sql \"SHOW TABLES\"
  soma sql \"SELECT tenant, status, count() FROM runs_latest GROUP BY ALL ORDER BY 3 DESC\"
  soma sql -f dashboard.sql --csv > dashboard.csv
  soma sql check flights           a pipeline's streaming SQL; `soma sql explain flights` shows its plan
  soma sql \"SELECT * FROM outcomes ORDER BY finished_at DESC LIMIT 10\" --json

Statements can only read; leave out FORMAT. At most 100000 rows come back: more is refused, not cut off.
Exit code: 0 answered, 2 ClickHouse refuses the statement (its words are shown), 3 it does not answer.")]
pub(super) struct Args {
    #[command(subcommand)]
    streaming: Option<streaming::Command>,
    /// The statement
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    statement: Option<String>,
    /// File with the statement; `-` reads standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Comma-separated values with a heading
    #[arg(long)]
    csv: bool,
}

/// Where the environment says ClickHouse is.
pub(super) fn config(cx: &Context) -> Result<Config, Failure> {
    let json = json!({
        "url": cx.variable("SOMA_CLICKHOUSE_URL")?,
        "database": cx.variable("SOMA_CLICKHOUSE_DATABASE")?,
        "user": cx.env.get("SOMA_CLICKHOUSE_USER").unwrap_or_default(),
        "password": cx.env.get("SOMA_CLICKHOUSE_PASSWORD").unwrap_or_default(),
        "timeout_ms": 30_000,
    });
    serde_json::from_value(json).map_err(|e| {
        Failure::input(
            "CONFIG_INVALID",
            format!("SOMA_CLICKHOUSE_*: {e}"),
            "see .soma/dev.env for an example",
        )
    })
}

pub(super) fn run(args: &Args, cx: &Context) -> Done {
    if let Some(command) = &args.streaming {
        return streaming::run(command, cx);
    }
    let statement = match (&args.statement, &args.file) {
        (Some(statement), _) => statement.clone(),
        (None, Some(file)) => read(file)?,
        (None, None) => String::new(),
    };
    if statement.trim().is_empty() {
        return Err(Failure::input(
            "STATEMENT_MISSING",
            "the statement is empty",
            "soma sql \"SHOW TABLES\"",
        ));
    }
    let reader = Reader::new(&config(cx)?)?;
    let table = cx.runtime()?.block_on(reader.query_json(&statement))?;
    if cx.json {
        out::json(&rows_as_objects(&table))?;
    } else if args.csv {
        csv(&table).iter().try_for_each(out::line)?;
    } else {
        let heading: Vec<_> = table.columns.iter().map(|c| c.name.as_str()).collect();
        let rows: Vec<Vec<_>> = table.rows.iter().map(|row| row.iter().map(text).collect()).collect();
        out::table(&heading, &rows)?;
        out::note(format!("{} rows", rows.len()));
    }
    Ok(OK)
}

fn read(file: &PathBuf) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if file.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text).map(drop)
    } else {
        std::fs::read_to_string(file).map(|all| text = all)
    };
    read.map_err(|e| {
        Failure::input(
            "FILE_UNREADABLE",
            format!("{}: {e}", file.display()),
            "is the path right?",
        )
    })?;
    Ok(text)
}

fn text(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        Json::Null => String::new(),
        other => other.to_string(),
    }
}

fn rows_as_objects(table: &Table) -> Json {
    let object = |row: &Vec<Json>| {
        table
            .columns
            .iter()
            .map(|c| c.name.clone())
            .zip(row.iter().cloned())
            .collect()
    };
    Json::Array(table.rows.iter().map(|row| Json::Object(object(row))).collect())
}

/// A field of comma-separated values, RFC 4180: quoted where it must be.
pub(super) fn quoted(text: String) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

fn csv(table: &Table) -> Vec<String> {
    let heading = table
        .columns
        .iter()
        .map(|c| quoted(c.name.clone()))
        .collect::<Vec<_>>()
        .join(",");
    let rows = table
        .rows
        .iter()
        .map(|row| row.iter().map(|v| quoted(text(v))).collect::<Vec<_>>().join(","));
    std::iter::once(heading).chain(rows).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn answers_as_csv_and_objects() {
        let table: Table = serde_json::from_value(json!({
            "meta": [{"name": "tenant", "type": "String"}, {"name": "n", "type": "UInt64"}],
            "data": [["a,\"b\"", 7], [null, 8]],
        }))
        .unwrap();
        assert_eq!(csv(&table), ["tenant,n", "\"a,\"\"b\"\"\",7", ",8"]);
        assert_eq!(
            rows_as_objects(&table),
            json!([{"tenant": "a,\"b\"", "n": 7}, {"tenant": null, "n": 8}])
        );
    }
}
