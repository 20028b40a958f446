//! Panics on purpose, for 13 alone.
use arroyo_udf_plugin::udf;

/// Half of a number.
#[udf]
fn panics(n: i64) -> i64 {
    if n == 13 {
        // The panic is asked for: what its hook prints would hide the panics of tests that fail.
        std::panic::set_hook(Box::new(|_| {}));
    }
    assert!(n != 13, "13 brings bad luck");
    n / 2
}

soma_udfs::say!(include_str!(concat!(env!("OUT_DIR"), "/panics.json")));
