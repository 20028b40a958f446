//! The writing half of a stage's transactions: its producers, and what they are handed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kernel::{Commit, Committed, Fault, FaultCode};
use rdkafka::Offset;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::Producer;
use schemas::Timestamp;

use crate::Registry;
use crate::changelogs::Changelogs;
use crate::config::LogConfig;
use crate::faults::unavailable;
use crate::group::Deferred;
use crate::headers::{CloudEvent, add, header};
use crate::log::REQUEST;
use crate::send::{
    Deliveries, KafkaOrFault, Sender, acknowledged, as_it_is, clock_micros, lost, offsets, record, send,
};

/// How long the client is left alone with a request for its id. While the coordinator ends the transaction that a killed predecessor
/// left open, it is told to come again, and by itself does so only after half a second; asked anew it does at once.
const ASK: Duration = Duration::from_millis(25);

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
    let until = Instant::now() + REQUEST;
    loop {
        match producer.init_transactions(ASK) {
            Err(KafkaError::Transaction(e)) if e.is_retriable() && Instant::now() < until => {}
            done => {
                done.map_err(|e| unavailable(&format!("init transactions of {id}"), &e))?;
                return Ok(producer);
            }
        }
    }
}

/// The producers of a log, and where its changelogs are read, all begun at once.
pub(crate) fn clients(config: &LogConfig) -> Result<(Vec<Option<Arc<Sender>>>, Option<Changelogs>), Fault> {
    // A sink writes dead letters only.
    let producers = if config.copartitioned { 2 } else { 1 };
    std::thread::scope(|scope| {
        let changelogs = config
            .copartitioned
            .then(|| scope.spawn(|| Changelogs::open(&config.brokers)));
        let begun: Vec<_> = (0..producers)
            .map(|turn| scope.spawn(move || new_producer(config, turn)))
            .collect();
        let panicked = |_| Fault::new(FaultCode::Internal, "a client's start panicked");
        let made = begun
            .into_iter()
            .map(|made| Ok(Some(Arc::new(made.join().map_err(panicked)??))));
        let made = made.collect::<Result<_, Fault>>()?;
        let changelogs = changelogs.map(|opened| opened.join().map_err(panicked)?);
        Ok((made, changelogs.transpose()?))
    })
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
fn write(producer: &Sender, registry: &Registry, config: &LogConfig, commit: &Commit) -> Result<(), KafkaOrFault> {
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

/// Makes transactions, on whatever thread: all it needs beside a producer and what to write.
#[derive(Clone)]
pub(crate) struct Maker {
    pub(crate) config: Arc<LogConfig>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) member: Arc<BaseConsumer<Deferred>>,
}

impl Maker {
    /// Makes one. `standing` is a partition that is owned and where the group stands on it.
    pub(crate) fn make(
        &self,
        producer: &Sender,
        commit: &Commit,
        standing: Option<(String, i32, i64)>,
    ) -> Result<Committed, KafkaOrFault> {
        let started = Instant::now();
        producer.begin_transaction()?;
        // What an aborted one left.
        producer.context().take();
        write(producer, &self.registry, &self.config, commit)?;
        let sent = started.elapsed();
        // Before the offsets, which any member may send: frozen between the two, an instance would wake and write and commit the
        // rest after its successor had read the changelogs and seen nothing open (ARCHITECTURE.md).
        acknowledged(producer)?;
        let acknowledged = started.elapsed();
        self.send_offsets(producer, commit, standing)?;
        let offsets = started.elapsed();
        producer.commit_transaction(REQUEST)?;
        tracing::debug!(
            group = %self.config.group,
            sent_us = sent.as_micros(),
            acknowledged_us = (acknowledged - sent).as_micros(),
            offsets_us = (offsets - acknowledged).as_micros(),
            committed_us = (started.elapsed() - offsets).as_micros(),
            "transaction"
        );
        Ok(producer.context().take())
    }

    /// Offsets in a transaction are what fences a zombie: the group's coordinator refuses those of a member it has thrown out.
    /// So every transaction has some, if only where we stand already.
    fn send_offsets(
        &self,
        producer: &Sender,
        commit: &Commit,
        standing: Option<(String, i32, i64)>,
    ) -> Result<(), KafkaOrFault> {
        let mut list = offsets(&commit.offsets)?;
        if commit.offsets.is_empty() {
            let (topic, partition, at) = standing.ok_or_else(|| lost("no partition is owned"))?;
            list.add_partition_offset(&topic, partition, Offset::Offset(at))?;
        }
        let group = self.member.group_metadata().ok_or(KafkaError::Canceled)?;
        // Thrown out, the client forgets who it was, and the coordinator takes offsets of nobody for those of an old client.
        // Asked in this order: whoever was forgotten before is known as lost now.
        if self.member.assignment_lost() {
            return Err(lost("the group has gone on without this instance").into());
        }
        producer.send_offsets_to_transaction(&list, &group, REQUEST)?;
        Ok(())
    }
}
