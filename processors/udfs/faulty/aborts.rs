//! Says that it was built to abort on a panic, which would take the process with it.
use arroyo_udf_plugin::udf;

#[udf]
fn half(n: i64) -> i64 {
    n / 2
}

soma_udfs::say!(
    r#"{"abi": 1, "plugin": "0.2.0", "panic": "abort", "name": "aborts", "doc": "Says what it is not.", "aggregate": false,
    "async": false, "args": [{"name": "n", "type": "Int64", "nullable": false, "list": false}],
    "returns": {"name": "", "type": "Int64", "nullable": false, "list": false}}"#
);
