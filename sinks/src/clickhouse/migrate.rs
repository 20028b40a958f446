//! The schema as numbered files, applied once and in order. Every statement may be run twice, so two instances that start
//! together, or one that died half way, do no harm.

use std::collections::BTreeMap;

use clickhouse::Row;
use kernel::{Fault, FaultCode};
use serde::{Deserialize, Serialize};

use super::insert::insert;
use super::{Config, Server};

/// The files, in the order in which they are applied. A file that has shipped is never changed; add another.
pub(super) const FILES: &[(&str, &str)] = &[
    (
        "0001_tables.sql",
        include_str!("../../migrations/clickhouse/0001_tables.sql"),
    ),
    (
        "0002_views.sql",
        include_str!("../../migrations/clickhouse/0002_views.sql"),
    ),
    (
        "0003_audit.sql",
        include_str!("../../migrations/clickhouse/0003_audit.sql"),
    ),
    (
        "0004_minutes.sql",
        include_str!("../../migrations/clickhouse/0004_minutes.sql"),
    ),
    (
        "0005_views.sql",
        include_str!("../../migrations/clickhouse/0005_views.sql"),
    ),
    (
        "0006_whole.sql",
        include_str!("../../migrations/clickhouse/0006_whole.sql"),
    ),
    (
        "0007_projections.sql",
        include_str!("../../migrations/clickhouse/0007_projections.sql"),
    ),
];

/// The record of what was applied. `insert` recognises a second instance's row by its token.
pub(super) const LEDGER: &str = "CREATE TABLE IF NOT EXISTS schema_migrations \
    (name String, checksum String, applied_at DateTime64(6, 'UTC') DEFAULT now64(6)) \
    ENGINE = MergeTree ORDER BY name SETTINGS non_replicated_deduplication_window = 10000";

/// What [`migrate`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Migrated {
    /// Files applied now.
    pub applied: Vec<String>,
    /// Files that had been applied before.
    pub present: Vec<String>,
}

#[derive(Clone, Debug, Row, Serialize, Deserialize)]
struct Applied {
    name: String,
    checksum: String,
}

/// Creates the database when it is missing and applies what is new.
///
/// # Errors
/// `CONFIG_INVALID` names a file that was changed after it had been applied; `STORE_UNAVAILABLE`, `STORE_REFUSED` as every
/// statement.
pub async fn migrate(config: &Config) -> Result<Migrated, Fault> {
    let server = Server::new(config)?;
    let create = format!("CREATE DATABASE IF NOT EXISTS `{}`", server.database);
    let outside = server.client.clone().with_database("default");
    server.run(&create, outside.query_raw(&create).execute()).await?;
    server
        .run(
            "CREATE TABLE schema_migrations",
            server.client.query_raw(LEDGER).execute(),
        )
        .await?;
    apply(&server, FILES).await
}

pub(super) async fn apply(server: &Server, files: &[(&str, &str)]) -> Result<Migrated, Fault> {
    let query = server.client.query_raw("SELECT name, checksum FROM schema_migrations");
    let rows = server
        .run("SELECT FROM schema_migrations", query.fetch_all::<Applied>())
        .await?;
    let applied: BTreeMap<_, _> = rows.into_iter().map(|row| (row.name, row.checksum)).collect();
    let mut done = Migrated::default();
    for (name, checksum, sql) in pending(files, &applied, &mut done.present)? {
        for statement in statements(sql) {
            let what = format!("{name}: {}", statement.lines().next().unwrap_or_default());
            server.run(&what, server.client.query_raw(&statement).execute()).await?;
        }
        let row = Applied {
            name: name.to_owned(),
            checksum,
        };
        insert(server, "schema_migrations", &[row], name).await?;
        done.applied.push(name.to_owned());
    }
    Ok(done)
}

/// Files that are still to be applied, with their checksums.
fn pending<'a>(
    files: &[(&'a str, &'a str)],
    applied: &BTreeMap<String, String>,
    present: &mut Vec<String>,
) -> Result<Vec<(&'a str, String, &'a str)>, Fault> {
    let mut pending = Vec::new();
    for (name, sql) in files {
        let checksum = schemas::digest::sha256_hex(&[sql]);
        match applied.get(*name) {
            None => pending.push((*name, checksum, *sql)),
            Some(known) if *known == checksum => present.push((*name).to_owned()),
            Some(_) => {
                let detail = format!(
                    "sinks/migrations/clickhouse/{name} was changed after it had been applied; restore it and put the \
                     change into a new file"
                );
                return Err(Fault::new(FaultCode::ConfigInvalid, detail));
            }
        }
    }
    Ok(pending)
}

/// What a view's query says of rows that are counted already.
pub(super) const AGAIN: &str = "WHERE NOT _again";

/// What feeds the minute tables of a table of facts: each one's name, and its view's query.
pub(super) fn feeds(facts: &str) -> Vec<(String, String)> {
    let sql = include_str!("../../migrations/clickhouse/0006_whole.sql");
    let from = [format!("\nFROM {facts}\n"), format!("\nFROM {facts} AS ")];
    let feed = |statement: &String| {
        let (view, query) = statement.strip_prefix("ALTER TABLE ")?.split_once(" MODIFY QUERY\n")?;
        let table = view.strip_suffix("_feed")?;
        from.iter()
            .any(|f| query.contains(f))
            .then(|| (table.to_owned(), query.to_owned()))
    };
    statements(sql).iter().filter_map(feed).collect()
}

/// The statements of a file: comment lines dropped, each statement ended by `;` at the end of a line.
fn statements(sql: &str) -> Vec<String> {
    let lines: Vec<_> = sql
        .lines()
        .filter(|line| !line.trim_start().starts_with("--"))
        .collect();
    let text = lines.join("\n") + "\n";
    text.split(";\n")
        .map(str::trim)
        .filter(|s| !s.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn every_statement_may_run_twice_and_every_table_recognises_inserts() {
        for (name, sql) in FILES {
            for statement in statements(sql) {
                let harmless = statement.starts_with("CREATE TABLE IF NOT EXISTS")
                    || statement.starts_with("CREATE OR REPLACE VIEW")
                    || statement.contains(" IF NOT EXISTS ")
                    // Parts that have it are passed over.
                    || statement.contains(" MATERIALIZE PROJECTION IF EXISTS ")
                    || statement.contains(" MATERIALIZE INDEX IF EXISTS ")
                    || (statement.starts_with("ALTER TABLE") && statement.contains("_feed MODIFY QUERY"))
                    // Filled from what was kept before: its token lets it in once.
                    || (statement.starts_with("INSERT INTO") && statement.contains("insert_deduplication_token = "));
                assert!(harmless, "{name}: {statement}");
                if statement.starts_with("CREATE TABLE") {
                    assert!(
                        statement.contains("non_replicated_deduplication_window = 10000"),
                        "{name}: {statement}"
                    );
                    assert!(
                        !statement.contains("PARTITION BY"),
                        "{name}: an insert must be one part: {statement}"
                    );
                }
            }
        }
        let names: Vec<_> = FILES.iter().map(|(name, _)| *name).collect();
        assert!(names.is_sorted());
    }

    /// The facts' engine puts no rows together, so merges have nothing to say about a projection but to merge it too. A table whose
    /// engine does (the minute tables) takes none without `deduplicate_merge_projection_mode`, and needs none.
    #[test]
    fn projections_are_of_tables_that_keep_rows_as_they_are() {
        let all: Vec<_> = FILES.iter().flat_map(|(_, sql)| statements(sql)).collect();
        let plain = |table: &str| {
            let mut made = all
                .iter()
                .filter(|s| s.starts_with(&format!("CREATE TABLE IF NOT EXISTS {table} (")));
            made.any(|s| s.contains(") ENGINE = MergeTree\n"))
        };
        assert!(plain("events") && !plain("events_1m"));
        let mut added = 0;
        for statement in &all {
            if let Some((table, _)) = statement.split_once(" ADD PROJECTION ") {
                let table = table.trim_start_matches("ALTER TABLE ");
                assert!(plain(table), "{statement}");
                added += 1;
            }
        }
        assert!(added > 5, "{added}");
    }

    #[test]
    fn the_feeds_of_facts_are_known_and_pass_over_rows_kept_again() {
        let names = |facts| feeds(facts).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names("verdicts"), ["verdicts_1m", "rules_1m"]);
        assert_eq!(
            (names("events"), names("metrics")),
            (vec!["events_1m".to_owned()], vec![])
        );
        for facts in ["events", "runs", "verdicts", "outcomes", "audit"] {
            for (table, query) in feeds(facts) {
                assert_eq!(query.matches(AGAIN).count(), 1, "{table}: {query}");
                assert!(query.contains("max(_offset) + 1 AS _next"), "{table}: {query}");
            }
        }
    }

    #[test]
    fn a_changed_file_is_refused_by_name() {
        let files = [("0001_a.sql", "SELECT 1;\n"), ("0002_b.sql", "SELECT 2;\n")];
        let sum = schemas::digest::sha256_hex(&["SELECT 1;\n"]);
        let (mut present, known) = (Vec::new(), BTreeMap::from([("0001_a.sql".to_owned(), sum)]));
        let next = pending(&files, &known, &mut present).unwrap();
        assert_eq!(
            (next.len(), next[0].0, present.as_slice()),
            (1, "0002_b.sql", &["0001_a.sql".to_owned()][..])
        );
        let known = BTreeMap::from([("0001_a.sql".to_owned(), "other".to_owned())]);
        let fault = pending(&files, &known, &mut present).unwrap_err();
        assert!(fault.detail.contains("0001_a.sql was changed"), "{}", fault.detail);
    }

    #[test]
    fn files_are_split_at_statement_ends() {
        let sql = "-- a; comment\nCREATE x (\n  a ';'\n);\n\nCREATE y;\n";
        assert_eq!(statements(sql), ["CREATE x (\n  a ';'\n)", "CREATE y"]);
    }
}
