//! The composition root: the only crate that says two concrete names in one file. It reads the configuration, builds the
//! stages from the registry, wires them to Kafka and runs them; the binary is `soma`.

pub mod apply;
mod backfill;
mod backtest;
pub mod check;
pub mod cli;
pub mod config;
pub mod dash;
pub mod demo;
mod govern;
mod handover;
mod keyring;
mod lookups;
mod membership;
pub mod registry;
pub mod reprocess;
mod standing;
pub mod stores;
pub mod streaming;
pub mod task;
mod telemetry;
pub mod wire;
