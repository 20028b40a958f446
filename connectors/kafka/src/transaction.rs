//! The writing half of a stage's transactions: its producers, and what they are handed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kernel::{Commit, Committed, Fault, FaultCode, Position};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{BaseRecord, Producer};
use schemas::Timestamp;

use crate::Registry;
use crate::changelogs::Changelogs;
use crate::config::LogConfig;
use crate::direct::{Direct, Line, who};
use crate::faults::unavailable;
use crate::group::Deferred;
use crate::headers::{CloudEvent, header};
use crate::log::REQUEST;
use crate::send::{Deliveries, KafkaOrFault, Sender, acknowledged, clock_micros, dropped, lost, record, send};

/// How long the client is left alone with a request for its id. While the coordinator ends the transaction that a killed predecessor
/// left open, it is told to come again, and by itself does so only after half a second; asked anew it does at once.
const ASK: Duration = Duration::from_millis(25);

/// What makes a stage's transactions.
pub(crate) enum Transactor {
    /// Our own, three requests a transaction: of processors and windows, where the brokers are spoken to in the clear and make such.
    Direct(Box<Mutex<Direct>>),
    /// The client's: a request a partition, but it sends while more is written, as the large transactions of streaming SQL want it.
    Client(Sender),
}

/// A producer for every second transaction of a stage instance; its start settles what its predecessor left open.
pub(crate) fn new_producer(config: &LogConfig, turn: usize) -> Result<Transactor, Fault> {
    let twin = if turn == 0 { "" } else { "~2" };
    let id = format!("{}.{}{twin}", config.group, config.instance);
    let brokers = &config.brokers;
    if config.copartitioned && !config.bulk && brokers.direct && brokers.properties.is_empty() {
        let made = Direct::open(&brokers.bootstrap, &id, config.transaction_timeout_ms);
        let made = made.map_err(|e| Fault::new(FaultCode::BrokerUnavailable, e.detail))?;
        if let Some(direct) = made {
            tracing::debug!(id, "transactions in three requests");
            return Ok(Transactor::Direct(Box::new(Mutex::new(direct))));
        }
    }
    tracing::debug!(id, "transactions by librdkafka");
    client_producer(config, &id).map(Transactor::Client)
}

fn client_producer(config: &LogConfig, id: &str) -> Result<Sender, Fault> {
    let mut client = config.brokers.client();
    client
        .set("transactional.id", id)
        .set("client.id", id)
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
pub(crate) fn clients(config: &LogConfig) -> Result<(Vec<Option<Arc<Transactor>>>, Option<Changelogs>), Fault> {
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

/// A record on its way.
struct Out<'a> {
    place: (&'a str, Option<i32>),
    line: Line<'a>,
    /// It is a change of state, whose place in the changelog is wanted.
    change: bool,
}

/// Hands on everything a transaction holds, record by record.
fn write(
    registry: &Registry,
    config: &LogConfig,
    commit: &Commit,
    mut put: impl FnMut(&Out<'_>) -> Result<(), KafkaOrFault>,
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
        let taken_by = emit.taken_by.join(",");
        put(&Out {
            place: (emit.topic, emit.partition),
            line: Line {
                key: &emit.key,
                value: Some(&framed),
                headers: &|put| {
                    event.each(|name, value| put(name, value.as_bytes()));
                    if !taken_by.is_empty() {
                        put(kernel::TAKEN_BY, taken_by.as_bytes());
                    }
                    emit.headers.iter().for_each(|(name, value)| put(name, value));
                },
            },
            change: false,
        })?;
    }
    for raw in &commit.raw {
        put(&Out {
            place: (&raw.topic, raw.partition),
            line: Line {
                key: &raw.key,
                value: raw.value.as_deref(),
                headers: &|put| raw.headers.iter().for_each(|(name, value)| put(name, value)),
            },
            change: raw.partition.is_some(),
        })?;
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
        producer: &Transactor,
        commit: &Commit,
        standing: Option<(String, i32, i64)>,
    ) -> Result<Committed, KafkaOrFault> {
        let offsets = standing_or(&commit.offsets, standing)?;
        match producer {
            Transactor::Direct(direct) => {
                let mut direct = direct.lock().unwrap_or_else(PoisonError::into_inner);
                self.make_direct(&mut direct, commit, &offsets)
            }
            Transactor::Client(sender) => self.make_with(sender, commit, &offsets),
        }
    }

    fn make_direct(
        &self,
        direct: &mut Direct,
        commit: &Commit,
        offsets: &[Position],
    ) -> Result<Committed, KafkaOrFault> {
        let mut steps = Steps::default();
        direct.clear();
        write(&self.registry, &self.config, commit, |out| {
            Ok(direct.put(out.place.0, out.place.1, out.change, &out.line)?)
        })?;
        steps.done("written");
        let places = direct.produce(clock_micros() / 1000)?;
        steps.done("acknowledged");
        // Before the offsets: as below.
        let who = who(&self.member).filter(|_| !self.member.assignment_lost());
        let who = who.ok_or_else(|| lost(GONE_ON))?;
        direct.offsets(&self.config.group, &self.config.instance, &who, offsets)?;
        steps.done("offsets");
        direct.commit()?;
        steps.done("committed");
        steps.told(&self.config.group);
        Ok(places)
    }

    fn make_with(&self, producer: &Sender, commit: &Commit, offsets: &[Position]) -> Result<Committed, KafkaOrFault> {
        let mut steps = Steps::default();
        producer.begin_transaction()?;
        // What an aborted one left.
        producer.context().take();
        write(&self.registry, &self.config, commit, |out| {
            Ok(send(producer, out.record())?)
        })?;
        steps.done("written");
        // Before the offsets, which any member may send: frozen between the two, an instance would wake and write and commit the
        // rest after its successor had read the changelogs and seen nothing open (ARCHITECTURE.md).
        acknowledged(producer)?;
        steps.done("acknowledged");
        let group = self.member.group_metadata().ok_or(KafkaError::Canceled)?;
        // Thrown out, the client forgets who it was, and the coordinator takes offsets of nobody for those of an old client.
        // Asked in this order: whoever was forgotten before is known as lost now.
        if self.member.assignment_lost() {
            return Err(lost(GONE_ON).into());
        }
        producer.send_offsets_to_transaction(&crate::send::offsets(offsets)?, &group, REQUEST)?;
        steps.done("offsets");
        producer.commit_transaction(REQUEST)?;
        steps.done("committed");
        steps.told(&self.config.group);
        Ok(producer.context().take())
    }
}

/// What took longer is told of, with which part of it did.
const SLOW_US: u128 = 500_000;
const GONE_ON: &str = "the group has gone on without this instance";

/// Offsets in a transaction are what fences a zombie: the group's coordinator refuses those of a member it has thrown out.
/// So every transaction has some, if only where we stand already.
fn standing_or(offsets: &[Position], standing: Option<(String, i32, i64)>) -> Result<Vec<Position>, Fault> {
    if !offsets.is_empty() {
        return Ok(offsets.to_vec());
    }
    let (topic, partition, offset) = standing.ok_or_else(|| lost("no partition is owned"))?;
    Ok(vec![Position {
        topic: topic.into(),
        partition,
        offset,
    }])
}

impl Out<'_> {
    /// As the client takes it.
    fn record(&self) -> BaseRecord<'_, str, [u8], usize> {
        let mut headers = Some(OwnedHeaders::new_with_capacity(10));
        (self.line.headers)(&mut |name, value| headers = headers.take().map(|h| h.insert(header(name, value))));
        let mut record = record(self.place, self.line.key, self.line.value, headers.unwrap_or_default());
        record.delivery_opaque = usize::from(self.change);
        record
    }
}

impl Transactor {
    /// Leaves no transaction open: (whether that could be told, else a new producer has to settle it (KIP-890); whether it is certain that
    /// the last one does not stand).
    pub(crate) fn abandon(&self, why: &KafkaOrFault) -> (bool, bool) {
        match self {
            Self::Direct(direct) => direct.lock().unwrap_or_else(PoisonError::into_inner).abandon(),
            Self::Client(sender) => {
                let definite = match why {
                    KafkaOrFault::Kafka(KafkaError::Transaction(t)) => t.txn_requires_abort() && !t.is_fatal(),
                    _ => true,
                };
                if definite {
                    dropped(sender);
                }
                let aborted = definite && sender.abort_transaction(REQUEST).is_ok();
                (aborted, aborted)
            }
        }
    }
}

/// How long the parts of a transaction took.
struct Steps {
    since: Instant,
    took: Vec<(&'static str, u128)>,
}

impl Default for Steps {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            took: Vec::new(),
        }
    }
}

impl Steps {
    fn done(&mut self, what: &'static str) {
        self.took.push((what, self.since.elapsed().as_micros()));
        self.since = Instant::now();
    }

    fn told(&self, group: &str) {
        let all: u128 = self.took.iter().map(|(_, us)| us).sum();
        if all > SLOW_US {
            tracing::info!(%group, took_us = ?self.took, "a slow transaction");
        } else {
            tracing::debug!(%group, took_us = ?self.took, "transaction");
        }
    }
}
