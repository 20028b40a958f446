//! A transaction of more records than the client's queue holds, as a streaming stage makes when windows of many keys end: it comes to its end as
//! fast as the broker takes it.

use std::time::Instant;

use kafka::{Admin, Rewriter};
use kernel::{Headers, RawEmit};
use schemas::topics::{Cleanup, Entry};

use super::harness::{live, unique};

/// librdkafka's queue holds 100,000.
const RECORDS: usize = 400_000;
/// A thousand a second is what it came down to when each record waited for room of its own.
const WANTED_PER_S: f64 = 20_000.0;

#[test]
fn a_transaction_larger_than_the_queue_is_as_fast_as_a_small_one() {
    let live = live();
    let topic = unique("transactions");
    let entry = Entry {
        name: topic.clone(),
        record: String::new(),
        key: String::new(),
        partitions: 4,
        replication: 1,
        retention_hours: 1,
        cleanup: Cleanup::Delete,
        bytes_max: 1 << 20,
        owner: "live-test".into(),
    };
    let admin = Admin::open(&live.brokers).unwrap();
    let there = admin.partitions().unwrap();
    live.handle().block_on(admin.apply(&entry, &there)).unwrap();
    let row = |i: usize| RawEmit {
        topic: topic.as_str().into(),
        partition: None,
        key: i.to_string(),
        value: Some(i.to_le_bytes().as_slice().into()),
        headers: Headers::default(),
    };
    let rows: Vec<_> = (0..RECORDS).map(row).collect();
    let writer = Rewriter::open(&live.brokers, &unique("transactions")).unwrap();
    let began = Instant::now();
    writer.commit(&rows).unwrap();
    let per_s = rows.len() as f64 / began.elapsed().as_secs_f64();
    println!("transactions records={RECORDS} records_per_s={per_s:.0}");
    assert_eq!(live.read_raw(&topic).len(), RECORDS);
    assert!(per_s >= WANTED_PER_S, "{per_s:.0} records a second");
}
