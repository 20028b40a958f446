//! `soma topics describe`: a record's fields in words, from the .avsc this build was made with.

use serde_json::{Value as Json, json};

use super::context::Context;
use super::failure::{Done, Failure, OK};
use super::out;
use super::topics::catalogue;
use crate::registry;

pub(super) fn run(topic: &str, cx: &Context) -> Done {
    let catalogue = catalogue()?;
    let known = || {
        catalogue
            .topics
            .iter()
            .map(|t| t.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let entry = catalogue.get(topic).ok_or_else(|| {
        Failure::input(
            "TOPIC_UNKNOWN",
            format!("there is no topic {topic} in the catalogue"),
            format!("there are {}", known()),
        )
    })?;
    let text = registry::schema_text(&entry.record).unwrap_or_default();
    let schema: Json = serde_json::from_str(text).map_err(|e| {
        Failure::failed(
            "INTERNAL",
            format!("{}.avsc: {e}", entry.record),
            "this is a bug: report it",
        )
    })?;
    if cx.json {
        out::json(&json!({"topic": entry.name, "key": entry.key, "owner": entry.owner, "schema": schema}))?;
        return Ok(OK);
    }
    out::line(format!(
        "{}: {}",
        out::paint(out::BOLD, &entry.name),
        schema["doc"].as_str().unwrap_or_default()
    ))?;
    out::line(format!(
        "record soma.{}, key {}, written by {}, {} partitions\n",
        entry.record, entry.key, entry.owner, entry.partitions
    ))?;
    let mut rows = Vec::new();
    fields(&schema, "", &mut rows);
    out::table(&["FIELD", "TYPE", "DEFAULT", "MEANING"], &rows)?;
    Ok(OK)
}

/// One row for each field, those of nested records by their path.
fn fields(record: &Json, path: &str, rows: &mut Vec<Vec<String>>) {
    for field in record["fields"].as_array().into_iter().flatten() {
        let name = format!("{path}{}", field["name"].as_str().unwrap_or_default());
        let default = field
            .get("default")
            .map_or_else(|| "required".to_owned(), Json::to_string);
        let doc = field["doc"].as_str().unwrap_or_default();
        rows.push(vec![name.clone(), type_name(&field["type"]), default, doc.to_owned()]);
        if let Some((nested, step)) = nested(&field["type"]) {
            fields(nested, &format!("{name}{step}"), rows);
        }
    }
}

/// The record inside a type, and how its fields are reached.
fn nested(kind: &Json) -> Option<(&Json, &'static str)> {
    match kind {
        Json::Array(variants) => variants.iter().find_map(nested),
        Json::Object(map) => match map.get("type")?.as_str()? {
            "record" => Some((kind, ".")),
            "array" => nested(&kind["items"]).map(|(record, _)| (record, "[].")),
            "map" => nested(&kind["values"]).map(|(record, _)| (record, ".*.")),
            _ => None,
        },
        _ => None,
    }
}

/// A type in words.
fn type_name(kind: &Json) -> String {
    match kind {
        Json::String(name) => name.clone(),
        Json::Array(variants) => {
            let some: Vec<_> = variants.iter().filter(|v| *v != "null").map(type_name).collect();
            let null = if some.len() < variants.len() { " or null" } else { "" };
            format!("{}{null}", some.join(" or "))
        }
        Json::Object(map) => match (
            map.get("logicalType").and_then(Json::as_str),
            kind["type"].as_str().unwrap_or_default(),
        ) {
            (Some(logical), _) => logical.to_owned(),
            (None, "array") => format!("list of {}", type_name(&kind["items"])),
            (None, "map") => format!("map of {}", type_name(&kind["values"])),
            (None, "enum") => {
                let symbols: Vec<_> = kind["symbols"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Json::as_str)
                    .collect();
                symbols.join(" | ")
            }
            (None, _) => kind["name"]
                .as_str()
                .or(kind["type"].as_str())
                .unwrap_or_default()
                .to_owned(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_every_record_is_described() {
        for entry in catalogue().unwrap().topics {
            let schema: Json = serde_json::from_str(registry::schema_text(&entry.record).unwrap()).unwrap();
            let mut rows = Vec::new();
            fields(&schema, "", &mut rows);
            assert!(!rows.is_empty(), "{}", entry.name);
            for row in rows {
                assert!(row.iter().all(|cell| !cell.is_empty()), "{}: {row:?}", entry.name);
            }
        }
    }

    #[test]
    fn types_in_words() {
        assert_eq!(type_name(&json!(["null", "string"])), "string or null");
        assert_eq!(
            type_name(&json!({"type": "long", "logicalType": "timestamp-micros"})),
            "timestamp-micros"
        );
        assert_eq!(type_name(&json!({"type": "map", "values": "string"})), "map of string");
        assert_eq!(
            type_name(&json!({"type": "enum", "name": "E", "symbols": ["A", "B"]})),
            "A | B"
        );
    }
}
