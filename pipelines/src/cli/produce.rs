//! `soma produce`: files of records to a topic. A bad record is named and left out; the good ones go.

use std::io::Read;
use std::path::{Path, PathBuf};

use schemas::Timestamp;
use serde_json::{Value as Json, json};

use super::context::{Context, now};
use super::failure::{Done, Failure, INPUT, OK};
use super::input::{self, Format};
use super::kinds::{self, Kind};
use super::out;

/// Sends records from files to a topic.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  soma produce request.yaml                     one request, or a list, or several YAML documents
  soma produce a.json b.jsonl                   several files; the ending says how each is written
  soma produce request.yaml --dry-run           checks only: nothing is sent
  cat r.json | soma produce - --format json     from standard input
  soma produce note.json --topic soma.memories  another topic of `soma topics list`

A request needs tenant, actor and idempotency_key, and one of capsule, wizard or goal. `requested_at` is filled in with now.
Inputs are text: write `replicas: \"3\"`. A rejected record is named with its file, number and field; the others still go.
Exit code: 0 all sent, 2 at least one rejected, 3 Kafka or the registry does not answer.")]
pub(super) struct Args {
    /// Files to send: .json, .jsonl, .yaml; `-` reads standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Topic to send to
    #[arg(long, default_value = "soma.requests")]
    topic: String,
    /// How the files are written, when their endings do not say
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Check everything, send nothing
    #[arg(long)]
    dry_run: bool,
    /// Give requests without an idempotency_key a new one (sending the file again then makes new runs)
    #[arg(long)]
    auto_key: bool,
}

/// A record ready to go.
struct Ready {
    key: String,
    tenant: String,
    run_id: String,
    avro: Vec<u8>,
}

struct Reject {
    file: String,
    number: usize,
    reason: String,
}

pub(super) fn run(args: &Args, cx: &Context) -> Done {
    let help = "`soma topics list` shows the topics, `soma topics describe TOPIC` their fields";
    let kind = kinds::of(&args.topic).map_err(|e| Failure::input("TOPIC_UNKNOWN", e, help))?;
    let (mut ready, mut rejects) = (Vec::new(), Vec::new());
    for file in &args.files {
        let shown = file.display().to_string();
        for item in input::parse(&read(file)?, format_of(file, args.format)?) {
            let made = item
                .record
                .and_then(|record| prepare(kind, record, args.auto_key, now()));
            match made {
                Ok(record) => ready.push(record),
                Err(reason) => rejects.push(Reject {
                    file: shown.clone(),
                    number: item.number,
                    reason,
                }),
            }
        }
    }
    if !args.dry_run && !ready.is_empty() {
        send(cx, kind, &ready)?;
    }
    report(args, cx, &ready, &rejects)
}

fn read(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if file.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text).map(drop)
    } else {
        std::fs::read_to_string(file).map(|all| text = all)
    };
    read.map_err(|e| {
        Failure::input(
            "FILE_UNREADABLE",
            format!("{}: {e}", file.display()),
            "is the path right, and is it text in UTF-8?",
        )
    })?;
    Ok(text)
}

fn format_of(file: &Path, given: Option<Format>) -> Result<Format, Failure> {
    given.or_else(|| Format::of(file)).ok_or_else(|| {
        let text = format!("{}: the file's ending does not say how it is written", file.display());
        Failure::input("FORMAT_UNKNOWN", text, "add --format json, jsonl or yaml")
    })
}

/// Fills in what may be filled in and checks the record against its schema.
fn prepare(kind: &Kind, mut json: Json, auto_key: bool, now: Timestamp) -> Result<Ready, String> {
    if let (Json::Object(fields), "Request") = (&mut json, kind.record) {
        fields.entry("requested_at").or_insert_with(|| json!(now.to_string()));
        if auto_key {
            fields
                .entry("idempotency_key")
                .or_insert_with(|| json!(uuid::Uuid::now_v7().to_string()));
        }
    }
    let avro = (kind.avro)(&json).map_err(|e| e.0)?;
    let key = kinds::key(kind, &json)?;
    let tenant = json["tenant"].as_str().unwrap_or_default().to_owned();
    Ok(Ready {
        key,
        tenant,
        run_id: kinds::run_of(&json),
        avro,
    })
}

fn send(cx: &Context, kind: &Kind, records: &[Ready]) -> Result<(), Failure> {
    let (registry, writer) = (cx.registry()?, cx.writer()?);
    let bar = out::progress(records.len(), kind.topic);
    for record in records {
        let value = registry.framed(kind.topic, (kind.schema_text)(), &record.avro)?;
        let trace = runtime::Trace::continuing(None).header();
        let headers = kafka::cloud_event("soma/cli", kind.record, now(), &record.tenant, Some(&trace));
        writer.write_raw(kind.topic, &record.key, Some(&value), &headers)?;
        bar.inc(1);
    }
    let flushed = writer.flush();
    bar.finish_and_clear();
    Ok(flushed?)
}

fn report(args: &Args, cx: &Context, ready: &[Ready], rejects: &[Reject]) -> Done {
    if cx.json {
        let sent: Vec<_> = ready
            .iter()
            .map(|r| json!({"run_id": r.run_id, "tenant": r.tenant, "key": r.key}))
            .collect();
        let refused: Vec<_> = rejects
            .iter()
            .map(|r| json!({"file": r.file, "record": r.number, "reason": r.reason}))
            .collect();
        out::json(&json!({"topic": args.topic, "dry_run": args.dry_run, "sent": sent, "rejected": refused}))?;
    } else {
        let rows: Vec<_> = ready
            .iter()
            .map(|r| vec![r.run_id.clone(), r.tenant.clone(), r.key.clone()])
            .collect();
        if !rows.is_empty() {
            out::table(&["RUN", "TENANT", "KEY"], &rows)?;
        }
        let verb = if args.dry_run { "would be sent" } else { "sent" };
        out::note(format!(
            "{} {verb} to {}, {} rejected",
            ready.len(),
            args.topic,
            rejects.len()
        ));
    }
    for reject in rejects {
        let text = format!("{}, record {}: {}", reject.file, reject.number, reject.reason);
        let help = format!(
            "`soma topics describe {}` shows every field; text that looks like a number needs quotes",
            args.topic
        );
        out::error(&Failure::input("RECORD_REJECTED", text, help));
    }
    if ready.is_empty() && rejects.is_empty() {
        return Err(Failure::input(
            "INPUT_EMPTY",
            "the files hold no record",
            "write at least one",
        ));
    }
    Ok(if rejects.is_empty() { OK } else { INPUT })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use schemas::records::Request;
    use schemas::{Record, digest};

    use super::*;

    #[test]
    fn a_request_is_completed_and_knows_its_run() {
        let kind = kinds::of("soma.requests").unwrap();
        let json = json!({"tenant": "acme", "actor": "ada", "idempotency_key": "k1", "goal": "g"});
        let ready = prepare(kind, json, false, Timestamp(7)).unwrap();
        assert_eq!(
            (ready.key.as_str(), ready.run_id),
            ("acme:k1", digest::run_id("acme", "k1"))
        );
        assert_eq!(
            Request::from_avro(Request::schema(), &ready.avro).unwrap().requested_at,
            Timestamp(7)
        );
    }

    #[test]
    fn a_key_is_made_only_when_asked_and_bad_fields_are_named() {
        let kind = kinds::of("soma.requests").unwrap();
        let json = json!({"tenant": "acme", "actor": "ada", "goal": "g"});
        let refused = |json: Json| prepare(kind, json, false, Timestamp(7)).err().unwrap();
        assert_eq!(refused(json.clone()), "field `idempotency_key` is missing");
        assert!(prepare(kind, json.clone(), true, Timestamp(7)).is_ok());
        assert!(refused(json!({"tenant": 7})).contains("field `"));
        assert!(refused(json!(["x"])).contains("expected an object"));
        let mut number = json;
        number["inputs"] = json!({"replicas": 3});
        number["idempotency_key"] = json!("k");
        assert!(refused(number).contains("inputs.replicas"));
    }
}
