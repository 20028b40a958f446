//! The writing half of a stage's transactions: its producers, and what they are handed.

use kernel::{Commit, Fault};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::producer::Producer;
use schemas::Timestamp;

use crate::Registry;
use crate::faults::unavailable;
use crate::headers::{CloudEvent, add, header};
use crate::log::{LogConfig, REQUEST};
use crate::send::{Deliveries, KafkaOrFault, Sender, as_it_is, clock_micros, record, send};

/// A producer for every second transaction of a stage instance; its start settles what its predecessor left open.
pub(crate) fn new_producer(config: &LogConfig, turn: usize) -> Result<Sender, Fault> {
    let twin = if turn == 0 { "" } else { "~2" };
    let id = format!("{}.{}{twin}", config.group, config.instance);
    let mut client = config.brokers.client();
    client
        .set("transactional.id", &id)
        .set("client.id", &id)
        .set("transaction.timeout.ms", config.transaction_timeout_ms.to_string())
        .set("compression.type", "lz4")
        .set("linger.ms", "0")
        // What `schemas::digest::partition` computes.
        .set("partitioner", "consistent_random")
        .set("message.max.bytes", "10485760")
        .set("queue.buffering.max.kbytes", "65536");
    let producer =
        Sender::from_config_and_context(&client, Deliveries::default()).map_err(|e| unavailable("producer", &e))?;
    producer
        .init_transactions(REQUEST)
        .map_err(|e| unavailable(&format!("init transactions of {id}"), &e))?;
    Ok(producer)
}

/// The name made for `of`: few there are, and each is made once.
fn named<'a, K: PartialEq + Copy>(known: &'a mut Vec<(K, String)>, of: &K, make: impl FnOnce() -> String) -> &'a str {
    let at = known.iter().position(|(k, _)| k == of).unwrap_or_else(|| {
        known.push((*of, make()));
        known.len() - 1
    });
    known.get(at).map_or("", |(_, name)| name)
}

/// Hands everything a transaction holds to its producer.
pub(crate) fn write(
    producer: &Sender,
    registry: &Registry,
    config: &LogConfig,
    commit: &Commit,
) -> Result<(), KafkaOrFault> {
    let now = Timestamp(clock_micros()).to_string();
    let (mut sources, mut kinds, mut framed) = (Vec::new(), Vec::new(), Vec::new());
    for (i, emit) in commit.emits.iter().enumerate() {
        registry.frame(emit.topic, emit.schema_text, &emit.avro, &mut framed)?;
        let stage = if emit.stage.is_empty() {
            config.stage.as_str()
        } else {
            &*emit.stage
        };
        let event = CloudEvent {
            source: named(&mut sources, &stage, || format!("soma/{}/{stage}", config.pipeline)),
            kind: named(&mut kinds, &emit.record, || format!("soma.{}", emit.record)),
            time: &now,
            tenant: &emit.tenant,
            traceparent: commit.traces.get(i).and_then(Option::as_deref),
        };
        let mut headers = event.wire(2);
        if !emit.taken_by.is_empty() {
            headers = headers.insert(header(kernel::TAKEN_BY, emit.taken_by.join(",").as_bytes()));
        }
        let headers = add(headers, &emit.headers);
        send(
            producer,
            record((emit.topic, emit.partition), &emit.key, Some(&framed), headers),
        )?;
    }
    for raw in &commit.raw {
        send(producer, as_it_is(raw))?;
    }
    Ok(())
}
