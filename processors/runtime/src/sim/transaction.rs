//! A commit in the parts a client sends it in. Between two of them its process may stand still, or be gone: what the others do
//! meanwhile meets a transaction that is open, as on a server.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use kernel::{Commit, Committed, Fault, FaultCode, Polled, Position, RawRecord};
use schemas::Timestamp;

use super::Rng;
use super::cluster::{Cluster, Inner, Standing};

/// A part of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Half of the records reach their partitions: the transaction is open there.
    Records,
    /// So do the others.
    Rest,
    /// The group's coordinator takes the offsets, unless it has thrown the member out.
    Offsets,
    /// All of it becomes true.
    End,
}

/// The order in which `connectors/kafka/src/log.rs` sends them.
pub(super) const ORDER: [Part; 4] = [Part::Records, Part::Rest, Part::Offsets, Part::End];

/// A record to be written.
struct Outgoing {
    topic: Arc<str>,
    partition: Option<i32>,
    record: RawRecord,
}

/// A commit under way, or one whose process has not heard yet what came of it.
pub(super) struct Transaction {
    group: String,
    instance: String,
    left: VecDeque<Part>,
    records: VecDeque<Outgoing>,
    /// Topic, partition and offset of what is written.
    written: Vec<(Arc<str>, usize, usize)>,
    offsets: Vec<Position>,
    /// Partitions it is about.
    touched: BTreeSet<i32>,
    /// The coordinator has taken the offsets.
    sent: bool,
    /// Its process is gone.
    orphan: bool,
    places: Committed,
    outline: String,
    outcome: Option<Result<Committed, Fault>>,
}

impl Transaction {
    /// Whether it is open on a partition from an offset on.
    fn is_open_on(&self, topic: &str, partition: i32, from: i64) -> bool {
        let at = (usize::try_from(partition), usize::try_from(from));
        let (Ok(partition), Ok(from)) = at else { return false };
        let mut written = self.written.iter();
        written.any(|(t, p, offset)| &**t == topic && *p == partition && *offset >= from)
    }

    /// Whether the coordinator keeps an offset of it that may become true yet.
    fn has_sent(&self, group: &str, topic: &str, partition: i32) -> bool {
        let mut offsets = self.offsets.iter();
        self.sent && self.group == group && offsets.any(|o| &*o.topic == topic && o.partition == partition)
    }
}

/// What a commit is waited at by another thread.
pub(super) struct Freeze {
    /// Parts done before it.
    after: usize,
    told: Box<dyn FnOnce() + Send>,
    wake: Receiver<()>,
}

impl Freeze {
    /// Of a commit of so many parts: at the latest before its last.
    pub(super) fn within(mut self, parts: usize) -> Self {
        self.after = self.after.min(parts.saturating_sub(1));
        self
    }

    pub(super) fn is_after(&self, parts: usize) -> bool {
        self.after == parts
    }

    /// Stands still until somebody says to go on, or nobody is left who could.
    pub(super) fn stand(self) {
        (self.told)();
        if self.wake.recv().is_err() {
            tracing::debug!("nobody is left to wake a frozen instance");
        }
    }
}

/// What a transaction holds, for a trace.
fn outline(commit: &Commit) -> String {
    let mut topics = std::collections::BTreeMap::<&str, usize>::new();
    let emits = commit.emits.iter().map(|e| e.topic);
    for topic in emits.chain(commit.raw.iter().map(|r| &*r.topic)) {
        *topics.entry(topic).or_default() += 1;
    }
    let wrote: Vec<_> = topics.iter().map(|(t, n)| format!("{n} to {t}")).collect();
    let read: Vec<_> = commit.offsets.iter().map(ToString::to_string).collect();
    format!("{}; read up to {}", wrote.join(", "), read.join(", "))
}

impl Inner {
    /// Begins a transaction of a member, with its parts in this order: nothing of it is written yet. How many parts it has.
    pub(super) fn begin(
        &mut self,
        who: &str,
        member: (&str, &str),
        commit: &Commit,
        (order, at): (&[Part], Timestamp),
    ) -> usize {
        let records = self.outgoing(commit, at);
        let offsets = commit.offsets.iter().map(|p| p.partition);
        let touched = offsets.chain(commit.raw.iter().filter_map(|r| r.partition));
        let writes = |part: &Part| matches!(part, Part::Records | Part::Rest);
        let left: VecDeque<_> = order
            .iter()
            .filter(|p| !writes(p) || !records.is_empty())
            .copied()
            .collect();
        let parts = left.len();
        let transaction = Transaction {
            group: member.0.to_owned(),
            instance: member.1.to_owned(),
            left,
            written: Vec::new(),
            offsets: commit.offsets.clone(),
            touched: touched.collect(),
            sent: false,
            orphan: false,
            places: Committed::new(),
            outline: if self.traces() { outline(commit) } else { String::new() },
            outcome: None,
            records,
        };
        self.transactions.insert(who.to_owned(), transaction);
        parts
    }

    fn outgoing(&mut self, commit: &Commit, at: Timestamp) -> VecDeque<Outgoing> {
        let mut records = VecDeque::new();
        for (i, emit) in commit.emits.iter().enumerate() {
            let value = self.frame(emit.schema_text, emit.schema, &emit.avro);
            let mut headers = emit.headers.clone();
            if let Some(trace) = commit.traces.get(i).and_then(Option::as_deref) {
                headers.set("traceparent", trace);
            }
            if !emit.taken_by.is_empty() {
                headers.set(kernel::TAKEN_BY, emit.taken_by.join(","));
            }
            let record = RawRecord {
                key: emit.key.clone(),
                value: Some(value),
                headers,
                at,
                ..RawRecord::default()
            };
            records.push_back(Outgoing {
                topic: emit.topic.into(),
                partition: emit.partition,
                record,
            });
        }
        records.extend(commit.raw.iter().map(|raw| Outgoing {
            topic: raw.topic.clone(),
            partition: raw.partition,
            record: RawRecord {
                key: raw.key.clone(),
                value: raw.value.as_deref().map(<[u8]>::to_vec),
                headers: raw.headers.clone(),
                at,
                ..RawRecord::default()
            },
        }));
        records
    }

    /// Does the next part of a transaction, if it is not over.
    pub(super) fn go_on(&mut self, who: &str) {
        let Some(mut t) = self.transactions.remove(who) else {
            return;
        };
        let part = t.left.pop_front().filter(|_| t.outcome.is_none());
        match part {
            Some(Part::Records) => self.write(&mut t, |all| all.div_ceil(2)),
            Some(Part::Rest) => self.write(&mut t, |all| all),
            Some(Part::Offsets) => match self.take_offsets(who, &t) {
                Ok(()) => t.sent = true,
                Err(fault) => self.undo(&mut t, fault),
            },
            Some(Part::End) => self.make_true(who, &mut t),
            None => {}
        }
        self.transactions.insert(who.to_owned(), t);
    }

    /// Writes so many of the records that are left.
    fn write(&mut self, t: &mut Transaction, many: impl FnOnce(usize) -> usize) {
        for _ in 0..many(t.records.len()) {
            let Some(out) = t.records.pop_front() else { return };
            let (partition, offset) = self.append(&out.topic, out.partition, out.record, Standing::Open);
            if let Some(p) = out.partition {
                let next = i64::try_from(offset + 1).unwrap_or_default();
                t.places.insert((out.topic.clone(), p), next);
            }
            t.written.push((out.topic, partition, offset));
        }
    }

    /// The coordinator takes offsets of members of the group's present generation only, and the client sends none once it has been
    /// told that it lost partitions, whoever has them now.
    fn take_offsets(&mut self, who: &str, t: &Transaction) -> Result<(), Fault> {
        let told = self
            .inbox
            .get(&(t.group.clone(), t.instance.clone()))
            .into_iter()
            .flatten();
        let lost: BTreeSet<i32> = told
            .filter_map(|event| match event {
                Polled::Lost(parts) => Some(parts.iter().map(|p| p.1)),
                _ => None,
            })
            .flatten()
            .collect();
        let owns = |p: &i32| self.owns(&t.group, &t.instance, *p) && !lost.contains(p);
        if !t.touched.iter().all(owns) {
            self.counts.fenced += 1;
            self.note(|| format!("{who}: is fenced"));
            let detail = "simulated: another member owns the partition";
            return Err(Fault::new(FaultCode::TransactionAborted, detail));
        }
        let chance = self.chances.commit_refused;
        if self.strikes(who, "transaction refused", chance) {
            self.counts.failed_commits += 1;
            return Err(Fault::new(FaultCode::TransactionAborted, "simulated: refused"));
        }
        Ok(())
    }

    fn make_true(&mut self, who: &str, t: &mut Transaction) {
        let chance = self.chances.commit_slow;
        let slow = self.strikes(who, "transaction seen late", chance);
        self.counts.commits += 1;
        self.decide(&t.written, Standing::True, slow);
        self.move_offsets(&t.group, &t.offsets);
        self.note(|| format!("{who}: commits {}", t.outline));
        t.outcome = Some(Ok(std::mem::take(&mut t.places)));
    }

    fn undo(&mut self, t: &mut Transaction, fault: Fault) {
        self.decide(&t.written, Standing::Void, false);
        t.outcome = Some(Err(fault));
    }

    pub(super) fn is_decided(&self, who: &str) -> bool {
        self.transactions.get(who).is_none_or(|t| t.outcome.is_some())
    }

    /// What came of a transaction; one that is not over is undone.
    pub(super) fn end(&mut self, who: &str) -> Option<Result<Committed, Fault>> {
        let mut t = self.transactions.remove(who)?;
        if t.outcome.is_none() {
            self.undo(&mut t, timed_out());
        }
        t.outcome
    }

    /// Its process is gone: nobody will finish it.
    pub(super) fn orphan(&mut self, who: &str) {
        if let Some(t) = self.transactions.get_mut(who) {
            t.orphan = true;
        }
    }

    /// Waits for the fate of open transactions, as a reader does whom they hold back: either who stands still in one goes on just now, as far as
    /// it gets, or the broker's patience ends.
    fn wait_for(&mut self, held_by: impl Fn(&Transaction) -> bool) {
        let open = self
            .transactions
            .iter()
            .filter(|(_, t)| t.outcome.is_none() && held_by(t));
        let open: Vec<_> = open.map(|(who, t)| (who.clone(), t.orphan)).collect();
        for (who, orphan) in open {
            if !orphan && self.strikes(&who, "goes on while its successor waits", 500) {
                while !self.is_decided(&who) {
                    self.go_on(&who);
                }
            } else if let Some(mut t) = self.transactions.remove(&who) {
                self.note(|| format!("{who}: the broker ends its transaction"));
                self.undo(&mut t, timed_out());
                self.transactions.insert(who, t);
            }
        }
    }

    /// Waits until no transaction is open on a partition from an offset on.
    pub(super) fn wait_until_closed(&mut self, topic: &str, partition: i32, from: i64) {
        self.wait_for(|t| t.is_open_on(topic, partition, from));
    }

    /// Waits until a group's offset of a partition is the true one.
    pub(super) fn wait_until_stable(&mut self, group: &str, topic: &str, partition: i32) {
        self.wait_for(|t| t.has_sent(group, topic, partition));
    }

    /// Records of transactions that are not over, of a topic.
    pub(super) fn under_way(&self, topic: &str) -> Vec<RawRecord> {
        let open = self.transactions.values().filter(|t| t.outcome.is_none());
        let mut records = Vec::new();
        for t in open {
            let unwritten = t.records.iter().filter(|o| &*o.topic == topic);
            records.extend(unwritten.map(|o| o.record.clone()));
            let written = t.written.iter().filter(|(name, ..)| &**name == topic);
            records.extend(written.filter_map(|(_, p, offset)| self.entry(topic, *p, *offset).cloned()));
        }
        records
    }
}

fn timed_out() -> Fault {
    let detail = "simulated: the broker ended a transaction that nobody finished";
    Fault::new(FaultCode::CommitFailed, detail)
}

impl Cluster {
    /// Whether an instance is to stand still in its next commit, and the draws that say how.
    pub fn freezes(&self, who: &str) -> Option<Rng> {
        let mut inner = self.lock();
        let chance = inner.chances.frozen;
        // No draw where it cannot happen: the other draws of a history stay what they were.
        let struck = (chance > 0).then(|| {
            inner
                .fate
                .strikes(who, "is to stand still within its next commit", chance)
        });
        struck.flatten()
    }

    /// The next commit of an instance stands still after so many of its parts: `told` is called there, and it goes on when the answer
    /// is sent to.
    pub fn freeze(&self, who: &str, after: usize, told: impl FnOnce() + Send + 'static) -> Sender<()> {
        let (sender, wake) = channel();
        let told = Box::new(told);
        let freeze = Freeze { after, told, wake };
        self.lock().freezes.insert(who.to_owned(), freeze);
        sender
    }

    /// An instance does not stand still in its next commit after all. False when it did.
    pub fn spare(&self, who: &str) -> bool {
        self.lock().freezes.remove(who).is_some()
    }
}
