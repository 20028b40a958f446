//! kill -9 of the pipeline in the middle of 200 running requests: every request ends once, and the real receiving server's own
//! log shows no idempotency key twice, except those declared safe to repeat.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use schemas::records::{Call, Run, RunStatus};
use schemas::topics;

use super::harness::{Live, live, request, unique};

fn slow_calls(live: &Live, runs: &[String]) -> usize {
    let calls: Vec<Call> = live.read(topics::CALLS);
    let slow = calls
        .iter()
        .filter(|c| c.arguments.contains("/slow?") && runs.contains(&c.run_id));
    slow.count()
}

/// How often the receiving server's own log has each idempotency key.
fn times_seen(live: &Live) -> BTreeMap<String, usize> {
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for line in live.receiver_log() {
        let key = line["key"].as_str().unwrap_or_default();
        if !key.is_empty() && key != "-" {
            *times.entry(key.to_owned()).or_default() += 1;
        }
    }
    times
}

#[test]
fn every_request_ends_once_and_nothing_is_done_twice() {
    let live = live();
    let tag = unique("kill");
    let receiver = live.receiver();
    let mut requests = Vec::new();
    for i in 0..200 {
        let key = format!("{tag}-{i}");
        requests.push(match i % 20 {
            0 => request(
                "kill-a",
                &key,
                "service_rollout",
                &[("service", &format!("svc-{i}-{tag}")), ("replicas", "2")],
            ),
            // Long between intent and outcome, and not to be repeated: the window the kill must hit.
            1..=5 => request(
                "kill-b",
                &key,
                "http_call",
                &[("url", &format!("{receiver}/slow?{key}")), ("body", "{\"n\":1}")],
            ),
            6..=9 => request(
                "kill-b",
                &key,
                "http_call",
                &[("url", &format!("{receiver}/ok?{key}")), ("body", "{\"n\":1}")],
            ),
            10..=14 => request(
                "kill-c",
                &key,
                "http_call",
                &[
                    ("url", &format!("{receiver}/ok?{key}")),
                    ("body", "{}"),
                    ("idempotent", "true"),
                ],
            ),
            _ => request(
                "kill-d",
                &key,
                "endpoint_probe",
                &[("url", &format!("{receiver}/ok?{key}"))],
            ),
        });
    }
    let runs = live.produce(&requests);
    // Most of the 50 slow calls stand in line at the receiver when the kill comes.
    let deadline = Instant::now() + Duration::from_secs(30);
    while slow_calls(live, &runs) < 30 {
        assert!(Instant::now() < deadline, "the slow calls do not begin");
    }
    live.stack(&["kill", "-s", "KILL", "control-tower"]);
    let before = live.read(topics::RUNS);
    let ended = before
        .iter()
        .filter(|r: &&Run| runs.contains(&r.run_id) && r.finished_at.is_some())
        .count();
    assert!(
        ended < runs.len(),
        "all runs had ended before the kill: it proved nothing"
    );
    live.stack(&["start", "control-tower"]);
    let seen = live.wait(&runs, Duration::from_secs(240));

    let mut by_status: BTreeMap<String, usize> = BTreeMap::new();
    for (run, states) in &seen {
        let finals = states.iter().filter(|s| s.finished_at.is_some()).count();
        assert_eq!(finals, 1, "{run} ended {finals} times");
        assert!(
            states.windows(2).all(|w| w[0].revision < w[1].revision),
            "{run}: revisions go back"
        );
        *by_status
            .entry(format!("{:?}", states.last().unwrap().status))
            .or_default() += 1;
        let last = states.last().unwrap().status;
        assert!(
            matches!(last, RunStatus::Succeeded | RunStatus::Unknown),
            "{run} ended {last:?}: {}",
            states.last().unwrap().reason
        );
    }
    assert_eq!(seen.len(), 200);
    // Called, never answered, not safe to repeat: these end UNKNOWN, for a human, and are not called again.
    let unknown = by_status.get("Unknown").copied().unwrap_or(0);
    assert!(unknown > 0, "the kill fell on no call in flight: {by_status:?}");

    let safe: BTreeMap<String, bool> = live
        .read(topics::CALLS)
        .into_iter()
        .map(|c: Call| (c.idempotency_key, c.replay_safe))
        .collect();
    let times = times_seen(live);
    let twice: Vec<_> = times
        .iter()
        .filter(|(key, n)| **n > 1 && !safe.get(*key).copied().unwrap_or(false))
        .collect();
    assert!(twice.is_empty(), "done twice: {twice:?}");
    assert!(times.len() > 100, "the receiver saw only {} keys", times.len());
    let out = live.soma(&["audit", "verify", "--no-table"]);
    assert!(out.status.success(), "the chains go on behind the kill: {out:?}");
    println!(
        "kill9 runs=200 open_at_kill={} {by_status:?} keys={} done_twice=0",
        runs.len() - ended,
        times.len()
    );
}
