//! Says Utf8 and takes Int64.
use arroyo_udf_plugin::udf;

#[udf]
fn half(n: i64) -> i64 {
    n / 2
}

soma_udfs::say!(
    r#"{"abi": 1, "plugin": "0.2.0", "panic": "unwind", "name": "lies_of_its_arguments", "doc": "Says what it is not.", "aggregate": false,
    "async": false, "args": [{"name": "n", "type": "Utf8", "nullable": false, "list": false}],
    "returns": {"name": "", "type": "Int64", "nullable": false, "list": false}}"#
);
