//! Dylibs that do wrong (processors/udfs/faulty): each is refused or fails with its name, and the process goes on.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, StringArray};
use arrow::datatypes::Int64Type;

use super::{ask, called, context, dylib, shipped, table};
use crate::udf::called::Called;
use crate::udf::{Failed, Udfs, load, load_files};

fn faulty(name: &str) -> Udfs {
    load_files(&[dylib("udfs-faulty", name)]).unwrap_or_else(|faults| panic!("{faults:?}"))
}

fn numbers(of: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(of))
}

fn failure(udfs: &Udfs, sql: &str, of: ArrayRef) -> String {
    let batch = vec![vec![table(&[of])]];
    ask(&context(udfs, 1), batch, sql).unwrap_err().to_string()
}

#[test]
fn a_panic_is_an_error_with_name_and_row_and_the_next_call_works() {
    let udfs = faulty("panics");
    let failed = failure(&udfs, "SELECT panics(a0) FROM t", numbers(0..1_000));
    assert!(failed.contains("udf `panics`: panicked"), "{failed}");
    assert!(failed.contains("(row 13 of its batch, from 0)"), "{failed}");
    let called = Called::open(&dylib("udfs-faulty", "panics")).unwrap();
    for row in [0, 1, 499, 500, 998, 999] {
        let args = numbers((0..1_000).map(|n| if n == row || n == 999 { 13 } else { 2 * n + 100 }));
        let failed = called.call(&[args]).unwrap_err();
        assert_eq!(failed.row, usize::try_from(row).ok(), "{failed}");
    }
    let given = called.call(&[numbers([12, 14])]).unwrap();
    assert_eq!(given.as_primitive::<Int64Type>().values(), &[6, 7]);
    let batch = |n| vec![vec![table(&[numbers([12, n])])]];
    let sql = "SELECT a0 FROM (SELECT a0, panics(a0) AS b FROM t) WHERE b > 1 ORDER BY b";
    let error = ask(&context(&udfs, 1), batch(13), sql).unwrap_err();
    let failed = Failed::of(&error).expect("a UDF's own error, through every operator");
    assert_eq!((failed.udf.as_str(), failed.row), ("panics", Some(1)));
    assert_eq!(ask(&context(&udfs, 1), batch(14), sql).unwrap().num_rows(), 2);
    let given = ask(
        &context(&udfs, 1),
        vec![vec![table(&[numbers([4])])]],
        "SELECT panics(a0) FROM t",
    )
    .unwrap();
    assert_eq!(given.column(0).as_primitive::<Int64Type>().values(), &[2]);
}

#[test]
fn a_panic_in_a_constant_an_aggregate_and_many_threads() {
    let udfs = faulty("panics");
    let failed = failure(&udfs, "SELECT panics(13) FROM t", numbers([1]));
    assert!(failed.contains("udf `panics`: panicked"), "{failed}");
    let failed = failure(
        &faulty("panics_for_all"),
        "SELECT panics_for_all(a0) FROM t",
        numbers([1, 13]),
    );
    assert!(failed.contains("udf `panics_for_all`: panicked"), "{failed}");
    let called = Called::open(&dylib("udfs-faulty", "panics")).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for n in 0..50 {
                    let failed = called.call(&[numbers([1, n])]).is_err();
                    assert_eq!(failed, n == 13);
                }
            });
        }
    });
}

#[test]
fn what_is_not_as_declared_is_an_error_with_the_name() {
    for (name, says) in [
        (
            "lies_of_its_result",
            "udf `lies_of_its_result`: gave Float64, not Int64 as it declares",
        ),
        ("gives_too_few", "udf `gives_too_few`: gave 1 values, not 3"),
    ] {
        let failed = failure(&faulty(name), &format!("SELECT {name}(a0) FROM t"), numbers([1, 2, 3]));
        assert!(failed.contains(says), "{failed}");
    }
    let text = Arc::new(StringArray::from(vec!["1", "2"]));
    let failed = failure(
        &faulty("lies_of_its_arguments"),
        "SELECT lies_of_its_arguments(a0) FROM t",
        text,
    );
    assert!(failed.contains("udf `lies_of_its_arguments`: panicked"), "{failed}");
}

#[test]
fn arguments_of_the_wrong_type_number_or_length_never_reach_the_dylib() {
    let context = context(shipped(), 1);
    for (sql, says) in [
        ("SELECT latency_bucket(a0) FROM t", "latency_bucket"),
        ("SELECT risk_band(a0, a0) FROM t", "risk_band"),
        ("SELECT risk_band() FROM t", "risk_band"),
    ] {
        let text: ArrayRef = Arc::new(Float64Array::from(vec![0.5]));
        let failed = ask(&context, vec![vec![table(&[text])]], sql).unwrap_err().to_string();
        assert!(failed.contains(says), "{sql}: {failed}");
    }
    let cost = called("cost_usd");
    let model: ArrayRef = Arc::new(StringArray::from(vec!["gpt-4o"]));
    for (args, says) in [
        (vec![], "udf `cost_usd`: takes 3 arguments, not 0"),
        (
            vec![model.clone(), model.clone(), numbers([1])],
            "udf `cost_usd`: argument 2 (`tokens_in`) is Utf8, not Int64",
        ),
        (
            vec![model, numbers([1]), numbers([1, 2])],
            "udf `cost_usd`: argument 3 (`tokens_out`) has 2 rows, the first 1",
        ),
    ] {
        assert_eq!(cost.call(&args).unwrap_err().to_string(), says);
    }
}

#[test]
fn dylibs_that_cannot_be_called_are_refused_all_at_once() {
    let names = [
        "runs_nothing",
        "says_nothing",
        "of_another_version",
        "aborts",
        "is_not_there",
    ];
    let paths: Vec<_> = names.iter().map(|n| dylib("udfs-faulty", n)).collect();
    let faults = load_files(&paths).err().unwrap();
    let says = [
        "exports no `__run`",
        "exports no `__soma_udf`",
        "udf `of_another_version`: was built with arroyo-udf-plugin 0.3.0, not 0.2.0",
        "udf `aborts`: was built with panic = `abort`",
        "cannot be loaded",
    ];
    assert_eq!(faults.len(), says.len());
    for ((fault, says), path) in faults.iter().zip(says).zip(&paths) {
        assert!(fault.detail.contains(says), "{fault}");
        assert_eq!(fault.path, path.display().to_string());
    }
    let twice = [dylib("udfs", "redact"), dylib("udfs", "redact")];
    let faults = load_files(&twice).err().unwrap();
    assert!(faults[0].detail.contains("udf `redact`:"), "{faults:?}");
    let faults = load(Path::new("/nonexistent")).err().unwrap();
    assert!(faults[0].detail.contains("make udfs"), "{faults:?}");
}

#[test]
fn a_text_file_is_no_dylib() {
    let folder = std::env::temp_dir().join(format!("soma-udf-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join(format!("text.{}", std::env::consts::DLL_EXTENSION));
    std::fs::write(&file, "not a dylib").unwrap();
    let faults = load(&folder).err().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(faults[0].detail.contains("cannot be loaded"), "{faults:?}");
}
