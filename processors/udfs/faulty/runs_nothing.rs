//! Has nothing to run.
soma_udfs::say!(
    r#"{"abi": 1, "plugin": "0.2.0", "panic": "unwind", "name": "runs_nothing", "doc": "Says what it is not.", "aggregate": false,
    "async": false, "args": [{"name": "n", "type": "Int64", "nullable": false, "list": false}],
    "returns": {"name": "", "type": "Int64", "nullable": false, "list": false}}"#
);
