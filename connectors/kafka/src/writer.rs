//! Writing from outside a stage: the command line's producer. Idempotent, waits for every acknowledgement.

use std::time::Duration;

use kernel::{Fault, FaultCode, Headers};
use rdkafka::ClientContext;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use schemas::topics::Topic;
use schemas::{Record, Timestamp};
use std::sync::{Arc, Mutex, PoisonError};

use crate::faults::unavailable;
use crate::headers::{cloud_event, to_wire};
use crate::{Brokers, Registry};

/// Keeps the first delivery failure.
#[derive(Default)]
struct Failures(Mutex<Option<String>>);
impl ClientContext for Failures {}
impl ProducerContext for Failures {
    type DeliveryOpaque = ();
    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((e, _)) = result {
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get_or_insert(e.to_string());
        }
    }
}

/// A producer for people and tests.
pub struct Writer {
    producer: BaseProducer<Failures>,
    registry: Arc<Registry>,
    source: String,
}

impl Writer {
    /// Connects lazily.
    ///
    /// # Errors
    /// `BROKER_UNAVAILABLE` when the client cannot be made.
    pub fn open(brokers: &Brokers, registry: Arc<Registry>, source: &str) -> Result<Self, Fault> {
        let producer = rdkafka::config::FromClientConfigAndContext::from_config_and_context(
            brokers
                .client()
                .set("enable.idempotence", "true")
                .set("compression.type", "lz4")
                .set("linger.ms", "5")
                .set("delivery.timeout.ms", "20000"),
            Failures::default(),
        )
        .map_err(|e| unavailable("producer", &e))?;
        Ok(Self {
            producer,
            registry,
            source: source.to_owned(),
        })
    }

    /// Queues a record.
    ///
    /// # Errors
    /// The registry does not answer, or the record is too large.
    pub fn write<R: Record>(
        &self,
        topic: Topic<R>,
        key: &str,
        tenant: &str,
        record: &R,
        trace: Option<&str>,
    ) -> Result<(), Fault> {
        let avro = record
            .to_avro()
            .map_err(|e| Fault::new(FaultCode::RecordInvalid, e.0))?;
        let value = self.registry.framed(topic.name, R::schema_text(), &avro)?;
        let at = now();
        let headers = cloud_event(&self.source, R::NAME, at, tenant, trace);
        self.write_raw(topic.name, key, Some(&value), &headers)
    }

    /// Queues bytes as they are.
    ///
    /// # Errors
    /// `RECORD_TOO_LARGE`, `BROKER_UNAVAILABLE`.
    pub fn write_raw(&self, topic: &str, key: &str, value: Option<&[u8]>, headers: &Headers) -> Result<(), Fault> {
        loop {
            let mut record: BaseRecord<'_, str, [u8]> = BaseRecord::to(topic).key(key).headers(to_wire(headers));
            record.payload = value;
            match self.producer.send(record) {
                Ok(()) => {
                    self.producer.poll(Duration::ZERO);
                    return Ok(());
                }
                Err((
                    rdkafka::error::KafkaError::MessageProduction(rdkafka::types::RDKafkaErrorCode::QueueFull),
                    _,
                )) => {
                    self.producer.poll(Duration::from_millis(20));
                }
                Err((e, _)) if crate::faults::is_too_large(&e) => {
                    let size = value.map_or(0, <[u8]>::len);
                    return Err(Fault::new(
                        FaultCode::RecordTooLarge,
                        format!("{topic}: the record has {size} bytes: {e}"),
                    ));
                }
                Err((e, _)) => return Err(unavailable(topic, &e)),
            }
        }
    }

    /// Waits until everything queued is acknowledged.
    ///
    /// # Errors
    /// The first record that was not.
    pub fn flush(&self) -> Result<(), Fault> {
        self.producer
            .flush(Duration::from_secs(30))
            .map_err(|e| unavailable("flush", &e))?;
        match self
            .producer
            .context()
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            None => Ok(()),
            Some(e) if e.contains("too large") || e.contains("TooLarge") => {
                Err(Fault::new(FaultCode::RecordTooLarge, e))
            }
            Some(e) => Err(Fault::new(FaultCode::BrokerUnavailable, e)),
        }
    }
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
