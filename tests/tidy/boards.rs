//! Boards, rules and alerts: every metric they name is one that exists, every alert has a runbook that is there, and Prometheus' own
//! tool finds the rules sound and doing what their tests say.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{files, root, text};

/// Series that Pushgateway and Prometheus make by themselves, and what the analytics push.
const NOT_OURS: &[&str] = &["up", "push_time_seconds", "push_failure_time_seconds"];

/// Words of a text that look like a metric of ours.
fn metrics(body: &str) -> BTreeSet<String> {
    let words = body.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    let ours = words.filter(|w| w.starts_with("soma_") && !w.contains(':'));
    ours.map(|w| {
        ["_bucket", "_count", "_sum"]
            .iter()
            .find_map(|s| w.strip_suffix(s))
            .unwrap_or(w)
            .to_owned()
    })
    .collect()
}

/// The rule files, and the lines that are expressions or their continuation.
fn rules() -> Vec<PathBuf> {
    let all: Vec<_> = files(".yml")
        .into_iter()
        .filter(|p| p.starts_with("deploy/prometheus/rules"))
        .collect();
    assert!(all.len() >= 2, "{all:?}");
    all
}

#[test]
fn every_metric_that_is_asked_for_exists() {
    let made = text(Path::new("processors/runtime/src/metrics.rs"));
    let known: BTreeSet<_> = metrics(&made);
    assert!(known.len() >= 6, "{known:?}");
    let mut asked = 0;
    for path in rules().into_iter().chain(files(".promql")) {
        let missing: Vec<_> = metrics(&text(&path))
            .into_iter()
            .filter(|m| !known.contains(m))
            .collect();
        asked += metrics(&text(&path)).len();
        assert!(
            missing.is_empty(),
            "{} asks for {missing:?}, which nothing counts",
            path.display()
        );
    }
    assert!(asked > 10, "only {asked} metrics are asked for");
    let foreign = rules().iter().map(|p| text(p)).collect::<String>();
    assert!(
        NOT_OURS.iter().all(|name| foreign.contains(name)),
        "a series in NOT_OURS is not used any more"
    );
}

#[test]
fn every_alert_names_a_runbook_that_is_there_and_every_page_an_alert() {
    let mut named = BTreeSet::new();
    for path in rules() {
        let body = text(&path);
        let alerts = body.matches("alert: ").count();
        let books: Vec<_> = body
            .lines()
            .filter_map(|l| l.trim().strip_prefix("runbook: "))
            .collect();
        assert_eq!(alerts, books.len(), "{}: an alert names no runbook", path.display());
        named.extend(books.into_iter().map(str::to_owned));
    }
    let pages = files(".md")
        .into_iter()
        .filter(|p| p.starts_with("deploy/runbooks/alerts"));
    let pages: BTreeSet<_> = pages.map(|p| p.to_string_lossy().into_owned()).collect();
    assert_eq!(
        named, pages,
        "alerts name the left, deploy/runbooks/alerts holds the right"
    );
}

#[test]
fn every_alert_is_tested_and_the_tests_pass() {
    let tests: Vec<_> = files(".yml")
        .into_iter()
        .filter(|p| p.starts_with("deploy/prometheus/tests"))
        .collect();
    let bodies: String = tests.iter().map(|p| text(p)).collect();
    for path in rules() {
        for alert in text(&path)
            .lines()
            .filter_map(|l| l.trim().strip_prefix("- alert: ").map(str::to_owned))
        {
            assert!(
                bodies.contains(&format!("alertname: {alert}")),
                "{alert} is in no test of deploy/prometheus/tests"
            );
        }
    }
    let promtool = |verb: [&str; 2], paths: &[PathBuf]| {
        let done = Command::new("promtool")
            .args(verb)
            .args(paths)
            .current_dir(root())
            .output();
        let done =
            done.expect("promtool is not installed: it comes with Debian's prometheus, which `make setup` installs");
        let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "promtool {verb:?}: {said}");
        said
    };
    assert!(promtool(["check", "rules"], &rules()).contains("rules found"));
    assert!(promtool(["test", "rules"], &tests).contains("SUCCESS"));
}
