//! The dead man's switch: a pipeline that wants heartbeats holds everything without them, and goes on with the next.

use std::time::{Duration, Instant};

use schemas::records::{Request, RunStatus};
use schemas::topics;

use super::harness::{Live, live, request, unique};

fn said(live: &Live, from: usize, words: &str) -> bool {
    let text = std::fs::read_to_string(live.home.join("logs/control-tower.log")).unwrap();
    text.get(from..).unwrap_or(&text).contains(words)
}

fn until(limit: Duration, what: &str, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < limit, "{what} did not come");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn without_a_heartbeat_everything_is_held_until_the_next() {
    let live = live();
    let file = live.root().join("pipelines/control-tower/pipeline.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let copy = file.with_file_name("pipeline.dead_man.yaml");
    std::fs::write(&copy, text.replace("${SOMA_DEAD_MAN_S:-0}", "4")).unwrap();
    let log = live.home.join("logs/control-tower.log");
    let before = std::fs::read_to_string(&log).unwrap().len();
    let deployed = live.soma(&["deploy", copy.to_str().unwrap()]);
    assert!(deployed.status.success(), "{deployed:?}");
    until(Duration::from_secs(20), "the hold", || {
        said(live, before, "no heartbeat: everything is held")
    });

    // A run that is under way is held and goes on; a new request is not admitted.
    let beat = || assert!(live.soma(&["heartbeat", "--as", "live-test"]).status.success());
    let tag = unique("dead").replace('-', "_");
    let probe = |key: &str, path: &str| -> Request {
        let url = format!("{}/{path}?{tag}-{key}", live.receiver());
        request(&tag, key, "endpoint_probe", &[("url", &url)])
    };
    let held = live.produce(&[probe("held", "ok")]);
    let last = live.wait(&held, Duration::from_secs(30))[&held[0]]
        .last()
        .unwrap()
        .clone();
    assert_eq!(
        (last.status, last.fault.unwrap().code.as_str()),
        (RunStatus::Refused, "CONTROL_STOPPED")
    );
    beat();
    until(Duration::from_secs(10), "the release", || {
        said(live, before, "somebody watches")
    });
    let slow = live.produce(&[probe("slow", "slow")]);
    until(Duration::from_secs(3), "the call", || {
        live.read(topics::CALLS).iter().any(|c| c.run_id == slow[0])
    });
    beat();
    let done = live.wait(&slow, Duration::from_secs(30));
    assert_eq!(done[&slow[0]].last().unwrap().status, RunStatus::Succeeded);

    let deployed = live.soma(&["deploy", file.to_str().unwrap()]);
    assert!(deployed.status.success(), "{deployed:?}");
    std::fs::remove_file(&copy).unwrap();
    let after = live.produce(&[probe("after", "ok")]);
    let done = live.wait(&after, Duration::from_secs(60));
    assert_eq!(done[&after[0]].last().unwrap().status, RunStatus::Succeeded);
}
