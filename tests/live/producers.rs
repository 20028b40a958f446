//! The two producers of transactions, our own and librdkafka's: they fence each other under one transactional id, so that a stage may be
//! moved from one to the other while it runs; and what ours writes is whole, in order, and where it says.

use kafka::Brokers;
use kernel::{Commit, FaultCode, Headers, Log, Position, RawEmit};

use super::harness::{Live, live};
use super::membership::{Instance, PARTITIONS, topic, until};

fn instance(live: &Live, topic: &str, direct: bool) -> Instance {
    let brokers = Brokers {
        direct,
        ..live.brokers.clone()
    };
    let mut instance = Instance::with(live, brokers, topic, "a", false);
    until("it has its partitions", || {
        instance.poll(false);
        instance.owned.len() == usize::try_from(PARTITIONS).unwrap()
    });
    instance
}

/// A transaction of these values, to the partitions in turn.
fn values(topic: &str, values: &[Vec<u8>]) -> Commit {
    let record = |(i, value): (i32, &Vec<u8>)| RawEmit {
        topic: topic.into(),
        partition: Some(i % PARTITIONS),
        key: i.to_string(),
        value: Some(value.as_slice().into()),
        headers: Headers::default(),
    };
    Commit {
        raw: (0..).zip(values).map(record).collect(),
        offsets: vec![Position {
            topic: topic.into(),
            partition: 0,
            offset: 0,
        }],
        ..Commit::default()
    }
}

#[test]
fn either_producer_fences_the_other() {
    let live = live();
    let topic = topic(live);
    let mut before: Option<Instance> = None;
    for (number, direct) in [(1, true), (2, false), (3, true)] {
        let mut now = instance(live, &topic, direct);
        if let Some(mut before) = before.take() {
            let fault = before.log.commit(&values(&topic, &[b"lost".to_vec()])).unwrap_err();
            assert!(
                [FaultCode::TransactionAborted, FaultCode::CommitFailed].contains(&fault.code),
                "{fault}"
            );
            // To find out what became of its transaction it took the id back; it cannot know that its name has another holder.
            drop(before);
            now = instance(live, &topic, direct);
        }
        now.log.commit(&values(&topic, &[vec![number]])).unwrap();
        before = Some(now);
    }
    let read: Vec<_> = live.read_raw(&topic).into_iter().filter_map(|r| r.value).collect();
    assert_eq!(read, [[1], [2], [3]]);
}

#[test]
fn a_transaction_of_several_batches_is_whole_in_order_and_where_it_says() {
    let live = live();
    let topic = topic(live);
    let mut a = instance(live, &topic, true);
    // Some two and a half megabytes a partition: three batches, none of which can be packed.
    let mut noise = 1_u64;
    let mut random = || {
        noise = noise
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        noise.to_be_bytes()
    };
    let all: Vec<Vec<u8>> = (0..100).map(|_| (0..12_500).flat_map(|_| random()).collect()).collect();
    let places = a.log.commit(&values(&topic, &all)).unwrap();
    let read = live.read_raw(&topic);
    assert_eq!(read.len(), all.len());
    for partition in 0..PARTITIONS {
        let here: Vec<_> = read.iter().filter(|r| r.position.partition == partition).collect();
        let keys: Vec<i32> = here.iter().map(|r| r.key.parse().unwrap()).collect();
        let wanted: Vec<i32> = (0..100).filter(|i| i % PARTITIONS == partition).collect();
        assert_eq!(keys, wanted, "partition {partition}");
        for record in &here {
            let nth: usize = record.key.parse().unwrap();
            assert!(record.value.as_deref() == Some(all[nth].as_slice()), "record {nth}");
        }
        let last = here.last().unwrap().position.offset;
        assert_eq!(places.get(&(topic.as_str().into(), partition)), Some(&(last + 1)));
    }
    // What a topic does not take is said to be that, and the next transaction is made as if nothing had been.
    let large = vec![(0..200_000).flat_map(|_| random()).collect()];
    let fault = a.log.commit(&values(&topic, &large)).unwrap_err();
    assert!(fault.code == FaultCode::RecordTooLarge, "{fault}");
    a.log.commit(&values(&topic, &[b"after".to_vec()])).unwrap();
    assert_eq!(live.read_raw(&topic).len(), all.len() + 1);
}
