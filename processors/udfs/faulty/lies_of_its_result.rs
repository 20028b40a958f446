//! Says Int64 and gives Float64.
use arroyo_udf_plugin::udf;

#[udf]
fn half(n: i64) -> f64 {
    n as f64 / 2.0
}

soma_udfs::say!(
    r#"{"abi": 1, "plugin": "0.2.0", "panic": "unwind", "name": "lies_of_its_result", "doc": "Says what it is not.", "aggregate": false,
    "async": false, "args": [{"name": "n", "type": "Int64", "nullable": false, "list": false}],
    "returns": {"name": "", "type": "Int64", "nullable": false, "list": false}}"#
);
