//! The dylib of `median_deviation`: the file Arroyo gets, and what it says of itself.
#[path = "../src/median_deviation.rs"]
mod udf;
soma_udfs::say!(include_str!(concat!(env!("OUT_DIR"), "/median_deviation.json")));
