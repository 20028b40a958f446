//! The log of one simulated stage instance.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kernel::{Changelog, Clock, Commit, Committed, Fault, FaultCode, Log, Polled, Position, RawRecord, Restoring};

use super::transaction::{ORDER, Part};
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
    later: Option<Later>,
    /// Partitions it was told are lost, and has not given up yet: until then the client lets nothing of them be committed.
    lost: BTreeSet<i32>,
    /// Changelogs that are being read back, and how many of them have been.
    reading: Vec<Changelog>,
    read: usize,
}

/// A transaction beside other work.
enum Later {
    Begun(Commit),
    /// Over, and nobody has heard of it.
    Over(Result<(), Fault>),
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
            later: None,
            lost: BTreeSet::new(),
            reading: Vec::new(),
            read: 0,
        }
    }
}

impl SimLog {
    fn who(&self) -> String {
        format!("{}/{}", self.group, self.instance)
    }

    /// Commits with the parts in this order. The process may stand still before each of them, or die.
    ///
    /// # Errors
    /// As [`Log::commit`].
    pub fn commit_in(&mut self, commit: &Commit, order: &[Part]) -> Result<Committed, Fault> {
        let who = self.who();
        let mut inner = self.cluster.lock();
        let chances = inner.chances;
        if inner.dies(&who, "dies before its transaction", chances.crash_before) {
            return Err(crash());
        }
        let offsets = commit.offsets.iter().map(|p| p.partition);
        let mut touched = offsets.chain(commit.raw.iter().filter_map(|r| r.partition));
        if touched.any(|p| self.lost.contains(&p)) {
            inner.counts.fenced += 1;
            let detail = "simulated: the group has gone on without this instance";
            return Err(Fault::new(FaultCode::TransactionAborted, detail));
        }
        let freeze = inner.freezes.remove(&who);
        let parts = inner.begin(&who, (&self.group, &self.instance), commit, (order, self.clock.now()));
        let mut freeze = freeze.map(|freeze| freeze.within(parts));
        for done in 0..parts {
            if let Some(freeze) = freeze.take_if(|f| f.is_after(done)) {
                inner.note(|| format!("{who}: stands still within its transaction, {done} parts of {parts} done"));
                drop(inner);
                freeze.stand();
                inner = self.cluster.lock();
                inner.note(|| format!("{who}: goes on"));
            }
            inner.go_on(&who);
            if done == 1 && parts > 2 && inner.dies_within(&who, chances.crash_within) {
                return Err(crash());
            }
        }
        let lost = || Fault::new(FaultCode::Internal, "a transaction without an outcome");
        let places = inner.end(&who).unwrap_or_else(|| Err(lost()))?;
        if inner.dies(&who, "dies after its transaction", chances.crash_after) {
            return Err(crash());
        }
        if inner.strikes(&who, "transaction made and reported failed", chances.commit_unknown) {
            inner.counts.failed_commits += 1;
            let detail = "simulated: made, and reported as failed";
            return Err(Fault::new(FaultCode::CommitFailed, detail));
        }
        Ok(places)
    }
}

impl Log for SimLog {
    fn poll(&mut self, records_max: usize, _wait_ms: u64) -> Result<Polled, Fault> {
        let mut inner = self.cluster.lock();
        inner.tick();
        if let Some(event) = inner.next_event(&self.group, &self.instance) {
            if let Polled::Lost(parts) = &event {
                self.lost.extend(parts.iter().map(|p| p.1));
            }
            return Ok(event);
        }
        let chances = inner.chances;
        let who = self.who();
        if inner.strikes(&who, "poll fails", chances.poll_failed) {
            return Err(Fault::new(FaultCode::BrokerUnavailable, "simulated"));
        }
        if self.paused {
            return Ok(Polled::Idle);
        }
        let most = if inner.strikes(&who, "is given one record", chances.short_poll) {
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
                // What was undone leaves gaps.
                *next = fresh.last().map_or(*next, |last| last.position.offset + 1);
                records.extend(fresh);
            }
        }
        if records.is_empty() {
            return Ok(Polled::Idle);
        }
        if inner.dies(&who, "dies with records in hand", chances.crash_reading) {
            return Err(crash());
        }
        Ok(Polled::Records(records))
    }

    fn fetch(&mut self, positions: &[Position]) -> Result<Vec<RawRecord>, Fault> {
        let again = |p: &Position| {
            let all = self.cluster.raw(&p.topic).into_iter();
            let mut found = all.filter(|r| r.position == *p);
            found.next().unwrap_or_else(|| RawRecord {
                position: p.clone(),
                ..RawRecord::default()
            })
        };
        Ok(positions.iter().map(again).collect())
    }

    fn commit(&mut self, commit: &Commit) -> Result<Committed, Fault> {
        self.commit_in(commit, &ORDER)
    }

    fn commit_later(&mut self, commit: Commit) -> Result<(), Fault> {
        self.answer(true)?;
        let early = {
            let mut inner = self.cluster.lock();
            let chance = inner.chances.commit_slow;
            inner.strikes(&self.who(), "transaction is over before it is asked for", chance)
        };
        self.later = Some(if early {
            Later::Over(self.commit(&commit).map(drop))
        } else {
            Later::Begun(commit)
        });
        Ok(())
    }

    fn answer(&mut self, wait: bool) -> Result<bool, Fault> {
        let Some(later) = self.later.take() else {
            return Ok(true);
        };
        let commit = match later {
            Later::Over(answer) => return answer.map(|()| true),
            Later::Begun(commit) => commit,
        };
        let chance = self.cluster.lock().chances.commit_slow;
        if !wait
            && self
                .cluster
                .lock()
                .strikes(&self.who(), "transaction is still under way", chance)
        {
            self.later = Some(Later::Begun(commit));
            return Ok(false);
        }
        self.commit(&commit).map(|_| true)
    }

    fn restore_begin(&mut self, changelogs: &[Changelog]) -> Result<(), Fault> {
        self.reading = changelogs.to_vec();
        self.read = 0;
        Ok(())
    }

    /// One changelog at a time: whatever may happen between two, happens.
    fn restore_more(&mut self, into: &mut dyn Restoring, _at_most: Duration) -> Result<bool, Fault> {
        let index = self.read;
        let Some((topic, partition)) = self.reading.get(index) else {
            return Ok(true);
        };
        let mut inner = self.cluster.lock();
        inner.settle();
        let (who, chance) = (self.who(), inner.chances.crash_reading);
        if inner.dies(&who, "dies while reading its state back", chance) {
            return Err(crash());
        }
        let chance = inner.chances.restore_failed;
        if inner.strikes(&who, "cannot read its state back", chance) {
            return Err(Fault::new(FaultCode::BrokerUnavailable, "simulated"));
        }
        let end = inner.end_of(topic, *partition);
        let from = into.from(index, 0, end)?;
        inner.wait_until_closed(topic, *partition, from);
        // What was decided while it waited is to be seen too.
        inner.settle();
        for record in inner.visible(topic, *partition, from) {
            into.take(
                index,
                record.key.clone(),
                record.value.as_deref(),
                record.position.offset,
            )?;
        }
        into.done(index, end)?;
        self.read += 1;
        Ok(self.read == self.reading.len())
    }

    fn start(&mut self, partitions: &[(String, i32)]) -> Result<(), Fault> {
        let mut inner = self.cluster.lock();
        inner.settle();
        let chance = inner.chances.restore_failed;
        if inner.strikes(&self.who(), "cannot begin reading", chance) {
            return Err(Fault::new(FaultCode::BrokerUnavailable, "simulated"));
        }
        for (_, p) in partitions {
            self.owned.insert(*p);
            for topic in &self.topics {
                inner.wait_until_stable(&self.group, topic, *p);
                let at = inner.committed(&self.group, topic, *p);
                self.next.insert((topic.clone(), *p), at);
            }
        }
        Ok(())
    }

    fn release(&mut self, partitions: &[(String, i32)]) -> Result<(), Fault> {
        if self.later.is_some() {
            let detail = "simulated: partitions given up while a transaction is under way";
            return Err(Fault::new(FaultCode::Internal, detail));
        }
        let numbers: BTreeSet<i32> = partitions.iter().map(|p| p.1).collect();
        let subscribed: BTreeSet<String> = partitions.iter().map(|p| p.0.clone()).collect();
        self.owned.retain(|p| !numbers.contains(p));
        self.lost.retain(|p| !numbers.contains(p));
        let (subscribed, numbers): (Vec<_>, Vec<_>) = (subscribed.into_iter().collect(), numbers.into_iter().collect());
        let mut inner = self.cluster.lock();
        inner.release(&self.group, &subscribed, &self.instance, &numbers);
        Ok(())
    }

    fn home(&self, key: &str) -> Option<i32> {
        let inner = self.cluster.lock();
        let mut homes = self.topics.iter().map(|t| inner.partition_of(t, key));
        let first = homes.next()?;
        homes.all(|p| p == first).then(|| i32::try_from(first).ok()).flatten()
    }

    fn pause(&mut self, paused: bool) -> Result<(), Fault> {
        self.paused = paused;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::sim::Chances;

    #[test]
    fn partitions_are_not_given_up_while_a_transaction_is_under_way() {
        let cluster = Cluster::new(1, Chances::default());
        let clock = SimClock::at(schemas::Timestamp(0));
        let mut log = SimLog::new(&cluster, &clock, "group", "a", vec!["topic".to_owned()]);
        let parts = [("topic".to_owned(), 0)];
        log.commit_later(Commit::default()).unwrap();
        assert_eq!(log.release(&parts).unwrap_err().code, FaultCode::Internal);
        assert!(log.answer(true).unwrap());
        log.release(&parts).unwrap();
    }
}
