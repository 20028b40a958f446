//! The audit on real servers: what a run left in the chains, evidence of it, and a row changed in ClickHouse behind our back.

use std::time::{Duration, Instant};

use schemas::topics;
use serde_json::Value;

use super::harness::{Live, live, request, text, unique};

/// A checkpoint comes after a minute.
const SEALED: Duration = Duration::from_secs(100);

fn json(live: &Live, args: &[&str]) -> (bool, Value) {
    let out = live.soma(&[&["--json"], args].concat());
    let value = serde_json::from_str(&text(&out.stdout)).unwrap_or_else(|e| panic!("{args:?}: {e}: {out:?}"));
    (out.status.success(), value)
}

/// Changes a row as somebody with the database's password could.
fn sql(live: &Live, statement: &str) {
    let var = |name: &str| live.env.get(name).unwrap().to_owned();
    let url = format!(
        "{}/?database={}",
        var("SOMA_CLICKHOUSE_URL"),
        var("SOMA_CLICKHOUSE_DATABASE")
    );
    let user = format!("{}:{}", var("SOMA_CLICKHOUSE_USER"), var("SOMA_CLICKHOUSE_PASSWORD"));
    let out = std::process::Command::new("curl")
        .args(["-sS", "--fail-with-body", "-u", &user, &url, "--data-binary", statement])
        .output()
        .unwrap();
    assert!(out.status.success(), "{statement}: {out:?}");
}

#[test]
fn a_run_can_be_proven_and_a_changed_row_is_found() {
    let live = live();
    let tag = unique("audit");
    let url = format!("{}/ok?{tag}", live.receiver());
    let runs = live.produce(&[request("audited", &tag, "endpoint_probe", &[("url", &url)])]);
    let run = runs[0].as_str();
    for press in ["pause", "resume"] {
        let out = live.soma(&[press, "--tenant", &tag, "--reason", "a look", "--as", "live-test"]);
        assert!(out.status.success(), "{out:?}");
    }
    live.wait(&runs, Duration::from_secs(60));

    let began = Instant::now();
    let entries = loop {
        let (_, entries) = json(live, &["audit", "show", run]);
        let all = entries.as_array().unwrap().clone();
        if all.iter().any(|e| e["entry"]["record"] == "Outcome") && all.iter().all(|e| e["checkpoint"] != 0) {
            break all;
        }
        assert!(began.elapsed() < SEALED, "not sealed: {entries:#}");
        std::thread::sleep(Duration::from_secs(2));
    };
    let kinds: std::collections::BTreeSet<_> = entries.iter().map(|e| e["entry"]["record"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["Call", "Outcome", "Request", "Verdict"].into());
    let presses = live
        .read(topics::AUDIT)
        .into_iter()
        .filter(|e| e.subject == format!("TENANT:{tag}"));
    assert_eq!(presses.map(|e| e.fact).collect::<Vec<_>>(), ["PAUSE", "RESUME"]);
    assert!(
        entries
            .iter()
            .all(|e| !e["entry"]["body"].as_str().unwrap().contains("live-test"))
    );

    let file = live.home.join("evidence.json");
    let path = file.display().to_string();
    let (done, said) = json(live, &["audit", "export", run, "-o", &path]);
    assert!(done && said["proven"] == said["entries"], "{said}");
    let (done, said) = json(live, &["audit", "check", &path]);
    assert!(done && said["silent"] == 0, "{said}");
    let written = std::fs::read_to_string(&file).unwrap();
    // In the call's address only: the idempotency key stands open in the entry.
    let word = format!("ok?{tag}");
    assert!(written.contains(&word), "the words are in it");
    std::fs::write(
        &file,
        written.replacen(r#""fact": "SUCCEEDED""#, r#""fact": "FAILED""#, 1),
    )
    .unwrap();
    let out = live.soma(&["audit", "check", &path]);
    assert!(
        !out.status.success() && text(&out.stderr).contains("EVIDENCE_WRONG"),
        "{out:?}"
    );

    let (whole, said) = json(live, &["audit", "verify"]);
    assert!(whole, "{said:#}");
    let first = &entries[0]["entry"];
    let row = format!("chain = {} AND seq = {}", first["chain"], first["seq"]);
    let set = |to: &str| format!("ALTER TABLE audit UPDATE tenant = '{to}' WHERE {row} SETTINGS mutations_sync = 1");
    sql(live, &set("somebody"));
    let (whole, said) = json(live, &["audit", "verify"]);
    sql(live, &set("audited"));
    let broken = said["broken"].to_string();
    assert!(
        !whole && broken.contains(&format!("chain {}", first["chain"])),
        "{said:#}"
    );
    let (whole, said) = json(live, &["audit", "verify"]);
    assert!(whole, "{said:#}");

    let out = live.soma(&[
        "audit",
        "erase",
        "audited",
        "--reason",
        "test",
        "--as",
        "live-test",
        "-y",
    ]);
    assert!(out.status.success(), "{out:?}");
    let (done, said) = json(live, &["audit", "export", run, "-o", &path]);
    assert!(done && said["proven"] == said["entries"], "{said}");
    let written = std::fs::read_to_string(&file).unwrap();
    assert!(!written.contains(&word), "the words are gone");
    let (done, said) = json(live, &["audit", "check", &path]);
    assert!(done && said["silent"] == said["entries"], "{said}");
    let (whole, said) = json(live, &["audit", "verify"]);
    assert!(whole, "{said:#}");
    println!("audit run={run} entries={} whole=true", entries.len());
}
