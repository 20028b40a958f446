//! A standby: of two instances one is killed with runs under way and all its state; the other takes its partitions over and reads the whole of their
//! changelogs, or, where it had followed them, their tails.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use schemas::topics;
use serde_json::Value;

use super::harness::{Live, live, request, text, unique};
use crate::chaos::instances::{Instances, get};

const REQUESTS: usize = 300;
/// Stages of the task that keep state.
const STATEFUL: [&str; 3] = ["intake", "orchestrator", "invoker"];

/// What a takeover came to.
struct Taken {
    /// Records of changelogs read, by stage.
    read: BTreeMap<String, i64>,
    /// Where the changelogs ended, all together: what there was to read at most.
    ends: i64,
}

impl Taken {
    fn read(&self) -> i64 {
        self.read.values().sum()
    }
}

/// A number of an instance's `/metrics`, summed over the stages that keep state; `None` while one of them has not told it.
fn gauge(instances: &Instances, name: &str, what: &str) -> Option<i64> {
    let (_, metrics) = get(&instances.url(name, "metrics"))?;
    let of = |stage: &str| {
        let is_it = |l: &&str| {
            let labels = [format!("stage=\"{stage}\""), format!("what=\"{what}\"")];
            l.starts_with("soma_stage{") && labels.iter().all(|label| l.contains(label))
        };
        metrics.lines().find(is_it)?.rsplit(' ').next()?.parse::<i64>().ok()
    };
    STATEFUL.iter().map(|stage| of(stage)).sum()
}

fn send(live: &Live, tag: &str, count: usize) -> Vec<String> {
    let url = format!("{}/ok", live.receiver());
    let requests: Vec<_> = (0..count)
        .map(|i| {
            let inputs = [("url", url.as_str()), ("body", "{}")];
            request("standby", &format!("{tag}-{i}"), "http_call", &inputs)
        })
        .collect();
    live.produce(&requests)
}

/// Waits until these runs have ended, each once.
fn ended(live: &Live, runs: &[String]) {
    for (run, states) in live.wait(runs, Duration::from_secs(180)) {
        assert_eq!(states.iter().filter(|r| r.finished_at.is_some()).count(), 1, "{run}");
    }
}

/// What an instance said about taking state over, behind a place in its log.
fn restored(log: &str) -> Vec<(String, i64, i64)> {
    let lines = log.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
    let said = lines.filter(|l| l["message"] == "state restored");
    let said = said.filter(|l| STATEFUL.iter().any(|stage| l["stage"] == *stage));
    said.map(|l| {
        let number = |name: &str| l[name].as_i64().unwrap();
        (l["stage"].as_str().unwrap().to_owned(), number("end"), number("read"))
    })
    .collect()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(90);
    while !done() {
        assert!(Instant::now() < deadline, "{what} takes longer than 90 s");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Two instances, requests, and the one that was there first is killed.
fn taken_over(live: &'static Live, standby: bool) -> Taken {
    let folder = live.home.join(format!("state-standby-{standby}"));
    let variables = vec![
        ("SOMA_STATE", "disk".to_owned()),
        ("SOMA_STATE_DIR", folder.display().to_string()),
        ("SOMA_STANDBY", standby.to_string()),
    ];
    let (first, second) = if standby {
        ("warm-1", "warm-2")
    } else {
        ("cold-1", "cold-2")
    };
    let mut instances = Instances::with(live, &[first, second], variables);
    // One after the other: the second never had what the first has.
    for name in [first, second] {
        instances.start_one(name);
        instances.wait_ready(name);
    }
    let owned = |name: &str| {
        get(&instances.url(name, "health"))
            .map(|(_, body)| body)
            .unwrap_or_default()
    };
    let shares = |name: &str| {
        let health: Value = serde_json::from_str(&owned(name)).unwrap_or_default();
        let task = health
            .as_object()
            .into_iter()
            .flatten()
            .find(|(stage, _)| stage.starts_with("intake"));
        task.is_some_and(|(_, health)| health["partitions"].as_i64() > Some(0) && health["state"] == "running")
    };
    until("sharing the partitions", || shares(first) && shares(second));
    ended(live, &send(live, &unique("standby"), REQUESTS));
    if standby {
        until("following", || {
            gauge(&instances, second, "standby_partitions") >= Some(3)
                && gauge(&instances, second, "standby_lag") == Some(0)
        });
    } else {
        assert_eq!(gauge(&instances, second, "standby_partitions"), None);
    }
    let log = live.home.join(format!("logs/instance-{second}.log"));
    let before = std::fs::read_to_string(&log).unwrap().len();
    // Killed with these under way.
    let late = send(live, &unique("standby-late"), 40);
    until("beginning the last runs", || {
        let runs = live.read(topics::RUNS).into_iter().map(|run| run.run_id);
        let begun: BTreeSet<String> = runs.filter(|run| late.contains(run)).collect();
        begun.len() * 2 >= late.len()
    });
    instances.signal(first, "KILL");
    let told = || restored(std::fs::read_to_string(&log).unwrap().get(before..).unwrap_or_default());
    until("taking over", || {
        STATEFUL.iter().all(|stage| told().iter().any(|(s, ..)| s == stage))
    });
    let mut taken = Taken {
        read: BTreeMap::new(),
        ends: 0,
    };
    for (stage, end, read) in told() {
        *taken.read.entry(stage).or_default() += read;
        taken.ends += end;
    }
    until("telling", || {
        gauge(&instances, second, "restored") == Some(taken.read())
    });
    let admin = instances.url(second, "");
    let stages = live.soma(&["--json", "stages", "--admin", &admin]);
    let stages: Value = serde_json::from_str(&text(&stages.stdout)).unwrap();
    let task = stages
        .as_array()
        .unwrap()
        .iter()
        .find(|s| s["stage"].as_str().unwrap().starts_with("intake"));
    assert_eq!(task.unwrap()["restored"], taken.read(), "{stages}");
    // It goes on with what it took over.
    ended(live, &late);
    ended(live, &send(live, &unique("standby-after"), 20));
    instances.stop();
    taken
}

#[test]
fn a_standby_takes_over_by_reading_the_tail() {
    let live = live();
    live.stack(&["stop", "control-tower"]);
    let cold = taken_over(live, false);
    let warm = taken_over(live, true);
    live.stack(&["start", "control-tower"]);
    println!(
        "standby requests={REQUESTS} read_without={} of={} read_with={} of={}",
        cold.read(),
        cold.ends,
        warm.read(),
        warm.ends
    );
    println!("without: {:?}, with: {:?}", cold.read, warm.read);

    let enough = i64::try_from(REQUESTS).unwrap();
    assert!(cold.read() >= enough, "{:?}", cold.read);
    assert!(warm.ends > enough, "only {} changes to read", warm.ends);
    assert!(
        warm.read() * 4 < cold.read(),
        "it read {:?}, without a standby {:?}",
        warm.read,
        cold.read
    );
}
