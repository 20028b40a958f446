//! Avro values to record batches, many at a time, only the fields that views take. A value that cannot be read is found alone and
//! named; the rest of its batch is taken.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow_avro::reader::{Decoder, ReaderBuilder};
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};
use kernel::{Blame, Fault, FaultCode, Slab};
use serde_json::Value;

use super::Schemas;
use super::flat::Flat;

/// Rows per batch.
pub(crate) const ROWS: usize = 8_192;
/// Magic byte and schema id.
const FRAME: usize = 5;

/// Rows of a slab that were read: the batch, and where in the slab each row stands.
pub(crate) struct Taken {
    pub(crate) batch: RecordBatch,
    pub(crate) rows: Vec<u32>,
}

/// Reads one topic.
pub(crate) struct Reader {
    topic: Arc<str>,
    /// Avro JSON of the fields to take.
    wanted: String,
    /// What comes out.
    columns: SchemaRef,
    schemas: Arc<dyn Schemas>,
    known: HashMap<i32, Known>,
}

/// A writer's schema: its decoder, or why there is none.
enum Known {
    Good(String, Box<Decoder>, Option<Flat>),
    Bad(Fault),
}

/// Leaves only the fields `wanted` says in a record's Avro JSON.
pub(crate) fn prune(json: &str, wanted: &dyn Fn(&str) -> bool) -> Result<String, String> {
    let mut schema: Value = serde_json::from_str(json).map_err(|e| format!("the Avro schema is no JSON: {e}"))?;
    let fields = schema
        .get_mut("fields")
        .and_then(Value::as_array_mut)
        .ok_or("the Avro schema is no record")?;
    fields.retain(|f| f.get("name").and_then(Value::as_str).is_some_and(wanted));
    Ok(schema.to_string())
}

/// Names of a record's fields, in order.
fn fields(json: &str) -> Vec<String> {
    let schema: Value = serde_json::from_str(json).unwrap_or_default();
    let name = |f: &Value| f.get("name").and_then(Value::as_str).map(str::to_owned);
    schema
        .get("fields")
        .and_then(Value::as_array)
        .map(|all| all.iter().filter_map(name).collect())
        .unwrap_or_default()
}

/// A decoder of values written with `writer`, giving `wanted`.
pub(crate) fn decoder(id: i32, writer: &str, wanted: Option<&str>) -> Result<Decoder, String> {
    let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
    let print = Fingerprint::Id(id.cast_unsigned());
    store
        .set(print, AvroSchema::new(writer.to_owned()))
        .map_err(|e| e.to_string())?;
    let mut builder = ReaderBuilder::new()
        .with_batch_size(ROWS)
        // As views it would give a null text as an empty one (arrow-avro 59); they are made of it afterwards.
        .with_utf8_view(false)
        .with_writer_schema_store(store);
    if let Some(wanted) = wanted {
        builder = builder.with_reader_schema(AvroSchema::new(wanted.to_owned()));
    }
    builder.build_decoder().map_err(|e| e.to_string())
}

fn framed(value: &[u8]) -> Option<i32> {
    match value {
        [0, a, b, c, d, ..] => Some(i32::from_be_bytes([*a, *b, *c, *d])),
        _ => None,
    }
}

/// Takes one value in; whether it was exactly one record.
fn one(decoder: &mut Decoder, value: &[u8]) -> bool {
    let before = decoder.capacity();
    matches!(decoder.decode(value), Ok(n) if n == value.len()) && decoder.capacity() + 1 == before
}

impl Reader {
    pub(crate) fn new(topic: Arc<str>, wanted: String, columns: SchemaRef, schemas: Arc<dyn Schemas>) -> Self {
        Self {
            topic,
            wanted,
            columns,
            schemas,
            known: HashMap::new(),
        }
    }

    /// What comes out.
    pub(crate) fn columns(&self) -> &SchemaRef {
        &self.columns
    }

    /// Reads a slab; `taken` and `refused` are called as batches and bad values are found, in order within each.
    pub(crate) fn read(
        &mut self,
        slab: &Slab,
        taken: &mut dyn FnMut(Taken) -> Result<(), Fault>,
        refused: &mut dyn FnMut(usize, Fault),
    ) -> Result<(), Fault> {
        let mut begin = 0;
        while begin < slab.len() {
            let Some(id) = framed(slab.value(begin)) else {
                let detail = "the value does not begin with a zero byte and a schema id";
                refused(begin, Fault::new(FaultCode::RecordNotFramed, detail));
                begin += 1;
                continue;
            };
            let same = |i: &usize| framed(slab.value(*i)) == Some(id);
            let end = (begin..slab.len().min(begin + ROWS))
                .take_while(same)
                .last()
                .map_or(begin + 1, |i| i + 1);
            if let Some(found) = self.run(slab, id, begin..end, refused)? {
                taken(found)?;
            }
            begin = end;
        }
        Ok(())
    }

    /// Values of one schema id, one behind the other.
    fn run(
        &mut self,
        slab: &Slab,
        id: i32,
        range: std::ops::Range<usize>,
        refused: &mut dyn FnMut(usize, Fault),
    ) -> Result<Option<Taken>, Fault> {
        self.know(id)?;
        let (writer, decoder, flat) = match self.known.get_mut(&id) {
            Some(Known::Good(writer, decoder, flat)) => (writer, decoder, flat),
            Some(Known::Bad(fault)) => {
                range.for_each(|i| refused(i, fault.clone()));
                return Ok(None);
            }
            None => return Ok(None),
        };
        if let Some(flat) = flat
            && range.clone().all(|i| flat.take(slab.value(i)))
            && let Some(found) = flat.finish()
        {
            let column = |name: &str| found.iter().find(|(n, _)| *n == name).map(|(_, array)| array);
            let batch = shaped(&self.columns, &column)?;
            let rows = range.filter_map(|i| u32::try_from(i).ok()).collect();
            return Ok(Some(Taken { batch, rows }));
        }
        let mut rows: Vec<u32> = Vec::with_capacity(range.len());
        if range.clone().all(|i| one(decoder, slab.value(i))) {
            rows.extend(range.filter_map(|i| u32::try_from(i).ok()));
        } else {
            **decoder = fresh(id, writer, &self.wanted)?;
            let mut probe = fresh(id, writer, &self.wanted)?;
            for i in range {
                if one(&mut probe, slab.value(i)) {
                    rows.extend(u32::try_from(i).ok());
                    one(decoder, slab.value(i));
                } else {
                    refused(
                        i,
                        Fault::new(FaultCode::RecordUnreadable, diagnose(id, writer, slab.value(i))),
                    );
                }
                // A probe that met half of a record is not right any more; one that met a whole one has room for one more.
                if !matches!(probe.flush(), Ok(Some(_))) || rows.last().is_none_or(|last| *last as usize != i) {
                    probe = fresh(id, writer, &self.wanted)?;
                }
            }
        }
        let flushed = decoder.flush().map_err(|e| internal("the Avro decoder failed", &e))?;
        match flushed {
            Some(batch) => Ok(Some(Taken {
                batch: shaped(&self.columns, &|name| batch.column_by_name(name))?,
                rows,
            })),
            None => Ok(None),
        }
    }

    /// Fetches a writer's schema that was not met yet.
    fn know(&mut self, id: i32) -> Result<(), Fault> {
        if self.known.contains_key(&id) {
            return Ok(());
        }
        let known = match self.schemas.writer(&self.topic, id) {
            Ok(writer) => match decoder(id, &writer, Some(&self.wanted)) {
                Ok(decoder) => {
                    let flat = Flat::new(&writer, &self.wanted);
                    Known::Good(writer, Box::new(decoder), flat)
                }
                Err(says) => Known::Bad(Fault::new(
                    FaultCode::RecordUnreadable,
                    format!("schema {id} of the record does not resolve to what the views take: {says}"),
                )),
            },
            Err(fault) if fault.blame == Blame::Input => Known::Bad(fault),
            Err(fault) => return Err(fault),
        };
        self.known.insert(id, known);
        Ok(())
    }
}

/// The batch with the columns, types and order that the sources declare.
fn shaped<'a>(columns: &SchemaRef, column: &dyn Fn(&str) -> Option<&'a ArrayRef>) -> Result<RecordBatch, Fault> {
    let mut arrays = Vec::with_capacity(columns.fields().len());
    for field in columns.fields() {
        let array = column(field.name()).ok_or_else(|| {
            Fault::new(
                FaultCode::Internal,
                format!("the Avro decoder left `{}` out", field.name()),
            )
        })?;
        arrays.push(typed(array, field.data_type()).map_err(|e| internal(field.name(), &e))?);
    }
    RecordBatch::try_new(Arc::clone(columns), arrays).map_err(|e| internal("a batch cannot be made", &e))
}

/// A column in another type; what does not fit becomes null.
fn typed(column: &ArrayRef, kind: &DataType) -> Result<ArrayRef, arrow::error::ArrowError> {
    if column.data_type() == kind {
        return Ok(Arc::clone(column));
    }
    if let (DataType::Timestamp(TimeUnit::Microsecond, Some(_)), DataType::Timestamp(TimeUnit::Microsecond, None)) =
        (column.data_type(), kind)
    {
        // Avro's times are UTC; so are ours.
        let times = column.as_primitive::<TimestampMicrosecondType>().clone();
        return Ok(Arc::new(times.with_timezone_opt::<Arc<str>>(None)));
    }
    cast(column, kind)
}

fn fresh(id: i32, writer: &str, wanted: &str) -> Result<Decoder, Fault> {
    decoder(id, writer, Some(wanted)).map_err(|e| internal("an Avro decoder cannot be made", &e))
}

fn internal(what: &str, error: &dyn std::fmt::Display) -> Fault {
    Fault::new(FaultCode::Internal, format!("{what}: {error}"))
}

/// Which field of a value cannot be read: the first whose addition to the fields before it makes the value unreadable.
fn diagnose(id: i32, writer: &str, value: &[u8]) -> String {
    let names = fields(writer);
    for count in 1..=names.len() {
        let first = prune(writer, &|name| names[..count].iter().any(|n| n == name));
        let Ok(mut decoder) = first.and_then(|json| decoder(id, &json, None)) else {
            continue;
        };
        // What stands behind the record is an error too, but only once the record counts.
        if decoder.decode(value).is_err() && decoder.batch_is_empty() || decoder.batch_is_empty() {
            return format!(
                "field `{}` cannot be read from the {} bytes of the value, which says it was written with schema {id}",
                names[count - 1],
                value.len() - FRAME
            );
        }
    }
    format!("bytes are left over behind the last field of schema {id}")
}
