//! What the command line must know of each topic's record to write it: how JSON becomes Avro, and what the key is made of.

use std::collections::BTreeMap;

use kernel::controls::key_of;
use schemas::records::{Control, Metric, Request};
use schemas::topics::{self, Topic};
use schemas::{DecodeError, Record, digest, from_json};
use serde_json::Value as Json;

/// A topic's record.
pub(super) struct Kind {
    pub(super) topic: &'static str,
    pub(super) record: &'static str,
    pub(super) schema_text: fn() -> &'static str,
    /// Checked against the schema, as Avro.
    pub(super) avro: fn(&Json) -> Result<Vec<u8>, DecodeError>,
}

const fn kind<R: Record>(topic: Topic<R>) -> Kind {
    Kind {
        topic: topic.name,
        record: R::NAME,
        schema_text: R::schema_text,
        avro: avro::<R>,
    }
}

fn avro<R: Record>(json: &Json) -> Result<Vec<u8>, DecodeError> {
    from_json::<R>(json)?.to_avro()
}

static KINDS: [Kind; 23] = [
    kind(topics::REQUESTS),
    kind(topics::PLANS),
    kind(topics::PROPOSALS),
    kind(topics::VERDICTS),
    kind(topics::APPROVALS),
    kind(topics::DELEGATIONS),
    kind(topics::RECEIPTS),
    kind(topics::MEMBERS),
    kind(topics::POLICIES),
    kind(topics::CONSTITUTIONS),
    kind(topics::STRIKES),
    kind(topics::SBOMS),
    kind(topics::TALLIES),
    kind(topics::HEARTBEATS),
    kind(topics::CONTROLS),
    kind(topics::CALLS),
    kind(topics::OUTCOMES),
    kind(topics::RUNS),
    kind(topics::MEMORIES),
    kind(topics::EVENTS),
    kind(topics::METRICS),
    kind(topics::AUDIT),
    kind(topics::CHECKPOINTS),
];

/// The kind of a topic.
///
/// # Errors
/// No such topic; the text names those there are.
pub(super) fn of(topic: &str) -> Result<&'static Kind, String> {
    KINDS.iter().find(|k| k.topic == topic).ok_or_else(|| {
        let known: Vec<_> = KINDS.iter().map(|k| k.topic).collect();
        format!(
            "there is no topic {topic} in the catalogue; there are {}",
            known.join(", ")
        )
    })
}

fn text<'a>(json: &'a Json, field: &str) -> &'a str {
    json[field].as_str().unwrap_or_default()
}

/// Key of a record that fits its schema.
///
/// # Errors
/// A field the key is made of is empty.
pub(super) fn key(kind: &Kind, json: &Json) -> Result<String, String> {
    let (key, made_of) = match kind.record {
        Request::NAME => {
            let parts = (text(json, "tenant"), text(json, "idempotency_key"));
            let whole = !parts.0.is_empty() && !parts.1.is_empty();
            (
                if whole {
                    format!("{}:{}", parts.0, parts.1)
                } else {
                    String::new()
                },
                "tenant and idempotency_key",
            )
        }
        Control::NAME => {
            let control: Control = from_json(json).map_err(|e| e.0)?;
            (key_of(control.scope, &control.target), "scope and target")
        }
        Metric::NAME => {
            let labels: BTreeMap<String, String> = serde_json::from_value(json["labels"].clone()).unwrap_or_default();
            let labels: Vec<_> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
            (
                format!("{}{{{}}}", text(json, "name"), labels.join(",")),
                "name and labels",
            )
        }
        "Checkpoint" => (json["chain"].to_string(), "chain"),
        "AuditEntry" => {
            let run = text(json, "run_id");
            (
                if run.is_empty() { text(json, "subject") } else { run }.to_owned(),
                "run_id or subject",
            )
        }
        "Sbom" => (text(json, "subject").to_owned(), "subject"),
        "Tally" => (text(json, "tenant").to_owned(), "tenant"),
        "Member" | "Strike" => (
            format!("{}:{}", text(json, "tenant"), text(json, "person")),
            "tenant and person",
        ),
        "Constitution" => (
            format!("{}:{}", text(json, "tenant"), json["version"]),
            "tenant and version",
        ),
        "Memory" => (
            format!("{}:{}", text(json, "tenant"), text(json, "memory_id")),
            "tenant and memory_id",
        ),
        _ => (text(json, "run_id").to_owned(), "run_id"),
    };
    if key.is_empty() && kind.record != "Event" {
        return Err(format!("the key is made of {made_of}, which must not be empty"));
    }
    Ok(key)
}

/// The run a record belongs to; empty when it belongs to none.
pub(super) fn run_of(json: &Json) -> String {
    let (tenant, idempotency_key) = (text(json, "tenant"), text(json, "idempotency_key"));
    match json.get("run_id").and_then(Json::as_str) {
        Some(run_id) => run_id.to_owned(),
        // A Request: whoever computes it, the run is the same.
        None if !tenant.is_empty() && !idempotency_key.is_empty() => digest::run_id(tenant, idempotency_key),
        None => String::new(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_catalogue_topic_has_its_kind() {
        for entry in schemas::topics::Catalogue::load().unwrap().topics {
            assert_eq!(of(&entry.name).unwrap().record, entry.record);
        }
        assert!(of("soma.nope").err().unwrap().contains("soma.requests"));
    }

    #[test]
    fn keys_are_made_as_the_catalogue_says() {
        let key_on = |topic: &str, json: &Json| key(of(topic).unwrap(), json);
        assert_eq!(
            key_on("soma.requests", &json!({"tenant": "acme", "idempotency_key": "k1"})).unwrap(),
            "acme:k1"
        );
        assert!(key_on("soma.requests", &json!({"tenant": "acme", "idempotency_key": ""})).is_err());
        assert_eq!(key_on("soma.plans", &json!({"run_id": "run_1"})).unwrap(), "run_1");
        assert!(key_on("soma.plans", &json!({})).is_err());
        let metric = json!({"name": "m", "labels": {"type": "x", "tenant": "acme"}});
        assert_eq!(key_on("soma.metrics", &metric).unwrap(), "m{tenant=acme,type=x}");
        let control =
            json!({"scope": "TENANT", "target": "acme", "action": "KILL", "reason": "r", "actor": "a", "issued_at": 1});
        assert_eq!(key_on("soma.controls", &control).unwrap(), "tenant:acme");
    }

    #[test]
    fn a_request_knows_its_run() {
        let request = json!({"tenant": "acme", "idempotency_key": "k1"});
        assert_eq!(run_of(&request), digest::run_id("acme", "k1"));
        assert_eq!(
            run_of(&json!({"run_id": "run_7", "tenant": "acme", "idempotency_key": "k"})),
            "run_7"
        );
        assert_eq!(run_of(&json!({"scope": "GLOBAL"})), "");
    }
}
