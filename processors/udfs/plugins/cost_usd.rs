//! The dylib of `cost_usd`: the file Arroyo gets, and what it says of itself.
#[path = "../src/cost_usd.rs"]
mod udf;
soma_udfs::say!(include_str!(concat!(env!("OUT_DIR"), "/cost_usd.json")));
