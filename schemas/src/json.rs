//! Avro values to readable JSON and back, by schema. What `soma subscribe` prints and `soma produce` reads.

use apache_avro::Schema;
use apache_avro::types::Value;
use serde_json::{Map, Value as Json, json};

use crate::values::{Timestamp, Usd};
use crate::{DecodeError, Record};

/// A generic Avro value as JSON: times as RFC 3339, money as text, bytes as hex.
pub fn to_json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Boolean(b) => json!(b),
        Value::Int(n) => json!(n),
        Value::Long(n) => json!(n),
        Value::Float(x) => json!(x),
        Value::Double(x) => json!(x),
        Value::String(s) | Value::Enum(_, s) => json!(s),
        Value::Bytes(b) | Value::Fixed(_, b) => json!(hex::encode(b)),
        Value::TimestampMicros(us) => json!(Timestamp(*us).to_string()),
        Value::TimestampMillis(ms) => json!(Timestamp::from_millis(*ms).to_string()),
        Value::Union(_, inner) => to_json(inner),
        Value::Array(items) => Json::Array(items.iter().map(to_json).collect()),
        Value::Map(entries) => {
            let sorted: std::collections::BTreeMap<_, _> =
                entries.iter().map(|(k, v)| (k.clone(), to_json(v))).collect();
            Json::Object(sorted.into_iter().collect())
        }
        Value::Record(fields) => Json::Object(
            fields
                .iter()
                .map(|(k, v)| (k.clone(), to_json(v)))
                .collect::<Map<_, _>>(),
        ),
        Value::Decimal(d) => match Vec::<u8>::try_from(d) {
            Ok(bytes) => json!(usd_from_bytes(&bytes).to_string()),
            Err(_) => Json::Null,
        },
        other => json!(format!("{other:?}")),
    }
}

fn usd_from_bytes(bytes: &[u8]) -> Usd {
    let negative = bytes.first().is_some_and(|b| b & 0x80 != 0);
    Usd(bytes
        .iter()
        .fold(if negative { -1 } else { 0 }, |acc, b| (acc << 8) | i64::from(*b)))
}

/// A record from JSON. The error names the field and what it should have been; unknown fields are refused.
///
/// # Errors
/// A field is missing, unknown, or of the wrong type.
pub fn from_json<R: Record>(json: &Json) -> Result<R, DecodeError> {
    check(R::schema(), json, "")?;
    serde_json::from_value(json.clone()).map_err(|e| DecodeError(format!("{}: {e}", R::NAME)))
}

fn check(schema: &Schema, json: &Json, path: &str) -> Result<(), DecodeError> {
    match schema {
        Schema::Record(record) => {
            let Json::Object(object) = json else {
                return Err(DecodeError(format!(
                    "field `{}`: expected an object, got {}",
                    shown(path),
                    kind(json)
                )));
            };
            for name in object.keys() {
                if !record.fields.iter().any(|f| &f.name == name) {
                    let known: Vec<_> = record.fields.iter().map(|f| f.name.as_str()).collect();
                    return Err(DecodeError(format!(
                        "field `{}` is not known; known are {}",
                        join(path, name),
                        known.join(", ")
                    )));
                }
            }
            for field in &record.fields {
                let at = join(path, &field.name);
                match object.get(&field.name) {
                    Some(value) => check(&field.schema, value, &at)?,
                    None if field.default.is_some() => {}
                    None => return Err(DecodeError(format!("field `{at}` is missing"))),
                }
            }
            Ok(())
        }
        Schema::Array(array) => match json {
            Json::Array(items) => items
                .iter()
                .enumerate()
                .try_for_each(|(i, item)| check(&array.items, item, &format!("{path}[{i}]"))),
            other => Err(wrong(path, "a list", other)),
        },
        Schema::Map(map) => match json {
            Json::Object(object) => object
                .iter()
                .try_for_each(|(k, v)| check(&map.types, v, &join(path, k))),
            other => Err(wrong(path, "an object", other)),
        },
        Schema::Union(union) => {
            if json.is_null() && union.variants().iter().any(|v| matches!(v, Schema::Null)) {
                return Ok(());
            }
            let rest = union.variants().iter().find(|v| !matches!(v, Schema::Null));
            rest.map_or(Ok(()), |schema| check(schema, json, path))
        }
        Schema::Enum(e) => match json.as_str() {
            Some(word) if e.symbols.iter().any(|s| s == word) => Ok(()),
            _ => Err(wrong(path, &format!("one of {}", e.symbols.join(", ")), json)),
        },
        Schema::String => json.as_str().map(drop).ok_or_else(|| wrong(path, "text", json)),
        Schema::Boolean => json
            .as_bool()
            .map(drop)
            .ok_or_else(|| wrong(path, "true or false", json)),
        Schema::Int | Schema::Long => json
            .as_i64()
            .map(drop)
            .ok_or_else(|| wrong(path, "a whole number", json)),
        Schema::Float | Schema::Double => json.as_f64().map(drop).ok_or_else(|| wrong(path, "a number", json)),
        Schema::TimestampMicros => serde_json::from_value::<Timestamp>(json.clone())
            .map(drop)
            .map_err(|e| DecodeError(format!("field `{}`: {e}", shown(path)))),
        Schema::Decimal(_) => serde_json::from_value::<Usd>(json.clone())
            .map(drop)
            .map_err(|e| DecodeError(format!("field `{}`: {e}", shown(path)))),
        _ => Ok(()),
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn shown(path: &str) -> &str {
    if path.is_empty() { "(record)" } else { path }
}

fn kind(json: &Json) -> String {
    match json {
        Json::Object(_) => "an object".into(),
        Json::Array(_) => "a list".into(),
        other => other.to_string(),
    }
}

fn wrong(path: &str, wanted: &str, got: &Json) -> DecodeError {
    DecodeError(format!("field `{}`: expected {wanted}, got {}", shown(path), kind(got)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{Autonomy, Request};

    fn request() -> Json {
        json!({"tenant": "acme", "actor": "ada", "idempotency_key": "k1", "goal": "roll out", "budget_usd": "2.50",
               "requested_at": "2026-01-31T12:00:00Z", "inputs": {"replicas": "3"}})
    }

    #[test]
    fn a_request_survives_json_avro_and_back() -> Result<(), DecodeError> {
        let record: Request = from_json(&request())?;
        assert_eq!(
            (record.autonomy, record.budget_usd),
            (Autonomy::Supervised, Some(Usd(2_500_000)))
        );
        let bytes = record.to_avro()?;
        assert_eq!(Request::from_avro(Request::schema(), &bytes)?, record);
        let shown = to_json(&crate::decode_value(Request::schema(), &bytes, None)?);
        assert_eq!(
            (&shown["budget_usd"], &shown["requested_at"]),
            (&json!("2.500000"), &json!("2026-01-31T12:00:00.000000Z"))
        );
        Ok(())
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (patch, words) in [
            (json!({"tenant": 7}), "field `tenant`: expected text, got 7"),
            (
                json!({"inputs": {"replicas": 3}}),
                "field `inputs.replicas`: expected text, got 3",
            ),
            (
                json!({"autonomy": "FREE"}),
                "field `autonomy`: expected one of SUPERVISED, AUTONOMOUS",
            ),
            (json!({"tenat": "x"}), "field `tenat` is not known"),
            (json!({"requested_at": "now"}), "field `requested_at`"),
        ] {
            let mut json = request();
            for (k, v) in patch.as_object().into_iter().flatten() {
                json[k] = v.clone();
            }
            let error = from_json::<Request>(&json).err().map(|e| e.0).unwrap_or_default();
            assert!(error.contains(words), "{error}");
        }
        let mut json = request();
        json.as_object_mut().map(|o| o.remove("actor"));
        assert_eq!(
            from_json::<Request>(&json).err().map(|e| e.0).as_deref(),
            Some("field `actor` is missing")
        );
    }

    #[test]
    fn a_type_named_twice_in_a_schema_is_written() -> Result<(), DecodeError> {
        use crate::records::{FaultInfo, Run, RunStep, StepVerdict, Verdict};
        let fault = Some(FaultInfo {
            code: "TOOL_FAILED".into(),
            ..FaultInfo::default()
        });
        let step = RunStep {
            fault: fault.clone(),
            ..RunStep::default()
        };
        let run = Run {
            fault,
            steps: vec![step],
            ..Run::default()
        };
        assert_eq!(Run::from_avro(Run::schema(), &run.to_avro()?)?, run);
        let verdict = Verdict {
            steps: vec![StepVerdict::default()],
            violations: vec![Default::default()],
            ..Verdict::default()
        };
        assert_eq!(Verdict::from_avro(Verdict::schema(), &verdict.to_avro()?)?, verdict);
        Ok(())
    }

    #[test]
    fn truncated_and_padded_bytes_are_refused() -> Result<(), DecodeError> {
        let record: Request = from_json(&request())?;
        let bytes = record.to_avro()?;
        assert!(Request::from_avro(Request::schema(), &bytes[..bytes.len() - 3]).is_err());
        let padded = [bytes.as_slice(), &[0]].concat();
        assert!(Request::from_avro(Request::schema(), &padded).is_err());
        Ok(())
    }
}
