//! Panics on purpose, for 13 alone.
use arroyo_udf_plugin::udf;

/// Half of a number.
#[udf]
fn panics(n: i64) -> i64 {
    assert!(n != 13, "13 brings bad luck");
    n / 2
}

soma_udfs::say!(include_str!(concat!(env!("OUT_DIR"), "/panics.json")));
