//! Everything one turn of the loop would make true: gathered first, committed once.

use std::collections::BTreeMap;

use kernel::{Commit, Effects, Fault, Perform, Position, RawEmit, RawRecord, State};

use crate::store::{Loaded, Overlay, Store};
use crate::trace::Trace;

/// An outside action to be started after the commit.
pub(crate) struct Start {
    pub(crate) partition: i32,
    pub(crate) key: String,
    pub(crate) perform: Perform,
    pub(crate) trace: String,
}

/// One turn's effects.
#[derive(Default)]
pub(crate) struct Batch {
    commit: Commit,
    offsets: BTreeMap<(String, i32), i64>,
    pub(crate) overlay: Overlay,
    pub(crate) starts: Vec<Start>,
    pub(crate) counts: BTreeMap<(String, &'static str), u64>,
}

impl Batch {
    /// Takes a step's effects and the key's new state in.
    pub(crate) fn take<S: State>(
        &mut self,
        partition: i32,
        key: &str,
        mut loaded: Loaded<S>,
        fx: Effects<'_>,
        trace: &Trace,
    ) -> Result<(), Fault> {
        for name in &fx.timers_dropped {
            loaded.timers.retain(|t| t.name != *name);
        }
        for timer in fx.timers {
            loaded.timers.retain(|t| t.name != timer.name);
            loaded.timers.push(timer);
        }
        loaded.performing += u32::try_from(fx.performs.len()).unwrap_or(u32::MAX);
        let header = trace.header();
        for emit in fx.emits {
            self.commit.emits.push(emit);
            self.commit.traces.push(Some(header.clone()));
        }
        for perform in fx.performs {
            self.starts.push(Start {
                partition,
                key: key.to_owned(),
                perform,
                trace: header.clone(),
            });
        }
        if std::mem::size_of::<S>() > 0 {
            self.overlay.save(partition, key, loaded)?;
        }
        Ok(())
    }

    /// A record has been dealt with.
    pub(crate) fn consumed(&mut self, record: &RawRecord, outcome: &'static str) {
        let at = &record.position;
        self.offsets.insert((at.topic.clone(), at.partition), at.offset + 1);
        *self.counts.entry((at.topic.clone(), outcome)).or_default() += 1;
    }

    /// A record goes to its dead-letter topic.
    pub(crate) fn dead(&mut self, letter: RawEmit) {
        self.commit.raw.push(letter);
    }

    /// Adds a record that no step emitted.
    pub(crate) fn emit(&mut self, emit: kernel::Emit) {
        self.commit.emits.push(emit);
        self.commit.traces.push(None);
    }

    /// Adds a raw record.
    pub(crate) fn raw(&mut self, raw: RawEmit) {
        self.commit.raw.push(raw);
    }

    /// The transaction.
    pub(crate) fn seal(&mut self, store: &Store, state_topic: &str) -> Commit {
        let mut commit = std::mem::take(&mut self.commit);
        if !state_topic.is_empty() {
            commit.raw.extend(self.overlay.changelog(store, state_topic));
        }
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
