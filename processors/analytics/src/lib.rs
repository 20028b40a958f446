//! Event-time windows in SQL over the log. The only home of arrow and DataFusion. It knows no Kafka, reads no clock, no file
//! but the dylibs of UDFs, and no environment: batches and the time come in, metrics go out.
#![warn(missing_docs)]

mod config;
pub mod engines;
mod events_per_minute;
mod partition;
mod query;
pub mod streaming;
#[cfg(test)]
mod tests;
pub mod udf;

pub use config::Config;
pub use events_per_minute::{EventsPerMinute, Input};
pub use query::{Query, check_sql};

/// The shipped query: what [`EventsPerMinute::new`] takes when a pipeline brings no SQL of its own.
pub const EVENTS_PER_MINUTE_SQL: &str = include_str!("../../../pipelines/control-tower/events_per_minute.sql");
