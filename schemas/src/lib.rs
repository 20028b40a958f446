//! The contract: the records, the topics they travel on, and the digests that bind them. A leaf crate: no async, no I/O, no clock.
#![warn(missing_docs)]

mod aliases;
mod canonical;
pub mod digest;
mod json;
pub mod permit;
mod record;
pub mod records;
pub mod topics;
mod values;

pub use json::{from_json, to_json};
pub use record::{DecodeError, Record, Written, decode_value, incompatible, parse_schema};
pub use values::{Timestamp, Usd};

pub use apache_avro::Schema;
pub use apache_avro::reader::datum::GenericDatumReader as Reader;
pub use apache_avro::writer::datum::GenericDatumWriter as Writer;
