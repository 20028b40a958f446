//! Does not say what it is, as a dylib that Arroyo built does not.
use arroyo_udf_plugin::udf;

#[udf]
fn half(n: i64) -> i64 {
    n / 2
}
