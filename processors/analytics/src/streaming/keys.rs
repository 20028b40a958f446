//! Group keys as text: what a row's record is keyed by, and which partition a group belongs to. It stays the same across versions.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use schemas::Timestamp;
use xxhash_rust::xxh3::xxh3_64;

/// Each row's key values, joined by `|`; a `|` inside a value stands behind a backslash.
pub(crate) fn texts(columns: &[&ArrayRef], rows: usize) -> Result<Vec<String>, ArrowError> {
    let options = FormatOptions::new();
    let formatters = columns
        .iter()
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options))
        .collect::<Result<Vec<_>, _>>()?;
    let mut part = String::new();
    (0..rows)
        .map(|row| {
            let mut text = String::new();
            for (i, formatter) in formatters.iter().enumerate() {
                if i > 0 {
                    text.push('|');
                }
                part.clear();
                formatter.value(row).write(&mut part)?;
                if part.contains(['|', '\\']) {
                    part = part.replace('\\', "\\\\").replace('|', "\\|");
                }
                text.push_str(&part);
            }
            Ok(text)
        })
        .collect()
}

/// As [`texts`], but a null is `\N`; and which rows have one.
pub(crate) fn marked(columns: &[&ArrayRef], rows: usize) -> Result<(Vec<String>, Vec<bool>), ArrowError> {
    let mut names = texts(columns, rows)?;
    let null: Vec<bool> = (0..rows).map(|row| columns.iter().any(|c| c.is_null(row))).collect();
    if null.contains(&true) {
        let parts = columns
            .iter()
            .map(|c| texts(&[*c], rows))
            .collect::<Result<Vec<_>, _>>()?;
        for row in (0..rows).filter(|row| null[*row]) {
            let text = |(column, part): (&&ArrayRef, &Vec<String>)| match column.is_null(row) {
                true => "\\N".to_owned(),
                false => part[row].clone(),
            };
            names[row] = columns.iter().zip(&parts).map(text).collect::<Vec<_>>().join("|");
        }
    }
    Ok((names, null))
}

/// A hash of each row's key.
pub(crate) fn hashes(columns: &[&ArrayRef], rows: usize) -> Result<Vec<u64>, ArrowError> {
    if let [column] = columns
        && *column.data_type() == DataType::Utf8
    {
        let texts = column.as_string::<i32>();
        return Ok((0..rows).map(|row| xxh3_64(texts.value(row).as_bytes())).collect());
    }
    Ok(texts(columns, rows)?
        .iter()
        .map(|text| xxh3_64(text.as_bytes()))
        .collect())
}

/// The group columns of kept rows, the pane left out.
pub(crate) fn columns(rows: &RecordBatch, keys: usize, pane: usize) -> Vec<&ArrayRef> {
    (0..keys).filter(|i| *i != pane).map(|i| rows.column(i)).collect()
}

/// Key of a result row.
pub(crate) fn with_start(key: &str, start: i64) -> String {
    let start = Timestamp(start);
    if key.is_empty() {
        start.to_string()
    } else {
        format!("{key}|{start}")
    }
}

/// Partition a group belongs to.
pub(crate) fn partition(key: &str, partitions: i32) -> i32 {
    let count = u64::from(partitions.max(1).cast_unsigned());
    i32::try_from(xxh3_64(key.as_bytes()) % count).unwrap_or(0)
}
