//! What is done to the instances and the servers, one after the other, until the time is up.

use std::time::{Duration, Instant};

use schemas::Timestamp;

use super::instances::Instances;
use crate::live::harness::{Live, now};

/// What shows that a fault is over.
#[derive(Clone, Debug)]
pub(super) enum Scope {
    /// Every partition sees a commit again.
    Partitions,
    /// This stage commits again.
    Stage(&'static str),
}

impl Scope {
    pub(super) fn describe(&self) -> String {
        match self {
            Scope::Partitions => "first new commit on every partition".to_owned(),
            Scope::Stage(name) => format!("first new commit of {name}"),
        }
    }
}

pub(super) struct Fault {
    pub(super) what: String,
    pub(super) at: Timestamp,
    /// From here on recovery is counted: when it struck, or when the server that was down answers again.
    pub(super) from: Timestamp,
    pub(super) scope: Scope,
    /// The instance that was killed and started again at once.
    pub(super) killed: Option<&'static str>,
}

/// A server that goes down for some seconds, and what of the pipeline waits for it.
const SERVERS: [(&str, u64, Scope); 6] = [
    ("kafka", 5, Scope::Partitions),
    ("schema-registry", 10, Scope::Partitions),
    ("clickhouse", 10, Scope::Stage("clickhouse_sink")),
    ("qdrant", 10, Scope::Stage("qdrant_sink")),
    ("redis", 10, Scope::Stage("redis_sink")),
    ("pushgateway", 10, Scope::Stage("pushgateway_sink")),
];

fn pass(seconds: u64) {
    std::thread::sleep(Duration::from_secs(seconds));
}

struct Chaos<'a> {
    live: &'static Live,
    instances: &'a mut Instances,
    until: Instant,
    done: Vec<Fault>,
}

impl Chaos<'_> {
    /// Whether there is time for one more that takes so long.
    fn has(&self, seconds: u64) -> bool {
        Instant::now() + Duration::from_secs(seconds) < self.until
    }

    fn note(&mut self, what: String, at: Timestamp, from: Timestamp, scope: Scope) {
        println!("chaos: {what}");
        self.instances.raise_the_dead();
        self.done.push(Fault {
            what,
            at,
            from,
            scope,
            killed: None,
        });
    }

    /// kill -9, and started again at once, as a supervisor does.
    fn kill(&mut self, name: &'static str, rest_s: u64) {
        let at = now();
        self.instances.signal(name, "KILL");
        self.instances.start_one(name);
        self.note(
            format!("kill -9 of instance {name}, started again"),
            at,
            at,
            Scope::Partitions,
        );
        if let Some(fault) = self.done.last_mut() {
            fault.killed = Some(name);
        }
        pass(rest_s);
    }

    /// Longer than its session: it wakes as a zombie.
    fn freeze(&mut self, name: &'static str) {
        let at = now();
        self.instances.signal(name, "STOP");
        pass(10);
        self.instances.signal(name, "CONT");
        self.note(
            format!("SIGSTOP of instance {name} for 10 s"),
            at,
            at,
            Scope::Partitions,
        );
        pass(20);
    }

    fn outage(&mut self, server: &'static str, seconds: u64, scope: Scope) {
        let at = now();
        self.live.stack(&["kill", "-s", "KILL", server]);
        pass(seconds);
        self.live.stack(&["start", server]);
        self.note(format!("kill -9 of {server}, down for {seconds} s"), at, now(), scope);
        pass(20);
    }

    fn scale(&mut self) {
        let at = now();
        self.instances.signal("b", "TERM");
        self.instances.signal("c", "TERM");
        self.note("scaled from three to one".to_owned(), at, at, Scope::Partitions);
        pass(20);
        let at = now();
        self.instances.start_one("b");
        self.instances.start_one("c");
        self.note("scaled from one to three".to_owned(), at, at, Scope::Partitions);
        pass(20);
    }

    fn gone(&mut self, name: &'static str) {
        let at = now();
        self.instances.signal(name, "KILL");
        self.note(
            format!("death of {name}, not started again for 15 s"),
            at,
            at,
            Scope::Partitions,
        );
        pass(15);
        self.instances.start_one(name);
        pass(15);
    }
}

pub(super) fn until(live: &'static Live, instances: &mut Instances, until: Instant) -> Vec<Fault> {
    let names = instances.names();
    let mut chaos = Chaos {
        live,
        instances,
        until,
        done: Vec::new(),
    };
    // FAULTS=kill: nothing but kills, for the time a restart takes.
    let kills_only = std::env::var("FAULTS").is_ok_and(|f| f == "kill");
    for turn in 0.. {
        let of = |n: usize| names[(turn + n) % names.len()];
        if kills_only {
            if !chaos.has(15) {
                break;
            }
            chaos.kill(of(0), 10);
            // Not at the same place of the load's second each time.
            std::thread::sleep(Duration::from_millis(137));
            continue;
        }
        if !chaos.has(25) {
            break;
        }
        chaos.kill(of(0), 20);
        if chaos.has(35) {
            chaos.freeze(of(1));
        }
        for (server, seconds, scope) in SERVERS {
            if chaos.has(seconds + 30) {
                chaos.outage(server, seconds, scope);
            }
        }
        if chaos.has(25) {
            chaos.kill(of(2), 20);
        }
        if chaos.has(45) {
            chaos.scale();
        }
        if chaos.has(35) {
            chaos.gone(of(1));
        }
    }
    chaos.done
}
