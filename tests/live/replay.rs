//! `soma replay`: the past through a stage again, from the command line, on what the running pipeline wrote.

use std::time::Duration;

use kafka::{From, Tail};
use serde_json::Value;

use super::harness::{live, request, text, unique};

#[test]
fn the_policy_gate_says_again_what_it_said() {
    let live = live();
    let tag = unique("replay");
    let requests: Vec<_> = (0..12)
        .map(|i| {
            let url = format!("{}/ok?{tag}-{i}", live.receiver());
            request("replay", &format!("{tag}-{i}"), "endpoint_probe", &[("url", &url)])
        })
        .collect();
    live.wait(&live.produce(&requests), Duration::from_secs(60));
    let out = live.soma(&["--json", "replay", "policy_gate", "--since", "2m", "--into", &tag]);
    let said: Value = serde_json::from_str(&text(&out.stdout)).unwrap_or_else(|e| panic!("{e}: {out:?}"));
    let verdicts = said["topics"]
        .as_array()
        .unwrap()
        .iter()
        .find(|t| t["topic"] == "soma.verdicts")
        .unwrap();
    assert!(verdicts["replayed"].as_u64().unwrap() >= 12, "{said}");
    assert_eq!(verdicts["different"], 0, "{said}");
    assert!(out.status.success(), "{said}");
    let mut tail = Tail::open(&live.brokers, &format!("{tag}.soma.verdicts"), From::Beginning).unwrap();
    assert!(
        tail.next(5_000).unwrap().is_some(),
        "the side topic holds what the stage wrote"
    );

    for (stage, why) in [
        ("invoker", "acts on the world"),
        ("redis_sink", "only stages that decide"),
        ("nosuch", "there are"),
    ] {
        let out = live.soma(&["replay", stage]);
        let shown = text(&out.stderr);
        assert!(!out.status.success() && shown.contains(why), "{stage}: {shown}");
    }
}
