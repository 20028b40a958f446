//! The dylib of `json_path`: the file Arroyo gets, and what it says of itself.
#[path = "../src/json_path.rs"]
mod udf;
soma_udfs::say!(include_str!(concat!(env!("OUT_DIR"), "/json_path.json")));
