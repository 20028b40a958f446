//! Renamed fields. Avro has the reader's aliases rewrite the writer's schema before the two are resolved. The library's check of
//! compatibility knows that, its reader does not: a renamed field would read as its default, and what was written be lost.

use std::collections::BTreeMap;

use apache_avro::Schema;
use apache_avro::schema::UnionSchema;

/// By record, its fields' former names and what they are called now.
type Renamed = BTreeMap<String, BTreeMap<String, String>>;

/// The writer's schema with the names the reader has for its fields; `None` when the reader has renamed none.
pub(crate) fn rewritten(writer: &Schema, reader: &Schema) -> Option<Schema> {
    let mut renamed = Renamed::new();
    collect(reader, &mut renamed);
    if renamed.is_empty() {
        return None;
    }
    let mut writer = writer.clone();
    rename(&mut writer, &renamed);
    Some(writer)
}

fn collect(schema: &Schema, renamed: &mut Renamed) {
    match schema {
        Schema::Record(record) => {
            for field in &record.fields {
                for alias in &field.aliases {
                    let names = renamed.entry(record.name.name().to_owned()).or_default();
                    names.insert(alias.clone(), field.name.clone());
                }
                collect(&field.schema, renamed);
            }
        }
        Schema::Array(array) => collect(&array.items, renamed),
        Schema::Map(map) => collect(&map.types, renamed),
        Schema::Union(union) => union.variants().iter().for_each(|v| collect(v, renamed)),
        _ => {}
    }
}

fn rename(schema: &mut Schema, renamed: &Renamed) {
    match schema {
        Schema::Record(record) => {
            let names = renamed.get(record.name.name());
            let written: Vec<String> = record.fields.iter().map(|f| f.name.clone()).collect();
            for field in &mut record.fields {
                let now = names.and_then(|n| n.get(&field.name));
                // A record that has both was written by a build that used both names.
                if let Some(now) = now.filter(|now| !written.contains(now)) {
                    field.name.clone_from(now);
                }
                rename(&mut field.schema, renamed);
            }
            let places = record.fields.iter().enumerate();
            record.lookup = places.map(|(i, f)| (f.name.clone(), i)).collect();
        }
        Schema::Array(array) => rename(&mut array.items, renamed),
        Schema::Map(map) => rename(&mut map.types, renamed),
        Schema::Union(union) => {
            let mut variants = union.variants().to_vec();
            variants.iter_mut().for_each(|v| rename(v, renamed));
            if let Ok(now) = UnionSchema::new(variants) {
                *union = now;
            }
        }
        _ => {}
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use apache_avro::types::Value;

    use crate::{decode_value, parse_schema};

    fn schema(count: &str, inner: &str) -> String {
        format!(
            r#"{{"type": "record", "name": "A", "fields": [{count}, {{"name": "inner", "type": ["null",
               {{"type": "record", "name": "B", "fields": [{inner}]}}], "default": null}}]}}"#
        )
    }

    #[test]
    fn a_renamed_field_keeps_its_value_at_every_depth() {
        let old = schema(r#"{"name": "n", "type": "int"}"#, r#"{"name": "x", "type": "string"}"#);
        let new = schema(
            r#"{"name": "count", "aliases": ["n"], "type": "long", "default": 0}"#,
            r#"{"name": "text", "aliases": ["x"], "type": "string", "default": ""}"#,
        );
        let (old, new) = (parse_schema(&old).unwrap(), parse_schema(&new).unwrap());
        // n = 21, inner = variant 1 with x = "hi"
        let value = decode_value(&old, &[42, 2, 4, b'h', b'i'], Some(&new)).unwrap();
        let inner = Value::Record(vec![("text".into(), Value::String("hi".into()))]);
        let wanted = Value::Record(vec![
            ("count".into(), Value::Long(21)),
            ("inner".into(), Value::Union(1, Box::new(inner))),
        ]);
        assert_eq!(value, wanted);
        // The other way round, an old reader does not know the new name: the field is missing, and said to be.
        let err = decode_value(&new, &[42, 0], Some(&old)).unwrap_err();
        assert!(err.0.contains('n'), "{err}");
    }
}
