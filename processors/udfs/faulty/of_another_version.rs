//! Says that it was built with another version of the plugin, whose `__run` may be called otherwise.
use arroyo_udf_plugin::udf;

#[udf]
fn half(n: i64) -> i64 {
    n / 2
}

soma_udfs::say!(
    r#"{"abi": 1, "plugin": "0.3.0", "panic": "unwind", "name": "of_another_version", "doc": "Says what it is not.", "aggregate": false,
    "async": false, "args": [{"name": "n", "type": "Int64", "nullable": false, "list": false}],
    "returns": {"name": "", "type": "Int64", "nullable": false, "list": false}}"#
);
