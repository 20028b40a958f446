//! When was something committed: per partition from the log, per stage from the instances' own metrics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use schemas::Timestamp;

use super::faults::{Fault, Scope};
use super::instances::{Instances, get};
use crate::live::harness::Live;

/// Seconds since the epoch of every record, by partition, in order.
pub(super) type Commits = BTreeMap<i32, Vec<f64>>;

#[allow(clippy::cast_precision_loss, reason = "seconds")]
fn seconds(at: Timestamp) -> f64 {
    at.0 as f64 / 1e6
}

/// What the stages between a request and its outcome wrote.
pub(super) fn by_partition(live: &Live, since: Timestamp) -> Commits {
    let mut all = Commits::new();
    for topic in ["soma.verdicts", "soma.calls", "soma.outcomes", "soma.runs"] {
        for record in live.read_raw(topic) {
            if record.at >= since {
                all.entry(record.position.partition)
                    .or_default()
                    .push(seconds(record.at));
            }
        }
    }
    all.values_mut().for_each(|times| times.sort_by(f64::total_cmp));
    all
}

/// Times of commits by stage, over all instances.
pub(super) type StageCommits = BTreeMap<String, Vec<f64>>;

pub(super) struct Sampler {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<StageCommits>,
}

fn sample(text: &str, into: &mut StageCommits) {
    for line in text
        .lines()
        .filter(|l| l.starts_with("soma_last_commit_timestamp_seconds{"))
    {
        let stage = line.split("stage=\"").nth(1).and_then(|s| s.split('"').next());
        let at = line.rsplit(' ').next().and_then(|v| v.parse::<f64>().ok());
        if let (Some(stage), Some(at)) = (stage, at) {
            let times = into.entry(stage.to_owned()).or_default();
            if !times.contains(&at) {
                times.push(at);
            }
        }
    }
}

impl Sampler {
    pub(super) fn start(instances: &Instances) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let urls: Vec<_> = instances.names().iter().map(|n| instances.url(n, "metrics")).collect();
        let thread = std::thread::spawn(move || {
            let mut all = StageCommits::new();
            while !told.load(Ordering::SeqCst) {
                for (_, text) in urls.iter().filter_map(|url| get(url)) {
                    sample(&text, &mut all);
                }
                std::thread::sleep(Duration::from_millis(250));
            }
            all
        });
        Self { stop, thread }
    }

    pub(super) fn stop(self) -> StageCommits {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

/// A silence of this long is not the load's.
const SILENCE_S: f64 = 1.5;

/// Seconds from a fault to the first new commit; for partitions the slowest counts, and its silence may begin a little after the
/// fault, with what was under way.
pub(super) fn recovery(fault: &Fault, commits: &Commits, stages: &StageCommits) -> Option<f64> {
    let from = seconds(fault.from);
    match fault.scope {
        Scope::Stage(name) => {
            let after = stages.get(name)?.iter().filter(|t| **t > from).map(|t| t - from);
            after.min_by(f64::total_cmp)
        }
        Scope::Partitions => {
            let each = commits.values().map(|times| after(times, from));
            each.collect::<Option<Vec<f64>>>()?.into_iter().max_by(f64::total_cmp)
        }
    }
}

fn after(times: &[f64], from: f64) -> Option<f64> {
    let first = times.partition_point(|t| *t <= from);
    let silent = times[first.saturating_sub(1)..]
        .windows(2)
        .take_while(|w| w[0] < from + 3.0)
        .find(|w| w[1] - w[0] > SILENCE_S && w[1] > from);
    match silent {
        Some(gap) => Some(gap[1] - from),
        None => times.get(first).map(|t| t - from),
    }
}
