//! What a backfill says: how many rows are the same, which are not, and what makes them so.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, Int32Type, Int64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use kernel::RawEmit;
use serde_json::{Map, Value, json};

/// What is to be done with a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It stands as it should.
    Same,
    /// Other values stand.
    Corrected,
    /// It does not stand.
    Added,
    /// It stands and should not.
    Deleted,
}

impl Kind {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Corrected => "corrected",
            Self::Added => "added",
            Self::Deleted => "deleted",
        }
    }
}

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// What is to be done.
    pub kind: Kind,
    /// The revision it is written with; that it stands with, when it is the same.
    pub revision: i32,
    /// Its columns as they should be; of a row that goes, as they stand.
    pub row: Map<String, Value>,
    /// Columns that stand otherwise, of a row that is corrected.
    pub before: Map<String, Value>,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Differences {
    /// Rows that stand or should stand.
    pub windows: usize,
    /// See [`Kind::Same`].
    pub same: usize,
    /// See [`Kind::Corrected`].
    pub corrected: usize,
    /// See [`Kind::Added`].
    pub added: usize,
    /// See [`Kind::Deleted`].
    pub deleted: usize,
    /// Sessions that reach out of the range, computed or standing: left as they are.
    pub beyond: usize,
    /// Columns that make no difference by themselves.
    pub unsteady: Vec<String>,
    /// Rows to write.
    pub emits: Vec<RawEmit>,
    /// The columns' names.
    pub columns: Vec<String>,
    /// The rows as people see them, as many as were asked for, in order of key.
    pub rows: Vec<Difference>,
}

impl Differences {
    pub(super) fn count(&mut self, kind: Kind) {
        self.windows += 1;
        *match kind {
            Kind::Same => &mut self.same,
            Kind::Corrected => &mut self.corrected,
            Kind::Added => &mut self.added,
            Kind::Deleted => &mut self.deleted,
        } += 1;
    }
}

/// A row's columns, as many as there are names.
pub(super) fn shown(names: &[String], batch: &RecordBatch, row: usize) -> Map<String, Value> {
    let value = |column: usize| value(batch.column(column).as_ref(), row);
    names.iter().enumerate().map(|(i, n)| (n.clone(), value(i))).collect()
}

fn value(column: &dyn Array, row: usize) -> Value {
    if column.is_null(row) {
        return Value::Null;
    }
    match column.data_type() {
        DataType::Int32 => json!(column.as_primitive::<Int32Type>().value(row)),
        DataType::Int64 => json!(column.as_primitive::<Int64Type>().value(row)),
        DataType::Boolean => json!(column.as_boolean().value(row)),
        DataType::Float64 => {
            let number = column.as_primitive::<Float64Type>().value(row);
            // JSON knows no infinity.
            serde_json::Number::from_f64(number).map_or_else(|| json!(number.to_string()), Value::Number)
        }
        _ => Value::String(text(column, row)),
    }
}

/// A value as text.
pub(super) fn text(column: &dyn Array, row: usize) -> String {
    let formatter = ArrayFormatter::try_new(column, &FormatOptions::new());
    formatter.map(|f| f.value(row).to_string()).unwrap_or_default()
}
