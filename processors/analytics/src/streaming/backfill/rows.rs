//! Result rows read back: their bytes as columns.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use kernel::{Fault, FaultCode, Slab};
use schemas::Timestamp;

use super::super::Schemas;
use super::super::reader::{Reader, decoder};

/// Schema id of rows that were made here and are not written yet; a registry's ids begin at one.
pub(crate) const OWN: i32 = 0;

/// The registry, and the schema of rows that were made here.
struct AndOwn {
    avro: String,
    others: Arc<dyn Schemas>,
}

impl Schemas for AndOwn {
    fn writer(&self, topic: &str, id: i32) -> Result<String, Fault> {
        if id == OWN {
            return Ok(self.avro.clone());
        }
        self.others.writer(topic, id)
    }
}

/// Reads rows of one result topic.
pub(crate) struct Answers {
    reader: Reader,
    topic: Arc<str>,
    pub(crate) columns: SchemaRef,
}

impl Answers {
    pub(crate) fn new(topic: &Arc<str>, avro: &str, others: &Arc<dyn Schemas>) -> Result<Self, Fault> {
        let unreadable = |e| {
            Fault::new(
                FaultCode::Internal,
                format!("the schema of {topic} cannot be read: {e}"),
            )
        };
        let columns = decoder(1, avro, None).map_err(unreadable)?.schema();
        let schemas = AndOwn {
            avro: avro.to_owned(),
            others: Arc::clone(others),
        };
        Ok(Self {
            reader: Reader::new(
                Arc::clone(topic),
                avro.to_owned(),
                Arc::clone(&columns),
                Arc::new(schemas),
            ),
            topic: Arc::clone(topic),
            columns,
        })
    }

    /// Values as columns, each a row.
    pub(crate) fn read<'a>(&mut self, values: impl Iterator<Item = &'a [u8]>) -> Result<RecordBatch, Fault> {
        let mut slab = Slab {
            topic: Arc::clone(&self.topic),
            ..Slab::default()
        };
        for value in values {
            slab.push(value, 0, Timestamp(0));
        }
        let (mut batches, mut bad) = (Vec::new(), None);
        self.reader.read(
            &slab,
            &mut |taken| {
                batches.push(taken.batch);
                Ok(())
            },
            &mut |_, fault| _ = bad.get_or_insert(fault),
        )?;
        match bad {
            Some(fault) => Err(Fault::new(
                fault.code,
                format!("a row of {} cannot be read: {}", self.topic, fault.detail),
            )),
            None => concat_batches(&self.columns, &batches)
                .map_err(|e| Fault::new(FaultCode::Internal, format!("rows cannot be put together: {e}"))),
        }
    }
}
