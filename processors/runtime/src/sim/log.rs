//! The log of one simulated stage instance.

use std::collections::{BTreeMap, BTreeSet};

use kernel::{Clock, Commit, Fault, FaultCode, Log, Polled};

use super::{Cluster, SimClock, crash};

/// A [`Log`] on a simulated cluster.
pub struct SimLog {
    cluster: Cluster,
    clock: SimClock,
    group: String,
    instance: String,
    topics: Vec<String>,
    owned: BTreeSet<i32>,
    next: BTreeMap<(String, i32), i64>,
    paused: bool,
}

impl SimLog {
    /// A member of a group; all its topics are partitioned alike.
    pub fn new(cluster: &Cluster, clock: &SimClock, group: &str, instance: &str, topics: Vec<String>) -> Self {
        Self {
            cluster: cluster.clone(),
            clock: clock.clone(),
            group: group.to_owned(),
            instance: instance.to_owned(),
            topics,
            owned: BTreeSet::new(),
            next: BTreeMap::new(),
            paused: false,
        }
    }
}

impl Log for SimLog {
    fn poll(&mut self, records_max: usize, _wait_ms: u64) -> Result<Polled, Fault> {
        let mut inner = self.cluster.lock();
        inner.tick();
        if let Some(event) = inner.next_event(&self.group, &self.instance) {
            return Ok(event);
        }
        let chances = inner.chances;
        if inner.chance(chances.poll_failed) {
            return Err(Fault::new(FaultCode::BrokerUnavailable, "simulated"));
        }
        if self.paused {
            return Ok(Polled::Idle);
        }
        let most = if inner.chance(chances.short_poll) {
            1
        } else {
            records_max
        };
        let mut records = Vec::new();
        for topic in &self.topics {
            for &p in &self.owned {
                let next = self.next.entry((topic.clone(), p)).or_insert(0);
                let fresh: Vec<_> = inner
                    .visible(topic, p, *next)
                    .take(most - records.len())
                    .cloned()
                    .collect();
                *next += i64::try_from(fresh.len()).unwrap_or_default();
                records.extend(fresh);
            }
        }
        Ok(if records.is_empty() {
            Polled::Idle
        } else {
            Polled::Records(records)
        })
    }

    fn commit(&mut self, commit: &Commit) -> Result<(), Fault> {
        let mut inner = self.cluster.lock();
        let chances = inner.chances;
        if inner.chance(chances.crash_before) {
            inner.counts.crashes += 1;
            return Err(crash());
        }
        let touched: BTreeSet<i32> = commit
            .offsets
            .iter()
            .map(|p| p.partition)
            .chain(commit.raw.iter().filter_map(|r| r.partition))
            .collect();
        if touched.iter().any(|p| !inner.owns(&self.group, &self.instance, *p)) {
            inner.counts.fenced += 1;
            return Err(Fault::new(
                FaultCode::CommitFailed,
                "simulated: another member owns the partition",
            ));
        }
        if inner.chance(chances.commit_refused) {
            inner.counts.failed_commits += 1;
            return Err(Fault::new(FaultCode::CommitFailed, "simulated: refused"));
        }
        let slow = inner.chance(chances.commit_slow);
        inner.apply(&self.group, commit, self.clock.now(), slow);
        if inner.chance(chances.crash_after) {
            inner.counts.crashes += 1;
            return Err(crash());
        }
        if inner.chance(chances.commit_unknown) {
            inner.counts.failed_commits += 1;
            return Err(Fault::new(
                FaultCode::CommitFailed,
                "simulated: made, and reported as failed",
            ));
        }
        Ok(())
    }

    fn restore(
        &mut self,
        topic: &str,
        partition: i32,
        each: &mut dyn FnMut(String, Option<Vec<u8>>),
    ) -> Result<(), Fault> {
        let mut inner = self.cluster.lock();
        inner.settle();
        for record in inner.visible(topic, partition, 0) {
            each(record.key.clone(), record.value.clone());
        }
        Ok(())
    }

    fn start(&mut self, partitions: &[(String, i32)]) -> Result<(), Fault> {
        let mut inner = self.cluster.lock();
        inner.settle();
        for (_, p) in partitions {
            self.owned.insert(*p);
            for topic in &self.topics {
                let at = inner.committed(&self.group, topic, *p);
                self.next.insert((topic.clone(), *p), at);
            }
        }
        Ok(())
    }

    fn release(&mut self, partitions: &[(String, i32)]) -> Result<(), Fault> {
        for (_, p) in partitions {
            self.owned.remove(p);
        }
        Ok(())
    }

    fn pause(&mut self, paused: bool) -> Result<(), Fault> {
        self.paused = paused;
        Ok(())
    }
}
