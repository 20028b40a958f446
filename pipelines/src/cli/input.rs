//! Files of records: JSON (one, a list, or several after each other), JSON lines, YAML (one, a list, or several documents).
//! Each record keeps its place in the file, so that a bad one can be named and the others still go.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value as Json;

/// A record as it stands in a file, or why it cannot be read. `number` counts from 1; for JSON lines it is the line.
#[derive(Debug, PartialEq)]
pub(super) struct Item {
    pub(super) number: usize,
    pub(super) record: Result<Json, String>,
}

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// One JSON value, a list of them, or several after each other.
    Json,
    /// One JSON value on each line.
    Jsonl,
    /// YAML: one, a list, or several documents.
    Yaml,
}

impl Format {
    /// By the file's ending; `None` when it says nothing.
    pub(super) fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "json" => Some(Format::Json),
            "jsonl" | "ndjson" => Some(Format::Jsonl),
            "yaml" | "yml" => Some(Format::Yaml),
            _ => None,
        }
    }
}

/// All records of a text.
pub(super) fn parse(text: &str, format: Format) -> Vec<Item> {
    match format {
        Format::Jsonl => lines(text),
        Format::Json => {
            let stream = serde_json::Deserializer::from_str(text).into_iter::<Json>();
            numbered(stream.map(|value| value.map_err(|e| format!("is not JSON: {e}"))))
        }
        Format::Yaml => {
            let documents = serde_yaml_ng::Deserializer::from_str(text).map(Json::deserialize);
            numbered(
                documents
                    .map(|value| value.map_err(|e| format!("is not YAML: {e}")))
                    .filter(|v| *v != Ok(Json::Null)),
            )
        }
    }
}

fn lines(text: &str) -> Vec<Item> {
    let filled = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    filled
        .map(|(i, line)| {
            let record = serde_json::from_str(line).map_err(|e| format!("the line is not JSON: {e}"));
            Item { number: i + 1, record }
        })
        .collect()
}

/// Lists are taken apart; reading ends at the first text that cannot be parsed, because what follows has no known beginning.
fn numbered(values: impl Iterator<Item = Result<Json, String>>) -> Vec<Item> {
    let mut items = Vec::new();
    for value in values {
        let failed = value.is_err();
        let records = match value {
            Ok(Json::Array(list)) => list.into_iter().map(Ok).collect(),
            other => vec![other],
        };
        for record in records {
            items.push(Item {
                number: items.len() + 1,
                record,
            });
        }
        if failed {
            break;
        }
    }
    items
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn good(text: &str, format: Format) -> Vec<Json> {
        parse(text, format).into_iter().map(|i| i.record.unwrap()).collect()
    }

    #[test]
    fn one_a_list_or_several() {
        let two = vec![json!({"a": 1}), json!({"a": 2})];
        assert_eq!(good(r#"{"a":1}"#, Format::Json), two[..1]);
        assert_eq!(good(r#"[{"a":1},{"a":2}]"#, Format::Json), two);
        assert_eq!(good("{\"a\":1}\n{\"a\":2}", Format::Json), two);
        assert_eq!(good("{\"a\":1}\n\n{\"a\":2}\n", Format::Jsonl), two);
        assert_eq!(good("a: 1", Format::Yaml), two[..1]);
        assert_eq!(good("- a: 1\n- a: 2", Format::Yaml), two);
        assert_eq!(good("---\na: 1\n---\na: 2\n---\n", Format::Yaml), two);
    }

    #[test]
    fn a_bad_line_is_named_and_the_others_go() {
        let items = parse("{\"a\":1}\n{oops\n{\"a\":2}", Format::Jsonl);
        assert_eq!(items.len(), 3);
        assert_eq!((items[1].number, items[1].record.is_err()), (2, true));
        assert!(items[2].record.is_ok());
    }

    #[test]
    fn a_broken_file_ends_with_its_fault() {
        let items = parse("{\"a\":1} {oops", Format::Json);
        assert_eq!((items.len(), items[1].number), (2, 2));
        assert!(items[1].record.as_ref().unwrap_err().contains("is not JSON"));
        let items = parse("a: [1", Format::Yaml);
        assert!(items[0].record.as_ref().unwrap_err().contains("is not YAML"));
    }

    #[test]
    fn endings() {
        for (name, format) in [
            ("a.json", Some(Format::Json)),
            ("a.NDJSON", Some(Format::Jsonl)),
            ("a.yml", Some(Format::Yaml)),
            ("a", None),
        ] {
            assert_eq!(Format::of(Path::new(name)), format);
        }
    }
}
