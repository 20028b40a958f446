//! Outside actions of one member: under way, or waiting for their turn at whoever performs them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use kernel::{Approach, Performer};
use schemas::records::Outcome;

use crate::stage::StageContext;

/// An outside action that has been answered, or, without an outcome, was taken back before it began.
pub(crate) struct Done {
    pub(crate) partition: i32,
    pub(crate) key: String,
    pub(crate) call_id: String,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) trace: Arc<str>,
}

/// An outside action to be started after the commit.
pub(crate) struct Start {
    pub(crate) partition: i32,
    pub(crate) key: String,
    pub(crate) perform: kernel::Perform,
    pub(crate) trace: Arc<str>,
}

struct Flight {
    task: tokio::task::AbortHandle,
    approach: Approach,
    trace: Arc<str>,
}

/// By partition, key and call id.
pub(crate) struct Flying {
    all: HashMap<(i32, String, String), Flight>,
    answers: (Sender<Done>, Receiver<Done>),
}

impl Default for Flying {
    fn default() -> Self {
        Self {
            all: HashMap::new(),
            answers: channel(),
        }
    }
}

impl Flying {
    /// On these partitions, or on all.
    pub(crate) fn count(&self, partitions: Option<&BTreeSet<i32>>) -> usize {
        let counts = |p: &i32| partitions.is_none_or(|wanted| wanted.contains(p));
        self.all.keys().filter(|(p, ..)| counts(p)).count()
    }

    pub(crate) fn start(&mut self, cx: &StageContext, performer: &Arc<dyn Performer>, start: Start) {
        let call_id = start.perform.call.call_id.clone();
        let at = (start.partition, start.key.clone(), call_id.clone());
        // State was read back, and the processor asks for everything open in it: this one has been under way since before.
        if self.all.contains_key(&at) {
            return;
        }
        let (approach, trace) = (start.perform.approach, start.trace.clone());
        let work = performer.perform(start.perform.call, approach);
        let answers = self.answers.0.clone();
        let waker = cx.waker.clone();
        let task = cx.handle.spawn(async move {
            let outcome = Some(work.await);
            let done = Done {
                partition: start.partition,
                key: start.key,
                call_id,
                outcome,
                trace: start.trace,
            };
            if answers.send(done).is_err() {
                tracing::debug!("the stage is gone; its intent stands and will be looked into");
            }
            waker.wake();
        });
        let task = task.abort_handle();
        self.all.insert(at, Flight { task, approach, trace });
    }

    /// What has been answered since the last time.
    pub(crate) fn answers(&self) -> impl Iterator<Item = Done> {
        self.answers.1.try_iter()
    }

    /// What came of it is true.
    pub(crate) fn over(&mut self, done: &Done) {
        self.all
            .remove(&(done.partition, done.key.clone(), done.call_id.clone()));
    }

    /// Takes back what has not begun, on these partitions or on all: nothing came of it, and nothing will. Of what was sent for the first time
    /// that is to be remembered; the rest stays what it was, a call that has to be looked into.
    pub(crate) fn withdraw(&mut self, performer: &dyn Performer, partitions: Option<&BTreeSet<i32>>) -> Vec<Done> {
        let mut out = Vec::new();
        self.all.retain(|(partition, key, call_id), flight| {
            let wanted = partitions.is_none_or(|wanted| wanted.contains(partition));
            if !wanted || !performer.withdraw(call_id) {
                return true;
            }
            flight.task.abort();
            let fresh = flight.approach == Approach::Fresh;
            if fresh {
                out.push(Done {
                    partition: *partition,
                    key: key.clone(),
                    call_id: call_id.clone(),
                    outcome: None,
                    trace: flight.trace.clone(),
                });
            }
            // Until that is true it counts as in flight.
            fresh
        });
        out
    }

    /// Lets go what is in flight on a partition.
    pub(crate) fn release(&mut self, partition: i32) {
        self.all.retain(|(p, ..), flight| {
            if *p == partition {
                flight.task.abort();
            }
            *p != partition
        });
    }
}
