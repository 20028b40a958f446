//! Where records are kept: the write side of every store ([`kernel::Sink`]) and its read side. Each store's client lives here
//! and nowhere else. What is not here: deciding anything; a sink keeps what the log says, once.

mod batch;
mod checks;
pub mod clickhouse;
mod memories;
pub mod pushgateway;
pub mod qdrant;
pub mod redis;

#[cfg(test)]
mod testing;
