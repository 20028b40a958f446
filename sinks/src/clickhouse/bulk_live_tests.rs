//! Against a real ClickHouse: what is sent column by column is what is sent row by row, and an insert is recognised whichever way
//! it comes again.

use kernel::{Decoder, FaultCode, RawRecord, Sink};
use schemas::records::{
    AuditEntry, CallKind, Checkpoint, Event, FaultInfo, Metric, Outcome, Run, RunStatus, RunStep, Verdict, Violation,
};
use schemas::{Record, Timestamp, Usd};
use serde_json::json;

use super::insert::insert_facts;
use super::live_tests::{config, count, drop_database, now_us};
use super::rows::Stored;
use super::*;
use crate::testing::{Plain, raw};

const ROWS: usize = usize::MAX;
const COLUMNS: usize = 1;

fn sent(bulk_rows_min: usize) -> Config {
    Config {
        bulk_rows_min,
        ..config()
    }
}

/// Records of a topic, one for each number.
fn records<R: Record>(topic: &str, numbers: std::ops::Range<i64>, one: impl Fn(i64) -> R) -> Vec<RawRecord> {
    numbers.map(|n| raw(topic, 1, n, "k", &one(n))).collect()
}

/// Empty, long, of several bytes a letter, or a word of its own: more words than one byte counts.
fn word(n: i64) -> String {
    match n % 5 {
        0 => String::new(),
        1 => "ä€🦀".repeat(50),
        _ => format!("word {n}"),
    }
}

fn at(n: i64) -> Timestamp {
    Timestamp(now_us() / 60_000_000 * 60_000_000 - n)
}

fn fault(n: i64) -> Option<FaultInfo> {
    (n % 2 == 0).then(|| FaultInfo {
        code: word(n),
        ..FaultInfo::default()
    })
}

fn run(n: i64) -> Run {
    let step = RunStep {
        tool: word(n),
        ..RunStep::default()
    };
    Run {
        run_id: word(n),
        tenant: word(n + 1),
        revision: -n,
        goal: word(n + 2),
        capsule: (n % 3 == 0).then(|| word(n)),
        status: RunStatus::WaitingApproval,
        steps: vec![step; usize::try_from(n % 3).unwrap()],
        fault: fault(n),
        cost_usd: Usd(1 - n * 1_000_003),
        requested_at: at(n),
        created_at: at(n),
        updated_at: at(n),
        finished_at: (n % 2 == 1).then(|| at(n)),
        ..Run::default()
    }
}

fn verdict(n: i64) -> Verdict {
    let broken = |k: i64| Violation {
        rule: word(n + k),
        ..Violation::default()
    };
    Verdict {
        verdict_id: word(n),
        tenant: word(n),
        score: 1.0 / (n + 1) as f64,
        violations: (0..n % 4).map(broken).collect(),
        evaluation_us: n,
        decided_at: at(n),
        ..Verdict::default()
    }
}

fn outcome(n: i64) -> Outcome {
    Outcome {
        call_id: word(n),
        tenant: word(n),
        kind: CallKind::default(),
        attempt: i32::try_from(n).unwrap() - 7,
        tool: word(n),
        result: word(n),
        fault: fault(n),
        latency_us: n * 37,
        cost_usd: Usd(n),
        requested_at: at(n),
        finished_at: at(n),
        ..Outcome::default()
    }
}

fn event(n: i64) -> Event {
    Event {
        event_id: word(n),
        ts: at(n),
        tenant: word(n),
        run_id: word(n + 3),
        kind: word(n + 1),
        payload: (0..n % 3).map(|k| (word(n + k), word(k))).collect(),
    }
}

fn metric(n: i64) -> Metric {
    Metric {
        name: word(n),
        labels: [("tenant".to_owned(), word(n)), (word(n), word(n + 2))].into(),
        window_start: at(n),
        window_end: at(n),
        value: if n == 3 { f64::MIN_POSITIVE } else { -1.5 * n as f64 },
        revision: i32::try_from(n).unwrap(),
        emitted_at: at(n),
    }
}

fn entry(n: i64) -> AuditEntry {
    AuditEntry {
        chain: 3,
        seq: n,
        chained_at: at(n),
        record: word(n),
        offset: i64::MAX - n,
        written_at: at(n),
        body: word(n),
        ..AuditEntry::default()
    }
}

fn checkpoint(n: i64) -> Checkpoint {
    Checkpoint {
        chain: i32::MIN,
        number: n,
        root: word(n),
        signed_at: at(n),
        signature: word(n + 1),
        ..Checkpoint::default()
    }
}

/// What a table holds of records that were sent so.
async fn kept<R: Stored>(config: &Config, all: &[RawRecord]) -> Vec<Vec<serde_json::Value>> {
    let mut sink = ClickHouseSink::connect(config).await.unwrap();
    assert!(sink.write(all, &Plain::of::<R>()).await.unwrap().is_empty());
    let sql = format!("SELECT * FROM {} ORDER BY _offset", R::TABLE);
    Reader::new(config).unwrap().query_json(&sql).await.unwrap().rows
}

async fn alike<R: Stored>(rows: &Config, columns: &Config, one: impl Fn(i64) -> R) {
    let all = records(R::TOPIC.name, 0..700, one);
    let expected = kept::<R>(rows, &all).await;
    assert_eq!(expected.len(), all.len(), "{}", R::TABLE);
    let found = kept::<R>(columns, &all).await;
    for (expected, found) in expected.iter().zip(&found) {
        assert_eq!(expected, found, "{}", R::TABLE);
    }
    assert_eq!(found.len(), all.len(), "{}", R::TABLE);
}

#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn every_table_holds_the_same_of_rows_and_of_columns() {
    let (rows, columns) = (sent(ROWS), sent(COLUMNS));
    migrate(&rows).await.unwrap();
    migrate(&columns).await.unwrap();
    alike::<Event>(&rows, &columns, event).await;
    alike::<Run>(&rows, &columns, run).await;
    alike::<Verdict>(&rows, &columns, verdict).await;
    alike::<Outcome>(&rows, &columns, outcome).await;
    alike::<Metric>(&rows, &columns, metric).await;
    alike::<AuditEntry>(&rows, &columns, entry).await;
    alike::<Checkpoint>(&rows, &columns, checkpoint).await;
    for config in [rows, columns] {
        assert_eq!(count(&config, "SELECT count() FROM minutes_drift").await, json!(0));
        drop_database(&config).await;
    }
}

/// The same rows under the same token, one way and then the other: facts and minutes count them once.
#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn an_insert_that_comes_again_the_other_way_is_recognised() {
    for ways in [[ROWS, COLUMNS], [COLUMNS, ROWS], [COLUMNS, COLUMNS]] {
        let config = config();
        migrate(&config).await.unwrap();
        let all = records("soma.outcomes", 0..400, outcome);
        let rows: Vec<_> = (0..400).map(outcome).zip(&all).map(|(one, raw)| one.row(raw)).collect();
        for bulk_rows_min in ways {
            let server = Server::new(&Config {
                bulk_rows_min,
                ..config.clone()
            });
            insert_facts(&server.unwrap(), Outcome::TABLE, &rows, "token")
                .await
                .unwrap();
        }
        let sums = "SELECT tuple(count(), uniqExact(_offset), (SELECT sum(calls) FROM calls_1m)) FROM outcomes";
        assert_eq!(count(&config, sums).await, json!([400, 400, 400]), "{ways:?}");
        let server = Server::new(&config).unwrap();
        insert_facts(&server, Outcome::TABLE, &rows, "another token")
            .await
            .unwrap();
        assert_eq!(count(&config, sums).await, json!([800, 400, 800]), "{ways:?}");
        drop_database(&config).await;
    }
}

/// What comes with a batch far larger than a pipeline's: still one part, or it would not be all or nothing.
#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn a_large_insert_is_one_part() {
    let config = sent(COLUMNS);
    migrate(&config).await.unwrap();
    let mut sink = ClickHouseSink::connect(&config).await.unwrap();
    let all = records("soma.events", 0..150_000, event);
    sink.write(&all, &Plain::of::<Event>()).await.unwrap();
    let parts = "SELECT tuple(count(), sum(rows), max(level)) FROM system.parts \
        WHERE database = currentDatabase() AND table = 'events' AND active";
    assert_eq!(count(&config, parts).await, json!([1, 150_000, 0]));
    drop_database(&config).await;
}

#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn a_column_of_another_type_and_a_table_that_is_not_there_are_refused_by_name() {
    let config = sent(COLUMNS);
    migrate(&config).await.unwrap();
    let decoder = Plain::of::<Event>();
    let decoder: &dyn Decoder = &decoder;
    let server = Server::new(&config).unwrap();
    let alter = async |column: &str| {
        let sql = format!("ALTER TABLE events MODIFY COLUMN {column} SETTINGS mutations_sync = 1");
        server.client.query_raw(&sql).execute().await.unwrap();
    };
    let all = records("soma.events", 0..30, event);
    let mut sink = ClickHouseSink::connect(&config).await.unwrap();
    sink.write(&all[..10], decoder).await.unwrap();
    // The sink knows the type of before: the server turns the one into the other.
    alter("event_id LowCardinality(String)").await;
    sink.write(&all[..20], decoder).await.unwrap();
    assert_eq!(count(&config, "SELECT uniqExact(_offset) FROM events").await, json!(20));
    alter("event_id Nullable(String)").await;
    let fault = ClickHouseSink::connect(&config)
        .await
        .unwrap()
        .write(&all, decoder)
        .await
        .unwrap_err();
    assert_eq!(fault.code, FaultCode::StoreRefused);
    assert!(
        fault.detail.contains("column event_id is Nullable(String)"),
        "{}",
        fault.detail
    );
    let elsewhere = Config {
        database: "default".into(),
        ..config.clone()
    };
    let server = Server::new(&elsewhere).unwrap();
    let row = [event(1).row(&all[1])];
    let fault = insert_facts(&server, "events", &row, "token").await.unwrap_err();
    assert_eq!(fault.code, FaultCode::StoreRefused);
    assert!(
        fault.detail.contains("default.events") && fault.detail.contains("soma deploy"),
        "{}",
        fault.detail
    );
    drop_database(&config).await;
}
