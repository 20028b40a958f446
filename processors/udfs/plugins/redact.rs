//! The dylib of `redact`: the file Arroyo gets, and what it says of itself.
#[path = "../src/redact.rs"]
mod udf;
soma_udfs::say!(include_str!(concat!(env!("OUT_DIR"), "/redact.json")));
