//! Registry, ClickHouse, Qdrant and Redis down, each for 20 s under load: the pipeline waits and recovers, nothing is lost,
//! nothing goes to a dead-letter topic.

use std::time::{Duration, Instant};

use schemas::records::RunStatus;

use super::harness::{live, request, unique};

const OUTAGE: Duration = Duration::from_secs(20);

fn outage(part: &str) {
    let live = live();
    let tag = unique(part);
    let receiver = live.receiver();
    let dead_before = live.dead_total();
    // The writer asks the registry once, before it goes.
    let writer = live.writer();
    let mut runs = Vec::new();
    let mut send = |n: usize| {
        for _ in 0..n {
            let key = format!("{tag}-{}", runs.len());
            let r = request("outage", &key, "endpoint_probe", &[("url", &format!("{receiver}/ok"))]);
            writer
                .write(schemas::topics::REQUESTS, &format!("outage:{key}"), "outage", &r, None)
                .unwrap();
            runs.push(schemas::digest::run_id("outage", &key));
        }
        writer.flush().unwrap();
    };
    send(20);
    live.stack(&["stop", part]);
    let began = Instant::now();
    while began.elapsed() < OUTAGE {
        send(10);
        std::thread::sleep(Duration::from_millis(500));
    }
    live.stack(&["start", part]);
    send(20);
    let seen = live.wait(&runs, Duration::from_secs(90));
    for (run, states) in &seen {
        assert_eq!(
            states.last().unwrap().status,
            RunStatus::Succeeded,
            "{run}: {}",
            states.last().unwrap().reason
        );
    }
    assert_eq!(
        live.dead_total(),
        dead_before,
        "an outage of {part} diverted good records"
    );
    // Every store holds every run: wait for the sinks to catch up, then count in ClickHouse.
    let want = runs.len();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let sql = format!(
            "SELECT count(DISTINCT run_id) AS n FROM runs WHERE idempotency_key LIKE '{tag}-%' AND status = 'SUCCEEDED'"
        );
        let out = live.soma(&["--json", "sql", &sql]);
        let shown = super::harness::text(&out.stdout);
        if shown.contains(&format!("\"{want}\""))
            || shown.contains(&format!(": {want}"))
            || shown.contains(&format!(":{want}"))
        {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "ClickHouse does not hold {want} runs: {shown}{}",
            super::harness::text(&out.stderr)
        );
        std::thread::sleep(Duration::from_millis(500));
    }
    println!("outage part={part} runs={want} lost=0 dlq=0");
}

#[test]
fn registry_down() {
    outage("schema-registry");
}

#[test]
fn clickhouse_down() {
    outage("clickhouse");
}

#[test]
fn qdrant_down() {
    outage("qdrant");
}

#[test]
fn redis_down() {
    outage("redis");
}
