//! Parity of the aggregate: plain Rust, `__run`, and SQL in one partition and in four, where partial states go through a shuffle.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array};

use super::plain::median_deviation;
use super::rows::Tally;
use super::{Random, ask, called, context, shipped, table};

pub(super) const NAME: &str = "median_deviation";

/// Groups of every size, the first of them empty but for NULLs.
fn values() -> Vec<Vec<Option<f64>>> {
    let mut random = Random(7);
    let mut groups = vec![
        vec![None, None],
        vec![Some(1.5)],
        vec![Some(f64::NAN), Some(2.0), None, Some(4.0)],
        vec![Some(f64::NAN)],
        vec![
            Some(f64::INFINITY),
            Some(1.0),
            Some(f64::NEG_INFINITY),
            Some(0.0),
            Some(-0.0),
        ],
        vec![
            Some(1.0),
            Some(1.0),
            Some(2.0),
            Some(2.0),
            Some(4.0),
            Some(6.0),
            Some(9.0),
        ],
    ];
    groups.extend((0..200).map(|n| {
        let one = |r: &mut Random| (r.below(9) > 0).then(|| r.whole() as f64 / 1e3);
        (0..=n * 5).map(|_| one(&mut random)).collect()
    }));
    groups
}

fn right(values: &[Option<f64>]) -> Option<f64> {
    median_deviation::plain(values.iter().flatten().copied().collect())
}

pub(super) fn check(tally: &mut Tally) {
    let groups = values();
    let udf = called(NAME);
    for group in groups.iter().chain([&Vec::new()]) {
        let array: ArrayRef = Arc::new(Float64Array::from(group.clone()));
        let given = udf.call(&[array]).unwrap();
        let right: ArrayRef = Arc::new(Float64Array::from(vec![right(group)]));
        tally.compare("median_deviation through __run", &right, &given);
    }
    // Rows of all groups in turn, so that each group is in every batch and partition.
    let most = groups.iter().map(Vec::len).max().unwrap();
    let rows: Vec<(i64, Option<f64>)> = (0..most)
        .flat_map(|i| (0_i64..).zip(&groups).filter_map(move |(g, v)| Some((g, *v.get(i)?))))
        .collect();
    let batches: Vec<_> = rows
        .chunks(4_099)
        .map(|rows| {
            let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.0)));
            let values: ArrayRef = Arc::new(Float64Array::from_iter(rows.iter().map(|r| r.1)));
            table(&[keys, values])
        })
        .collect();
    let right: ArrayRef = Arc::new(Float64Array::from_iter(groups.iter().map(|g| right(g))));
    for partitions in [1, 4] {
        let mut parts = vec![Vec::new(); partitions];
        for (i, batch) in batches.iter().enumerate() {
            parts[i % partitions].push(batch.clone());
        }
        let context = context(shipped(), partitions);
        let given = ask(
            &context,
            parts.clone(),
            "SELECT a0, median_deviation(a1) FROM t GROUP BY a0 ORDER BY a0",
        )
        .unwrap();
        tally.compare(
            &format!("median_deviation in {partitions} partitions"),
            &right,
            given.column(1),
        );
        let none = ask(&context, parts, "SELECT median_deviation(a1) FROM t WHERE a0 < 0").unwrap();
        let null: ArrayRef = Arc::new(Float64Array::from(vec![None]));
        tally.compare("median_deviation of no row", &null, none.column(0));
    }
}

#[test]
fn what_it_does_not_take_is_said() {
    let batch = table(&[
        Arc::new(Int64Array::from(vec![1])),
        Arc::new(Float64Array::from(vec![1.0])),
    ]);
    for (sql, says) in [
        (
            "SELECT median_deviation(a1), median_deviation(DISTINCT a1) FROM t",
            "udf `median_deviation`: takes no DISTINCT",
        ),
        (
            "SELECT median_deviation(a1 ORDER BY a0) FROM t",
            "udf `median_deviation`: takes no ORDER BY",
        ),
    ] {
        let context = context(shipped(), 1);
        let failed = ask(&context, vec![vec![batch.clone()]], sql).unwrap_err().to_string();
        assert!(failed.contains(says), "{sql}: {failed}");
    }
}
