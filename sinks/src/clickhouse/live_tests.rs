//! Against a real ClickHouse: migrations, exactly once under redelivery, outage and recovery, reading.

use kernel::{FaultCode, RawRecord, Sink};
use schemas::records::{Event, FaultInfo, Metric, Outcome, Run, RunStep, Verdict, Violation};
use schemas::{Timestamp, Usd};
use serde_json::json;

use super::migrate::{FILES, LEDGER, apply};
use super::*;
use crate::testing::{Plain, env, poison, raw, tombstone, unique};

pub(super) fn config() -> Config {
    Config {
        url: env("SOMA_CLICKHOUSE_URL"),
        database: unique("t"),
        user: env("SOMA_CLICKHOUSE_USER"),
        password: env("SOMA_CLICKHOUSE_PASSWORD"),
        timeout_ms: 10_000,
        // Batches of the tests here are smaller and larger: both ways are taken by turns.
        bulk_rows_min: 4,
    }
}

pub(super) async fn drop_database(config: &Config) {
    let server = Server::new(config).unwrap();
    let sql = format!("DROP DATABASE `{}`", config.database);
    server
        .client
        .with_database("default")
        .query_raw(&sql)
        .execute()
        .await
        .unwrap();
}

/// The schema as it was when these files were all.
pub(super) async fn migrated(config: &Config, files: &[(&str, &str)]) -> Server {
    let server = Server::new(config).unwrap();
    let create = format!("CREATE DATABASE `{}`", config.database);
    let outside = server.client.clone().with_database("default");
    outside.query_raw(&create).execute().await.unwrap();
    server.client.query_raw(LEDGER).execute().await.unwrap();
    apply(&server, files).await.unwrap();
    server
}

fn events(offsets: std::ops::Range<i64>) -> Vec<RawRecord> {
    offsets
        .map(|n| {
            let event = Event {
                event_id: format!("evt_{n}"),
                ts: Timestamp(now_us() + n),
                tenant: "acme".into(),
                kind: "run.started".into(),
                payload: [("n".to_owned(), n.to_string())].into(),
                ..Event::default()
            };
            raw("soma.events", 1, n, "k", &event)
        })
        .collect()
}

/// Recent, so that the tables' TTL does not remove it.
pub(super) fn now_us() -> i64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    i64::try_from(now.as_micros()).unwrap()
}

pub(super) async fn count(config: &Config, sql: &str) -> serde_json::Value {
    Reader::new(config).unwrap().query_json(sql).await.unwrap().rows[0][0].clone()
}

#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn a_redelivered_batch_with_other_boundaries_changes_nothing() {
    let config = config();
    let done = migrate(&config).await.unwrap();
    assert_eq!(done.applied.len(), FILES.len(), "{:?}", done.applied);
    let mut sink = ClickHouseSink::connect(&config).await.unwrap();
    let decoder = Plain::of::<Event>();
    let all = events(0..20);
    assert!(sink.write(&all[0..5], &decoder).await.unwrap().is_empty());
    sink.write(&all[0..5], &decoder).await.unwrap();
    sink.reassigned();
    sink.write(&all[3..12], &decoder).await.unwrap();
    let mut other = ClickHouseSink::connect(&config).await.unwrap();
    other.write(&all[2..20], &decoder).await.unwrap();
    sink.reassigned();
    sink.write(&all[10..20], &decoder).await.unwrap();
    let sum = "SELECT tuple(count(), uniqExact(_offset), max(_offset), sum(toInt64(payload['n']))) FROM events";
    assert_eq!(count(&config, sum).await, json!([20, 20, 19, 190]));
    drop_database(&config).await;
}

#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn the_same_insert_made_twice_is_one() {
    let config = config();
    migrate(&config).await.unwrap();
    let decoder = Plain::of::<Event>();
    let all = events(0..5);
    // Two instances that both asked before either wrote: only the token tells.
    let (mut a, mut b) = (
        ClickHouseSink::connect(&config).await.unwrap(),
        ClickHouseSink::connect(&config).await.unwrap(),
    );
    let (x, y) = tokio::join!(a.write(&all, &decoder), b.write(&all, &decoder));
    assert!(x.unwrap().is_empty() && y.unwrap().is_empty());
    assert_eq!(count(&config, "SELECT count() FROM events").await, json!(5));
    drop_database(&config).await;
}

#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn an_instance_that_was_frozen_writes_nothing_again() {
    let config = config();
    migrate(&config).await.unwrap();
    let decoder = Plain::of::<Event>();
    let all = events(0..20);
    let (mut frozen, mut successor) = (
        ClickHouseSink::connect(&config).await.unwrap(),
        ClickHouseSink::connect(&config).await.unwrap(),
    );
    frozen.write(&all[0..5], &decoder).await.unwrap();
    // It has asked how far everything is kept, and comes back with rows in hand when its successor has written more.
    successor.write(&all[5..12], &decoder).await.unwrap();
    frozen.write(&all[5..8], &decoder).await.unwrap();
    successor.write(&all[12..14], &decoder).await.unwrap();
    // The other way round: it was first, and its successor asked before.
    let mut next = ClickHouseSink::connect(&config).await.unwrap();
    next.write(&all[10..14], &decoder).await.unwrap();
    successor.write(&all[14..16], &decoder).await.unwrap();
    next.write(&all[14..20], &decoder).await.unwrap();
    let sum = "SELECT tuple(count(), uniqExact(_offset), max(_offset), sum(toInt64(payload['n']))) FROM events";
    assert_eq!(count(&config, sum).await, json!([20, 20, 19, 190]));
    drop_database(&config).await;
}

#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn every_topic_has_its_table_and_the_views_show_the_newest() {
    let config = config();
    migrate(&config).await.unwrap();
    let mut sink = ClickHouseSink::connect(&config).await.unwrap();
    let now = Timestamp(now_us());
    let run = |revision, cost| Run {
        run_id: "run_1".into(),
        tenant: "acme".into(),
        revision,
        cost_usd: Usd(cost),
        steps: vec![RunStep {
            tool: "http".into(),
            ..RunStep::default()
        }],
        updated_at: now,
        requested_at: now,
        created_at: now,
        finished_at: (revision == 2).then_some(now),
        ..Run::default()
    };
    let runs = [
        raw("soma.runs", 0, 0, "run_1", &run(1, 0)),
        raw("soma.runs", 0, 1, "run_1", &run(2, 1_250_000)),
    ];
    assert!(sink.write(&runs, &Plain::of::<Run>()).await.unwrap().is_empty());
    assert!(
        sink.write(&[tombstone("soma.runs", 0, 2, "run_1")], &Plain::of::<Run>())
            .await
            .unwrap()
            .is_empty()
    );
    let verdict = Verdict {
        tenant: "acme".into(),
        decided_at: now,
        violations: vec![Violation::default()],
        score: 0.5,
        ..Verdict::default()
    };
    assert!(
        sink.write(&[raw("soma.verdicts", 0, 0, "k", &verdict)], &Plain::of::<Verdict>())
            .await
            .unwrap()
            .is_empty()
    );
    let fault = Some(FaultInfo {
        code: "TOOL_FAILED".into(),
        ..FaultInfo::default()
    });
    let outcome = Outcome {
        finished_at: now,
        requested_at: now,
        fault,
        ..Outcome::default()
    };
    assert!(
        sink.write(&[raw("soma.outcomes", 0, 0, "k", &outcome)], &Plain::of::<Outcome>())
            .await
            .unwrap()
            .is_empty()
    );
    let metric = |revision, value| Metric {
        name: "soma_x".into(),
        labels: [("tenant".to_owned(), "acme".to_owned())].into(),
        window_start: now,
        window_end: now,
        revision,
        value,
        emitted_at: now,
    };
    let metrics = [
        raw("soma.metrics", 0, 0, "k", &metric(0, 1.0)),
        raw("soma.metrics", 0, 1, "k", &metric(1, 2.5)),
    ];
    assert!(sink.write(&metrics, &Plain::of::<Metric>()).await.unwrap().is_empty());
    let reader = Reader::new(&config).unwrap();
    let latest = reader
        .query_json("SELECT run_id, cost_usd, tools, finished_at IS NOT NULL AS ended FROM runs_latest")
        .await
        .unwrap();
    assert_eq!(
        latest.rows,
        [vec![json!("run_1"), json!(1.25), json!(["http"]), json!(1)]]
    );
    assert_eq!(latest.columns[1].kind, "Decimal(18, 6)");
    assert_eq!(count(&config, "SELECT value FROM metrics_latest").await, json!(2.5));
    assert_eq!(
        count(&config, "SELECT fault_code FROM outcomes").await,
        json!("TOOL_FAILED")
    );
    assert_eq!(count(&config, "SELECT count() FROM verdicts").await, json!(1));
    drop_database(&config).await;
}

#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn bad_records_are_set_aside_and_a_registry_outage_is_not_theirs() {
    let config = config();
    migrate(&config).await.unwrap();
    let mut sink = ClickHouseSink::connect(&config).await.unwrap();
    let mut batch = events(0..3);
    batch[1] = poison("soma.events", 1, 1);
    let rejected = sink.write(&batch, &Plain::of::<Event>()).await.unwrap();
    assert_eq!(
        (rejected.len(), rejected[0].index, rejected[0].fault.code),
        (1, 1, FaultCode::RecordNotFramed)
    );
    assert_eq!(count(&config, "SELECT count() FROM events").await, json!(2));
    let fault = sink.write(&batch, &Plain::silent::<Event>()).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::RegistryUnavailable);
    drop_database(&config).await;
}

#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn migrations_run_twice_and_by_two_instances() {
    let config = config();
    let (a, b) = tokio::join!(migrate(&config), migrate(&config));
    let applied = a.unwrap().applied.len() + b.unwrap().applied.len();
    assert!((FILES.len()..=2 * FILES.len()).contains(&applied), "{applied}");
    assert!(migrate(&config).await.unwrap().applied.is_empty());
    assert_eq!(
        count(&config, "SELECT count() FROM schema_migrations").await,
        json!(FILES.len())
    );
    drop_database(&config).await;
}

#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn a_missing_table_and_a_wrong_password_are_refused_and_say_so() {
    let config = config();
    let mut sink = ClickHouseSink::connect(&Config {
        database: "default".into(),
        ..config.clone()
    })
    .await
    .unwrap();
    let fault = sink.write(&events(0..1), &Plain::of::<Event>()).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::StoreRefused);
    assert!(fault.detail.contains("soma deploy"), "{}", fault.detail);
    let wrong = Config {
        database: "default".into(),
        password: "no".into(),
        ..config
    };
    let fault = ClickHouseSink::connect(&wrong).await.err().unwrap();
    assert_eq!(fault.code, FaultCode::StoreRefused, "{}", fault.detail);
}

#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn the_reader_changes_nothing_and_says_what_is_wrong() {
    let config = Config {
        database: "default".into(),
        ..config()
    };
    let reader = Reader::new(&config).unwrap();
    let table = reader
        .query_json("SELECT 18446744073709551615 AS big, 'a?b' AS text;")
        .await
        .unwrap();
    assert_eq!(table.rows, [vec![json!(u64::MAX), json!("a?b")]]);
    for wrong in [
        "CREATE TABLE nope (a Int8) ENGINE = Memory",
        "SELEC 1",
        "SELECT number FROM numbers(100001)",
    ] {
        let fault = reader.query_json(wrong).await.unwrap_err();
        assert_eq!(fault.code, FaultCode::StoreRefused, "{wrong}: {}", fault.detail);
    }
}

/// A port at which nobody listens, later served by a relay to the real server: an outage and its end.
#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn an_outage_shows_quickly_and_ends_without_a_restart() {
    let config = config();
    migrate(&config).await.unwrap();
    let relay = crate::testing::Relay::new(&config.url).await;
    let through = Config {
        url: relay.url(),
        timeout_ms: 2_000,
        ..config.clone()
    };
    let mut sink = ClickHouseSink::connect(&through).await.unwrap();
    let (decoder, all) = (Plain::of::<Event>(), events(0..10));
    sink.write(&all[0..3], &decoder).await.unwrap();
    relay.cut();
    for _ in 0..2 {
        let began = std::time::Instant::now();
        let fault = sink.write(&all[3..6], &decoder).await.unwrap_err();
        assert_eq!(fault.code, FaultCode::StoreUnavailable, "{}", fault.detail);
        assert!(began.elapsed().as_secs() < 5);
    }
    relay.mend();
    sink.write(&all[2..10], &decoder).await.unwrap();
    assert_eq!(
        count(&config, "SELECT tuple(count(), uniqExact(_offset)) FROM events").await,
        json!([10, 10])
    );
    drop_database(&config).await;
}

/// The server got the insert and did it; its answer was lost.
#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn an_insert_whose_answer_was_lost_is_not_made_twice() {
    let config = config();
    migrate(&config).await.unwrap();
    let relay = crate::testing::Relay::new(&config.url).await;
    let mut sink = ClickHouseSink::connect(&Config {
        url: relay.url(),
        timeout_ms: 2_000,
        ..config.clone()
    })
    .await
    .unwrap();
    let (decoder, all) = (Plain::of::<Event>(), events(0..10));
    sink.write(&all[0..1], &decoder).await.unwrap();
    relay.mute();
    assert_eq!(
        sink.write(&all[1..6], &decoder).await.unwrap_err().code,
        FaultCode::StoreUnavailable
    );
    relay.mend();
    sink.write(&all[1..4], &decoder).await.unwrap();
    sink.write(&all[4..10], &decoder).await.unwrap();
    assert_eq!(
        count(&config, "SELECT tuple(count(), uniqExact(_offset)) FROM events").await,
        json!([10, 10])
    );
    drop_database(&config).await;
}

/// What a kill in the middle of an insert can leave behind, made by hand: the server knows the token, fed the minutes, and has no
/// rows. Both for who was there, and does not know how it ended, and for who comes after.
#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn rows_whose_token_is_known_and_which_are_not_there_are_kept_and_counted_once() {
    let config = config();
    migrate(&config).await.unwrap();
    let server = Server::new(&config).unwrap();
    let forget = async |offsets: &str| {
        let sql = format!("ALTER TABLE events DELETE WHERE _offset IN ({offsets}) SETTINGS mutations_sync = 1");
        server.client.query_raw(&sql).execute().await.unwrap();
    };
    let relay = crate::testing::Relay::new(&config.url).await;
    let through = Config {
        url: relay.url(),
        timeout_ms: 2_000,
        ..config.clone()
    };
    let (decoder, all) = (Plain::of::<Event>(), events(0..12));
    let mut a = ClickHouseSink::connect(&through).await.unwrap();
    a.write(&all[0..2], &decoder).await.unwrap();
    relay.mute();
    assert_eq!(
        a.write(&all[2..5], &decoder).await.unwrap_err().code,
        FaultCode::StoreUnavailable
    );
    let there = "SELECT count() FROM events";
    for _ in 0..100 {
        if count(&config, there).await == json!(5) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    forget("2, 3, 4").await;
    assert_eq!(count(&config, there).await, json!(2));
    relay.mend();
    a.write(&all[2..5], &decoder).await.unwrap();
    a.write(&all[5..8], &decoder).await.unwrap();
    // Its successor finds two goes spent: the token and the one after it.
    forget("5, 6, 7").await;
    let mut b = ClickHouseSink::connect(&config).await.unwrap();
    b.write(&all[5..9], &decoder).await.unwrap();
    forget("5, 6, 7, 8").await;
    let mut c = ClickHouseSink::connect(&config).await.unwrap();
    c.write(&all[5..10], &decoder).await.unwrap();
    c.write(&all[10..12], &decoder).await.unwrap();
    assert_eq!(
        count(
            &config,
            "SELECT tuple(count(), uniqExact(_offset), countIf(_again)) FROM events"
        )
        .await,
        json!([12, 12, 8])
    );
    let minutes = "SELECT tuple(sum(events), max(_next)) FROM events_1m";
    assert_eq!(count(&config, minutes).await, json!([12, 12]));
    drop_database(&config).await;
}
