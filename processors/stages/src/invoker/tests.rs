//! The invoker on its own: given open and finished calls, which are let out, refused, answered again or recovered.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use ed25519_dalek::{Signer, SigningKey};
use kernel::controls::Controls;
use kernel::{Emit, Headers, Perform, Position};
use schemas::records::{CallKind, Control, ControlAction, Event, Permit, Scope};
use schemas::{Record, Timestamp, digest, permit};

use super::*;

const NOW: Timestamp = Timestamp(2_000_000_000);

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn invoker() -> Invoker {
    Invoker::new(key().verifying_key().to_bytes(), Config::default())
}

fn call(id: &str) -> Call {
    let arguments = r#"{"method":"GET","url":"http://127.0.0.1:1"}"#.to_owned();
    let mut call = Call {
        call_id: id.into(),
        run_id: "run_1".into(),
        tenant: "acme".into(),
        step_id: "look".into(),
        attempt: 1,
        tool: "http".into(),
        operation: "request".into(),
        digest: digest::action("http", "request", &arguments).unwrap(),
        arguments,
        timeout_ms: 1000,
        created_at: NOW,
        ..Call::default()
    };
    sign(&mut call, "look");
    call
}

fn sign(call: &mut Call, step: &str) {
    let text = permit::signed_text(&call.run_id, step, &call.digest, "rev", Timestamp(5), &[]);
    let signature = hex::encode(key().sign(&text).to_bytes());
    call.permit = Some(Permit {
        verdict_id: "ver_1".into(),
        policy_revision: "rev".into(),
        decided_at: Timestamp(5),
        signature,
        ..Permit::default()
    });
}

struct Ran {
    outcomes: Vec<Outcome>,
    events: Vec<String>,
    performs: Vec<Perform>,
    timers: Vec<Timer>,
}

fn collect(fx: Effects<'_>) -> Ran {
    let of = |topic: &str| {
        fx.emits
            .iter()
            .filter(|e| e.topic == topic)
            .cloned()
            .collect::<Vec<Emit>>()
    };
    Ran {
        outcomes: of("soma.outcomes")
            .iter()
            .map(|e| Outcome::from_avro(Outcome::schema(), &e.avro).unwrap())
            .collect(),
        events: of("soma.events")
            .iter()
            .map(|e| Event::from_avro(Event::schema(), &e.avro).unwrap().kind)
            .collect(),
        performs: fx.performs,
        timers: fx.timers,
    }
}

fn step(state: &mut State, call: &Call, controls: &Controls, now: Timestamp) -> Ran {
    let mut fx = Effects::new(now, "run_1", "c/0@1", controls);
    let delivery = Delivery {
        input: Input::Call(Box::new(call.clone())),
        key: "run_1".into(),
        position: Position::default(),
        headers: Headers::default(),
        at: now,
    };
    invoker().step(state, &delivery, &mut fx).unwrap();
    collect(fx)
}

fn signal(state: &mut State, signal: &Signal) -> Ran {
    let controls = Controls::default();
    let mut fx = Effects::new(NOW, "run_1", "s", &controls);
    invoker().on_signal(state, signal, &mut fx).unwrap();
    collect(fx)
}

fn refused(call: &Call, controls: &Controls, now: Timestamp) -> (String, bool) {
    let mut state = State::default();
    let ran = step(&mut state, call, controls, now);
    assert!(ran.performs.is_empty() && state.open.is_empty());
    assert_eq!(
        (ran.outcomes[0].status, ran.events[0].as_str()),
        (OutcomeStatus::Refused, "call.refused")
    );
    let fault = ran.outcomes[0].fault.clone().unwrap();
    (fault.code, fault.retryable)
}

#[test]
fn an_allow_whose_obligations_were_taken_off_or_changed_lets_nothing_out() {
    let none = Controls::default();
    let bound = [schemas::records::Obligation {
        rule: "rehearse".into(),
        kind: "dry_run".into(),
        ..Default::default()
    }];
    let mut call = call("call_1");
    let text = permit::signed_text("run_1", "look", &call.digest, "rev", Timestamp(5), &bound);
    let signature = hex::encode(key().sign(&text).to_bytes());
    let mut with = |obligations: &[schemas::records::Obligation]| {
        let permit = call.permit.as_mut().unwrap();
        (permit.signature, permit.obligations) = (signature.clone(), obligations.to_vec());
        call.clone()
    };
    let (stripped, changed) = (with(&[]), {
        let mut other = bound.clone();
        other[0].kind = "redact".into();
        with(&other)
    });
    for call in [stripped, changed] {
        assert_eq!(refused(&call, &none, NOW), ("PERMIT_INVALID".to_owned(), false));
    }
    let ran = step(&mut State::default(), &with(&bound), &none, NOW);
    assert_eq!(ran.performs.len(), 1);
}

#[test]
fn an_intent_then_an_outcome_and_every_repeat_is_answered_the_same() {
    let (mut state, none) = (State::default(), Controls::default());
    let ran = step(&mut state, &call("call_1"), &none, NOW);
    assert_eq!((ran.performs.len(), ran.performs[0].approach), (1, Approach::Fresh));
    assert!(ran.outcomes.is_empty() && state.open.contains_key("call_1"));
    let again = step(&mut state, &call("call_1"), &none, NOW);
    assert!(
        again.performs.is_empty() && again.outcomes.is_empty(),
        "an open call is not started twice"
    );

    let restored = signal(&mut state, &Signal::Restored);
    assert_eq!(
        (restored.performs.len(), restored.performs[0].approach),
        (1, Approach::Recover)
    );

    // Taken back before it began, it is begun by whoever has it next; cut off there, it is looked into again.
    signal(&mut state, &Signal::Withdrawn("call_1".into()));
    for wanted in [Approach::Fresh, Approach::Recover] {
        assert_eq!(signal(&mut state, &Signal::Restored).performs[0].approach, wanted);
    }
    signal(&mut state, &Signal::Withdrawn("call_2".into()));
    assert!(state.unbegun.is_empty(), "nobody asked for that one");

    let outcome = Outcome {
        call_id: "call_1".into(),
        run_id: "run_1".into(),
        latency_us: 5000,
        ..Outcome::default()
    };
    let done = signal(&mut state, &Signal::Done(Box::new(outcome.clone())));
    assert_eq!(
        (done.outcomes, done.events),
        (vec![outcome.clone()], vec!["call.succeeded".to_owned()])
    );
    assert!(state.open.is_empty());
    assert!(
        signal(&mut state, &Signal::Done(Box::new(outcome.clone())))
            .outcomes
            .is_empty(),
        "one outcome per call"
    );
    let late = step(&mut state, &call("call_1"), &none, NOW);
    assert_eq!((late.outcomes, late.performs.len()), (vec![outcome], 0));

    let mut fx = Effects::new(done.timers[0].due, "run_1", "t", &none);
    invoker().on_timer(&mut state, &done.timers[0], &mut fx).unwrap();
    assert_eq!((state, fx.timers.len()), (State::default(), 0));
}

#[test]
fn a_call_a_crash_cut_off_is_not_sent_again_under_a_stop_and_waits_for_a_pause_to_end() {
    let stopped = |action| {
        let mut controls = Controls::default();
        controls.apply(Control {
            scope: Scope::Run,
            target: "run_1".into(),
            action,
            ..Control::default()
        });
        controls
    };
    let restored = |state: &mut State, controls: &Controls| {
        let mut fx = Effects::new(NOW, "run_1", "s", controls);
        invoker().on_signal(state, &Signal::Restored, &mut fx).unwrap();
        collect(fx)
    };
    let open = || {
        let mut state = State::default();
        step(&mut state, &call("call_1"), &Controls::default(), NOW);
        state
    };
    for action in [ControlAction::Kill, ControlAction::Cancel] {
        let ran = restored(&mut open(), &stopped(action));
        assert_eq!(ran.performs[0].approach, Approach::Inquire, "{action:?}");
    }
    let mut state = open();
    let paused = stopped(ControlAction::Pause);
    let ran = restored(&mut state, &paused);
    assert_eq!((ran.performs.len(), ran.timers.len()), (0, 1));
    for (controls, wanted) in [(paused, None), (Controls::default(), Some(Approach::Recover))] {
        let mut fx = Effects::new(ran.timers[0].due, "run_1", "t", &controls);
        invoker().on_timer(&mut state, &ran.timers[0], &mut fx).unwrap();
        let ran = collect(fx);
        assert_eq!(ran.performs.first().map(|p| p.approach), wanted);
        assert_eq!(state.held.is_empty(), wanted.is_some());
    }
}

#[test]
fn a_call_without_a_valid_allow_for_exactly_its_digest_is_refused() {
    let none = Controls::default();
    let cases: [(&str, fn(&mut Call)); 8] = [
        ("no permit", |c| c.permit = None),
        ("other arguments", |c| c.arguments = r#"{"method":"DELETE"}"#.into()),
        ("other arguments with their digest", |c| {
            c.arguments = r#"{"method":"DELETE"}"#.into();
            c.digest = digest::action("http", "request", &c.arguments).unwrap();
        }),
        ("other tool", |c| c.tool = "notify".into()),
        ("other step", |c| c.step_id = "apply".into()),
        ("way back under the step's allow", |c| c.kind = CallKind::Compensation),
        ("other revision", |c| {
            c.permit.as_mut().unwrap().policy_revision = "new".into()
        }),
        ("no hex", |c| c.permit.as_mut().unwrap().signature = "zz".into()),
    ];
    for (why, change) in cases {
        let mut call = call("call_1");
        change(&mut call);
        assert_eq!(refused(&call, &none, NOW), ("PERMIT_INVALID".into(), false), "{why}");
    }
}

#[test]
fn controls_and_deadlines_stop_calls_and_a_cancel_lets_the_way_back_through() {
    let with = |action| {
        let mut controls = Controls::default();
        controls.apply(Control {
            scope: Scope::Tool,
            target: "http".into(),
            action,
            ..Control::default()
        });
        controls
    };
    let mut back = call("call_2");
    back.kind = CallKind::Compensation;
    sign(&mut back, "look.compensation");
    for (action, retryable) in [
        (ControlAction::Kill, false),
        (ControlAction::Cancel, false),
        (ControlAction::Pause, true),
    ] {
        assert_eq!(
            refused(&call("call_1"), &with(action), NOW),
            ("CONTROL_STOPPED".into(), retryable)
        );
    }
    assert_eq!(refused(&back, &with(ControlAction::Kill), NOW).0, "CONTROL_STOPPED");
    assert_eq!(
        step(&mut State::default(), &back, &with(ControlAction::Cancel), NOW)
            .performs
            .len(),
        1
    );
    let last = NOW.plus_ms(1000 + Config::default().grace_ms);
    assert_eq!(
        step(&mut State::default(), &call("call_1"), &Controls::default(), last)
            .performs
            .len(),
        1
    );
    assert_eq!(
        refused(&call("call_1"), &Controls::default(), last.plus_ms(1)).0,
        "DEADLINE_PASSED"
    );
}

#[test]
fn bad_configuration_is_named_and_a_bad_key_lets_nothing_out() {
    assert_eq!(Config::default().check(), vec![]);
    assert_eq!(
        Config {
            grace_ms: 0,
            finished_ms: -1
        }
        .check()
        .len(),
        2
    );
    let bad = (0..=255)
        .map(|b| [b; 32])
        .find(|b| ed25519_dalek::VerifyingKey::from_bytes(b).is_err())
        .unwrap();
    let controls = Controls::default();
    let fault = Gatekeeper::new(bad, 1)
        .admit(&call("call_1"), &Effects::new(NOW, "run_1", "c", &controls))
        .unwrap_err();
    assert_eq!(fault.code, "PERMIT_INVALID");
}
