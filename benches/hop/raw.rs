//! The least a transactional hop can cost with this client: bytes are copied, nothing is decoded, looked up or counted. It
//! writes as many bytes as the stage does, the change of a state included.

use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

use super::{Contestant, INPUT, PARTITIONS, SEEN, output};

const REQUEST: Duration = Duration::from_secs(15);

fn send(producer: &BaseProducer, mut record: BaseRecord<'_, [u8], [u8]>) -> Result<(), KafkaError> {
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                record = again;
                producer.poll(Duration::from_millis(1));
            }
            Err((e, _)) => return Err(e),
        }
    }
}

fn copy(producer: &BaseProducer, message: &BorrowedMessage<'_>, out: &str, state: &str) -> Result<(), KafkaError> {
    let key = message.key().unwrap_or_default();
    let mut record = BaseRecord::to(out)
        .key(key)
        .payload(message.payload().unwrap_or_default());
    if let Some(headers) = message.headers() {
        record = record.headers(headers.detach());
    }
    send(producer, record)?;
    send(
        producer,
        BaseRecord::to(state)
            .partition(message.partition())
            .key(key)
            .payload(SEEN),
    )
}

fn transaction(consumer: &BaseConsumer, producer: &BaseProducer, options: &Contestant) -> Result<(), KafkaError> {
    let (out, state) = (output(&options.name), format!("{}.state", options.name));
    let mut next = vec![None; usize::try_from(PARTITIONS).unwrap_or(1)];
    let (mut taken, mut until) = (0, None::<Instant>);
    while taken < options.batch {
        let wait = until.map_or(Duration::from_millis(100), |u| {
            u.saturating_duration_since(Instant::now())
        });
        let Some(message) = consumer.poll(Duration::from_millis(u64::try_from(wait.as_millis()).unwrap_or(0))) else {
            break;
        };
        let message = message?;
        if taken == 0 {
            producer.begin_transaction()?;
            until = Some(Instant::now() + Duration::from_millis(options.linger_ms));
        }
        copy(producer, &message, &out, &state)?;
        taken += 1;
        if let Some(slot) = usize::try_from(message.partition()).ok().and_then(|p| next.get_mut(p)) {
            *slot = Some(message.offset() + 1);
        }
    }
    if taken == 0 {
        return Ok(());
    }
    let mut offsets = TopicPartitionList::new();
    for (p, at) in (0..).zip(next) {
        if let Some(at) = at {
            offsets.add_partition_offset(INPUT.name, p, Offset::Offset(at))?;
        }
    }
    let group = consumer.group_metadata().ok_or(KafkaError::Canceled)?;
    producer.send_offsets_to_transaction(&offsets, &group, REQUEST)?;
    let mut left = producer.in_flight_count();
    while left > 0 {
        producer.poll(Duration::ZERO);
        let now = producer.in_flight_count();
        if now == left {
            std::thread::sleep(Duration::from_micros(500));
        }
        left = now;
    }
    producer.commit_transaction(REQUEST)
}

/// Runs until it is killed.
pub(crate) fn run(options: &Contestant) -> Result<String, String> {
    let text = |e: KafkaError| e.to_string();
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", &options.brokers)
        .set("retry.backoff.ms", "10");
    let consumer: BaseConsumer = client
        .clone()
        .set("group.id", &options.name)
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", "read_committed")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("fetch.queue.backoff.ms", "5")
        .create()
        .map_err(text)?;
    let producer: BaseProducer = client
        .set("transactional.id", &options.name)
        .set("compression.type", "lz4")
        .set("linger.ms", "0")
        .create()
        .map_err(text)?;
    producer.init_transactions(REQUEST).map_err(text)?;
    consumer.subscribe(&[INPUT.name]).map_err(text)?;
    loop {
        transaction(&consumer, &producer, options).map_err(text)?;
    }
}
