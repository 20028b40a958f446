//! The dylib of `risk_band`: the file Arroyo gets, and what it says of itself.
#[path = "../src/risk_band.rs"]
mod udf;
soma_udfs::say!(include_str!(concat!(env!("OUT_DIR"), "/risk_band.json")));
