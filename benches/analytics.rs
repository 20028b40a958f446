//! What the streaming views are measured with: a topic of framed events, filled once, and the ceiling: a consumer that only counts bytes.

use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use schemas::Record;
use schemas::records::Event;
use schemas::topics::Cleanup;

use crate::common::{brokers, cpu_s, create, registry, text, tokio};

const TENANTS: u64 = 8;
const KINDS: [&str; 6] = [
    "request.accepted",
    "verdict.allow",
    "verdict.deny",
    "call.succeeded",
    "call.failed",
    "run.succeeded",
];
/// 2026-01-01, where the events begin: a round minute.
const BEGIN_US: i64 = 1_767_225_600_000_000;
/// Event time between two records of the topic: sixty thousand a minute.
const APART_US: i64 = 1_000;

/// The topic to fill.
#[derive(clap::Args)]
pub(crate) struct Fill {
    /// Bootstrap servers
    #[arg(long)]
    pub(crate) brokers: String,
    /// Schema registry URL
    #[arg(long)]
    pub(crate) registry: String,
    /// Topic
    #[arg(long, default_value = "bench.events")]
    pub(crate) topic: String,
    /// Records
    #[arg(long, default_value_t = 10_000_000)]
    pub(crate) records: u64,
    /// Partitions
    #[arg(long, default_value_t = 1)]
    pub(crate) partitions: i32,
    /// Event time of the first record, microseconds since 1970
    #[arg(long, default_value_t = BEGIN_US)]
    pub(crate) begin_us: i64,
    /// Different runs they are about, over and over; every four records are of a new one otherwise
    #[arg(long)]
    pub(crate) runs: Option<u64>,
    /// Records a second; as many as the broker takes otherwise
    #[arg(long)]
    pub(crate) rate: Option<u64>,
}

/// The topic to read.
#[derive(clap::Args)]
pub(crate) struct Consume {
    /// Bootstrap servers
    #[arg(long)]
    brokers: String,
    /// Topic
    #[arg(long, default_value = "bench.events")]
    topic: String,
    /// Records to read
    #[arg(long)]
    records: u64,
}

/// A prime: runs come back in an order that is not that of their names.
const STRIDE: u64 = 7_919;

/// Puts a record's Avro form into `into`, framed.
fn encode(into: &mut Vec<u8>, schema_id: u32, options: &Fill, nth: u64) {
    into.clear();
    into.push(0);
    into.extend(schema_id.to_be_bytes());
    let at = options.begin_us + APART_US * i64::try_from(nth).unwrap_or_default();
    let kind = KINDS[usize::try_from(nth / 3 % KINDS.len() as u64).unwrap_or(0)];
    string(into, &format!("evt_{nth:032x}"));
    number(into, at);
    string(into, &format!("tenant-{}", nth % TENANTS));
    let run = options.runs.map_or(nth / 4, |runs| nth * STRIDE % runs);
    string(into, &format!("run_{run:032x}"));
    string(into, kind);
    number(into, 2);
    for (key, value) in [("tool", "http"), ("status", "succeeded")] {
        string(into, key);
        string(into, value);
    }
    number(into, 0);
}

fn string(into: &mut Vec<u8>, value: &str) {
    number(into, i64::try_from(value.len()).unwrap_or_default());
    into.extend(value.as_bytes());
}

/// Zigzag, seven bits a byte.
fn number(into: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while rest > 127 {
        into.push((rest & 127) as u8 | 128);
        rest >>= 7;
    }
    into.push(rest as u8);
}

/// Fills the topic with events in order of time, partition after partition in turns.
pub(crate) fn fill(options: &Fill) -> Result<String, String> {
    let runtime = tokio()?;
    let at = brokers(&options.brokers);
    create(&at, &runtime, &options.topic, options.partitions, Cleanup::Delete)?;
    let registry = registry(&options.registry, &runtime)?;
    let id = registry
        .register(&format!("{}-value", options.topic), Event::schema_text())
        .map_err(text)?;
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &options.brokers)
        .set("enable.idempotence", "true")
        .set("compression.type", "lz4")
        .set("linger.ms", "20")
        .set("batch.size", "1048576")
        .set("queue.buffering.max.messages", "500000")
        .create()
        .map_err(text)?;
    let (began, mut value) = (Instant::now(), Vec::new());
    for nth in 0..options.records {
        encode(&mut value, id, options, nth);
        if let Some(rate) = options.rate.filter(|rate| nth % (rate / 100).max(1) == 0) {
            // A hundred times a second: not faster than wanted.
            let due = Duration::from_micros(nth * 1_000_000 / rate.max(1));
            std::thread::sleep(due.saturating_sub(began.elapsed()));
            producer.poll(Duration::ZERO);
        }
        let partition = i32::try_from(nth % u64::try_from(options.partitions).unwrap_or(1)).unwrap_or(0);
        send(&producer, &options.topic, partition, &value).map_err(text)?;
    }
    producer.flush(Duration::from_secs(120)).map_err(text)?;
    let seconds = began.elapsed().as_secs_f64();
    Ok(format!("filled={} fill_seconds={seconds:.1}", options.records))
}

fn send(producer: &BaseProducer, topic: &str, partition: i32, value: &[u8]) -> Result<(), KafkaError> {
    let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).partition(partition).payload(value);
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                record = again;
                producer.poll(Duration::from_millis(5));
            }
            Err((e, _)) => return Err(e),
        }
    }
}

/// Reads the topic record by record, with long queues, and counts bytes: what the client's crate alone can do.
pub(crate) fn consume(options: &Consume) -> Result<String, String> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &options.brokers)
        .set("group.id", format!("bench.consume.{}", std::process::id()))
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", "read_committed")
        .set("fetch.message.max.bytes", "4194304")
        .set("queued.max.messages.kbytes", "32768")
        .set("queued.min.messages", "200000")
        .set("fetch.queue.backoff.ms", "5")
        .create()
        .map_err(text)?;
    consumer.subscribe(&[&options.topic]).map_err(text)?;
    let (mut records, mut bytes, mut since) = (0u64, 0usize, None);
    // The first quarter is the client's coming to speed, as for everybody measured beside it.
    while records < options.records {
        let message = match consumer.poll(Duration::from_millis(100)) {
            None => continue,
            Some(message) => message.map_err(text)?,
        };
        records += 1;
        bytes += message.payload_len();
        if records == options.records / 4 {
            since = Some((Instant::now(), cpu_s(std::process::id()).unwrap_or(0.0)));
        }
    }
    let (began, before) = since.ok_or("no records")?;
    #[allow(clippy::cast_precision_loss, reason = "records and bytes of a benchmark")]
    let (measured, each) = (
        (options.records - options.records / 4) as f64,
        bytes as f64 / records as f64,
    );
    let (seconds, cpu) = (
        began.elapsed().as_secs_f64(),
        cpu_s(std::process::id()).unwrap_or(0.0) - before,
    );
    Ok(format!(
        "consume_rows_per_s={:.0} consume_cpu_us_per_row={:.4} consume_bytes_per_row={each:.1}",
        measured / seconds,
        cpu * 1e6 / measured,
    ))
}
