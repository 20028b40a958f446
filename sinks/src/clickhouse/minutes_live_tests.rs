//! Against a real ClickHouse: the minute tables count each fact once whatever is delivered again, take in what was there before
//! them, and the comparison with the facts finds a row too many.

use kernel::{RawRecord, Sink};
use schemas::Timestamp;
use schemas::records::{Event, Outcome, Run, Verdict, Violation};
use serde_json::json;

use super::live_tests::{config, count, drop_database, migrated, now_us};
use super::migrate::{AGAIN, FILES, apply, feeds};
use super::*;
use crate::testing::{Plain, raw};

const DRIFT: &str = "SELECT count() FROM minutes_drift";

fn outcomes(offsets: std::ops::Range<i64>) -> Vec<RawRecord> {
    let at = now_us();
    let one = |n: i64| Outcome {
        call_id: format!("call_{n}"),
        tenant: ["acme", "globex"][usize::try_from(n).unwrap() % 2].into(),
        tool: "http".into(),
        attempt: 1 + i32::try_from(n % 3).unwrap(),
        latency_us: 1_000 + n * 37,
        cost_usd: schemas::Usd(10 * n),
        // Spread over minutes, so that one batch feeds many rows.
        requested_at: Timestamp(at - n * 20_000_000),
        finished_at: Timestamp(at - n * 20_000_000),
        ..Outcome::default()
    };
    offsets.map(|n| raw("soma.outcomes", 1, n, "k", &one(n))).collect()
}

#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn minute_tables_count_a_redelivered_row_once() {
    let config = config();
    migrate(&config).await.unwrap();
    let (decoder, all) = (Plain::of::<Outcome>(), outcomes(0..30));
    let connect = || ClickHouseSink::connect(&config);
    let (mut a, mut b) = (connect().await.unwrap(), connect().await.unwrap());
    // Both asked before either wrote: the token alone tells. Then other boundaries, twice.
    let (x, y) = tokio::join!(a.write(&all[0..7], &decoder), b.write(&all[0..7], &decoder));
    assert!(x.unwrap().is_empty() && y.unwrap().is_empty());
    b.write(&all[3..12], &decoder).await.unwrap();
    a.write(&all[7..20], &decoder).await.unwrap();
    a.reassigned();
    a.write(&all[5..30], &decoder).await.unwrap();
    b.reassigned();
    b.write(&all, &decoder).await.unwrap();
    let kept = "SELECT tuple(sum(calls), sum(retries), sum(latency_us), toFloat64(sum(cost_usd))) FROM calls_1m";
    assert_eq!(count(&config, kept).await, json!([30, 20, 30_000 + 37 * 435, 0.004_35]));
    assert_eq!(count(&config, DRIFT).await, json!(0));
    drop_database(&config).await;
}

#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn minute_tables_take_in_what_was_there_before_them() {
    let config = config();
    let server = migrated(&config, &FILES[..3]).await;
    let (decoder, all) = (Plain::of::<Outcome>(), outcomes(0..40));
    // What the sink of then did not write.
    let column = "ALTER TABLE outcomes ADD COLUMN _again Bool DEFAULT false";
    server.client.query_raw(column).execute().await.unwrap();
    let mut sink = ClickHouseSink::connect(&config).await.unwrap();
    sink.write(&all[0..25], &decoder).await.unwrap();
    // Two instances migrate at once, then again; rows come after.
    let (x, y) = tokio::join!(apply(&server, FILES), apply(&server, FILES));
    assert!(x.is_ok() && y.is_ok());
    sink.write(&all[25..40], &decoder).await.unwrap();
    for (name, sql) in &FILES[3..] {
        apply(&server, &[(&format!("again {name}"), sql)]).await.unwrap();
    }
    assert_eq!(count(&config, "SELECT sum(calls) FROM calls_1m").await, json!(40));
    assert_eq!(count(&config, DRIFT).await, json!(0));
    drop_database(&config).await;
}

#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn every_minute_table_is_fed_and_a_row_too_many_is_found() {
    let config = config();
    migrate(&config).await.unwrap();
    let mut sink = ClickHouseSink::connect(&config).await.unwrap();
    let now = Timestamp(now_us());
    let event = Event {
        ts: now,
        tenant: "acme".into(),
        kind: "step.failed".into(),
        payload: [("tool".to_owned(), "http".to_owned())].into(),
        ..Event::default()
    };
    let verdict = Verdict {
        tenant: "acme".into(),
        decided_at: now,
        evaluation_us: 700,
        violations: ["a", "b", "a"]
            .map(|rule| Violation {
                rule: rule.into(),
                ..Violation::default()
            })
            .into(),
        ..Verdict::default()
    };
    let run = |revision| Run {
        run_id: "run_1".into(),
        tenant: "acme".into(),
        revision,
        updated_at: now,
        requested_at: Timestamp(now.0 - 5_000_000),
        created_at: now,
        finished_at: (revision > 1).then_some(now),
        ..Run::default()
    };
    let events = [raw("soma.events", 0, 0, "k", &event)];
    sink.write(&events, &Plain::of::<Event>()).await.unwrap();
    let verdicts = [raw("soma.verdicts", 0, 0, "k", &verdict)];
    sink.write(&verdicts, &Plain::of::<Verdict>()).await.unwrap();
    // The end published twice is one end.
    let runs: Vec<_> = (1..=3).map(|n| raw("soma.runs", 0, n, "k", &run(n))).collect();
    sink.write(&runs, &Plain::of::<Run>()).await.unwrap();
    sink.write(&outcomes(0..1), &Plain::of::<Outcome>()).await.unwrap();
    let all = "SELECT tuple((SELECT sum(events) FROM events_1m WHERE tool = 'http'), (SELECT sum(verdicts) FROM verdicts_1m), \
        (SELECT sum(verdicts) FROM rules_1m), (SELECT uniqExactIfMerge(ended) FROM runs_1m), (SELECT sum(states) FROM runs_1m), \
        (SELECT round(quantilesBFloat16IfMerge(0.5, 0.95, 0.99)(took)[1], -2) FROM runs_1m), (SELECT sum(calls) FROM calls_1m))";
    assert_eq!(count(&config, all).await, json!([1, 1, 2, 1, 3, 5000, 1]));
    assert_eq!(count(&config, DRIFT).await, json!(0));
    let server = Server::new(&config).unwrap();
    let twice = "INSERT INTO rules_1m (minute, tenant, rule, decision, verdicts) SELECT minute, tenant, rule, decision, 1 FROM rules_1m LIMIT 1";
    server.client.query_raw(twice).execute().await.unwrap();
    let found = "SELECT tuple(name, what[2], kept, facts) FROM minutes_drift";
    assert_eq!(count(&config, found).await, json!(["rules_1m", "a", [2], [1]]));
    drop_database(&config).await;
}

#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn a_minute_unlike_the_hour_before_it_is_marked_and_no_other() {
    let config = config();
    migrate(&config).await.unwrap();
    let mut sink = ClickHouseSink::connect(&config).await.unwrap();
    // Two or three events a minute for eighty minutes, none in one of them, fifty in another.
    let minute = now_us() / 60_000_000;
    let (silent, loud) = (minute - 30, minute - 10);
    let of = |at: i64| match at {
        at if at == silent => 0,
        at if at == loud => 50,
        at => 2 + at % 2,
    };
    let ats = (minute - 80..minute).flat_map(|at| std::iter::repeat_n(at, usize::try_from(of(at)).unwrap()));
    let event = |(n, at): (i64, i64)| {
        let event = Event {
            ts: Timestamp(at * 60_000_000 + 1_000),
            tenant: "acme".into(),
            kind: "run.started".into(),
            ..Event::default()
        };
        raw("soma.events", 0, n, "k", &event)
    };
    let all: Vec<_> = (0..).zip(ats).map(event).collect();
    sink.write(&all, &Plain::of::<Event>()).await.unwrap();
    let marked = "SELECT tuple(count(), max(minute) = toDateTime({loud}), max(middle) BETWEEN 2 AND 3, max(score) > 30) FROM anomalies WHERE marked";
    let marked = marked.replace("{loud}", &(loud * 60).to_string());
    assert_eq!(count(&config, &marked).await, json!([1, 1, 1, 1]));
    let quiet = format!(
        "SELECT tuple(events, middle, score < -3) FROM anomalies WHERE minute = toDateTime({})",
        silent * 60
    );
    assert_eq!(count(&config, &quiet).await, json!([0, 2.5, 1]));
    drop_database(&config).await;
}

/// A kill can keep the end of an insert from a minute table while the facts have it, and nobody makes the insert again.
#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn a_minute_table_that_is_behind_its_facts_is_fed_from_them() {
    let config = config();
    migrate(&config).await.unwrap();
    let server = Server::new(&config).unwrap();
    let (decoder, all) = (Plain::of::<Outcome>(), outcomes(0..30));
    let (view, query) = feeds("outcomes").remove(0);
    let look_at = async |rows: &str| {
        let query = query.replace(AGAIN, rows);
        let sql = format!("ALTER TABLE {view}_feed MODIFY QUERY {query}");
        server.client.query_raw(&sql).execute().await.unwrap();
    };
    let kept = "SELECT tuple(sum(calls), sum(latency_us), max(_next)) FROM calls_1m";
    let sums = |n: usize| json!([n, 1_000 * n + 37 * (n * n.saturating_sub(1) / 2), n]);
    // The first of the partition, then more of it.
    for (counted, written) in [(0, 7), (7, 20)] {
        look_at("WHERE 0").await;
        let mut sink = ClickHouseSink::connect(&config).await.unwrap();
        sink.write(&all[counted..written], &decoder).await.unwrap();
        look_at(AGAIN).await;
        assert_eq!(count(&config, kept).await, sums(counted));
        let mut next = ClickHouseSink::connect(&config).await.unwrap();
        next.write(&all[0..written], &decoder).await.unwrap();
        assert_eq!(count(&config, kept).await, sums(written));
    }
    let mut next = ClickHouseSink::connect(&config).await.unwrap();
    next.write(&all[16..22], &decoder).await.unwrap();
    next.write(&all[22..30], &decoder).await.unwrap();
    next.reassigned();
    next.write(&all, &decoder).await.unwrap();
    assert_eq!(count(&config, kept).await, sums(30));
    assert_eq!(count(&config, DRIFT).await, json!(0));
    drop_database(&config).await;
}
