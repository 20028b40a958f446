//! Panics on purpose, as an aggregate, for a group with 13 in it.
use arroyo_udf_plugin::udf;

/// Number of values.
#[udf]
fn panics_for_all(values: Vec<i64>) -> i64 {
    assert!(!values.contains(&13), "13 brings bad luck");
    values.len() as i64
}

soma_udfs::say!(include_str!(concat!(env!("OUT_DIR"), "/panics_for_all.json")));
