//! What Avro schemas say of the columns of a Flink table.

use serde_json::Value;

use super::expr::Kind;

/// How a time is counted in a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Millis,
    Micros,
}

/// A field as Flink reads or writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: String,
    /// Flink's type, without NOT NULL.
    pub(super) kind: &'static str,
    pub(super) nullable: bool,
    /// A time: its column is a BIGINT, for Flink's format knows no microseconds.
    pub(super) time: Option<Unit>,
}

impl Field {
    /// The column in CREATE TABLE.
    pub(super) fn column(&self) -> String {
        let not_null = if self.nullable { "" } else { " NOT NULL" };
        format!("{} {}{not_null}", super::expr::quoted(&self.name), self.kind)
    }

    pub(super) fn numeric(&self) -> Kind {
        match (self.kind, self.time) {
            ("INT" | "BIGINT", None) => Kind::Whole,
            ("FLOAT" | "DOUBLE", _) => Kind::Real,
            _ => Kind::Other,
        }
    }
}

/// The fields of a record; says which it cannot.
pub(super) fn fields(json: &str) -> Result<Vec<Field>, String> {
    some(json, &|_| true)
}

/// Those of a record's fields that are asked for: a reader need not know the others.
pub(super) fn some(json: &str, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<Field>, String> {
    let schema: Value = serde_json::from_str(json).map_err(|e| format!("the schema is not JSON: {e}"))?;
    let Some(fields) = schema["fields"].as_array() else {
        return Err("the schema is not a record".to_owned());
    };
    let wanted = |f: &&Value| f["name"].as_str().is_some_and(wanted);
    fields.iter().filter(wanted).map(field).collect()
}

fn field(field: &Value) -> Result<Field, String> {
    let name = field["name"].as_str().unwrap_or_default().to_owned();
    let (nullable, kind) = match &field["type"] {
        Value::Array(branches) => match branches
            .iter()
            .filter(|b| b.as_str() != Some("null"))
            .collect::<Vec<_>>()
            .as_slice()
        {
            [one] => (branches.len() == 2, (*one).clone()),
            _ => {
                return Err(format!(
                    "field `{name}` is a union of several types, which Flink's tables do not have"
                ));
            }
        },
        one => (false, one.clone()),
    };
    let base = kind.as_str().or_else(|| kind["type"].as_str()).unwrap_or_default();
    let logical = kind["logicalType"].as_str().unwrap_or_default();
    let time = match logical {
        "timestamp-millis" | "local-timestamp-millis" => Some(Unit::Millis),
        "timestamp-micros" | "local-timestamp-micros" => Some(Unit::Micros),
        _ => None,
    };
    let kind = match (base, logical) {
        ("int", "date") => "DATE",
        ("string", _) => "STRING",
        ("boolean", _) => "BOOLEAN",
        ("int", _) => "INT",
        ("long", _) => "BIGINT",
        ("float", _) => "FLOAT",
        ("double", _) => "DOUBLE",
        ("bytes", "") => "BYTES",
        _ => return Err(format!("field `{name}` is {kind}, which is not rendered for Flink")),
    };
    Ok(Field {
        name,
        kind,
        nullable,
        time,
    })
}

/// The same schema without the logical types of times: Flink's format refuses a schema whose types are not its table's, and has no
/// type for microseconds. The bytes stay the same, and so does what a reader with our schema sees.
pub(super) fn plain(json: &str) -> Result<String, String> {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(map) => {
                if map
                    .get("logicalType")
                    .and_then(Value::as_str)
                    .is_some_and(|l| l.contains("timestamp-"))
                {
                    map.remove("logicalType");
                }
                map.values_mut().for_each(strip);
            }
            Value::Array(all) => all.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut schema: Value = serde_json::from_str(json).map_err(|e| format!("the schema is not JSON: {e}"))?;
    strip(&mut schema);
    Ok(schema.to_string())
}
