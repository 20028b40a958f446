//! Rows written by somebody who is no stage, each batch in a transaction: none of it is seen before all of it is true. Who opens one
//! under the same name fences the one before, and settles what that left open.

use kernel::{Fault, FaultCode, RawEmit};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::Producer;

use crate::Brokers;
use crate::faults::{is_too_large, unavailable};
use crate::log::REQUEST;
use crate::send::{Deliveries, Sender, acknowledged, as_it_is, dropped, send};

/// Writes batches of rows.
pub struct Rewriter {
    producer: Sender,
    id: String,
}

impl Rewriter {
    /// Fences whoever had this transactional id before.
    ///
    /// # Errors
    /// `BROKER_UNAVAILABLE`.
    pub fn open(brokers: &Brokers, id: &str) -> Result<Self, Fault> {
        let mut client = brokers.client();
        client
            .set("transactional.id", id)
            .set("client.id", id)
            // Whom a killed one left waiting goes on then.
            .set("transaction.timeout.ms", "30000")
            .set("compression.type", "lz4")
            // As the stages have it: a key's rows stay in one partition.
            .set("partitioner", "consistent_random")
            .set("message.max.bytes", "10485760");
        let producer =
            Sender::from_config_and_context(&client, Deliveries::default()).map_err(|e| unavailable("producer", &e))?;
        producer
            .init_transactions(REQUEST)
            .map_err(|e| unavailable(&format!("init transactions of {id}"), &e))?;
        Ok(Self {
            producer,
            id: id.to_owned(),
        })
    }

    /// Writes rows, all or none.
    ///
    /// # Errors
    /// `FENCED` when another opened this id since; `RECORD_TOO_LARGE`; `COMMIT_FAILED`: nothing of it is true, or it cannot be told.
    pub fn commit(&self, rows: &[RawEmit]) -> Result<(), Fault> {
        if rows.is_empty() {
            return Ok(());
        }
        self.attempt(rows).map_err(|e| {
            dropped(&self.producer);
            if let Err(e) = self.producer.abort_transaction(REQUEST) {
                tracing::debug!(error = %e, "the transaction ends by its time");
            }
            self.fault(&e)
        })
    }

    fn attempt(&self, rows: &[RawEmit]) -> Result<(), KafkaError> {
        self.producer.begin_transaction()?;
        for row in rows {
            send(&self.producer, as_it_is(row))?;
        }
        acknowledged(&self.producer)?;
        self.producer.commit_transaction(REQUEST)
    }

    fn fault(&self, e: &KafkaError) -> Fault {
        let fenced = [
            RDKafkaErrorCode::Fenced,
            RDKafkaErrorCode::ProducerFenced,
            RDKafkaErrorCode::InvalidProducerEpoch,
        ];
        let code = match e {
            KafkaError::Transaction(t) => Some(t.code()),
            other => other.rdkafka_error_code(),
        };
        if code.is_some_and(|code| fenced.contains(&code)) {
            return Fault::new(FaultCode::Fenced, format!("another writes as {} since", self.id));
        }
        if is_too_large(e) {
            return Fault::new(FaultCode::RecordTooLarge, e.to_string());
        }
        Fault::new(FaultCode::CommitFailed, format!("{}: {e}", self.id))
    }
}
