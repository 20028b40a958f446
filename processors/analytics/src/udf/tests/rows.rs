//! Parity of the UDFs of a row: plain Rust, `__run` over the C interface, SQL over columns, over views of text, and over literals.

use std::collections::BTreeSet;
use std::io::Write;

use arrow::array::{Array, ArrayRef};
use arrow::compute::{cast, concat};
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::Expr;
use datafusion::prelude::SessionContext;

use super::batches::{Batch, SUBJECTS};
use super::{Random, ask, called, context, groups, shipped, table};

/// Rows beyond what DataFusion takes in one batch, and no multiple of eight.
const MANY: usize = 100_003;

/// How many answers were looked at, and how many were not right.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) checked: usize,
    pub(super) wrong: usize,
}

impl Tally {
    /// Compares row by row, to the last bit.
    pub(super) fn compare(&mut self, what: &str, right: &ArrayRef, given: &ArrayRef) {
        self.checked += right.len().max(1);
        if right.data_type() == given.data_type() && right.to_data() == given.to_data() {
            return;
        }
        let same = right.len().min(given.len());
        let at: Vec<_> = (0..same)
            .filter(|i| right.slice(*i, 1).to_data() != given.slice(*i, 1).to_data())
            .collect();
        self.wrong += at.len().max(1);
        let shown = at.first().map(|i| (*i, right.slice(*i, 1), given.slice(*i, 1)));
        writeln!(
            std::io::stderr(),
            "{what}: {} rows of {} for {} of {}, first difference: {shown:?}",
            given.len(),
            given.data_type(),
            right.len(),
            right.data_type()
        )
        .unwrap();
    }
}

fn sliced(batch: &Batch, from: usize, rows: usize) -> Batch {
    Batch {
        args: batch.args.iter().map(|a| a.slice(from, rows)).collect(),
        right: batch.right.slice(from, rows),
    }
}

/// All that can be done with a batch.
fn check(name: &str, batch: &Batch, context: &SessionContext, tally: &mut Tally) {
    let run = called(name).call(&batch.args).unwrap();
    tally.compare(&format!("{name} through __run"), &batch.right, &run);
    let columns: Vec<_> = (0..batch.args.len()).map(|i| format!("a{i}")).collect();
    let sql = format!("SELECT {name}({}) FROM t", columns.join(", "));
    let mut tables = vec![("columns", batch.args.clone())];
    if batch.args.iter().any(|a| a.data_type() == &DataType::Utf8) {
        let view = |a: &ArrayRef| match a.data_type() {
            DataType::Utf8 => cast(a, &DataType::Utf8View).unwrap(),
            _ => a.clone(),
        };
        tables.push(("views", batch.args.iter().map(view).collect()));
    }
    for (kind, columns) in tables {
        let given = ask(context, vec![vec![table(&columns)]], &sql).map(|b| b.column(0).clone());
        tally.compare(&format!("{name} in SQL over {kind}"), &batch.right, &given.unwrap());
    }
}

/// Row by row as constants, which the planner works out.
fn check_literals(name: &str, batch: &Batch, context: &SessionContext, tally: &mut Tally) {
    let udf = shipped().scalars.iter().find(|u| u.name() == name).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let rows = batch.right.len().min(60);
    let mut given: Vec<ArrayRef> = Vec::new();
    for row in 0..rows {
        let literal = |a: &ArrayRef| Expr::Literal(ScalarValue::try_from_array(a, row).unwrap(), None);
        let call = udf.call(batch.args.iter().map(literal).collect());
        let frame = context.read_empty().unwrap().select(vec![call]).unwrap();
        let answer = runtime.block_on(frame.collect()).unwrap();
        given.push(answer[0].column(0).clone());
    }
    let given: Vec<&dyn Array> = given.iter().map(|a| &**a).collect();
    let right = batch.right.slice(0, rows);
    tally.compare(&format!("{name} of literals"), &right, &concat(&given).unwrap());
}

#[test]
fn the_same_in_plain_rust_through_run_and_in_sql() {
    let context = context(shipped(), 1);
    let mut tally = Tally::default();
    for (name, make) in SUBJECTS {
        let thought = make(None);
        let many = make(Some((&mut Random(2026), MANY)));
        check_literals(name, &thought, &context, &mut tally);
        for batch in [
            sliced(&thought, 0, 0),
            sliced(&thought, 1, 1),
            // Not from the first bit of a byte of the null bitmap.
            sliced(&many, 7, 1_001),
            thought,
            many,
        ] {
            check(name, &batch, &context, &mut tally);
        }
        let nulls = Batch {
            args: make(None)
                .args
                .iter()
                .map(|a| arrow::array::new_null_array(a.data_type(), 9))
                .collect(),
            right: arrow::array::new_null_array(make(None).right.data_type(), 9),
        };
        check(name, &nulls, &context, &mut tally);
    }
    groups::check(&mut tally);
    // Not `println!`, which a passing test keeps to itself.
    writeln!(
        std::io::stderr(),
        "udf parity checked={} wrong={}",
        tally.checked,
        tally.wrong
    )
    .unwrap();
    assert_eq!(tally.wrong, 0);
    // Each many rows over by `__run` and over columns, the four with texts over views too.
    assert!(
        tally.checked > (6 * 2 + 4) * MANY,
        "only {} answers were looked at",
        tally.checked
    );
}

#[test]
fn every_shipped_udf_is_compared() {
    let compared: BTreeSet<_> = SUBJECTS.iter().map(|s| s.0).chain([groups::NAME]).collect();
    let there: BTreeSet<_> = shipped().said.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(compared, there);
}
