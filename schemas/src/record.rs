//! What every record can do: give its schema, become Avro bytes and come back from them.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::schema_compatibility::SchemaCompatibility;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use apache_avro::{Decimal, Schema, from_value};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::aliases::rewritten;

/// Bytes that are not the record they should be; the text names the field where it can.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(pub String);

/// A record of the contract. Implemented by `record!` for each `.avsc`.
pub trait Record: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    /// Short name, which is also the `.avsc` file's name.
    const NAME: &'static str;
    /// Schema as shipped.
    fn schema() -> &'static Schema;
    /// Schema text as shipped.
    fn schema_text() -> &'static str;
    /// Writer of this schema, its named types resolved once.
    fn writer() -> &'static GenericDatumWriter<'static>;
    /// Reader of this schema, its named types resolved once.
    fn reader() -> &'static GenericDatumReader<'static>;
    /// This schema in Avro's canonical form.
    fn canonical() -> &'static str;

    /// Avro binary, without any framing.
    ///
    /// # Errors
    /// The record does not fit its schema.
    fn to_avro(&self) -> Result<Vec<u8>, DecodeError> {
        let mut bytes = Vec::with_capacity(256);
        Self::writer()
            .write_ser(&mut bytes, self)
            .map_err(|e| DecodeError(format!("{}: {e}", Self::NAME)))?;
        Ok(bytes)
    }

    /// The record from Avro binary. Bytes of this build's own schema become the record at once; others are resolved field by field.
    ///
    /// # Errors
    /// As [`Record::from_avro`].
    fn from_written(writer: &Written, bytes: &[u8]) -> Result<Self, DecodeError> {
        if writer.canonical == Self::canonical() {
            let mut rest = bytes;
            let read = Self::reader().read_deser(&mut rest);
            if let Some(record) = read.ok().filter(|_| rest.is_empty()) {
                return Ok(record);
            }
            // Read again the slow way, which says what is wrong.
        }
        let value = writer
            .read_as::<Self>(|schema| decode(schema, bytes, Some(Self::schema())))
            .map_err(|e| DecodeError(format!("{}: {}", Self::NAME, e.0)))?;
        from_value(&value).map_err(|e| DecodeError(format!("{}: {e}", Self::NAME)))
    }

    /// The record from Avro binary written with `writer`, resolved to this build's schema.
    ///
    /// # Errors
    /// The bytes end early, go on too long, or the two schemas do not resolve; the text names the field.
    fn from_avro(writer: &Schema, bytes: &[u8]) -> Result<Self, DecodeError> {
        let value = decode_value(writer, bytes, Some(Self::schema()))
            .map_err(|e| DecodeError(format!("{}: {}", Self::NAME, e.0)))?;
        from_value(&value).map_err(|e| DecodeError(format!("{}: {e}", Self::NAME)))
    }
}

/// The schema something was written with.
#[derive(Debug)]
pub struct Written {
    schema: Schema,
    /// Two schemas with one canonical form write the same bytes.
    canonical: String,
    /// By record, the schema with the names that record's fields have by now.
    renamed: Mutex<BTreeMap<TypeId, Arc<Schema>>>,
}

impl Written {
    /// What was written with this schema.
    pub fn with(schema: Schema) -> Self {
        Self {
            canonical: schema.canonical_form(),
            schema,
            renamed: Mutex::default(),
        }
    }

    /// Reads with this schema in the names of `R`.
    fn read_as<R: Record>(
        &self,
        read: impl FnOnce(&Schema) -> Result<Value, DecodeError>,
    ) -> Result<Value, DecodeError> {
        let known = |all: &mut BTreeMap<_, _>| {
            let renamed = || Arc::new(rewritten(&self.schema, R::schema()).unwrap_or_else(|| self.schema.clone()));
            all.entry(TypeId::of::<R>()).or_insert_with(renamed).clone()
        };
        let schema = known(&mut self.renamed.lock().unwrap_or_else(PoisonError::into_inner));
        read(&schema)
    }
}

impl std::ops::Deref for Written {
    type Target = Schema;

    fn deref(&self) -> &Schema {
        &self.schema
    }
}

/// Avro bytes to a generic value. Everything must be read: bytes left over mean another schema wrote them.
///
/// # Errors
/// The bytes do not match the writer's schema, or it does not resolve to the reader's.
pub fn decode_value(writer: &Schema, bytes: &[u8], reader: Option<&Schema>) -> Result<Value, DecodeError> {
    let renamed = reader.and_then(|reader| rewritten(writer, reader));
    decode(renamed.as_ref().unwrap_or(writer), bytes, reader)
}

fn decode(writer: &Schema, bytes: &[u8], reader: Option<&Schema>) -> Result<Value, DecodeError> {
    let mut rest = bytes;
    let read = |rest: &mut &[u8]| GenericDatumReader::builder(writer).build()?.read_value(rest);
    let value = read(&mut rest).map_err(|e| DecodeError(e.to_string()))?;
    if !rest.is_empty() {
        return Err(DecodeError(format!(
            "{} bytes are left over after the record",
            rest.len()
        )));
    }
    match reader {
        Some(reader) => widened(value).resolve(reader).map_err(|e| DecodeError(e.to_string())),
        None => Ok(value),
    }
}

/// With decimals of the bytes their precision may need. Avro lets a decimal be as short as it fits, and other clients write it so;
/// the library refuses to resolve any that is shorter than its precision could need.
fn widened(value: Value) -> Value {
    match value {
        Value::Decimal(short) => match Vec::<u8>::try_from(&short) {
            Ok(bytes) if (1..8).contains(&bytes.len()) => {
                let sign = if bytes[0] & 0x80 == 0 { 0 } else { 0xff };
                let mut wide = vec![sign; 8 - bytes.len()];
                wide.extend(bytes);
                Value::Decimal(Decimal::from(wide))
            }
            _ => Value::Decimal(short),
        },
        Value::Union(at, inner) => Value::Union(at, Box::new(widened(*inner))),
        Value::Array(items) => Value::Array(items.into_iter().map(widened).collect()),
        Value::Map(entries) => Value::Map(entries.into_iter().map(|(k, v)| (k, widened(v))).collect()),
        Value::Record(fields) => Value::Record(fields.into_iter().map(|(k, v)| (k, widened(v))).collect()),
        other => other,
    }
}

/// Parses schema text.
///
/// # Errors
/// The text is not an Avro schema.
pub fn parse_schema(text: &str) -> Result<Schema, DecodeError> {
    Schema::parse_str(text).map_err(|e| DecodeError(e.to_string()))
}

/// Why data written with `old` could not be read with `new`, naming the field; `None` when it can.
pub fn incompatible(old: &Schema, new: &Schema) -> Option<String> {
    SchemaCompatibility::can_read(old, new).err().map(|e| describe(&e))
}

/// The library nests its errors: the outer ones name fields, the innermost says what is wrong.
fn describe(e: &apache_avro::error::CompatibilityError) -> String {
    use std::error::Error;
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

/// Ties a struct to its `.avsc`.
#[macro_export]
#[doc(hidden)]
macro_rules! record {
    ($type:ty, $name:literal) => {
        impl $crate::Record for $type {
            const NAME: &'static str = $name;

            fn schema() -> &'static $crate::Schema {
                static SCHEMA: std::sync::LazyLock<$crate::Schema> = std::sync::LazyLock::new(|| {
                    $crate::parse_schema(<$type as $crate::Record>::schema_text())
                        .unwrap_or_else(|e| panic!("{}.avsc of this build does not parse: {e}", $name))
                });
                &SCHEMA
            }

            fn writer() -> &'static $crate::Writer<'static> {
                static WRITER: std::sync::LazyLock<$crate::Writer<'static>> = std::sync::LazyLock::new(|| {
                    $crate::Writer::builder(<$type as $crate::Record>::schema())
                        .build()
                        .unwrap_or_else(|e| panic!("{}.avsc of this build does not resolve: {e}", $name))
                });
                &WRITER
            }

            fn reader() -> &'static $crate::Reader<'static> {
                static READER: std::sync::LazyLock<$crate::Reader<'static>> = std::sync::LazyLock::new(|| {
                    $crate::Reader::builder(<$type as $crate::Record>::schema())
                        .build()
                        .unwrap_or_else(|e| panic!("{}.avsc of this build does not resolve: {e}", $name))
                });
                &READER
            }

            fn canonical() -> &'static str {
                static CANONICAL: std::sync::LazyLock<String> =
                    std::sync::LazyLock::new(|| <$type as $crate::Record>::schema().canonical_form());
                &CANONICAL
            }

            fn schema_text() -> &'static str {
                include_str!(concat!("../../avro/soma/", $name, ".avsc"))
            }
        }
    };
}
