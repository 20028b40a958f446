//! `soma subscribe`: any topic, Avro to JSON, one document per record. Reads without a group: it moves nobody's offsets.

use kafka::{From, Registry, Tail};
use kernel::{Blame, Decoder, Fault, FaultCode, RawRecord};
use serde_json::{Map, Value as Json, json};

use super::context::{Context, now};
use super::failure::{Done, Failure, OK};
use super::{kinds, out, when};

/// Bytes of an undecodable value that are shown.
const HEX_BYTES_MAX: usize = 4096;

/// Follows a topic: one JSON document per record.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  soma subscribe soma.runs                             what is written from now on; Ctrl-C ends it
  soma subscribe soma.verdicts --from beginning --until-end
  soma subscribe soma.events --from 10m --tenant acme  from ten minutes ago, then live
  soma subscribe soma.outcomes --from 2026-01-31T12:00:00Z --run run_3f2a --pretty --headers
  soma subscribe soma.requests.dlq --from offset:17 --max 1

A value that cannot be decoded is shown as {\"undecodable\": reason, \"hex\": bytes}; nothing is skipped.
It reads without a consumer group, so nobody's position moves.")]
pub(super) struct Args {
    /// Topic
    topic: String,
    /// Where to begin: beginning, end, offset:N, a time (RFC 3339), or a duration back from now (10m)
    #[arg(long, default_value = "end", allow_hyphen_values = true, value_name = "WHERE")]
    from: String,
    /// Only records of this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Only records of this run (the beginning of its id is enough)
    #[arg(long)]
    run: Option<String>,
    /// End after so many records
    #[arg(long, value_name = "N")]
    max: Option<usize>,
    /// End when everything written so far has been shown
    #[arg(long)]
    until_end: bool,
    /// Show the headers too
    #[arg(long)]
    headers: bool,
    /// Indent the JSON
    #[arg(long)]
    pretty: bool,
}

pub(super) fn run(args: &Args, cx: &Context) -> Done {
    let help = "--from beginning | end | offset:N | 2026-01-31T12:00:00Z | 10m";
    let from = when::from(&args.from, now()).map_err(|e| Failure::input("USAGE", e, help))?;
    let registry = cx.registry()?;
    let mut tail = Tail::open(&cx.brokers()?, &args.topic, from)?;
    let (mut shown, mut told) = (0, false);
    while args.max.is_none_or(|max| shown < max) {
        let record = match tail.next(200) {
            Ok(Some(record)) => record,
            Ok(None) if args.until_end && tail.is_at_end() => break,
            Ok(None) => continue,
            Err(fault) => {
                if !std::mem::replace(&mut told, true) {
                    out::note(format!("waiting for the broker: {}", fault.detail));
                }
                std::thread::sleep(std::time::Duration::from_millis(200));
                continue;
            }
        };
        told = false;
        // A partition that is shorter than the offset asked for begins anew at its first record.
        if matches!(from, From::Offset(first) if record.position.offset < first) {
            continue;
        }
        let value = decode(&record, &registry)?;
        if wanted(args.tenant.as_deref(), args.run.as_deref(), &record, &value) {
            let document = document(&record, value, args.headers);
            out::line(if args.pretty {
                format!("{document:#}")
            } else {
                document.to_string()
            })?;
            shown += 1;
        }
    }
    Ok(OK)
}

/// The value as JSON, decoded with the schema it was written with. What cannot be decoded says why.
///
/// # Errors
/// The registry does not answer: then it is not the record's fault.
pub(super) fn decode(record: &RawRecord, registry: &Registry) -> Result<Json, Failure> {
    let Some(bytes) = &record.value else {
        return Ok(Json::Null);
    };
    let decoded = registry.unframe(bytes).and_then(|(schema, avro)| {
        let value = schemas::decode_value(&schema, avro, None);
        value
            .map(|v| schemas::to_json(&v))
            .map_err(|e| Fault::new(FaultCode::RecordUnreadable, e.0))
    });
    match decoded {
        Ok(json) => Ok(json),
        Err(fault) if fault.blame == Blame::Dependency => Err(fault.into()),
        Err(fault) => {
            let head = hex::encode(&bytes[..bytes.len().min(HEX_BYTES_MAX)]);
            Ok(json!({"undecodable": fault.to_string(), "bytes": bytes.len(), "hex": head}))
        }
    }
}

/// Whether a record is of the tenant and run asked for.
fn wanted(tenant: Option<&str>, run: Option<&str>, record: &RawRecord, value: &Json) -> bool {
    let of_tenant = |t: &str| value["tenant"].as_str().or_else(|| record.headers.text("soma-tenant")) == Some(t);
    let of_run = |r: &str| record.key.starts_with(r) || kinds::run_of(value).starts_with(r);
    tenant.is_none_or(of_tenant) && run.is_none_or(of_run)
}

/// A record with where it stands and what travelled with it.
pub(super) fn document(record: &RawRecord, value: Json, with_headers: bool) -> Json {
    let mut document = Map::new();
    document.insert("topic".into(), json!(&*record.position.topic));
    document.insert("partition".into(), json!(record.position.partition));
    document.insert("offset".into(), json!(record.position.offset));
    document.insert("time".into(), json!(record.at.to_string()));
    document.insert("key".into(), json!(record.key));
    if with_headers {
        document.insert("headers".into(), headers(record));
    }
    document.insert("value".into(), value);
    Json::Object(document)
}

/// Headers by name; bytes that are not text as hex.
pub(super) fn headers(record: &RawRecord) -> Json {
    let shown = record.headers.iter().map(|(name, bytes)| {
        let text = std::str::from_utf8(bytes).map_or_else(|_| format!("0x{}", hex::encode(bytes)), str::to_owned);
        (name.to_owned(), Json::String(text))
    });
    Json::Object(shown.collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use kernel::{Headers, Position};

    use super::*;

    fn record() -> RawRecord {
        let position = Position {
            topic: "soma.runs".into(),
            partition: 1,
            offset: 5,
        };
        let mut headers = Headers::default();
        headers.set("soma-tenant", "acme");
        headers.set("odd", vec![0xff]);
        RawRecord {
            position,
            key: "run_ab".into(),
            headers,
            ..RawRecord::default()
        }
    }

    #[test]
    fn tenant_and_run_are_found_in_value_header_or_key() {
        let (record, other) = (record(), json!({"tenant": "other", "run_id": "run_cd"}));
        assert!(wanted(None, None, &record, &Json::Null));
        assert!(wanted(Some("acme"), Some("run_a"), &record, &Json::Null));
        assert!(!wanted(Some("acme"), None, &record, &other));
        assert!(wanted(Some("other"), Some("run_cd"), &record, &other));
        assert!(!wanted(None, Some("run_zz"), &record, &other));
    }

    #[test]
    fn a_document_says_where_it_stands() {
        let shown = document(&record(), json!({"a": 1}), true);
        assert_eq!(shown["offset"], 5);
        assert_eq!(shown["headers"]["odd"], "0xff");
        assert_eq!(shown["value"]["a"], 1);
        assert!(document(&record(), Json::Null, false).get("headers").is_none());
    }
}
