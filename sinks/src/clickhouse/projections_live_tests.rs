//! Against a real ClickHouse: the boards' queries of facts read projections, and say the same without them: after records were
//! delivered again, after merges, of parts older than the projection, and once the TTL has taken rows away.

use kernel::{RawRecord, Sink};
use schemas::records::{Checkpoint, Event, Metric, Outcome, Run, RunStatus, Verdict};
use schemas::{Record, Timestamp, Usd};
use serde_json::json;

use super::live_tests::{config, count, drop_database, migrated, now_us};
use super::migrate::{FILES, apply};
use super::*;
use crate::testing::{Plain, raw};

/// Panels of facts, and the projection that each reads.
const PANELS: &[(&str, &str)] = &[
    ("cost/11_per_run", "by_request"),
    ("cost/12_wasted", "by_request"),
    ("governance/11_waited", "by_type"),
    ("governance/13_checkpoint", "by_time"),
    ("governance/40_approvals", "by_type"),
    ("memory/12_runs", "by_type"),
    ("memory/30_by_tenant", "by_type"),
    ("overview/13_waiting", "by_request"),
    ("pipelines/13_drift", "by_type"),
    ("pipelines/13_drift", "by_time"),
    ("pipelines/40_kept", "arrived"),
    ("pipelines/43_windows", "emitted"),
    ("runs/10_asked", "by_request"),
    ("runs/11_open", "by_request"),
    ("runs/20_by_state", "by_request"),
    ("runs/41_latest", "by_request"),
];

const TYPES: [&str; 6] = [
    "memory.indexed",
    "run.waiting",
    "approval.accepted",
    "step.started",
    "verdict.allow",
    "step.succeeded",
];

/// The panel's query of the last hour and a half.
fn panel(name: &str, now_us: i64) -> String {
    let path = format!(
        "{}/../pipelines/analytics/dashboards/{name}.sql",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let query: Vec<_> = text.lines().filter(|line| !line.starts_with("--")).collect();
    let at = |us: i64| format!("toDateTime({}, 'UTC')", us / 1_000_000);
    query
        .join("\n")
        .replace("{from:DateTime}", &at(now_us - 5_400_000_000))
        .replace("{to:DateTime}", &at(now_us + 60_000_000))
}

/// Records spread over the last ten hours, of many tenants: what a tenant has is scattered over the table.
fn records<R: Record>(topic: &str, now_us: i64, amount: i64, one: impl Fn(i64, Timestamp) -> R) -> Vec<RawRecord> {
    let at = |n: i64| Timestamp(now_us - (amount - n) * 36_000_000_000 / amount);
    let record = |n: i64| RawRecord {
        at: at(n),
        ..raw(topic, 1, n, "k", &one(n, at(n)))
    };
    (0..amount).map(record).collect()
}

fn tenant(n: i64) -> String {
    format!("tenant-{}", n * 7_919 % 211)
}

fn events(now: i64) -> Vec<RawRecord> {
    let payload = |n: i64| {
        [
            ("subject", format!("sub_{}", n / 2)),
            ("status", "SUCCEEDED".to_owned()),
            ("open", String::new()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
    };
    records("soma.events", now, 60_000, |n, ts| Event {
        event_id: format!("evt_{n}"),
        ts,
        tenant: tenant(n / 6),
        run_id: format!("run_{}", n / 6),
        kind: TYPES[usize::try_from(n % 6).unwrap()].into(),
        payload: payload(n).into(),
    })
}

/// Four states of each run.
fn runs(now: i64) -> Vec<RawRecord> {
    records("soma.runs", now, 60_000, |n, updated_at| Run {
        run_id: format!("run_{}", n / 4),
        tenant: tenant(n / 4),
        revision: n % 4,
        status: [
            RunStatus::Running,
            RunStatus::WaitingApproval,
            RunStatus::Running,
            RunStatus::Succeeded,
        ][usize::try_from((n % 4).min(1 + n % 3)).unwrap()],
        cost_usd: Usd(n),
        requested_at: Timestamp(now - (15_000 - n / 4) * 2_400_000),
        created_at: updated_at,
        updated_at,
        finished_at: (n % 4 == 3).then_some(updated_at),
        ..Run::default()
    })
}

fn verdicts(now: i64) -> Vec<RawRecord> {
    records("soma.verdicts", now, 60_000, |n, decided_at| Verdict {
        tenant: tenant(n),
        evaluation_us: n,
        decided_at,
        ..Verdict::default()
    })
}

fn outcomes(now: i64) -> Vec<RawRecord> {
    records("soma.outcomes", now, 60_000, |n, finished_at| Outcome {
        tenant: tenant(n),
        tool: "http".into(),
        latency_us: n,
        requested_at: finished_at,
        finished_at,
        ..Outcome::default()
    })
}

fn metrics(now: i64) -> Vec<RawRecord> {
    records("soma.metrics", now, 30_000, |n, at| Metric {
        name: format!("soma_{}", n * 31 % 17),
        window_start: at,
        window_end: at,
        revision: i32::from(n % 9 == 0),
        emitted_at: at,
        ..Metric::default()
    })
}

fn checkpoints(now: i64) -> Vec<RawRecord> {
    records("soma.checkpoints", now, 30_000, |n, signed_at| Checkpoint {
        chain: i32::try_from(n % 12).unwrap(),
        number: n / 12,
        signed_at,
        ..Checkpoint::default()
    })
}

/// All of a topic in batches, by an instance of its own.
async fn write<R: Record>(config: &Config, all: &[RawRecord], batch: usize) {
    let mut sink = ClickHouseSink::connect(config).await.unwrap();
    for some in all.chunks(batch) {
        assert!(sink.write(some, &Plain::of::<R>()).await.unwrap().is_empty());
    }
}

/// Sums of floats depend on their order in the last digits.
fn rounded(rows: Vec<Vec<serde_json::Value>>) -> Vec<Vec<serde_json::Value>> {
    let round = |value: serde_json::Value| match value.as_f64() {
        Some(float) if value.is_f64() => json!(format!("{float:.9}")),
        _ => value,
    };
    rows.into_iter()
        .map(|row| row.into_iter().map(round).collect())
        .collect()
}

async fn ask(config: &Config, sql: &str) -> Vec<Vec<serde_json::Value>> {
    rounded(Reader::new(config).unwrap().query_json(sql).await.unwrap().rows)
}

/// Every panel reads its projection, and would say the same without it. What they said.
async fn panels(config: &Config, now: i64) -> Vec<Vec<Vec<serde_json::Value>>> {
    let mut said = Vec::new();
    for (name, projection) in PANELS {
        let sql = panel(name, now);
        let plan = ask(config, &format!("EXPLAIN projections = 1 {sql}")).await;
        let plan: Vec<_> = plan.iter().filter_map(|row| row[0].as_str()).map(str::trim).collect();
        assert!(
            plan.iter().any(
                |line| line.ends_with(&format!("Name: {projection}")) || line.ends_with(&format!("({projection})"))
            ),
            "{name} does not read {projection}:\n{}",
            plan.join("\n")
        );
        let with = ask(config, &sql).await;
        let without = ask(config, &format!("{sql}\nSETTINGS optimize_use_projections = 0")).await;
        assert!(!with.is_empty(), "{name}");
        assert_eq!(with, without, "{name}");
        said.push(with);
    }
    said
}

#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn the_panels_of_facts_read_projections_and_say_the_same_without_them() {
    let config = config();
    let now = now_us() / 60_000_000 * 60_000_000;
    migrate(&config).await.unwrap();
    let (events, runs, metrics, checkpoints) = (events(now), runs(now), metrics(now), checkpoints(now));
    write::<Event>(&config, &events, 20_000).await;
    write::<Run>(&config, &runs, 20_000).await;
    write::<Verdict>(&config, &verdicts(now), 20_000).await;
    write::<Outcome>(&config, &outcomes(now), 20_000).await;
    write::<Metric>(&config, &metrics, 20_000).await;
    write::<Checkpoint>(&config, &checkpoints, 20_000).await;
    let said = panels(&config, now).await;
    // All of it again, cut otherwise; then the parts become one.
    write::<Event>(&config, &events, 7_000).await;
    write::<Run>(&config, &runs, 7_000).await;
    assert_eq!(panels(&config, now).await, said);
    let server = Server::new(&config).unwrap();
    for table in ["events", "runs", "verdicts", "outcomes", "metrics", "checkpoints"] {
        let sql = format!("OPTIMIZE TABLE {table} FINAL");
        server.client.query_raw(&sql).execute().await.unwrap();
    }
    assert_eq!(panels(&config, now).await, said);
    let asked = PANELS.iter().position(|(name, _)| *name == "runs/10_asked").unwrap();
    assert_eq!(
        said[asked],
        [[json!(2250)]],
        "of 15000 in ten hours, those of an hour and a half"
    );
    drop_database(&config).await;
}

/// A database that had all its rows before the projections, migrated by two instances at once.
#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn parts_from_before_the_projection_get_it() {
    let config = config();
    let now = now_us() / 60_000_000 * 60_000_000;
    let before = FILES.iter().position(|(name, _)| name.starts_with("0007")).unwrap();
    let server = migrated(&config, &FILES[..before]).await;
    let events = events(now);
    write::<Event>(&config, &events[..50_000], 20_000).await;
    let (x, y) = tokio::join!(apply(&server, FILES), apply(&server, FILES));
    assert!(x.is_ok() && y.is_ok(), "{x:?} {y:?}");
    write::<Event>(&config, &events[50_000..], 20_000).await;
    let rows = "SELECT sum(rows) FROM system.projection_parts \
        WHERE database = currentDatabase() AND table = 'events' AND name = 'by_type' AND active";
    for _ in 0..200 {
        if count(&config, rows).await == json!(60_000) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(count(&config, rows).await, json!(60_000));
    let sql = "SELECT tuple(count(), uniqExact(tenant, run_id), max(ts)) FROM events WHERE type = 'memory.indexed'";
    let without = format!("{sql} SETTINGS optimize_use_projections = 0");
    assert_eq!(count(&config, sql).await, count(&config, &without).await);
    assert_eq!(count(&config, &format!("SELECT ({sql}).1")).await, json!(10_000));
    drop_database(&config).await;
}

/// What a merge takes away it takes away of the projection.
#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn rows_the_ttl_takes_are_gone_from_the_projection() {
    let config = config();
    migrate(&config).await.unwrap();
    let mut events = events(now_us());
    let old_until = now_us() + 5_000_000;
    for (n, event) in events.iter_mut().take(600).enumerate() {
        let old = Event {
            ts: Timestamp(old_until - 90 * 86_400_000_000),
            tenant: "acme".into(),
            kind: TYPES[n % 6].into(),
            ..Event::default()
        };
        event.value = raw("soma.events", 1, 0, "k", &old).value;
    }
    let sql = "SELECT count() FROM events WHERE type = 'memory.indexed' AND ts < now64(6)";
    let without = format!("{sql} SETTINGS optimize_use_projections = 0");
    write::<Event>(&config, &events[..600], 600).await;
    assert_eq!(
        count(&config, sql).await,
        json!(100),
        "kept while they are young enough"
    );
    write::<Event>(&config, &events, 20_000).await;
    let left = u64::try_from(old_until + 1_500_000 - now_us()).unwrap_or(0);
    tokio::time::sleep(std::time::Duration::from_micros(left)).await;
    let server = Server::new(&config).unwrap();
    server
        .client
        .query_raw("OPTIMIZE TABLE events FINAL")
        .execute()
        .await
        .unwrap();
    let plan = ask(&config, &format!("EXPLAIN {sql}")).await;
    assert!(
        plan.iter()
            .any(|row| row[0].as_str().is_some_and(|line| line.contains("(by_type)"))),
        "{plan:?}"
    );
    assert_eq!(count(&config, sql).await, json!(9_900));
    assert_eq!(count(&config, &without).await, json!(9_900));
    drop_database(&config).await;
}
