//! The log of one simulated stage instance.

use std::collections::{BTreeMap, BTreeSet};

use kernel::{Changelog, Clock, Commit, Committed, Fault, FaultCode, Log, Polled, Position, RawRecord, Restoring};

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
        }
    }
}

impl SimLog {
    fn who(&self) -> String {
        format!("{}/{}", self.group, self.instance)
    }
}

/// What a transaction holds, for a trace.
fn outline(commit: &Commit) -> String {
    let mut topics: BTreeMap<&str, usize> = BTreeMap::new();
    for topic in commit
        .emits
        .iter()
        .map(|e| e.topic)
        .chain(commit.raw.iter().map(|r| &*r.topic))
    {
        *topics.entry(topic).or_default() += 1;
    }
    let wrote: Vec<_> = topics.iter().map(|(t, n)| format!("{n} to {t}")).collect();
    let read: Vec<_> = commit.offsets.iter().map(ToString::to_string).collect();
    format!("{}; read up to {}", wrote.join(", "), read.join(", "))
}

impl Log for SimLog {
    fn poll(&mut self, records_max: usize, _wait_ms: u64) -> Result<Polled, Fault> {
        let mut inner = self.cluster.lock();
        inner.tick();
        if let Some(event) = inner.next_event(&self.group, &self.instance) {
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
                *next += i64::try_from(fresh.len()).unwrap_or_default();
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
        let mut inner = self.cluster.lock();
        let chances = inner.chances;
        let who = self.who();
        if inner.dies(&who, "dies before its transaction", chances.crash_before) {
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
            inner.note(|| format!("{who}: is fenced"));
            return Err(Fault::new(
                FaultCode::TransactionAborted,
                "simulated: another member owns the partition",
            ));
        }
        if inner.strikes(&who, "transaction refused", chances.commit_refused) {
            inner.counts.failed_commits += 1;
            return Err(Fault::new(FaultCode::TransactionAborted, "simulated: refused"));
        }
        let slow = inner.strikes(&who, "transaction seen late", chances.commit_slow);
        let places = inner.apply(&self.group, commit, self.clock.now(), slow);
        inner.note(|| format!("{who}: commits {}", outline(commit)));
        if inner.dies(&who, "dies after its transaction", chances.crash_after) {
            return Err(crash());
        }
        if inner.strikes(&who, "transaction made and reported failed", chances.commit_unknown) {
            inner.counts.failed_commits += 1;
            return Err(Fault::new(
                FaultCode::CommitFailed,
                "simulated: made, and reported as failed",
            ));
        }
        Ok(places)
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

    fn restore(&mut self, changelogs: &[Changelog], into: &mut dyn Restoring) -> Result<(), Fault> {
        for (index, (topic, partition)) in changelogs.iter().enumerate() {
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
            let end = inner.visible(topic, *partition, 0).count();
            let from = into.from(index, 0, i64::try_from(end).unwrap_or_default())?;
            let mut next = from;
            for record in inner.visible(topic, *partition, from) {
                next = record.position.offset + 1;
                into.take(
                    index,
                    record.key.clone(),
                    record.value.as_deref(),
                    record.position.offset,
                )?;
            }
            into.done(index, next)?;
        }
        Ok(())
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
                let at = inner.committed(&self.group, topic, *p);
                self.next.insert((topic.clone(), *p), at);
            }
        }
        Ok(())
    }

    fn release(&mut self, partitions: &[(String, i32)]) -> Result<(), Fault> {
        let numbers: BTreeSet<i32> = partitions.iter().map(|p| p.1).collect();
        let subscribed: BTreeSet<String> = partitions.iter().map(|p| p.0.clone()).collect();
        self.owned.retain(|p| !numbers.contains(p));
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
