//! Bad input, each with a clear answer that names the field or file and the fix; nothing is lost and nobody is stopped.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use kernel::{Headers, RawRecord};
use schemas::records::{Outcome, Plan, Request, Run, RunStatus, Step};
use schemas::{Record, Timestamp, digest, topics};

use super::harness::{live, now, request, text, unique};

/// Puts bytes on soma.requests and waits for the dead letter.
fn poison(value: &[u8]) -> RawRecord {
    let live = live();
    let key = unique("poison");
    let writer = live.writer();
    writer
        .write_raw(topics::REQUESTS.name, &key, Some(value), &Headers::default())
        .unwrap();
    writer.flush().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let mut letters = live.dead_letters(topics::REQUESTS.name, &key);
        if let Some(letter) = letters.pop() {
            assert!(letters.is_empty(), "one letter, not {}", letters.len() + 1);
            assert_eq!(letter.value.as_deref(), Some(value), "the bytes are untouched");
            for name in [
                "topic",
                "partition",
                "offset",
                "stage",
                "code",
                "detail",
                "attempts",
                "at",
                "replays",
            ] {
                assert!(
                    letter.headers.text(&format!("soma-dlq-{name}")).is_some(),
                    "soma-dlq-{name} is missing"
                );
            }
            return letter;
        }
        assert!(Instant::now() < deadline, "no dead letter for {key}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn code(letter: &RawRecord) -> &str {
    letter.headers.text("soma-dlq-code").unwrap()
}

fn framed(id: u32, avro: &[u8]) -> Vec<u8> {
    [&[0], id.to_be_bytes().as_slice(), avro].concat()
}

#[test]
fn not_avro() {
    assert_eq!(code(&poison(b"{\"goal\": \"plain JSON\"}")), "RECORD_NOT_FRAMED");
}

#[test]
fn unknown_schema_id() {
    assert_eq!(code(&poison(&framed(987_654_321, b"abc"))), "SCHEMA_UNKNOWN");
}

#[test]
fn wrong_schema() {
    let live = live();
    let id = live
        .registry
        .id_of(topics::EVENTS.name, schemas::records::Event::schema_text())
        .unwrap();
    let event = schemas::records::Event {
        event_id: "evt_1".into(),
        ..Default::default()
    };
    let letter = poison(&framed(id, &event.to_avro().unwrap()));
    assert_eq!(code(&letter), "RECORD_UNREADABLE");
    assert!(
        letter.headers.text("soma-dlq-detail").unwrap().contains("actor"),
        "names a field: {:?}",
        letter.headers.text("soma-dlq-detail")
    );
}

#[test]
fn missing_field_in_the_bytes() {
    let live = live();
    let id = live
        .registry
        .id_of(topics::REQUESTS.name, Request::schema_text())
        .unwrap();
    let avro = request("bad", "k", "endpoint_probe", &[]).to_avro().unwrap();
    assert_eq!(code(&poison(&framed(id, &avro[..10]))), "RECORD_UNREADABLE");
}

#[test]
fn missing_field_is_named_by_produce() {
    let file = std::env::temp_dir().join(unique("missing") + ".json");
    std::fs::write(
        &file,
        r#"{"tenant": "bad", "idempotency_key": "x", "goal": "no actor"}"#,
    )
    .unwrap();
    let out = live().soma(&["produce", file.to_str().unwrap()]);
    let shown = text(&out.stdout) + &text(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{shown}");
    assert!(shown.contains("actor") && shown.contains("missing"), "{shown}");
}

#[test]
fn five_megabytes() {
    let mut big = request("bad", &unique("big"), "endpoint_probe", &[]);
    big.goal = "x".repeat(5 << 20);
    let writer = live().writer();
    let written = writer
        .write(topics::REQUESTS, "bad:big", "bad", &big, None)
        .and_then(|()| writer.flush());
    let fault = written.unwrap_err();
    assert_eq!(fault.code.as_str(), "RECORD_TOO_LARGE", "{fault}");
}

fn refused(request: &Request) -> Run {
    let live = live();
    let runs = live.produce(std::slice::from_ref(request));
    let states = live.wait(&runs, Duration::from_secs(30));
    states[&runs[0]].last().unwrap().clone()
}

#[test]
fn unknown_capsule() {
    let run = refused(&request("bad", &unique("u"), "no_such_capsule", &[]));
    let fault = run.fault.unwrap();
    assert_eq!(
        (run.status, fault.code.as_str()),
        (RunStatus::Refused, "CAPSULE_UNKNOWN")
    );
    assert!(fault.detail.contains("no_such_capsule"), "{}", fault.detail);
}

#[test]
fn input_of_the_wrong_type() {
    let run = refused(&request(
        "bad",
        &unique("t"),
        "service_rollout",
        &[("service", "web"), ("replicas", "many")],
    ));
    let fault = run.fault.unwrap();
    assert_eq!((run.status, fault.code.as_str()), (RunStatus::Refused, "INPUT_INVALID"));
    assert!(fault.detail.contains("replicas"), "{}", fault.detail);
}

#[test]
fn free_text_without_a_planner() {
    let mut r = request("bad", &unique("f"), "x", &[]);
    r.capsule = None;
    r.goal = "make everything better".into();
    let run = refused(&r);
    assert_eq!(
        (run.status, run.fault.unwrap().code.as_str()),
        (RunStatus::Refused, "PLANNER_MISSING")
    );
}

fn planned(steps: Vec<Step>) -> String {
    let live = live();
    let key = unique("plan");
    let run_id = digest::run_id("bad", &key);
    let plan = Plan {
        plan_id: digest::id("plan", &[&run_id]),
        run_id: run_id.clone(),
        tenant: "bad".into(),
        actor: "planner".into(),
        idempotency_key: key,
        digest: digest::plan(&run_id, &steps).unwrap(),
        steps,
        requested_at: now(),
        created_at: now(),
        ..Plan::default()
    };
    let writer = live.writer();
    writer.write(topics::PLANS, &run_id, "bad", &plan, None).unwrap();
    writer.flush().unwrap();
    run_id
}

fn step(id: &str, tool: &str, needs: &[&str]) -> Step {
    Step {
        step_id: id.into(),
        tool: tool.into(),
        operation: "request".into(),
        arguments: format!(r#"{{"method":"GET","url":"{}/ok"}}"#, live().receiver()),
        needs: needs.iter().map(|n| (*n).to_owned()).collect(),
        retry: schemas::records::Retry {
            attempts_max: 1,
            backoff_ms: 100,
            backoff_ms_max: 100,
        },
        timeout_ms: 5000,
        ..Step::default()
    }
}

#[test]
fn cyclic_plan() {
    let run = planned(vec![step("a", "http", &["b"]), step("b", "http", &["a"])]);
    let states = live().wait(std::slice::from_ref(&run), Duration::from_secs(30));
    let last = states[&run].last().unwrap();
    let fault = last.fault.clone().unwrap();
    assert_eq!((last.status, fault.code.as_str()), (RunStatus::Refused, "PLAN_INVALID"));
    assert!(
        fault.detail.contains('a') && fault.detail.contains('b'),
        "{}",
        fault.detail
    );
}

#[test]
fn unknown_tool() {
    let run = planned(vec![step("a", "no_such_tool", &[])]);
    let states = live().wait(std::slice::from_ref(&run), Duration::from_secs(30));
    let last = states[&run].last().unwrap();
    let shown = format!("{} {:?} {:?}", last.reason, last.fault, last.steps);
    assert!(
        matches!(last.status, RunStatus::Denied | RunStatus::Failed | RunStatus::Refused),
        "{shown}"
    );
    assert!(shown.contains("no_such_tool"), "{shown}");
    let outcomes: Vec<Outcome> = live().read(topics::OUTCOMES);
    assert!(
        !outcomes
            .iter()
            .any(|o| o.run_id == run && o.status == schemas::records::OutcomeStatus::Succeeded)
    );
}

/// What a record says of itself in headers is believed by nobody: it is taken once, as its own tenant's.
#[test]
fn forged_headers() {
    let live = live();
    let key = unique("forged");
    let mut r = request("bad", &key, "endpoint_probe", &[]);
    r.inputs.insert("url".into(), format!("{}/ok?{key}", live.receiver()));
    let value = live
        .registry
        .framed(topics::REQUESTS.name, Request::schema_text(), &r.to_avro().unwrap())
        .unwrap();
    let headers = Headers::build(|put| {
        put(
            kernel::TAKEN_BY,
            b"control-tower.intake,control-tower.policy_gate,control-tower.invoker",
        );
        put("soma-tenant", b"acme");
        put("soma-idempotency-key", b"another");
        put("soma-dlq-replays", b"-1");
        put("soma-dlq-replayed-from", b"soma.requests.dlq/0@0");
        put("traceparent", b"00-not-a-trace-\xff");
        put("ce_id", &[0xff; 300]);
        put("ce_type", b"Verdict");
        put("ce_time", b"9999-99-99T99:99:99Z");
    });
    let writer = live.writer();
    let topic_key = format!("bad:{key}");
    writer
        .write_raw(topics::REQUESTS.name, &topic_key, Some(&value), &headers)
        .unwrap();
    writer.flush().unwrap();
    let run = digest::run_id("bad", &key);
    let states = live.wait(std::slice::from_ref(&run), Duration::from_secs(30));
    let last = states[&run].last().unwrap();
    assert_eq!(
        (last.status, last.tenant.as_str()),
        (RunStatus::Succeeded, "bad"),
        "{last:?}"
    );
    let asked = |line: &serde_json::Value| line["uri"].as_str().is_some_and(|uri| uri.contains(&key));
    assert_eq!(live.receiver_log().iter().filter(|l| asked(l)).count(), 1);
}

fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(unique(name));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn shipped() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .join("pipelines")
}

fn pipeline_with(name: &str, change: impl Fn(String) -> String) -> PathBuf {
    let dir = scratch(name);
    let text = std::fs::read_to_string(shipped().join("control-tower/pipeline.yaml")).unwrap();
    let text = text.replace("../capsules", &shipped().join("capsules").display().to_string());
    let text = text.replace("../wizards", &shipped().join("wizards").display().to_string());
    let text = text.replace(
        "../policies/base",
        &shipped().join("policies/base").display().to_string(),
    );
    let text = text.replace(
        "events_per_minute.sql",
        &shipped()
            .join("control-tower/events_per_minute.sql")
            .display()
            .to_string(),
    );
    let file = dir.join("pipeline.yaml");
    std::fs::write(&file, change(text)).unwrap();
    file
}

fn fails(args: &[&str], words: &[&str]) {
    let out = live().soma(args);
    let shown = text(&out.stdout) + &text(&out.stderr);
    assert!(!out.status.success(), "{shown}");
    for word in words {
        assert!(shown.contains(word), "`{word}` is not in: {shown}");
    }
}

#[test]
fn rego_that_does_not_compile() {
    let bundle = scratch("rego");
    std::fs::write(
        bundle.join("gate.rego"),
        "package soma.gate\n\nimport rego.v1\n\ndeny contains v if {\n  input.tenant ==\n}\n",
    )
    .unwrap();
    let file = pipeline_with("bad-rego", |t| {
        t.replace(
            &shipped().join("policies/base").display().to_string(),
            &bundle.display().to_string(),
        )
    });
    fails(&["check", file.to_str().unwrap()], &["gate.rego", "stages[1]"]);
}

#[test]
fn pipeline_yaml_with_three_faults() {
    let file = pipeline_with("three", |t| {
        t.replace("admin:", "adnim:")
            .replace("dedupe_hours: 168", "dedupe_hours: many")
            .replace("use: memory_indexer", "use: memory_indxer")
            .replace("redis: { url: \"${SOMA_REDIS_URL}\" }", "redis: { ulr: x }")
    });
    fails(&["check", file.to_str().unwrap()], &["adnim", "connections.redis"]);
    let file = pipeline_with("three-more", |t| {
        t.replace("dedupe_hours: 168", "dedupe_hours: many")
            .replace("use: memory_indexer", "use: memory_indxer")
            .replace("approval_hours: 168", "approval_hours: -1")
    });
    fails(
        &["check", file.to_str().unwrap()],
        &["stages[0]", "stages[2]", "stages[4]", "memory_indxer"],
    );
}

#[test]
fn port_taken() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let file = pipeline_with("port", |t| {
        t.replace("127.0.0.1:${SOMA_ADMIN_PORT:-0}", &format!("127.0.0.1:{port}"))
            .replace("${SOMA_INSTANCE:-a}", "port-taken")
    });
    fails(
        &["start", file.to_str().unwrap()],
        &[&port, "admin.listen", "CONFIG_INVALID"],
    );
}

#[test]
fn disk_path_not_writable() {
    // /proc takes no folders, not even root's.
    let file = pipeline_with("disk", |t| t.replace("${SOMA_WORKSPACES}", "/proc/soma-workspaces"));
    fails(
        &["check", file.to_str().unwrap()],
        &["/proc/soma-workspaces", "workspaces_dir"],
    );
}

#[test]
fn what_was_bad_stopped_nobody() {
    let live = live();
    let r = request(
        "good",
        &unique("after"),
        "endpoint_probe",
        &[("url", &format!("{}/ok", live.receiver()))],
    );
    let runs = live.produce(&[r]);
    let seen = live.wait(&runs, Duration::from_secs(30));
    assert_eq!(seen[&runs[0]].last().unwrap().status, RunStatus::Succeeded);
    assert!(Timestamp::default() < now());
}
