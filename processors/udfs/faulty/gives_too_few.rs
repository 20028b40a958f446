//! Says that it is called with rows, and is an aggregate: one value, whatever the number of rows.
use arroyo_udf_plugin::udf;

#[udf]
fn total(values: Vec<i64>) -> i64 {
    values.iter().sum()
}

soma_udfs::say!(
    r#"{"abi": 1, "plugin": "0.2.0", "panic": "unwind", "name": "gives_too_few", "doc": "Says what it is not.", "aggregate": false,
    "async": false, "args": [{"name": "n", "type": "Int64", "nullable": false, "list": false}],
    "returns": {"name": "", "type": "Int64", "nullable": false, "list": false}}"#
);
