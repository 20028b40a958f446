//! The dylib of `tenant_tier`: the file Arroyo gets, and what it says of itself.
#[path = "../src/tenant_tier.rs"]
mod udf;
soma_udfs::say!(include_str!(concat!(env!("OUT_DIR"), "/tenant_tier.json")));
