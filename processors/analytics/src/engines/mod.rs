//! The same file on a distributed engine: Flink's SQL, Arroyo's REST API. Only renders, and says beforehand what each engine does
//! with each statement; the command line sends.

mod arroyo;
mod avro;
mod columns;
mod expr;
mod flink;
mod functions;
mod joins;
mod shape;
mod sides;
mod support;
#[cfg(test)]
mod tests;
mod windows;

pub use arroyo::{Arroyo, Post};
pub use flink::{Flink, Script};
pub use support::{Engine, Verdict, support};
