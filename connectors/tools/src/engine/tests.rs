//! The crash rules, over a tool whose world is a folder: it really acts (it appends to a file), really fails and really panics.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use kernel::{Answer, Consequence};
use schemas::Timestamp;
use schemas::records::{CallKind, Control, Obligation, OutcomeStatus, Permit, Scope};
use serde_json::{Value, json};

use super::noon::Noon;
use super::*;

/// Appends a line to `<dir>/<key>` and then does what its arguments say.
struct Ledger {
    dir: PathBuf,
    replay: Replay,
}

impl Drop for Ledger {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.dir).ok();
    }
}

impl Ledger {
    fn lines(&self, key: &str) -> usize {
        std::fs::read_to_string(self.dir.join(key)).map_or(0, |t| t.lines().count())
    }

    async fn act(&self, call: &Call) -> Result<Answer, CallFault> {
        let arguments: Value = serde_json::from_str(&call.arguments).unwrap();
        let text = format!(
            "{}line\n",
            std::fs::read_to_string(self.dir.join(&call.idempotency_key)).unwrap_or_default()
        );
        let fault = |effect| CallFault {
            fault: Fault::new(FaultCode::ToolFailed, arguments.to_string()),
            effect,
        };
        match call.operation.as_str() {
            "lose" => return Err(fault(Effect::Unknown)),
            "unreachable" => return Err(fault(Effect::None)),
            "refuse" => return Err(fault(Effect::Refused)),
            "panic" => panic!("the ledger is on fire"),
            "never_begin" => tokio::time::sleep(Duration::from_secs(60)).await,
            _ => std::fs::write(self.dir.join(&call.idempotency_key), text).unwrap(),
        }
        match call.operation.as_str() {
            "hang" => tokio::time::sleep(Duration::from_secs(60)).await,
            "act_and_lose" => return Err(fault(Effect::Unknown)),
            _ => {}
        }
        Ok(Answer {
            result: arguments,
            cost_micros_usd: 250,
        })
    }
}

impl Tool for Ledger {
    fn name(&self) -> &'static str {
        "ledger"
    }
    fn check(&self, operation: &str, _arguments: &Value) -> Result<(), Fault> {
        if operation == "burn" {
            Err(crate::faults::no_operation("ledger", operation, &["append"]))
        } else {
            Ok(())
        }
    }
    fn replay(&self, _call: &Call) -> Replay {
        self.replay
    }
    fn consequence(&self, _operation: &str, _arguments: &Value) -> Consequence {
        Consequence::Lasting
    }
    fn rehearsal(&self, operation: &str, arguments: &Value) -> Option<(String, Value)> {
        match operation {
            "undo" => Some(("unreachable".to_owned(), arguments.clone())),
            "look" => Some(("append".to_owned(), arguments.clone())),
            _ => None,
        }
    }
    fn interrupt(&self, _call: &Call) -> bool {
        false
    }
    fn call<'a>(&'a self, call: &'a Call) -> Pending<'a, Result<Answer, CallFault>> {
        Box::pin(self.act(call))
    }
    fn find<'a>(&'a self, call: &'a Call) -> Pending<'a, Result<Found, Fault>> {
        Box::pin(async {
            Ok(match self.lines(&call.idempotency_key) {
                0 => Found::DidNot,
                _ => Found::Happened(Answer {
                    result: json!({"found": true}),
                    cost_micros_usd: 0,
                }),
            })
        })
    }
}

fn ledger(replay: Replay) -> (Engine, Arc<Ledger>) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("soma-ledger-{}-{n}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let ledger = Arc::new(Ledger { dir, replay });
    let secrets = Secrets(BTreeMap::from([("token".to_owned(), "hush-hush".to_owned())]));
    let limits = Limits {
        result_bytes_max: 2000,
        ..Limits::default()
    };
    (
        Engine::new(
            vec![Arc::clone(&ledger) as Arc<dyn Tool>],
            secrets,
            limits,
            Arc::new(Noon),
            Arc::new(Arc::default),
        ),
        ledger,
    )
}

fn call(operation: &str) -> Call {
    Call {
        call_id: "call_1".into(),
        run_id: "run_1".into(),
        tenant: "acme".into(),
        goal: "keep books".into(),
        capsule: Some("books@1".into()),
        tool: "ledger".into(),
        operation: operation.into(),
        arguments: "{}".into(),
        idempotency_key: "key".into(),
        timeout_ms: 150,
        requested_at: Timestamp(7),
        ..Call::default()
    }
}

fn said(outcome: &Outcome) -> (OutcomeStatus, &str, bool) {
    let fault = outcome.fault.as_ref();
    (
        outcome.status,
        fault.map_or("", |f| f.code.as_str()),
        fault.is_some_and(|f| f.retryable),
    )
}

use OutcomeStatus::{Compensated, Failed, Refused, Succeeded, Unknown};

#[tokio::test]
async fn an_outcome_is_complete() {
    let (engine, _) = ledger(Replay::Never);
    let outcome = engine.perform(call("append"), Approach::Fresh).await;
    assert_eq!(said(&outcome), (Succeeded, "", false));
    assert_eq!(
        (outcome.goal.as_str(), outcome.capsule.as_deref()),
        ("keep books", Some("books@1"))
    );
    assert_eq!(
        (outcome.requested_at, outcome.finished_at),
        (Timestamp(7), Timestamp(43_200_000_000))
    );
    assert_eq!((outcome.cost_usd.0, outcome.result.as_str()), (250, "{}"));
    assert!(outcome.latency_us > 0);
    let back = Call {
        kind: CallKind::Compensation,
        ..call("append")
    };
    assert_eq!(engine.perform(back, Approach::Fresh).await.status, Compensated);
}

#[tokio::test]
async fn a_dry_run_is_gone_through_without_its_effect() {
    let (engine, ledger) = ledger(Replay::AskFirst);
    let bound = |kind: &str, fields: &[&str]| Obligation {
        kind: kind.into(),
        fields: fields.iter().map(|f| (*f).to_owned()).collect(),
        ..Default::default()
    };
    let dry = |operation: &str| Call {
        arguments: r#"{"to":{"$secret":"token"}}"#.into(),
        permit: Some(Permit {
            obligations: vec![bound(Obligation::DRY_RUN, &[]), bound(Obligation::REDACT, &["/text"])],
            ..Default::default()
        }),
        ..call(operation)
    };
    for approach in [Approach::Fresh, Approach::Recover] {
        let outcome = engine.perform(dry("append"), approach).await;
        let result: Value = serde_json::from_str(&outcome.result).unwrap();
        assert_eq!((said(&outcome), ledger.lines("key")), ((Succeeded, "", false), 0));
        assert_eq!((&result["dry_run"], &result["sent"]), (&json!(true), &json!(false)));
        assert_eq!(
            result["would"]["arguments"],
            json!({"to": {"$secret": "token"}}),
            "as planned: no secret"
        );
    }
    // Where the tool can show it, what is called shows it; bad arguments are refused as ever.
    assert_eq!(
        said(&engine.perform(dry("undo"), Approach::Fresh).await),
        (Failed, "TOOL_FAILED", true)
    );
    assert_eq!(
        said(&engine.perform(dry("burn"), Approach::Fresh).await),
        (Refused, "TOOL_UNKNOWN", false)
    );
    let back = Call {
        kind: CallKind::Compensation,
        ..dry("append")
    };
    assert_eq!(
        said(&engine.perform(back, Approach::Fresh).await),
        (Refused, "POLICY_DENIED", false)
    );
    assert_eq!(
        said(&engine.perform(dry("append"), Approach::Inquire).await),
        (Failed, "CONTROL_STOPPED", false)
    );
    assert_eq!(ledger.lines("key"), 0);
    let discreet = Call {
        arguments: r#"{"text":"the moon"}"#.into(),
        ..dry("look")
    };
    let outcome = engine.perform(discreet, Approach::Fresh).await;
    let result: Value = serde_json::from_str(&outcome.result).unwrap();
    assert_eq!(result["shown"], json!({"text": "***"}), "what is shown is redacted too");
}

#[tokio::test]
async fn what_cannot_be_tried_is_refused() {
    let (engine, ledger) = ledger(Replay::Never);
    let no_tool = Call {
        tool: "abacus".into(),
        ..call("append")
    };
    assert_eq!(
        said(&engine.perform(no_tool, Approach::Fresh).await),
        (Refused, "TOOL_UNKNOWN", false)
    );
    assert_eq!(
        said(&engine.perform(call("burn"), Approach::Fresh).await),
        (Refused, "TOOL_UNKNOWN", false)
    );
    for (arguments, code) in [
        ("[1", "ARGUMENTS_INVALID"),
        ("[]", "ARGUMENTS_INVALID"),
        (r#"{"a":{"$secret":"x"}}"#, "SECRET_UNKNOWN"),
    ] {
        let bad = Call {
            arguments: arguments.into(),
            ..call("append")
        };
        assert_eq!(
            said(&engine.perform(bad, Approach::Fresh).await),
            (Refused, code, false),
            "{arguments}"
        );
    }
    assert_eq!(ledger.lines("key"), 0);
}

#[tokio::test]
async fn the_effect_of_a_fault_decides_about_another_attempt() {
    let (engine, _) = ledger(Replay::Never);
    assert_eq!(
        said(&engine.perform(call("unreachable"), Approach::Fresh).await),
        (Failed, "TOOL_FAILED", true)
    );
    assert_eq!(
        said(&engine.perform(call("refuse"), Approach::Fresh).await),
        (Failed, "TOOL_FAILED", false)
    );
    assert_eq!(
        said(&engine.perform(call("lose"), Approach::Fresh).await),
        (Unknown, "OUTCOME_UNKNOWN", false)
    );
}

#[tokio::test]
async fn a_timeout_is_answered_by_the_replay_rule() {
    let (engine, _) = ledger(Replay::Safe);
    assert_eq!(
        said(&engine.perform(call("hang"), Approach::Fresh).await),
        (Failed, "TOOL_TIMED_OUT", true)
    );
    let (engine, _) = ledger(Replay::Never);
    assert_eq!(
        said(&engine.perform(call("hang"), Approach::Fresh).await),
        (Unknown, "OUTCOME_UNKNOWN", false)
    );
    let declared = Call {
        replay_safe: true,
        ..call("hang")
    };
    assert_eq!(
        said(&engine.perform(declared, Approach::Fresh).await),
        (Failed, "TOOL_TIMED_OUT", true)
    );
    let (engine, _) = ledger(Replay::AskFirst);
    assert_eq!(
        said(&engine.perform(call("never_begin"), Approach::Fresh).await),
        (Failed, "TOOL_TIMED_OUT", true)
    );
    assert_eq!(
        said(&engine.perform(call("hang"), Approach::Fresh).await),
        (Succeeded, "", false)
    );
}

#[tokio::test]
async fn after_a_crash_the_replay_rule_decides() {
    let (engine, ledger_safe) = ledger(Replay::Safe);
    assert_eq!(
        engine.perform(call("append"), Approach::Recover).await.status,
        Succeeded
    );
    assert_eq!(ledger_safe.lines("key"), 1);

    let (engine, asked) = ledger(Replay::AskFirst);
    assert_eq!(
        engine.perform(call("append"), Approach::Recover).await.status,
        Succeeded,
        "it had not happened"
    );
    let again = engine.perform(call("append"), Approach::Recover).await;
    assert_eq!((again.result.as_str(), asked.lines("key")), (r#"{"found":true}"#, 1));

    let (engine, never) = ledger(Replay::Never);
    assert_eq!(
        said(&engine.perform(call("append"), Approach::Recover).await),
        (Unknown, "OUTCOME_UNKNOWN", false)
    );
    assert_eq!(never.lines("key"), 0);
    for (replay, status) in [
        (Replay::Safe, Unknown),
        (Replay::Never, Unknown),
        (Replay::AskFirst, Failed),
    ] {
        let (engine, stopped) = ledger(replay);
        let outcome = engine.perform(call("append"), Approach::Inquire).await;
        assert_eq!(
            (outcome.status, stopped.lines("key")),
            (status, 0),
            "a stop forbids sending: {replay:?}"
        );
    }
    let gone = Call {
        tool: "abacus".into(),
        ..call("append")
    };
    assert_eq!(engine.perform(gone, Approach::Recover).await.status, Unknown);
}

#[tokio::test]
async fn a_lost_answer_is_looked_up() {
    let (engine, asked) = ledger(Replay::AskFirst);
    let outcome = engine.perform(call("act_and_lose"), Approach::Fresh).await;
    assert_eq!((outcome.result.as_str(), asked.lines("key")), (r#"{"found":true}"#, 1));
}

#[tokio::test]
async fn a_panic_is_caught_and_the_tool_stays_usable() {
    let (engine, _) = ledger(Replay::Safe);
    let outcome = engine.perform(call("panic"), Approach::Fresh).await;
    assert_eq!(said(&outcome), (Unknown, "INTERNAL", false));
    assert!(outcome.fault.unwrap().detail.contains("on fire"));
    assert_eq!(engine.perform(call("append"), Approach::Fresh).await.status, Succeeded);
}

#[tokio::test]
async fn secrets_go_in_and_never_come_out() {
    let (engine, _) = ledger(Replay::Safe);
    let arguments = r#"{"header":{"$secret":"token","prefix":"Bearer "}}"#;
    let with = |operation| Call {
        arguments: arguments.into(),
        ..call(operation)
    };
    let outcome = engine.perform(with("append"), Approach::Fresh).await;
    assert_eq!(outcome.result, r#"{"header":"Bearer ***"}"#);
    let outcome = engine.perform(with("refuse"), Approach::Fresh).await;
    assert_eq!(outcome.fault.unwrap().detail, r#"{"header":"Bearer ***"}"#);
}

#[tokio::test]
async fn a_large_result_is_cut() {
    let (engine, _) = ledger(Replay::Safe);
    let large = Call {
        arguments: json!({"text": "x".repeat(5000)}).to_string(),
        ..call("append")
    };
    let outcome = engine.perform(large, Approach::Fresh).await;
    assert!(
        outcome.result.starts_with(r#"{"bytes":"#) && outcome.result.len() < 2200,
        "{}",
        outcome.result
    );
}

#[tokio::test]
async fn waiting_for_a_turn_is_not_counted() {
    let (_, ledger) = ledger(Replay::Never);
    let one = Concurrency {
        calls_max: 1,
        calls_per_tenant_max: 1,
    };
    let limits = Limits {
        concurrency: one,
        ..Limits::default()
    };
    let engine = Engine::new(
        vec![ledger as Arc<dyn Tool>],
        Secrets::default(),
        limits,
        Arc::new(Noon),
        Arc::new(Arc::default),
    );
    let slow = tokio::spawn(engine.perform(call("hang"), Approach::Fresh));
    tokio::task::yield_now().await;
    let quick = engine
        .perform(
            Call {
                idempotency_key: "other".into(),
                timeout_ms: 100,
                ..call("append")
            },
            Approach::Fresh,
        )
        .await;
    assert_eq!(quick.status, Succeeded);
    assert!(quick.latency_us < 100_000, "{}", quick.latency_us);
    assert_eq!(slow.await.unwrap().status, Unknown);
}

#[tokio::test]
async fn a_stop_is_heard_by_those_that_wait_for_their_turn() {
    let (_, ledger) = ledger(Replay::Safe);
    let limits = Limits {
        concurrency: Concurrency {
            calls_max: 1,
            calls_per_tenant_max: 1,
        },
        ..Limits::default()
    };
    let shared = Arc::new(std::sync::Mutex::new(Arc::new(Controls::default())));
    let heeded = Arc::clone(&shared);
    let engine = Engine::new(
        vec![Arc::clone(&ledger) as Arc<dyn Tool>],
        Secrets::default(),
        limits,
        Arc::new(Noon),
        Arc::new(move || heeded.lock().unwrap().clone()),
    );
    let first = Call {
        timeout_ms: 100,
        ..call("hang")
    };
    let busy = tokio::spawn(engine.perform(first, Approach::Fresh));
    tokio::task::yield_now().await;
    let waiting: Vec<_> = [Approach::Fresh, Approach::Recover]
        .map(|approach| tokio::spawn(engine.perform(call("append"), approach)))
        .into();
    tokio::task::yield_now().await;
    let press = |action| {
        let mut controls = Controls::default();
        controls.apply(Control {
            scope: Scope::Tenant,
            target: "acme".into(),
            action,
            ..Control::default()
        });
        *shared.lock().unwrap() = Arc::new(controls);
    };
    press(ControlAction::Kill);
    busy.await.unwrap();
    let mut ended = Vec::new();
    for outcome in waiting {
        ended.push(outcome.await.unwrap());
    }
    assert_eq!(said(&ended[0]), (Refused, "CONTROL_STOPPED", false));
    assert_eq!(ended[1].status, Unknown, "cut off before: asked after, not sent again");
    press(ControlAction::Pause);
    let paused = engine.perform(call("append"), Approach::Fresh).await;
    assert_eq!(said(&paused), (Refused, "CONTROL_STOPPED", true));
    assert_eq!(
        ledger.lines(&call("append").idempotency_key),
        1,
        "only the first was sent"
    );
}
