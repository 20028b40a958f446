//! Membership that heals itself. An instance dies between the two rounds of a cooperative rebalance, before it has given up what it was asked
//! for, and comes back under its static name within its session: it is handed its assignment of the first round, and what it was to
//! give up has no owner. Neither broker nor client notices; the watch does. Here the instances are logs of this process: one that is dropped
//! leaves its group as little as one that is killed, since a static member never says that it goes.
//!
//! And what a round of the group does to who goes on reading in it: no transaction may be under way when partitions are given up, and none of
//! those that are read may be passed over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kafka::{Admin, Brokers, KafkaLog, LogConfig, Look, Watch};
use kernel::{Commit, FaultCode, Log, Polled, Position, RawEmit};
use schemas::topics::{Cleanup, Entry};

use super::harness::{Live, live, unique};

pub(super) const PARTITIONS: i32 = 4;
/// How long the hole is looked at before the watch begins.
const ALONE: Duration = Duration::from_secs(4);

/// A topic of this test's own.
pub(super) fn topic(live: &Live) -> String {
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
pub(super) struct Instance {
    pub(super) log: KafkaLog,
    pub(super) owned: Vec<(String, i32)>,
    /// What it was asked for and has not given up.
    asked: Vec<(String, i32)>,
    heard: bool,
}

impl Instance {
    fn open(live: &Live, topic: &str, name: &str) -> Self {
        Self::reading(live, topic, name, false)
    }

    fn reading(live: &Live, topic: &str, name: &str, bulk: bool) -> Self {
        Self::with(live, live.brokers.clone(), topic, name, bulk)
    }

    pub(super) fn with(live: &Live, brokers: Brokers, topic: &str, name: &str, bulk: bool) -> Self {
        let config = LogConfig {
            brokers,
            group: format!("{topic}.stage"),
            instance: name.to_owned(),
            topics: vec![topic.to_owned()],
            copartitioned: true,
            linger_ms: 0,
            bulk,
            pipeline: topic.to_owned(),
            stage: name.to_owned(),
            session_timeout_ms: 6_000,
            transaction_timeout_ms: 15_000,
            leaving: Arc::default(),
        };
        Self {
            log: KafkaLog::open(config, live.registry.clone()).unwrap(),
            owned: Vec::new(),
            asked: Vec::new(),
            heard: false,
        }
    }

    /// Polls once; what it is asked for it gives up, or `holds`.
    pub(super) fn poll(&mut self, holds: bool) {
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

pub(super) fn until(what: &str, mut done: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}: not within a minute");
    }
    began.elapsed()
}

/// Two instances of a stage of this topic; the first is asked for partitions and has not given them up.
fn asked(live: &Live, topic: &str) -> (Instance, Instance) {
    let mut first = Instance::open(live, topic, "a");
    let all = usize::try_from(PARTITIONS).unwrap();
    until("the first instance has everything", || {
        first.poll(false);
        first.owned.len() == all
    });
    let mut second = Instance::open(live, topic, "b");
    until("the first round is over", || {
        first.poll(true);
        second.poll(false);
        second.heard && !first.asked.is_empty()
    });
    (first, second)
}

/// Two instances, and partitions that neither has.
fn hole(live: &Live) -> (Instance, Instance, usize) {
    let topic = topic(live);
    let all = usize::try_from(PARTITIONS).unwrap();
    let (first, mut second) = asked(live, &topic);
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

/// A transaction of one record of this partition, which says that nothing of it is read.
fn record(topic: &str, partition: i32) -> Commit {
    Commit {
        raw: vec![RawEmit {
            topic: topic.into(),
            partition: Some(partition),
            key: "key".into(),
            value: Some(b"value".as_slice().into()),
            headers: kernel::Headers::default(),
        }],
        offsets: vec![Position {
            topic: topic.into(),
            partition,
            offset: 0,
        }],
        ..Commit::default()
    }
}

#[test]
fn other_partitions_go_on_while_some_are_asked_for() {
    let live = live();
    let topic = topic(live);
    let (mut first, mut second) = asked(live, &topic);
    let stays = first.owned.iter().find(|p| !first.asked.contains(p));
    let stays = stays.expect("it keeps something").1;
    first.log.commit(&record(&topic, stays)).unwrap();
    let took = until("what stays is read", || {
        second.poll(false);
        match first.log.poll(100, 20).unwrap() {
            Polled::Records(records) => records.iter().any(|r| r.position.partition == stays),
            Polled::Idle => false,
            other => panic!("{other:?}"),
        }
    });
    assert!(second.owned.is_empty(), "what is asked for is not given up");
    println!("membership read_while_asked_ms={}", took.as_millis());
    // Silent for a whole session meanwhile, it cannot know whether the group has gone on without it.
    std::thread::sleep(Duration::from_millis(6_100));
    let refused = first.log.release(&first.asked).unwrap_err();
    assert_eq!(refused.code, FaultCode::Fenced, "{refused}");
    assert_eq!(first.log.poll(100, 20).unwrap_err().code, FaultCode::Fenced);
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
    instance.log.commit_later(record(&topic, 0)).unwrap();
    let refused = instance.log.release(&parts).unwrap_err();
    assert_eq!(refused.code, FaultCode::Internal, "{refused}");
    assert!(instance.log.answer(true).unwrap());
    instance.log.release(&parts).unwrap();
}

/// Sets it when the test ends, however it ends: a writer that goes on would keep it from ending.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Numbered records to every partition of a topic, a transaction each, until told to stop.
fn write(live: &Live, into: &str, stop: &AtomicBool) {
    let from = topic(live);
    let mut instance = Instance::open(live, &from, "writer");
    until("it has partitions", || {
        instance.poll(false);
        !instance.owned.is_empty()
    });
    for number in 0_u64.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let record = |partition| RawEmit {
            topic: into.into(),
            partition: Some(partition),
            key: "key".into(),
            value: Some([number.to_be_bytes().as_slice(), &[0; 20_000]].concat().into()),
            headers: kernel::Headers::default(),
        };
        let commit = Commit {
            raw: (0..PARTITIONS).map(record).collect(),
            offsets: vec![Position {
                topic: from.as_str().into(),
                partition: 0,
                offset: 0,
            }],
            ..Commit::default()
        };
        instance.log.commit(&commit).unwrap();
    }
}

/// A slow reader of slabs, which stands where its numbers say.
fn read_slowly(reader: &mut Instance, next: &mut BTreeMap<i32, u64>) {
    match reader.log.poll_slabs(1_000, 20).unwrap() {
        Polled::Assigned(parts) => {
            reader.log.start(&parts).unwrap();
            reader.owned.extend(parts);
        }
        Polled::Revoked(parts) => {
            reader.log.release(&parts).unwrap();
            reader.owned.retain(|o| !parts.contains(o));
        }
        Polled::Lost(parts) => panic!("partitions lost: {parts:?}"),
        Polled::Records(slabs) => {
            for slab in slabs {
                let next = next.entry(slab.partition).or_default();
                for i in 0..slab.len() {
                    let number = slab.value(i).first_chunk().map(|n| u64::from_be_bytes(*n));
                    assert_eq!(
                        number,
                        Some(*next),
                        "partition {} at {:?}",
                        slab.partition,
                        slab.offsets.get(i)
                    );
                    *next += 1;
                }
            }
        }
        Polled::Idle => {}
    }
    // Transactions are made meanwhile, and rounds of the group begun.
    std::thread::sleep(Duration::from_millis(200));
}

#[test]
fn no_transaction_is_passed_over_when_another_joins() {
    let live = live();
    for _ in 0..3 {
        let (topic, stop) = (topic(live), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| write(live, &topic, &stop));
            let _stop = Stop(&stop);
            let mut reader = Instance::reading(live, &topic, "a", true);
            let mut next = BTreeMap::new();
            until("everything is read", || {
                read_slowly(&mut reader, &mut next);
                (0..PARTITIONS).all(|p| next.get(&p).is_some_and(|n| *n > 20))
            });
            let mut other = Instance::open(live, &topic, "b");
            until("the other has joined", || {
                read_slowly(&mut reader, &mut next);
                other.poll(false);
                !other.owned.is_empty() && !reader.owned.is_empty()
            });
            let kept = reader.owned[0].1;
            let then = next[&kept];
            until("it goes on", || {
                read_slowly(&mut reader, &mut next);
                other.poll(false);
                next[&kept] > then + 100
            });
        });
    }
}

#[test]
fn no_transaction_is_passed_over_by_a_pause() {
    let live = live();
    let (topic, stop) = (topic(live), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| write(live, &topic, &stop));
        let _stop = Stop(&stop);
        let mut reader = Instance::reading(live, &topic, "a", true);
        let mut next = BTreeMap::new();
        let mut far = 0;
        // What was fetched before a pause is dropped: twice, since a mark met meanwhile only tells with the next.
        until("it goes on after every pause", || {
            read_slowly(&mut reader, &mut next);
            for paused in [true, false, true, false] {
                reader.log.pause(paused).unwrap();
                read_slowly(&mut reader, &mut next);
            }
            let least = next.values().min().copied().unwrap_or_default();
            far += u64::from(least > 0);
            least > 100 && far > 8
        });
    });
}

#[test]
fn a_close_waits_for_no_answer_that_nobody_gives() {
    let live = live();
    let topic = topic(live);
    let mut first = Instance::open(live, &topic, "a");
    until("the first instance has everything", || {
        first.poll(false);
        first.owned.len() == usize::try_from(PARTITIONS).unwrap()
    });
    // Its first round gives it nothing, and it is closed before it hears of that.
    let second = Instance::open(live, &topic, "b");
    until("the first round is over", || {
        first.poll(true);
        !first.asked.is_empty()
    });
    std::thread::sleep(Duration::from_secs(1));
    let (done, closed) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop(second);
        done.send(())
    });
    assert!(
        closed.recv_timeout(Duration::from_secs(20)).is_ok(),
        "the close waits for ever"
    );
}
