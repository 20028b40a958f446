//! `http` and `notify` through the engine against a real nginx.

use std::collections::BTreeMap;
use std::sync::Arc;

use kernel::{Approach, Clock, Performer};
use schemas::Timestamp;
use schemas::records::{Call, Outcome, OutcomeStatus};
use serde_json::{Value, json};

use super::nginx::{Nginx, free_port};
use crate::{Engine, Limits, Secrets};

struct WallClock;

impl Clock for WallClock {
    fn elapsed(&self) -> std::time::Duration {
        static START: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
        START.elapsed()
    }
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        Timestamp(i64::try_from(since.as_micros()).unwrap())
    }
}

fn engine() -> Engine {
    let config = serde_json::from_value(json!({"terraform_path": "terraform", "workspaces_dir": "/nowhere"})).unwrap();
    let secrets = BTreeMap::from([("api".to_owned(), "sesame-open".to_owned())]);
    Engine::new(
        crate::all(&config),
        Secrets(secrets),
        Limits::default(),
        Arc::new(WallClock),
        Arc::new(Arc::default),
    )
}

fn call(arguments: Value) -> Call {
    Call {
        run_id: "run_live".into(),
        tenant: "acme".into(),
        tool: "http".into(),
        operation: "request".into(),
        arguments: arguments.to_string(),
        idempotency_key: "idem_live".into(),
        timeout_ms: 10_000,
        ..Call::default()
    }
}

async fn perform(call: Call) -> (Outcome, Value, String) {
    let outcome = engine().perform(call, Approach::Fresh).await;
    let result = serde_json::from_str(&outcome.result).unwrap_or(Value::Null);
    let fault = outcome
        .fault
        .as_ref()
        .map_or(String::new(), |f| format!("{} {} {}", f.code, f.retryable, f.detail));
    (outcome, result, fault)
}

#[tokio::test]
async fn a_request_is_answered_and_its_headers_are_seen() {
    let nginx = Nginx::start("answered");
    let expect = json!({"status": "2xx", "json": {"/status": "ok", "/items/1": 2}});
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let arguments = json!({"url": nginx.url("/json"), "headers": {"traceparent": trace}, "expect": expect});
    let (outcome, result, fault) = perform(call(arguments)).await;
    assert_eq!(outcome.status, OutcomeStatus::Succeeded, "{fault}");
    assert_eq!(result["json"]["items"], json!([1, 2]));
    assert_eq!(result["headers"]["content-type"], "application/json");
    assert_eq!(
        nginx.seen("/json"),
        [format!("GET /json 200 idem_live acme run_live {trace}")]
    );

    let put =
        json!({"method": "PUT", "url": nginx.url("/dav/a/b.json"), "json": {"n": 1}, "expect": {"status": [201, 204]}});
    let (outcome, _, fault) = perform(call(put)).await;
    assert_eq!(outcome.status, OutcomeStatus::Succeeded, "{fault}");
    assert_eq!(nginx.file("dav/a/b.json").as_deref(), Some(r#"{"n":1}"#));
}

#[tokio::test]
async fn an_unmet_expectation_fails_with_what_was_found() {
    let nginx = Nginx::start("unmet");
    let (outcome, _, fault) = perform(call(
        json!({"url": nginx.url("/json"), "expect": {"json": {"/status": "bad"}}}),
    ))
    .await;
    assert_eq!(outcome.status, OutcomeStatus::Failed);
    assert!(
        fault.starts_with("TOOL_FAILED false") && fault.contains("/status is \"ok\""),
        "{fault}"
    );
    let (_, _, fault) = perform(call(json!({"url": nginx.url("/missing")}))).await;
    assert!(
        fault.starts_with("TOOL_FAILED false") && fault.contains("404"),
        "{fault}"
    );
    let (_, _, fault) = perform(call(json!({"url": nginx.url("/broken")}))).await;
    assert!(
        fault.starts_with("TOOL_FAILED true") && fault.contains("503"),
        "{fault}"
    );
    let post = |idempotent: bool| json!({"method": "POST", "url": nginx.url("/broken"), "idempotent": idempotent});
    assert!(perform(call(post(false))).await.2.starts_with("TOOL_FAILED false"));
    assert!(perform(call(post(true))).await.2.starts_with("TOOL_FAILED true"));
}

#[tokio::test]
async fn a_refused_connection_sent_nothing() {
    let url = format!("http://127.0.0.1:{}/", free_port());
    let (outcome, _, fault) = perform(call(json!({"method": "POST", "url": url}))).await;
    assert_eq!(outcome.status, OutcomeStatus::Failed);
    assert!(fault.starts_with("TOOL_UNREACHABLE true"), "{fault}");
    let (_, _, fault) = perform(call(json!({"method": "POST", "url": "http://no-such-host.invalid/"}))).await;
    assert!(fault.starts_with("TOOL_UNREACHABLE true"), "{fault}");
}

#[tokio::test]
async fn a_broken_connection_is_unknown_unless_safe() {
    let nginx = Nginx::start("broken");
    let (outcome, _, fault) = perform(call(json!({"method": "POST", "url": nginx.url("/gone")}))).await;
    assert_eq!(outcome.status, OutcomeStatus::Unknown, "{fault}");
    assert!(fault.starts_with("OUTCOME_UNKNOWN false"), "{fault}");
    assert_eq!(
        nginx.seen("/gone").len(),
        1,
        "a call that may have happened is not sent again"
    );
    let (outcome, _, fault) = perform(call(json!({"url": nginx.url("/gone")}))).await;
    assert_eq!(
        (outcome.status, fault.starts_with("TOOL_FAILED true")),
        (OutcomeStatus::Failed, true),
        "{fault}"
    );
}

#[tokio::test]
async fn a_slow_answer_is_cut_off_in_time() {
    let nginx = Nginx::start("slow");
    let slow = |method: &str| Call {
        timeout_ms: 300,
        ..call(json!({"method": method, "url": nginx.url("/slow"), "expect": {"status": [200, 405]}}))
    };
    let (outcome, _, fault) = perform(slow("GET")).await;
    assert_eq!(outcome.status, OutcomeStatus::Failed);
    assert!(fault.starts_with("TOOL_TIMED_OUT true"), "{fault}");
    assert!(
        (300_000..2_000_000).contains(&outcome.latency_us),
        "{}",
        outcome.latency_us
    );
    let (_, result, fault) = perform(call(json!({"url": nginx.url("/json"), "max_bytes": 5}))).await;
    assert_eq!(
        (&result["text"], &result["truncated"]),
        (&json!("{\"sta"), &json!(true)),
        "{fault}"
    );
}

#[tokio::test]
async fn a_secret_reaches_the_server_and_nothing_else() {
    let nginx = Nginx::start("secret");
    let secret = |prefix: &str| json!({"$secret": "api", "prefix": prefix});
    let headers = json!({"authorization": secret("Bearer "), "x-api-key": secret("")});
    let arguments = json!({"url": nginx.url("/echo"), "headers": headers, "query": {"k": secret("")}});
    let (outcome, result, fault) = perform(call(arguments)).await;
    assert_eq!(
        result["json"],
        json!({"authorization": "Bearer ***", "key": "***", "query": "k=***"}),
        "{fault}"
    );
    assert!(!outcome.result.contains("sesame"), "{}", outcome.result);
    let (_, _, fault) = perform(call(
        json!({"url": nginx.url("/broken"), "headers": {"x-api-key": secret("")}}),
    ))
    .await;
    assert!(fault.contains("you sent ***"), "{fault}");
    let auth = json!({"basic": {"user": "ann", "password": secret("")}});
    let (_, result, fault) = perform(call(json!({"url": nginx.url("/echo"), "auth": auth}))).await;
    assert_eq!(result["json"]["authorization"], "Basic ***", "{fault}");
}

#[tokio::test]
async fn a_redirect_stays_within_its_origin() {
    let nginx = Nginx::start("redirect");
    let (_, result, fault) = perform(call(json!({"url": nginx.url("/here")}))).await;
    assert_eq!(
        (&result["status"], &result["url"]),
        (&json!(200), &json!(nginx.url("/json"))),
        "{fault}"
    );
    let (_, result, _) = perform(call(json!({"url": nginx.url("/away"), "expect": {"status": 302}}))).await;
    assert_eq!(result["status"], 302);
    assert!(nginx.seen("/echo").is_empty());
}

#[tokio::test]
async fn a_webhook_is_told_once() {
    let nginx = Nginx::start("webhook");
    let hook = |path: &str| Call {
        tool: "notify".into(),
        operation: "webhook".into(),
        ..call(json!({"url": nginx.url(path), "text": "rolled out"}))
    };
    let (outcome, result, fault) = perform(hook("/hook")).await;
    assert_eq!(outcome.status, OutcomeStatus::Succeeded, "{fault}");
    assert_eq!(result, json!({"delivered": true, "status": 204}));
    assert!(perform(hook("/broken")).await.2.starts_with("TOOL_FAILED false"));
    assert_eq!(
        engine().perform(hook("/hook"), Approach::Recover).await.status,
        OutcomeStatus::Unknown
    );
    assert_eq!(nginx.seen("/hook"), ["POST /hook 204 idem_live acme run_live -"]);
}
