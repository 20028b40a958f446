//! The contract holds: every schema reads its released copy both ways, and yesterday's bytes still read.
//!
//! `released/` keeps every version of each schema, `golden/` one record of each as JSON and as Avro bytes (hex).
//! `SOMA_BLESS=1 cargo test -p soma-tests contract` writes what is missing; it never changes what is there.

use std::path::{Path, PathBuf};

use schemas::records::{
    Adjudication, Approval, ApprovalRef, Ask, AuditEntry, Call, Checkpoint, Constitution, Control, Delegation, Deputy,
    Event, HandedOn, Heartbeat, Member, Memory, Metric, Obligation, Outcome, Permit, Plan, Policy, Proposal, Receipt,
    Request, Run, Sbom, SbomComponent, StepVerdict, Strike, Tally, Verdict, Violation, Waiting,
};
use schemas::{Record, Timestamp, Usd, incompatible, parse_schema};

fn dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .join("schemas/avro")
        .join(name)
}

fn hex_of(bytes: &[u8]) -> String {
    hex::encode(bytes)
}

/// A record with something in every kind of field.
#[allow(clippy::too_many_lines, reason = "one line per record")]
fn examples() -> Vec<(&'static str, &'static str, String, Vec<u8>)> {
    fn line<R: Record>(record: &R) -> (&'static str, &'static str, String, Vec<u8>) {
        (
            R::NAME,
            R::schema_text(),
            serde_json::to_string_pretty(record).unwrap(),
            record.to_avro().unwrap(),
        )
    }
    let at = Timestamp(1_790_000_000_123_456);
    let ask = Ask {
        rule: "terraform_destroy".into(),
        step_id: Some("check".into()),
        roles: vec!["release".into()],
        quorum: 2,
        within_s: 3600,
        deputies: vec![Deputy {
            after_s: 600,
            approvers: vec!["lin".into()],
            ..Default::default()
        }],
        ..Default::default()
    };
    let approval = ApprovalRef {
        approval_id: "apr_1".into(),
        run_id: "run_1".into(),
        on_behalf_of: Some("lin".into()),
        rules: vec!["terraform_destroy".into()],
        decided_at: at,
        ..Default::default()
    };
    let permit = Permit {
        obligations: vec![Obligation {
            rule: "no_tokens".into(),
            kind: Obligation::REDACT.into(),
            step_id: Some("check".into()),
            fields: vec!["/body/token".into()],
            usd: Some(Usd(2_500_000)),
        }],
        ..Default::default()
    };
    let step = schemas::records::Step {
        step_id: "check".into(),
        tool: "http".into(),
        operation: "request".into(),
        arguments: r#"{"method":"GET","url":"http://127.0.0.1/ok"}"#.into(),
        needs: vec!["apply".into()],
        compensation: Some(schemas::records::Compensation {
            tool: "http".into(),
            operation: "request".into(),
            arguments: "{}".into(),
        }),
        ..Default::default()
    };
    vec![
        line(&Request {
            tenant: "acme".into(),
            actor: "ada".into(),
            idempotency_key: "k1".into(),
            capsule: Some("endpoint_probe".into()),
            inputs: [("url".to_owned(), "http://127.0.0.1/ok".to_owned())].into(),
            budget_usd: Some(Usd(2_500_000)),
            requested_at: at,
            ..Default::default()
        }),
        line(&Plan {
            run_id: "run_1".into(),
            steps: vec![step],
            created_at: at,
            ..Default::default()
        }),
        line(&Proposal {
            run_id: "run_1".into(),
            approvals: vec![approval.clone()],
            asked_at: Some(at),
            permit: Some(permit.clone()),
            done: vec![Default::default()],
            proposed_at: at,
            ..Default::default()
        }),
        line(&Verdict {
            run_id: "run_1".into(),
            score: 0.75,
            constitution_hash: Some("c".into()),
            approval_ids: vec!["apr_1".into()],
            asks: vec![ask.clone()],
            violations: vec![Violation {
                source: "tenant".into(),
                strike: true,
                ..Default::default()
            }],
            steps: vec![StepVerdict {
                obligations: permit.obligations.clone(),
                ..Default::default()
            }],
            obligations: permit.obligations.clone(),
            adjudications: vec![Adjudication {
                rule: "freeze".into(),
                upheld: true,
                ..Default::default()
            }],
            decided_at: at,
            ..Default::default()
        }),
        line(&Approval {
            run_id: "run_1".into(),
            expires_at: Some(at),
            changes_requested: true,
            decided_at: at,
            ..Default::default()
        }),
        line(&Delegation {
            run_id: "run_1".into(),
            from: "grace".into(),
            to: "lin".into(),
            decided_at: at,
            ..Default::default()
        }),
        line(&Receipt {
            run_id: "run_1".into(),
            counted: true,
            code: "approval.accepted".into(),
            receipted_at: at,
            ..Default::default()
        }),
        line(&Member {
            tenant: "acme".into(),
            person: "grace".into(),
            roles: vec!["release".into()],
            changed_at: at,
            ..Default::default()
        }),
        line(&Policy {
            tenant: "acme".into(),
            capsule: Some("deploy_site".into()),
            files: [("gate.rego".to_owned(), "package soma.gate".to_owned())].into(),
            published_at: at,
            ..Default::default()
        }),
        line(&Strike {
            tenant: "acme".into(),
            person: "ada".into(),
            pardoned: true,
            struck_at: at,
            ..Default::default()
        }),
        line(&Sbom {
            subject: "tool:http".into(),
            components: vec![SbomComponent {
                name: "serde".into(),
                licences: vec!["MIT OR Apache-2.0".into()],
                ..Default::default()
            }],
            published_at: at,
            ..Default::default()
        }),
        line(&Tally {
            tenant: "acme".into(),
            name: "deploys".into(),
            counted_at: at,
            ..Default::default()
        }),
        line(&Constitution {
            tenant: "acme".into(),
            version: 2,
            document: "{}".into(),
            published_at: at,
            ..Default::default()
        }),
        line(&Control {
            target: "acme".into(),
            reason: "test".into(),
            seconded_by: Some("lin".into()),
            issued_at: at,
            ..Default::default()
        }),
        line(&Heartbeat {
            actor: "ops".into(),
            beat_at: at,
        }),
        line(&Call {
            run_id: "run_1".into(),
            permit: Some(permit),
            budget_left_usd: Some(Usd(-1)),
            ..Default::default()
        }),
        line(&Outcome {
            run_id: "run_1".into(),
            fault: Some(Default::default()),
            cost_usd: Usd(1),
            latency_us: -1,
            ..Default::default()
        }),
        line(&Run {
            run_id: "run_1".into(),
            steps: vec![Default::default()],
            waiting: vec![Waiting {
                asks: vec![ask],
                given: vec![approval],
                handed_on: vec![HandedOn {
                    from: "grace".into(),
                    to: "lin".into(),
                }],
                until: Some(at),
                ..Default::default()
            }],
            revision: 3,
            ..Default::default()
        }),
        line(&Memory {
            memory_id: "mem_1".into(),
            attributes: [("tool".to_owned(), "http".to_owned())].into(),
            ..Default::default()
        }),
        line(&Event {
            event_id: "evt_1".into(),
            ts: at,
            kind: "run.started".into(),
            ..Default::default()
        }),
        line(&AuditEntry {
            previous: "00".repeat(32),
            chain: 3,
            seq: 70_000,
            chained_at: at,
            record: "Verdict".into(),
            fact: "DENY".into(),
            ..Default::default()
        }),
        line(&Checkpoint {
            chain: 3,
            number: 2,
            first_seq: 60,
            last_seq: 70,
            signed_at: at,
            ..Default::default()
        }),
        line(&Metric {
            name: "soma_events_per_minute".into(),
            value: 42.5,
            revision: 1,
            ..Default::default()
        }),
    ]
}

fn kept(path: &Path, fresh: &str) -> String {
    if !path.exists() && std::env::var_os("SOMA_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, fresh).unwrap();
    }
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}; SOMA_BLESS=1 writes it", path.display()))
}

/// Every released version of a record, oldest first: `<name>.avsc`, then `<name>.2.avsc` and so on. A schema that has changed since
/// is a version that is missing.
fn versions(name: &str, text: &str) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    loop {
        let nth = all.len() + 1;
        let version = if nth == 1 {
            name.to_owned()
        } else {
            format!("{name}.{nth}")
        };
        let path = dir("released").join(format!("{version}.avsc"));
        if all.last().is_some_and(|(_, last)| last == text) {
            assert!(!path.exists(), "{version} follows a version that is the same");
            return all;
        }
        all.push((version, kept(&path, text)));
    }
}

#[test]
fn every_schema_reads_its_released_copies_both_ways() {
    for (name, text, ..) in examples() {
        for (version, released) in versions(name, text) {
            let (old, new) = (parse_schema(&released).unwrap(), parse_schema(text).unwrap());
            assert_eq!(
                incompatible(&old, &new),
                None,
                "{version}: this build cannot read released records"
            );
            assert_eq!(
                incompatible(&new, &old),
                None,
                "{version}: released readers cannot read this build's records"
            );
        }
    }
}

#[test]
fn golden_bytes_of_every_version_still_read_and_the_last_are_still_written() {
    for (name, text, json, bytes) in examples() {
        let versions = versions(name, text);
        for (version, released) in &versions {
            let golden = kept(
                &dir("golden").join(format!("{version}.hex")),
                &format!("{}\n", hex_of(&bytes)),
            );
            let golden_json = kept(&dir("golden").join(format!("{version}.json")), &format!("{json}\n"));
            let raw = hex::decode(golden.trim()).unwrap();
            let read = read_as(name, &parse_schema(released).unwrap(), &raw);
            let golden_json: serde_json::Value = serde_json::from_str(&golden_json).unwrap();
            contains(&read, &golden_json, version);
            if released == text {
                let detail = format!("{version}: the same record gives other bytes than were released");
                assert_eq!(hex_of(&bytes), golden.trim(), "{detail}");
            }
        }
    }
}

/// What an older version said still stands; fields it did not know may be there beside.
fn contains(read: &serde_json::Value, golden: &serde_json::Value, at: &str) {
    match (read, golden) {
        (serde_json::Value::Object(read), serde_json::Value::Object(golden)) => {
            for (field, value) in golden {
                contains(&read[field], value, &format!("{at}.{field}"));
            }
        }
        (serde_json::Value::Array(read), serde_json::Value::Array(golden)) => {
            assert_eq!(read.len(), golden.len(), "{at}");
            read.iter().zip(golden).for_each(|(r, g)| contains(r, g, at));
        }
        _ => assert_eq!(read, golden, "{at}"),
    }
}

fn read_as(name: &str, writer: &schemas::Schema, raw: &[u8]) -> serde_json::Value {
    match name {
        "Request" => reread::<Request>(writer, raw),
        "Plan" => reread::<Plan>(writer, raw),
        "Proposal" => reread::<Proposal>(writer, raw),
        "Verdict" => reread::<Verdict>(writer, raw),
        "Approval" => reread::<Approval>(writer, raw),
        "Delegation" => reread::<Delegation>(writer, raw),
        "Receipt" => reread::<Receipt>(writer, raw),
        "Member" => reread::<Member>(writer, raw),
        "Policy" => reread::<Policy>(writer, raw),
        "Strike" => reread::<Strike>(writer, raw),
        "Sbom" => reread::<Sbom>(writer, raw),
        "Tally" => reread::<Tally>(writer, raw),
        "Constitution" => reread::<Constitution>(writer, raw),
        "Control" => reread::<Control>(writer, raw),
        "Heartbeat" => reread::<Heartbeat>(writer, raw),
        "Call" => reread::<Call>(writer, raw),
        "Outcome" => reread::<Outcome>(writer, raw),
        "Run" => reread::<Run>(writer, raw),
        "Memory" => reread::<Memory>(writer, raw),
        "Event" => reread::<Event>(writer, raw),
        "Metric" => reread::<Metric>(writer, raw),
        "AuditEntry" => reread::<AuditEntry>(writer, raw),
        "Checkpoint" => reread::<Checkpoint>(writer, raw),
        other => panic!("no reader for {other}"),
    }
}

/// Avro's decimals are as short as they fit when Java writes them; ours have eight bytes.
#[test]
fn a_decimal_of_any_length_reads_the_same_fast_and_slow() {
    let bytes = |budget: &[u8]| {
        let request = Request {
            budget_usd: Some(Usd(0x0102_0304_0506_0708)),
            ..Request::default()
        };
        let written = hex::encode(request.to_avro().unwrap());
        let (before, after) = written.split_once("02100102030405060708").unwrap();
        let length = u8::try_from(budget.len() * 2).unwrap();
        hex::decode(format!("{before}02{length:02x}{}{after}", hex::encode(budget))).unwrap()
    };
    let both = |budget: &[u8]| {
        let bytes = bytes(budget);
        let fast = Request::from_written(&schemas::Written::with(Request::schema().clone()), &bytes);
        let slow = Request::from_avro(Request::schema(), &bytes);
        assert_eq!(fast.is_ok(), slow.is_ok(), "{budget:?}: {fast:?} and {slow:?}");
        let of = |r: Result<Request, _>| r.ok().map(|r| r.budget_usd);
        assert_eq!(of(fast.clone()), of(slow), "{budget:?}");
        of(fast)
    };
    assert_eq!(both(&[0x26, 0x25, 0xa0]), Some(Some(Usd(2_500_000))));
    assert_eq!(both(&[0xff]), Some(Some(Usd(-1))));
    assert_eq!(both(&[]), None, "no bytes are no number");
    assert_eq!(both(&[0x7f; 8]), None, "more than 18 digits");
    assert_eq!(both(&[0; 9]), None, "longer than its precision");
}

fn reread<R: Record>(writer: &schemas::Schema, bytes: &[u8]) -> serde_json::Value {
    serde_json::to_value(R::from_avro(writer, bytes).unwrap()).unwrap()
}

#[test]
fn every_field_is_documented() {
    fn walk(schema: &serde_json::Value, path: &str) {
        if let Some(fields) = schema["fields"].as_array() {
            assert!(schema["doc"].is_string(), "{path} has no doc");
            for field in fields {
                let at = format!("{path}.{}", field["name"].as_str().unwrap());
                assert!(field["doc"].as_str().is_some_and(|d| d.len() > 3), "{at} has no doc");
                walk(&field["type"], &at);
            }
        }
        for inner in ["items", "values"] {
            walk_if(&schema[inner], path);
        }
        for variant in schema.as_array().into_iter().flatten() {
            walk_if(variant, path);
        }
    }
    fn walk_if(schema: &serde_json::Value, path: &str) {
        if schema.is_object() || schema.is_array() {
            walk(schema, path);
        }
    }
    for (name, text, ..) in examples() {
        walk(&serde_json::from_str(text).unwrap(), name);
    }
}

#[test]
fn an_incompatible_change_is_named() {
    let old = parse_schema(Request::schema_text()).unwrap();
    let with_new = Request::schema_text().replace(r#""name": "actor","#, r#""name": "who","#);
    let why = incompatible(&old, &parse_schema(&with_new).unwrap()).unwrap();
    assert!(why.contains("who"), "{why}");
    let with_type = Request::schema_text().replacen(r#""type": "string","#, r#""type": "long","#, 1);
    let why = incompatible(&old, &parse_schema(&with_type).unwrap()).unwrap();
    assert!(why.contains("tenant"), "{why}");
}
