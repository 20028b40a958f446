//! What the tests of this crate share: records as bytes, and a decoder that knows the writer's schema without a registry.

use std::sync::Arc;

use kernel::{Decoder, Fault, FaultCode, Headers, Position, RawRecord};
use schemas::records::Memory;
use schemas::{Record, Schema, Timestamp};

/// Reads frames whose writer used this build's schema of one record.
pub(crate) struct Plain {
    schema: Arc<Schema>,
    silent: bool,
}

impl Plain {
    pub(crate) fn of<R: Record>() -> Self {
        Self { schema: Arc::new(R::schema().clone()), silent: false }
    }

    /// As if the registry did not answer.
    pub(crate) fn silent<R: Record>() -> Self {
        Self { silent: true, ..Self::of::<R>() }
    }
}

impl Decoder for Plain {
    fn unframe<'a>(&self, value: &'a [u8]) -> Result<(Arc<Schema>, &'a [u8]), Fault> {
        if self.silent {
            return Err(Fault::new(FaultCode::RegistryUnavailable, "no answer"));
        }
        match value.split_first_chunk::<5>() {
            Some(([0, ..], avro)) => Ok((self.schema.clone(), avro)),
            _ => Err(Fault::new(FaultCode::RecordNotFramed, "no magic byte")),
        }
    }
}

/// A record on the log, at one second per offset.
pub(crate) fn raw<R: Record>(topic: &str, partition: i32, offset: i64, key: &str, record: &R) -> RawRecord {
    let mut value = vec![0, 0, 0, 0, 1];
    value.extend(record.to_avro().unwrap_or_default());
    RawRecord { value: Some(value), ..tombstone(topic, partition, offset, key) }
}

/// A record without a value.
pub(crate) fn tombstone(topic: &str, partition: i32, offset: i64, key: &str) -> RawRecord {
    RawRecord {
        position: Position { topic: topic.to_owned(), partition, offset },
        key: key.to_owned(),
        value: None,
        headers: Headers::default(),
        at: Timestamp(1_700_000_000_000_000 + offset * 1_000_000),
    }
}

/// A record that is not framed.
pub(crate) fn poison(topic: &str, partition: i32, offset: i64) -> RawRecord {
    RawRecord { value: Some(b"not avro".to_vec()), ..tombstone(topic, partition, offset, "k") }
}

/// A memory of a tenant.
pub(crate) fn memory(tenant: &str, n: u32, text: &str) -> Memory {
    Memory {
        memory_id: schemas::digest::id("mem", &[tenant, &n.to_string()]),
        tenant: tenant.to_owned(),
        run_id: format!("run_{tenant}_{n}"),
        text: text.to_owned(),
        attributes: [("tool".to_owned(), "http".to_owned())].into(),
        created_at: Timestamp(1_700_000_000_000_000 + i64::from(n)),
        ..Memory::default()
    }
}

/// A variable of `.soma/dev.env`; the test fails loudly when it is missing.
#[cfg(feature = "live")]
pub(crate) fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: `make up`, then load .soma/dev.env"))
}

/// A name no other test run uses.
#[cfg(feature = "live")]
pub(crate) fn unique(word: &str) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map(|d| d.as_nanos()).unwrap_or(0);
    format!("{word}_{}_{now}", std::process::id())
}
