//! A change of `fuse`: from one task to a stage each and back. Every request ends once, nothing is called again, and the groups
//! of the former layout are gone.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka::Groups;
use schemas::records::Run;

use super::harness::{live, request, unique};

#[test]
fn stages_take_over_where_the_former_layout_stood() {
    let live = live();
    let tag = unique("layout");
    let url = format!("{}/ok", live.receiver());
    let mut all: Vec<String> = Vec::new();
    let mut send = |part: &str| {
        let requests: Vec<_> = (0..20)
            .map(|i| {
                let key = format!("{tag}-{part}-{i}");
                let inputs = [("url", url.as_str()), ("body", "{}")];
                request("layout", &key, "http_call", &inputs)
            })
            .collect();
        let runs = live.produce(&requests);
        live.wait(&runs, Duration::from_secs(60));
        all.extend(runs);
    };
    send("fused");

    let file = live.root().join("pipelines/control-tower/pipeline.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let apart: Vec<&str> = text.lines().filter(|l| !l.starts_with("fuse:")).collect();
    assert_eq!(text.lines().count() - 1, apart.len(), "the shipped pipeline fuses");
    let copy = file.with_file_name("pipeline.apart.yaml");
    std::fs::write(&copy, apart.join("\n")).unwrap();
    let deployed = live.soma(&["deploy", copy.to_str().unwrap()]);
    std::fs::remove_file(&copy).unwrap();
    assert!(deployed.status.success(), "{deployed:?}");
    let groups = Groups::open(&live.brokers).unwrap();
    let names = |groups: &Groups| groups.list("control-tower.").unwrap();
    assert!(
        names(&groups).contains_key("control-tower.orchestrator"),
        "{:?}",
        names(&groups)
    );
    assert!(!names(&groups).keys().any(|g| g.contains('+')), "{:?}", names(&groups));
    send("apart");

    // Stages of their own commit at their own pace: the ones to be joined must stand at the same offsets.
    std::thread::sleep(Duration::from_secs(3));
    let deployed = live.soma(&["deploy", "control-tower"]);
    assert!(deployed.status.success(), "{deployed:?}");
    assert!(
        !names(&groups).contains_key("control-tower.orchestrator"),
        "{:?}",
        names(&groups)
    );
    send("again");

    let seen = live.wait(&all, Duration::from_secs(30));
    for (run, states) in &seen {
        let finals = states.iter().filter(|s: &&Run| s.finished_at.is_some()).count();
        assert_eq!(finals, 1, "{run} ended {finals} times");
    }
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for line in live.receiver_log() {
        if line["tenant"] == "layout" {
            *times.entry(line["key"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    assert_eq!(times.len(), 60, "one call per run");
    assert!(times.values().all(|n| *n == 1), "called again: {times:?}");
    println!("layout runs=60 calls=60 layouts=3");
}
