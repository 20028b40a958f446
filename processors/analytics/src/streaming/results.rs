//! Result rows: their Avro schema, and their bytes with the registry's id in front.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int32Array, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow_avro::schema::FingerprintStrategy;
use arrow_avro::writer::WriterBuilder;
use arrow_avro::writer::format::AvroSoeFormat;
use kernel::{Fault, FaultCode};
use serde_json::{Value, json};

/// The type a column is written with, and that type in Avro.
fn written(kind: &DataType) -> Option<(DataType, Value)> {
    Some(match kind {
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 => {
            (DataType::Int32, json!("int"))
        }
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => (DataType::Int64, json!("long")),
        DataType::Float16 | DataType::Float32 | DataType::Float64 => (DataType::Float64, json!("double")),
        DataType::Boolean => (DataType::Boolean, json!("boolean")),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => (DataType::Utf8, json!("string")),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => (DataType::Binary, json!("bytes")),
        DataType::Date32 => (DataType::Date32, json!({"type": "int", "logicalType": "date"})),
        DataType::Timestamp(..) => (instant(), json!({"type": "long", "logicalType": "timestamp-micros"})),
        DataType::Decimal128(precision, scale) => (
            kind.clone(),
            json!({"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale}),
        ),
        _ => return None,
    })
}

fn instant() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()))
}

/// How the rows of a view are written.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    /// Avro JSON.
    pub(crate) avro: String,
    schema: Arc<Schema>,
}

/// Columns of a batch of result rows, in order: starts, ends, the view's own, revisions, deletions.
#[derive(Default)]
pub(crate) struct Columns {
    pub(crate) starts: Vec<i64>,
    pub(crate) ends: Vec<i64>,
    pub(crate) own: Vec<ArrayRef>,
    pub(crate) revisions: Vec<i32>,
    pub(crate) deleted: Vec<bool>,
}

impl Rows {
    /// The form of rows for `topic` with these columns; says which column has no form.
    pub(crate) fn of(topic: &str, columns: &[Field]) -> Result<Self, String> {
        let mut fields = vec![
            Field::new("window_start", instant(), false),
            Field::new("window_end", instant(), false),
        ];
        for column in columns {
            let Some((kind, _)) = written(column.data_type()) else {
                let detail = "cast it to a number, a text or a time";
                return Err(format!(
                    "column `{}` is {}: {detail}",
                    column.name(),
                    column.data_type()
                ));
            };
            if ["window_start", "window_end", "revision", "deleted"].contains(&column.name().as_str()) {
                return Err(format!(
                    "column `{}` has a name of our own; give it another with AS",
                    column.name()
                ));
            }
            fields.push(Field::new(column.name(), kind, true));
        }
        fields.push(Field::new("revision", DataType::Int32, false));
        fields.push(Field::new("deleted", DataType::Boolean, false));
        let avro_fields: Vec<Value> = fields.iter().map(avro_field).collect();
        let (namespace, name) = names(topic);
        let avro = json!({"type": "record", "name": name, "namespace": namespace, "fields": avro_fields}).to_string();
        let metadata = HashMap::from([(arrow_avro::schema::SCHEMA_METADATA_KEY.to_owned(), avro.clone())]);
        Ok(Self {
            avro,
            schema: Arc::new(Schema::new_with_metadata(fields, metadata)),
        })
    }

    /// The rows' bytes.
    pub(crate) fn write(&self, id: i32, columns: Columns) -> Result<Vec<Arc<[u8]>>, Fault> {
        self.encode(id, columns)
            .map_err(|e| Fault::new(FaultCode::Internal, format!("result rows cannot be written: {e}")))
    }

    fn encode(&self, id: i32, columns: Columns) -> Result<Vec<Arc<[u8]>>, Box<dyn std::error::Error>> {
        let times = |values| Arc::new(TimestampMicrosecondArray::from_iter_values(values).with_timezone("+00:00"));
        let mut arrays: Vec<ArrayRef> = vec![times(columns.starts), times(columns.ends)];
        for (array, field) in columns.own.iter().zip(&self.schema.fields()[2..]) {
            let kind = match (array.data_type(), field.data_type()) {
                // A time without a zone is UTC here; casting would take it for a local one.
                (DataType::Timestamp(_, None), kind) => {
                    let naive = cast(array, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
                    cast(&cast(&naive, &DataType::Int64)?, kind)?
                }
                (_, kind) => cast(array, kind)?,
            };
            arrays.push(kind);
        }
        arrays.push(Arc::new(Int32Array::from(columns.revisions)));
        arrays.push(Arc::new(BooleanArray::from(columns.deleted)));
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), arrays)?;
        let mut encoder = WriterBuilder::new(self.schema.as_ref().clone())
            .with_fingerprint_strategy(FingerprintStrategy::Id(id.cast_unsigned()))
            .build_encoder::<AvroSoeFormat>()?;
        encoder.encode(&batch)?;
        let rows = encoder.flush();
        Ok(rows.iter().map(|row| Arc::from(row.as_ref())).collect())
    }
}

fn avro_field(field: &Field) -> Value {
    let kind = written(field.data_type()).map_or(json!("string"), |(_, avro)| avro);
    if field.is_nullable() {
        json!({"name": field.name(), "type": ["null", kind], "default": null})
    } else {
        json!({"name": field.name(), "type": kind})
    }
}

/// Namespace and record name of a topic's rows: `demo.flights_by_origin` is `demo.FlightsByOrigin`.
fn names(topic: &str) -> (String, String) {
    let clean = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' };
    let (space, last) = topic.rsplit_once('.').unwrap_or(("soma", topic));
    let name = last
        .split(|c: char| !c.is_ascii_alphanumeric())
        .map(|word| word[..word.len().min(1)].to_uppercase() + word.get(1..).unwrap_or_default())
        .collect::<String>();
    let name = if name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        name
    } else {
        format!("Rows{name}")
    };
    let space: Vec<String> = space.split('.').map(|part| part.chars().map(clean).collect()).collect();
    (space.join("."), name)
}
