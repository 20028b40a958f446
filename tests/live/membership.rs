//! Membership that heals itself. An instance dies between the two rounds of a cooperative rebalance, before it has given up what it was asked
//! for, and comes back under its static name within its session: it is handed its assignment of the first round, and what it was to
//! give up has no owner. Neither broker nor client notices; the watch does. Here the instances are logs of this process: one that is dropped
//! leaves its group as little as one that is killed, since a static member never says that it goes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka::{Admin, KafkaLog, LogConfig, Look, Watch};
use kernel::{Commit, FaultCode, Log, Polled, Position, RawEmit};
use schemas::topics::{Cleanup, Entry};

use super::harness::{Live, live, unique};

const PARTITIONS: i32 = 4;
/// How long the hole is looked at before the watch begins.
const ALONE: Duration = Duration::from_secs(4);

/// A topic of this test's own.
fn topic(live: &Live) -> String {
    let name = unique("membership");
    let entry = Entry {
        name: name.clone(),
        record: String::new(),
        key: String::new(),
        partitions: PARTITIONS,
        replication: 1,
        retention_hours: 1,
        cleanup: Cleanup::Delete,
        bytes_max: 1 << 20,
        owner: "live-test".into(),
    };
    let admin = Admin::open(&live.brokers).unwrap();
    let there = admin.partitions().unwrap();
    live.handle().block_on(admin.apply(&entry, &there)).unwrap();
    name
}

/// An instance of a stage that does nothing with its partitions.
struct Instance {
    log: KafkaLog,
    owned: Vec<(String, i32)>,
    /// What it was asked for and has not given up.
    asked: Vec<(String, i32)>,
    heard: bool,
}

impl Instance {
    fn open(live: &Live, topic: &str, name: &str) -> Self {
        let config = LogConfig {
            brokers: live.brokers.clone(),
            group: format!("{topic}.stage"),
            instance: name.to_owned(),
            topics: vec![topic.to_owned()],
            copartitioned: true,
            linger_ms: 0,
            bulk: false,
            pipeline: topic.to_owned(),
            stage: name.to_owned(),
            session_timeout_ms: 6_000,
            transaction_timeout_ms: 15_000,
        };
        Self {
            log: KafkaLog::open(config, live.registry.clone()).unwrap(),
            owned: Vec::new(),
            asked: Vec::new(),
            heard: false,
        }
    }

    /// Polls once; what it is asked for it gives up, or `holds`.
    fn poll(&mut self, holds: bool) {
        match self.log.poll(100, 20).unwrap() {
            Polled::Assigned(parts) => {
                self.heard = true;
                self.log.start(&parts).unwrap();
                self.owned.extend(parts);
            }
            Polled::Revoked(parts) if holds => self.asked = parts,
            Polled::Revoked(parts) => {
                self.log.release(&parts).unwrap();
                self.owned.retain(|o| !parts.contains(o));
            }
            Polled::Lost(parts) => panic!("partitions lost: {parts:?}"),
            Polled::Records(_) | Polled::Idle => {}
        }
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}: not within a minute");
    }
    began.elapsed()
}

/// Two instances, and partitions that neither has.
fn hole(live: &Live) -> (Instance, Instance, usize) {
    let topic = topic(live);
    let mut first = Instance::open(live, &topic, "a");
    let all = usize::try_from(PARTITIONS).unwrap();
    until("the first instance has everything", || {
        first.poll(false);
        first.owned.len() == all
    });
    let mut second = Instance::open(live, &topic, "b");
    until("the first round is over", || {
        first.poll(true);
        second.poll(false);
        second.heard && !first.asked.is_empty()
    });
    drop(first);
    let mut first = Instance::open(live, &topic, "a");
    until("it has its assignment of the first round", || {
        first.poll(false);
        second.poll(false);
        first.heard
    });
    let began = Instant::now();
    while began.elapsed() < ALONE {
        first.poll(false);
        second.poll(false);
    }
    let owned = first.owned.len() + second.owned.len();
    (first, second, all - owned)
}

/// How long the watch of one member takes to have the hole mended, and what it saw.
fn mended(live: &Live, by_the_leader: bool) -> (Duration, Vec<Look>) {
    let (mut first, mut second, unowned) = hole(live);
    assert!(unowned > 0, "there is no hole: it proves nothing");
    let watch = Arc::new(Watch::new(&live.brokers));
    // Who was there first leads the group, also after its restart.
    watch.add(if by_the_leader { &first } else { &second }.log.member());
    let (mut looks, mut looked) = (Vec::new(), Instant::now());
    let took = until("every partition has an owner", || {
        first.poll(false);
        second.poll(false);
        if looked.elapsed() > Duration::from_secs(1) {
            looks.extend(watch.turn().unwrap());
            looked = Instant::now();
        }
        first.owned.len() + second.owned.len() == usize::try_from(PARTITIONS).unwrap()
    });
    assert_eq!(looks[0].unowned.len(), unowned, "{looks:?}");
    assert_eq!(looks.iter().filter(|l| l.asked).count(), 1, "{looks:?}");
    (took, looks)
}

#[test]
fn a_partition_without_an_owner_is_given_one() {
    let live = live();
    for by_the_leader in [true, false] {
        let (took, looks) = mended(live, by_the_leader);
        let s = took.as_secs_f64();
        println!(
            "membership by_the_leader={by_the_leader} looks={} mended_s={s:.1}",
            looks.len()
        );
    }
}

#[test]
fn partitions_are_not_given_up_while_a_transaction_is_under_way() {
    let live = live();
    let topic = topic(live);
    let mut instance = Instance::open(live, &topic, "a");
    until("it has partitions", || {
        instance.poll(false);
        !instance.owned.is_empty()
    });
    let parts = instance.owned.clone();
    let commit = Commit {
        raw: vec![RawEmit {
            topic: topic.as_str().into(),
            partition: Some(0),
            key: "key".into(),
            value: Some(b"value".as_slice().into()),
            headers: kernel::Headers::default(),
        }],
        offsets: vec![Position {
            topic: topic.as_str().into(),
            partition: 0,
            offset: 0,
        }],
        ..Commit::default()
    };
    instance.log.commit_later(commit).unwrap();
    let refused = instance.log.release(&parts).unwrap_err();
    assert_eq!(refused.code, FaultCode::Internal, "{refused}");
    assert!(instance.log.answer(true).unwrap());
    instance.log.release(&parts).unwrap();
}
