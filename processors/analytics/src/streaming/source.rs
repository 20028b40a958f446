//! A source topic: the columns its table declares against what its Avro schema has, its event time, and its settings.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::compute::can_cast_types;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::sql::sqlparser::ast::DataType as Sql;
use kernel::ConfigFault;

use super::dialect::{Table, at};
use super::options::edits;
use super::program::some;
use super::reader::{decoder, prune};

/// A topic that views read.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// The table's name.
    pub(crate) name: String,
    pub(crate) topic: Arc<str>,
    /// Columns that the views take, and the event time and the unique column.
    pub(crate) columns: SchemaRef,
    /// Avro JSON of just those.
    pub(crate) wanted: String,
    /// Index and name of the event time.
    pub(crate) time: (usize, String),
    pub(crate) unique: Option<usize>,
    /// How far the watermark stays behind, microseconds.
    pub(crate) delay: i64,
    pub(crate) lateness: Option<i64>,
    pub(crate) idle: Option<i64>,
}

fn micros() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, None)
}

/// The type a view sees of what the decoder gives.
fn natural(kind: &DataType) -> DataType {
    match kind {
        DataType::Timestamp(..) => micros(),
        // An enum, and texts.
        DataType::Dictionary(..) | DataType::Utf8 => DataType::Utf8View,
        other => other.clone(),
    }
}

/// A column as views see it. What must be converted may turn out not to fit and is null then.
fn column(name: &str, read: &Field, kind: DataType) -> Field {
    let as_it_is = match (read.data_type(), &kind) {
        (DataType::Timestamp(TimeUnit::Microsecond, _), DataType::Timestamp(..))
        | (DataType::Utf8, DataType::Utf8View) => true,
        (read, kind) => read == kind,
    };
    Field::new(name, kind, read.is_nullable() || !as_it_is)
}

/// The type of a declared column.
fn declared(kind: &Sql) -> Option<DataType> {
    Some(match kind {
        Sql::Text
        | Sql::String(_)
        | Sql::Varchar(_)
        | Sql::Char(_)
        | Sql::CharVarying(_)
        | Sql::CharacterVarying(_) => DataType::Utf8View,
        Sql::BigInt(_) | Sql::Int8(_) | Sql::Int64 => DataType::Int64,
        Sql::Int(_) | Sql::Integer(_) | Sql::Int4(_) | Sql::Int32 => DataType::Int32,
        Sql::SmallInt(_) | Sql::Int2(_) | Sql::Int16 => DataType::Int16,
        Sql::Double(_) | Sql::DoublePrecision | Sql::Float8 | Sql::Float64 => DataType::Float64,
        Sql::Real | Sql::Float(_) | Sql::Float4 | Sql::Float32 => DataType::Float32,
        Sql::Boolean | Sql::Bool => DataType::Boolean,
        Sql::Timestamp(..) | Sql::Datetime(_) => micros(),
        Sql::Date => DataType::Date32,
        Sql::Bytea | Sql::Bytes(_) | Sql::Binary(_) | Sql::Varbinary(_) => DataType::Binary,
        _ => return None,
    })
}

/// All columns of a table; what does not fit its topic's schema is named.
pub(crate) fn columns(table: &Table, sources: &BTreeMap<String, String>) -> Result<SchemaRef, Vec<ConfigFault>> {
    let topic = &table.options.topic;
    let fault = |detail: String| vec![ConfigFault::new(at(table.at), detail)];
    let json = sources.get(topic).ok_or_else(|| {
        fault(format!(
            "the registry has no schema for topic `{topic}`; write a record or register one"
        ))
    })?;
    let read = decoder(1, json, None)
        .map_err(|e| fault(format!("the schema of topic `{topic}` cannot be read: {e}")))?
        .schema();
    if table.columns.is_empty() {
        let fields: Vec<_> = read
            .fields()
            .iter()
            .map(|f| column(f.name(), f, natural(f.data_type())))
            .collect();
        return Ok(Arc::new(Schema::new(fields)));
    }
    let (mut fields, mut faults) = (Vec::new(), Vec::new());
    for column in &table.columns {
        let mut wrong = |detail: String| faults.push(ConfigFault::new(at(column.at), detail));
        let Ok(field) = read.field_with_name(&column.name) else {
            let near = read
                .fields()
                .iter()
                .min_by_key(|f| edits(f.name(), &column.name))
                .map(|f| f.name().clone());
            let near = near.map(|n| format!("; did you mean \"{n}\"?")).unwrap_or_default();
            wrong(format!("topic `{topic}` has no field `{}`{near}", column.name));
            continue;
        };
        let Some(kind) = declared(&column.kind) else {
            wrong(format!(
                "the type {} of column `{}` is not supported",
                column.kind, column.name
            ));
            continue;
        };
        let given = natural(field.data_type());
        let is_time = matches!(given, DataType::Timestamp(..) | DataType::Date32);
        if matches!(kind, DataType::Timestamp(..)) && !is_time || !can_cast_types(&given, &kind) {
            let fix = "give the field a logicalType such as timestamp-micros, or declare the column as it is";
            wrong(format!(
                "field `{}` of topic `{topic}` is {given}, not {}: {fix}",
                column.name, column.kind
            ));
            continue;
        }
        fields.push(self::column(&column.name, field, kind));
    }
    if faults.is_empty() {
        Ok(Arc::new(Schema::new(fields)))
    } else {
        Err(faults)
    }
}

impl Source {
    /// A source that views take columns from.
    pub(crate) fn of(
        table: &Table,
        columns: &SchemaRef,
        takes: &[&SchemaRef],
        sources: &BTreeMap<String, String>,
    ) -> Result<Self, Vec<ConfigFault>> {
        let fault = |detail: String| vec![ConfigFault::new(at(table.at), detail)];
        let Some((time, delay)) = &table.watermark else {
            let wants = "add WATERMARK FOR column AS column - INTERVAL '10 seconds' to its columns";
            return Err(fault(format!("table `{}` has no watermark; {wants}", table.name)));
        };
        match columns.field_with_name(time).map(Field::data_type) {
            Ok(DataType::Timestamp(..)) => {}
            Ok(other) => {
                return Err(fault(format!(
                    "the watermark's column `{time}` is {other}, not a TIMESTAMP"
                )));
            }
            Err(_) => {
                return Err(fault(format!(
                    "the watermark's column `{time}` is not a column of the table"
                )));
            }
        }
        if let Some(unique) = table
            .options
            .unique
            .as_ref()
            .filter(|u| columns.field_with_name(u).is_err())
        {
            return Err(fault(format!(
                "option `soma.unique` names `{unique}`, which is not a column of the table"
            )));
        }
        let mut wanted: BTreeSet<&str> = takes
            .iter()
            .flat_map(|t| t.fields().iter().map(|f| f.name().as_str()))
            .collect();
        wanted.insert(time);
        wanted.extend(table.options.unique.as_deref());
        let columns = some(columns, &|name| wanted.contains(name));
        let json = sources.get(&table.options.topic).map_or("", String::as_str);
        Ok(Self {
            name: table.name.clone(),
            topic: table.options.topic.as_str().into(),
            wanted: prune(json, &|name| columns.field_with_name(name).is_ok()).map_err(fault)?,
            time: (columns.index_of(time).unwrap_or(0), time.clone()),
            unique: table.options.unique.as_ref().and_then(|u| columns.index_of(u).ok()),
            columns,
            delay: *delay,
            lateness: table.options.lateness,
            idle: table.options.idle,
        })
    }
}
