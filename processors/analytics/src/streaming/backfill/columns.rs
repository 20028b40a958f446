//! A history that is columns already: Parquet files, and what ClickHouse gives as a stream of Arrow batches. Their columns are those of
//! the source's table; what is missing or does not fit is named.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{can_cast_types, cast};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow_ipc::reader::StreamReader;
use kernel::{EventTime, Fault, FaultCode, Slab};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::super::lookups::Tables;
use super::super::plan::View;
use super::super::program::some;
use super::super::reader::{ROWS, Taken};
use super::super::source::Source;
use super::Backfill;

/// A column that a history of columns must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Name.
    pub name: String,
    /// What it is.
    pub kind: ColumnKind,
}

/// What a column is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnKind {
    /// A point in time.
    Time,
    /// A day.
    Day,
    /// Text or bytes.
    Text,
    /// A whole number of so many bits.
    Whole(u8),
    /// A number with a fraction, of so many bits.
    Float(u8),
    /// True or false.
    Truth,
    /// Something else.
    Other,
}

/// Columns of a source that one view takes, with the event time and the unique column.
pub(super) fn wanted(source: &Source, view: &View) -> SchemaRef {
    let unique = source.unique.map(|i| source.columns.field(i).name());
    some(&source.columns, &|name| {
        let taken = view.takes.field_with_name(name).is_ok();
        taken || name == source.time.1 || unique.is_some_and(|u| u == name)
    })
}

fn kind(of: &DataType) -> ColumnKind {
    match of {
        DataType::Timestamp(..) => ColumnKind::Time,
        DataType::Date32 => ColumnKind::Day,
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 | DataType::Binary => ColumnKind::Text,
        DataType::Int16 => ColumnKind::Whole(16),
        DataType::Int32 => ColumnKind::Whole(32),
        DataType::Int64 => ColumnKind::Whole(64),
        DataType::Float32 => ColumnKind::Float(32),
        DataType::Float64 => ColumnKind::Float(64),
        DataType::Boolean => ColumnKind::Truth,
        _ => ColumnKind::Other,
    }
}

/// For people.
fn words(of: &DataType) -> String {
    match of {
        DataType::Timestamp(..) => "a time".to_owned(),
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => "text".to_owned(),
        other => other.to_string(),
    }
}

fn invalid(detail: String) -> Fault {
    Fault::new(FaultCode::InputInvalid, detail)
}

/// Whether a column of the history can be one of the source's.
fn fits(given: &DataType, wanted: &DataType) -> bool {
    let is_time = |t: &DataType| matches!(t, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64);
    let is_text = |t: &DataType| matches!(kind(t), ColumnKind::Text);
    match wanted {
        DataType::Timestamp(..) => is_time(given),
        // A number in a text is a text: who has it otherwise says so in the file.
        _ if is_text(given) != is_text(wanted) => false,
        _ => can_cast_types(given, wanted),
    }
}

/// A column in the type the views see. Times without a zone are UTC.
fn typed(column: &ArrayRef, kind: &DataType) -> Result<ArrayRef, arrow::error::ArrowError> {
    let DataType::Timestamp(TimeUnit::Microsecond, None) = kind else {
        return cast(column, kind);
    };
    let zone = match column.data_type() {
        DataType::Timestamp(_, zone) => zone.clone(),
        _ => None,
    };
    let micros = cast(column, &DataType::Timestamp(TimeUnit::Microsecond, zone))?;
    let micros = micros.as_primitive::<TimestampMicrosecondType>().clone();
    Ok(Arc::new(micros.with_timezone_opt::<Arc<str>>(None)))
}

fn first_null(column: &dyn Array, but: Option<&dyn Array>) -> Option<usize> {
    (0..column.len()).find(|row| column.is_null(*row) && but.is_none_or(|b| b.is_valid(*row)))
}

impl Backfill {
    /// Columns the history must have.
    pub fn columns(&self) -> Vec<Column> {
        let column = |f: &Arc<Field>| Column {
            name: f.name().clone(),
            kind: kind(f.data_type()),
        };
        self.reader.columns().fields().iter().map(column).collect()
    }

    /// Name of the event time's column.
    pub fn time(&self) -> &str {
        &self.setup.time.1
    }

    /// Name of the unique column.
    pub fn unique(&self) -> Option<String> {
        self.setup.unique.map(|i| self.reader.columns().field(i).name().clone())
    }

    /// Takes a Parquet file in; `name` is what people call it.
    ///
    /// # Errors
    /// It is none, lacks a column, or a column does not fit.
    pub fn take_parquet(&mut self, name: &str, file: File, now: EventTime) -> Result<(), Fault> {
        let unreadable = |e: &dyn std::fmt::Display| {
            let fix = "a Parquet file, uncompressed or compressed with snappy, lz4 or zstd, is wanted";
            invalid(format!("{name} cannot be read: {e}; {fix}"))
        };
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| unreadable(&e))?;
        self.has(name, builder.schema())?;
        let wanted = self.reader.columns();
        let names = wanted.fields().iter().map(|f| f.name().as_str());
        let mask = ProjectionMask::columns(builder.parquet_schema(), names);
        let reader = builder.with_projection(mask).with_batch_size(ROWS).build();
        for batch in reader.map_err(|e| unreadable(&e))? {
            self.take_columns(name, &batch.map_err(|e| unreadable(&e))?, now)?;
        }
        Ok(())
    }

    /// Takes a stream of Arrow batches in.
    ///
    /// # Errors
    /// As [`Backfill::take_parquet`].
    pub fn take_arrow(&mut self, name: &str, bytes: impl Read, now: EventTime) -> Result<(), Fault> {
        let broken = |e: arrow::error::ArrowError| {
            Fault::new(
                FaultCode::StoreUnavailable,
                format!("{name}: its answer breaks off: {e}"),
            )
        };
        let reader = StreamReader::try_new(bytes, None).map_err(broken)?;
        self.has(name, &reader.schema())?;
        for batch in reader {
            let batch = batch.map_err(broken)?;
            for begin in (0..batch.num_rows()).step_by(ROWS) {
                let some = batch.slice(begin, ROWS.min(batch.num_rows() - begin));
                self.take_columns(name, &some, now)?;
            }
        }
        Ok(())
    }

    /// Says which column is not among those that a history has.
    ///
    /// # Errors
    /// `INPUT_INVALID` naming it.
    pub fn lacks_none(&self, name: &str, known: &[&str]) -> Result<(), Fault> {
        let fields = self.reader.columns().fields();
        match fields.iter().find(|f| !known.contains(&f.name().as_str())) {
            Some(field) => Err(invalid(format!(
                "{name} has no column `{}`, which the view takes; it has {}",
                field.name(),
                known.join(", ")
            ))),
            None => Ok(()),
        }
    }

    /// Names what is missing or does not fit.
    fn has(&self, name: &str, given: &Schema) -> Result<(), Fault> {
        let known: Vec<_> = given.fields().iter().map(|f| f.name().as_str()).collect();
        self.lacks_none(name, &known)?;
        for field in self.reader.columns().fields() {
            let Ok(found) = given.field_with_name(field.name()) else {
                continue;
            };
            if !fits(found.data_type(), field.data_type()) {
                let detail = format!(
                    "column `{}` of {name} is {}; the source's table has {}",
                    field.name(),
                    words(found.data_type()),
                    words(field.data_type())
                );
                return Err(invalid(detail));
            }
        }
        Ok(())
    }

    fn take_columns(&mut self, name: &str, batch: &RecordBatch, now: EventTime) -> Result<(), Fault> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let wanted = Arc::clone(self.reader.columns());
        let mut arrays = Vec::with_capacity(wanted.fields().len());
        for field in wanted.fields() {
            let (column, called) = (batch.column_by_name(field.name()), field.name());
            let column = column.ok_or_else(|| invalid(format!("{name} has no column `{called}`")))?;
            let kind = field.data_type();
            let made = typed(column, kind).map_err(|e| invalid(format!("column `{called}` of {name}: {e}")))?;
            if let Some(row) = first_null(&made, Some(column.as_ref())) {
                let value = super::said::text(column.as_ref(), row);
                let detail = format!("column `{called}` of {name}: `{value}` is no {}", words(kind));
                return Err(invalid(detail));
            }
            // An event time that is null is refused like a record without one.
            let needed = !field.is_nullable() && *called != self.setup.time.1;
            if needed && first_null(&made, None).is_some() {
                let detail = format!("column `{called}` of {name} has nulls; in the source's table it is NOT NULL");
                return Err(invalid(detail));
            }
            arrays.push(made);
        }
        let fields: Vec<_> = wanted
            .fields()
            .iter()
            .map(|f| f.as_ref().clone().with_nullable(true))
            .collect();
        let batch =
            RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(|e| invalid(format!("{name}: {e}")))?;
        let taken = Taken {
            rows: (0..u32::try_from(batch.num_rows()).unwrap_or(u32::MAX)).collect(),
            batch,
        };
        // Nothing is late, so nothing of the slab is asked for.
        let slab = Slab {
            topic: Arc::clone(&self.setup.topic),
            ..Slab::default()
        };
        self.locals
            .entry(0)
            .or_default()
            .take(&self.setup, &taken, &slab, now.0, &Tables::default())?;
        self.settle(0)
    }
}
