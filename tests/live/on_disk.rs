//! State on disk: a pipeline that keeps it there is killed with runs open, reads the tail of its changelogs when it comes back,
//! and ends every run once.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::harness::{live, request, unique};

/// What the last start of the pipeline said about reading its state back: `from` and `read` by stage and partition.
fn restored(text: &str) -> BTreeMap<(String, i64), (i64, i64)> {
    let lines = text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
    let said = lines.filter(|l| l["message"] == "state restored");
    let number = |l: &Value, name: &str| l[name].as_i64().unwrap_or(-1);
    said.map(|l| {
        let stage = l["stage"].as_str().unwrap_or_default().to_owned();
        (
            (stage, number(&l, "partition")),
            (number(&l, "from"), number(&l, "read")),
        )
    })
    .collect()
}

#[test]
fn a_killed_pipeline_reads_the_tail_only() {
    let live = live();
    let file = live.root().join("pipelines/control-tower/pipeline.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let folder = live.home.join("state-of-test");
    let text = text
        .replace("${SOMA_STATE:-memory}", "disk")
        .replace("${SOMA_STATE_DIR:-}", folder.to_str().unwrap());
    let copy = file.with_file_name("pipeline.disk.yaml");
    std::fs::write(&copy, text).unwrap();
    let deployed = live.soma(&["deploy", copy.to_str().unwrap()]);
    assert!(deployed.status.success(), "{deployed:?}");

    let tag = unique("disk");
    let url = format!("{}/ok", live.receiver());
    let send = |part: &str| {
        let requests: Vec<_> = (0..60)
            .map(|i| {
                let inputs = [("url", url.as_str()), ("body", "{}")];
                request("disk", &format!("{tag}-{part}-{i}"), "http_call", &inputs)
            })
            .collect();
        live.produce(&requests)
    };
    let first = send("first");
    live.wait(&first, Duration::from_secs(60));
    let log = live.home.join("logs/control-tower.log");
    let before = std::fs::read_to_string(&log).unwrap().len();
    let second = send("second");
    std::thread::sleep(Duration::from_millis(400));
    live.stack(&["kill", "-s", "KILL", "control-tower"]);
    live.stack(&["start", "control-tower"]);
    let seen = live.wait(&second, Duration::from_secs(90));
    for states in seen.values() {
        assert_eq!(states.iter().filter(|r| r.finished_at.is_some()).count(), 1);
    }
    let text = std::fs::read_to_string(&log).unwrap();
    let said = restored(text.get(before..).unwrap_or(&text));
    let tails: Vec<_> = said.iter().filter(|(_, (from, _))| *from > 0).collect();
    assert!(!tails.is_empty(), "nothing was restored from a checkpoint: {said:?}");
    let (from, read) = tails
        .iter()
        .fold((0, 0), |sum, (_, (from, read))| (sum.0 + from, sum.1 + read));
    println!(
        "on disk: {} partitions restored from checkpoints at {from} in all, {read} records read",
        tails.len()
    );
    assert!(read < from, "it read {read} records behind checkpoints at {from}");

    let back = live.soma(&["deploy", "control-tower"]);
    std::fs::remove_file(&copy).unwrap();
    assert!(back.status.success(), "{back:?}");
    let third = send("third");
    live.wait(&third, Duration::from_secs(60));
    let mut keys: BTreeMap<String, usize> = BTreeMap::new();
    for line in live.receiver_log() {
        *keys
            .entry(line["key"].as_str().unwrap_or_default().to_owned())
            .or_default() += 1;
    }
    let calls = live
        .read(schemas::topics::CALLS)
        .into_iter()
        .filter(|c| c.tenant == "disk");
    let twice: Vec<_> = calls
        .filter(|c| keys.get(&c.idempotency_key).is_some_and(|n| *n > 1))
        .collect();
    assert!(twice.is_empty(), "done twice: {twice:?}");
}
