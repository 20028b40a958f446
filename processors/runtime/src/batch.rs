//! Everything one turn of the loop would make true: gathered first, committed once.

use std::collections::BTreeMap;
use std::sync::Arc;

use kernel::{Commit, Emit, Position, RawEmit, RawRecord};

/// What made a step write a record: enough to hand the record on within the same transaction.
pub(crate) struct Cause {
    pub(crate) partition: i32,
    pub(crate) key: String,
    /// Stage and cause, the same on every delivery.
    pub(crate) seed: String,
}

/// One turn's effects.
#[derive(Default)]
pub struct Batch {
    commit: Commit,
    /// By index into the commit's emits.
    causes: Vec<Option<(Arc<Cause>, usize)>>,
    offsets: BTreeMap<(Arc<str>, i32), i64>,
    pub(crate) counts: BTreeMap<(Arc<str>, &'static str), u64>,
}

impl Batch {
    /// Takes what one step of `stage` emits in.
    pub(crate) fn take(&mut self, stage: &Arc<str>, emits: Vec<Emit>, traceparent: &Arc<str>, cause: Cause) {
        let cause = Arc::new(cause);
        for (nth, mut emit) in emits.into_iter().enumerate() {
            emit.stage = stage.clone();
            self.commit.emits.push(emit);
            self.commit.traces.push(Some(traceparent.clone()));
            self.causes.push(Some((cause.clone(), nth)));
        }
    }

    /// A record has been dealt with.
    pub(crate) fn consumed(&mut self, record: &RawRecord, outcome: &'static str) {
        let at = &record.position;
        self.offset((at.topic.clone(), at.partition), at.offset + 1);
        *self.counts.entry((at.topic.clone(), outcome)).or_default() += 1;
    }

    /// Next offset to read; never goes back.
    pub(crate) fn offset(&mut self, at: (Arc<str>, i32), next: i64) {
        let known = self.offsets.entry(at).or_insert(next);
        *known = next.max(*known);
    }

    /// A record goes to its dead-letter topic.
    pub(crate) fn dead(&mut self, letter: RawEmit) {
        self.commit.raw.push(letter);
    }

    /// Adds a record that no step emitted.
    pub(crate) fn emit(&mut self, emit: Emit) {
        self.commit.emits.push(emit);
        self.commit.traces.push(None);
        self.causes.push(None);
    }

    /// Adds a raw record.
    pub(crate) fn raw(&mut self, raw: RawEmit) {
        self.commit.raw.push(raw);
    }

    /// Adds raw records.
    pub(crate) fn raws(&mut self, raw: Vec<RawEmit>) {
        self.commit.raw.extend(raw);
    }

    /// The `nth` record written so far, with its trace and cause.
    pub(crate) fn written(&self, nth: usize) -> Option<(&Emit, Option<&str>, Option<&(Arc<Cause>, usize)>)> {
        let emit = self.commit.emits.get(nth)?;
        let trace = self.commit.traces.get(nth).and_then(Option::as_deref);
        Some((emit, trace, self.causes.get(nth).and_then(Option::as_ref)))
    }

    /// Notes on the `nth` record that `stage` has taken it in this very transaction, into the state of this partition: there the
    /// record belongs, however many partitions the topic has by now.
    pub(crate) fn taken_by(&mut self, nth: usize, stage: &Arc<str>, partition: i32) {
        if let Some(emit) = self.commit.emits.get_mut(nth) {
            emit.partition = Some(partition);
            emit.taken_by.push(stage.clone());
        }
    }

    /// Whether anything but offsets would become true.
    pub(crate) fn writes(&self) -> bool {
        !self.commit.emits.is_empty() || !self.commit.raw.is_empty()
    }

    /// The transaction.
    pub(crate) fn seal(&mut self) -> Commit {
        let mut commit = std::mem::take(&mut self.commit);
        let positions = std::mem::take(&mut self.offsets).into_iter();
        commit.offsets = positions
            .map(|((topic, partition), offset)| Position {
                topic,
                partition,
                offset,
            })
            .collect();
        commit
    }
}
