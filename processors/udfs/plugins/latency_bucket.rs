//! The dylib of `latency_bucket`: the file Arroyo gets, and what it says of itself.
#[path = "../src/latency_bucket.rs"]
mod udf;
soma_udfs::say!(include_str!(concat!(env!("OUT_DIR"), "/latency_bucket.json")));
