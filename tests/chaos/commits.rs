//! When was something committed: per partition from the log, per stage from the instances' own metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use schemas::records::Request;
use schemas::{Timestamp, digest, topics};

use super::checker::read;
use super::faults::{Fault, Scope};
use super::instances::{Instances, get};
use crate::live::harness::Live;

/// What is known of a partition; seconds since the epoch.
#[derive(Default)]
pub(super) struct Partition {
    /// When something was written to it, in order.
    commits: Vec<f64>,
    /// From when to when each of its requests waited: from when it was produced until its run had ended.
    waits: Vec<(f64, f64)>,
}

pub(super) type Partitions = BTreeMap<i32, Partition>;

#[allow(clippy::cast_precision_loss, reason = "seconds")]
fn seconds(at: Timestamp) -> f64 {
    at.0 as f64 / 1e6
}

/// What the stages between a request and its outcome wrote, and what of the load they had to do.
pub(super) fn by_partition(live: &Live, asked: &[Request], since: Timestamp) -> Partitions {
    let mut all = Partitions::new();
    for topic in ["soma.verdicts", "soma.calls", "soma.outcomes", "soma.runs"] {
        for record in live.read_raw(topic) {
            if record.at >= since {
                let partition = all.entry(record.position.partition).or_default();
                partition.commits.push(seconds(record.at));
            }
        }
    }
    let id = |r: &Request| digest::run_id(&r.tenant, &r.idempotency_key);
    let ours: BTreeSet<String> = asked.iter().map(id).collect();
    let ended = read(live, topics::RUNS, |r| {
        r.finished_at.is_some() && ours.contains(&r.run_id)
    });
    let ended: BTreeMap<String, f64> = ended.into_iter().map(|(raw, r)| (r.run_id, seconds(raw.at))).collect();
    // Produced again after an outage, a request waits since the first time.
    let mut produced = BTreeSet::new();
    for (raw, request) in read(live, topics::REQUESTS, |r| ours.contains(&id(r))) {
        let run = id(&request);
        let until = ended.get(&run).copied().unwrap_or(f64::INFINITY);
        if produced.insert(run) {
            let partition = all.entry(raw.position.partition).or_default();
            partition.waits.push((seconds(raw.at), until));
        }
    }
    all.values_mut().for_each(|p| p.commits.sort_by(f64::total_cmp));
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

/// A silence of this long while something waits is not the load's.
const SILENCE_S: f64 = 1.5;
/// A fault's silence may begin so much later, with what was under way.
const LATER_S: f64 = 3.0;

/// Seconds from a fault to the first new commit; for partitions the slowest counts.
pub(super) fn recovery(fault: &Fault, partitions: &Partitions, stages: &StageCommits) -> Option<f64> {
    let from = seconds(fault.from);
    match fault.scope {
        Scope::Stage(name) => {
            let after = stages.get(name)?.iter().filter(|t| **t > from).map(|t| t - from);
            after.min_by(f64::total_cmp)
        }
        Scope::Partitions => {
            let each = partitions.values().map(|partition| after(partition, from));
            each.collect::<Option<Vec<f64>>>()?.into_iter().max_by(f64::total_cmp)
        }
    }
}

/// How long a partition took to go on: the silence the fault brought, or what came first after it. A partition for which nothing waits is silent
/// by itself: what counts begins with its next request. `None`: something waited, and nothing came.
fn after(partition: &Partition, from: f64) -> Option<f64> {
    let first = partition.commits.partition_point(|t| *t <= from);
    let before = partition.commits[..first].last().copied().unwrap_or(f64::NEG_INFINITY);
    let later = partition.commits[first..].iter().copied();
    let ends = later.chain([f64::INFINITY]);
    let mut gaps = Vec::new();
    let mut begin = before;
    for end in ends {
        let waits = partition
            .waits
            .iter()
            .filter(|(since, until)| *since < end && *until > begin);
        let since = waits.map(|(since, _)| *since).min_by(f64::total_cmp);
        gaps.extend(since.map(|since| (begin, since, end)));
        begin = end;
    }
    let silence = gaps
        .iter()
        .take_while(|(begin, ..)| *begin < from + LATER_S)
        .find(|(begin, since, end)| end - since.max(*begin) > SILENCE_S);
    // What stood still is taken to have done so since the fault, whenever the request came that shows it.
    let (since, end) = match (silence, gaps.first()) {
        (Some((.., end)), _) => (from, *end),
        (None, Some((_, since, end))) => (since.max(from), *end),
        (None, None) => (from, from),
    };
    end.is_finite().then(|| end - since.min(end))
}

#[test]
fn a_partition_is_silent_only_while_something_waits() {
    let partition = |commits: &[f64], waits: &[(f64, f64)]| Partition {
        commits: commits.to_vec(),
        waits: waits.to_vec(),
    };
    // Nothing to do until 6 s after the fault, then done in half a second.
    let idle = partition(&[9.0, 16.5], &[(8.0, 9.0), (16.0, 16.5)]);
    assert_eq!(after(&idle, 10.0), Some(0.5));
    // A request waits from before the fault, or from a second after it.
    let stood = partition(&[9.0, 14.0], &[(8.5, 14.0)]);
    assert_eq!(after(&stood, 10.0), Some(4.0));
    let later = partition(&[9.0, 14.0], &[(8.5, 9.0), (11.0, 14.0)]);
    assert_eq!(after(&later, 10.0), Some(4.0));
    // What was under way was still done.
    let under_way = partition(&[9.0, 10.2, 13.0, 13.1], &[(8.5, 13.1)]);
    assert_eq!(after(&under_way, 10.0), Some(3.0));
    // Nothing ever came, of something or of nothing.
    assert_eq!(after(&partition(&[9.0], &[(9.5, f64::INFINITY)]), 10.0), None);
    assert_eq!(after(&partition(&[9.0], &[(8.0, 9.0)]), 10.0), Some(0.0));
}
