//! An instance that stands still in the middle of a commit while the others go on: SIGSTOP, a long pause, a machine that is suspended.
//! It goes round on a thread of its own, which waits where it stands: still only one thing happens at a time.

use std::sync::mpsc::{Receiver, Sender, channel};

use kernel::Fault;
use runtime::sim::Cluster;

use super::node::Alive;

/// Where a commit stands still, and for how long.
#[derive(Clone, Copy)]
pub(super) struct Frost {
    /// Parts of the commit done before.
    pub(super) after: usize,
    pub(super) rounds: usize,
    /// It is longer than the session: the group goes on without the instance.
    pub(super) thrown_out: bool,
}

/// What its thread has to say.
enum Told {
    Standing,
    Round(Box<Alive>, Result<bool, Fault>),
}

/// An instance that stands still.
pub(super) struct Frozen {
    told: Receiver<Told>,
    wake: Sender<()>,
    /// Calls it had under way.
    pub(super) in_flight: usize,
    /// When it wakes.
    pub(super) until: usize,
}

/// How a round ended whose next commit was to stand still.
pub(super) enum Round {
    Stands(Frozen),
    /// Without a commit.
    Ended(Box<Alive>, Result<bool, Fault>),
}

/// Lets an instance go round until it stands still in a commit, if it makes one.
pub(super) fn go_round(cluster: &Cluster, who: &str, mut alive: Alive, after: usize) -> Round {
    let (tell, told) = channel();
    let stands = tell.clone();
    let wake = cluster.freeze(who, after, move || stands.send(Told::Standing).unwrap());
    let in_flight = alive.in_flight();
    std::thread::spawn(move || {
        let went = alive.go_round();
        // Nobody listens any more only where the history has failed.
        tell.send(Told::Round(Box::new(alive), went)).ok();
    });
    let until = 0;
    match told.recv().unwrap() {
        Told::Standing => Round::Stands(Frozen {
            told,
            wake,
            in_flight,
            until,
        }),
        Told::Round(alive, went) => {
            cluster.spare(who);
            Round::Ended(alive, went)
        }
    }
}

impl Frozen {
    /// It wakes, and goes on as if nothing had been.
    pub(super) fn wake(self) -> (Alive, Result<bool, Fault>) {
        self.wake.send(()).unwrap();
        match self.told.recv().unwrap() {
            Told::Round(alive, went) => (*alive, went),
            Told::Standing => panic!("it stands still a second time"),
        }
    }
}
