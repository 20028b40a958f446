//! Plans that run: order, parallel steps, references, retries, limits, the end.

use super::*;
use kernel::{FaultCode, Position};

const OK: OutcomeStatus = OutcomeStatus::Succeeded;

#[test]
fn a_straight_line_runs_in_order_to_its_end() {
    let mut d = Driver::running(vec![step("a", &[]), step("b", &["a"])]);
    assert_eq!(d.called(), ["a#1"]);
    let call = d.calls[0].clone();
    assert_eq!(call.call_id, digest::id("call", &["run_1", "a", "ACTION", "1"]));
    assert_eq!(
        call.idempotency_key,
        digest::id("idem", &["acme", "run_1", "a", "ACTION", &call.digest])
    );
    assert_eq!(
        (call.timeout_ms, call.replay_safe, call.budget_left_usd),
        (5000, false, None)
    );
    let permit = call.permit.unwrap();
    assert_eq!(
        (permit.signature.as_str(), permit.policy_revision.as_str()),
        ("5160", REVISION)
    );
    d.answer("a", OK, r#"{"id":1}"#);
    d.answer("b", OK, "");
    assert_eq!(d.called(), ["a#1", "b#1"]);
    assert_eq!(
        d.statuses(),
        [RunStatus::Judging, RunStatus::Running, RunStatus::Succeeded]
    );
    assert!(d.proposals.is_empty());
    let revisions: Vec<i64> = d.runs.iter().map(|r| r.revision).collect();
    assert_eq!(revisions, (1..=d.runs.len() as i64).collect::<Vec<_>>());
    assert_eq!(
        (d.run().cost_usd, d.step("a").result.as_str()),
        (Usd(500_000), r#"{"id":1}"#)
    );
    assert!(d.run().finished_at.is_some() && d.run().fault.is_none() && d.run().reason.is_empty());
    let kinds = [
        "run.started",
        "step.started",
        "step.succeeded",
        "step.started",
        "step.succeeded",
        "run.succeeded",
    ];
    assert_eq!(d.event_kinds(), kinds);
    let started = d.event("step.started");
    assert_eq!(
        (started.payload["tool"].as_str(), started.payload["capsule"].as_str()),
        ("http", "rollout@1")
    );
    assert_eq!(d.timers.keys().collect::<Vec<_>>(), ["forget"]);
    d.pass(25 * HOUR_MS);
    assert_eq!(d.state, State::default());
}

#[test]
fn a_diamond_runs_its_middle_in_parallel() {
    let mut d = Driver::running(vec![
        step("d", &["b", "c"]),
        step("b", &["a"]),
        step("c", &["a"]),
        step("a", &[]),
    ]);
    d.answer("a", OK, "1");
    assert_eq!(d.called(), ["a#1", "b#1", "c#1"]);
    d.answer("c", OK, "3");
    assert_eq!(d.called().len(), 3);
    d.answer("b", OK, "2");
    assert_eq!(d.called(), ["a#1", "b#1", "c#1", "d#1"]);
    d.answer("d", OK, "4");
    assert_eq!(d.run().status, RunStatus::Succeeded);
}

#[test]
fn a_failed_attempt_is_made_again_after_a_doubling_wait() {
    let mut d = Driver::running(vec![step("a", &[])]);
    d.fail("a", true);
    assert_eq!((d.step("a").status, d.called().len()), (StepStatus::Retrying, 1));
    d.pass(999);
    assert_eq!(d.called(), ["a#1"]);
    d.pass(1);
    assert_eq!(d.called(), ["a#1", "a#2"]);
    d.fail("a", true);
    d.pass(1499);
    assert_eq!(d.called().len(), 2);
    d.pass(1);
    d.answer("a", OK, "{}");
    assert_eq!(d.run().status, RunStatus::Succeeded);
    assert!(
        d.calls
            .windows(2)
            .all(|w| w[0].idempotency_key == w[1].idempotency_key && w[0].call_id != w[1].call_id)
    );
    assert_eq!(d.event("step.retrying").payload["code"], "TOOL_FAILED");
    assert_eq!((d.step("a").attempt, d.step("a").fault.clone()), (3, None));
    assert!(d.proposals.is_empty());
}

#[test]
fn attempts_are_bounded_and_final_faults_are_not_tried_again() {
    let mut d = Driver::running(vec![step("a", &[])]);
    for _ in 0..3 {
        d.fail("a", true);
        d.pass(2000);
    }
    assert_eq!((d.called().len(), d.run().status), (3, RunStatus::Failed));
    let mut d = Driver::running(vec![step("a", &[]), step("b", &["a"])]);
    d.fail("a", false);
    assert_eq!((d.called().len(), d.run().status), (1, RunStatus::Failed));
    assert_eq!(d.run().fault.as_ref().unwrap().code, "TOOL_FAILED");
    assert_eq!(
        (d.step("b").status, d.run().reason.as_str()),
        (StepStatus::Skipped, "a did not work")
    );
    assert_eq!(d.event("run.failed").payload["code"], "TOOL_FAILED");
}

#[test]
fn a_refused_call_fails_its_step_with_the_fault_it_carries() {
    let mut d = Driver::running(vec![step("a", &[])]);
    let refused = failure(&d.calls[0], OutcomeStatus::Refused, "PERMIT_INVALID", true);
    d.feed(Input::Outcome(Box::new(refused)));
    assert_eq!(
        (d.run().status, d.run().fault.as_ref().unwrap().code.as_str()),
        (RunStatus::Failed, "PERMIT_INVALID")
    );
}

#[test]
fn an_unanswered_call_is_only_reported() {
    let mut d = Driver::running(vec![step("a", &[])]);
    d.pass(64_999);
    assert!(!d.event_kinds().contains(&"call.overdue"));
    d.pass(1);
    assert_eq!(d.event("call.overdue").payload["step"], "a");
    assert_eq!((d.run().status, d.called().len()), (RunStatus::Running, 1));
    d.answer("a", OK, "{}");
    assert_eq!(d.run().status, RunStatus::Succeeded);
}

#[test]
fn a_call_whose_effect_is_unknown_is_never_repeated_and_nothing_is_undone() {
    let steps = vec![
        undoable("z", &[]),
        step("a", &["z"]),
        undoable("b", &["z"]),
        step("c", &["b"]),
    ];
    let mut d = Driver::running(steps);
    d.answer("z", OK, r#"{"id":0}"#);
    d.answer("a", OutcomeStatus::Unknown, "");
    assert_eq!(
        (d.run().status, d.step("a").status),
        (RunStatus::Running, StepStatus::Unknown)
    );
    d.answer("b", OK, r#"{"id":1}"#);
    assert_eq!(
        (d.run().status, d.called()),
        (RunStatus::Unknown, vec!["z#1".into(), "a#1".into(), "b#1".into()])
    );
    assert_eq!(d.run().fault.as_ref().unwrap().code, "OUTCOME_UNKNOWN");
    assert_eq!(
        (d.step("b").status, d.step("c").status),
        (StepStatus::Succeeded, StepStatus::Skipped)
    );
    d.pass(3 * HOUR_MS);
    assert_eq!((d.called().len(), d.proposals.len()), (3, 0));
}

#[test]
fn references_are_filled_in_typed_and_judged_before_the_call() {
    let mut apply = step("apply", &["plan"]);
    apply.arguments =
        r#"{"plan_id":"${steps.plan.result.id}","destroy":"${steps.plan.result.n}","t":"n=${steps.plan.result.n}"}"#
            .into();
    let mut d = Driver::running(vec![step("plan", &[]), apply]);
    d.answer("plan", OK, r#"{"id":"p1","n":2}"#);
    assert_eq!(
        (d.called(), d.step("apply").status),
        (vec!["plan#1".to_owned()], StepStatus::Judging)
    );
    let proposal = d.proposals[0].clone();
    assert_eq!(
        (
            proposal.subject,
            proposal.subject_id.as_str(),
            proposal.approval.clone()
        ),
        (Subject::Step, "apply", None)
    );
    let arguments: serde_json::Value = serde_json::from_str(&proposal.steps[0].arguments).unwrap();
    assert_eq!(
        arguments,
        serde_json::json!({"plan_id": "p1", "destroy": 2, "t": "n=2"})
    );
    assert_eq!(
        proposal.subject_digest,
        digest::action("http", "request", &arguments.to_string()).unwrap()
    );
    d.judge(Decision::Allow);
    assert_eq!(
        (d.calls[1].arguments.as_str(), &d.calls[1].digest),
        (proposal.steps[0].arguments.as_str(), &proposal.subject_digest)
    );
    d.answer("apply", OK, "");
    assert_eq!(d.run().status, RunStatus::Succeeded);
}

#[test]
fn a_reference_to_nothing_fails_the_step_by_name() {
    let mut b = step("b", &["a"]);
    b.arguments = r#"{"x":"${steps.a.result.nope}"}"#.into();
    let mut d = Driver::running(vec![step("a", &[]), b]);
    d.answer("a", OK, r#"{"id":1}"#);
    let fault = d.run().fault.clone().unwrap();
    assert_eq!(
        (d.run().status, fault.code.as_str()),
        (RunStatus::Failed, "REFERENCE_INVALID")
    );
    assert!(fault.detail.contains("${steps.a.result.nope}"), "{}", fault.detail);
}

#[test]
fn large_results_are_kept_whole_only_when_somebody_needs_them() {
    let big = format!(r#"{{"id":7,"body":"{}"}}"#, "x".repeat(100_000));
    let mut b = step("b", &["a"]);
    b.arguments = r#"{"x":"${steps.a.result.id}"}"#.into();
    let mut d = Driver::running(vec![step("a", &[]), b]);
    d.answer("a", OK, &big);
    assert_eq!(
        (d.step("a").result.len(), d.proposals[0].steps[0].arguments.as_str()),
        (big.len(), r#"{"x":7}"#)
    );
    d.judge(Decision::Allow);
    d.answer("b", OK, &big);
    let kept: serde_json::Value = serde_json::from_str(&d.step("b").result).unwrap();
    assert_eq!(
        (kept["truncated"].as_bool(), kept["bytes"].as_u64()),
        (Some(true), Some(big.len() as u64))
    );
}

#[test]
fn a_spent_budget_starts_nothing_more() {
    let mut d = Driver::new();
    let plan = Plan {
        budget_usd: Some(Usd(300_000)),
        ..plan(vec![step("a", &[]), step("b", &["a"]), step("c", &["b"])])
    };
    d.feed(Input::Plan(Box::new(plan.clone())));
    d.plan_verdict(&plan, Decision::Allow);
    d.answer("a", OK, "");
    d.answer("b", OK, "");
    assert_eq!(
        d.calls.iter().map(|c| c.budget_left_usd).collect::<Vec<_>>(),
        [Some(Usd(300_000)), Some(Usd(50_000))]
    );
    let fault = d.run().fault.clone().unwrap();
    assert_eq!(
        (d.run().status, d.step("c").status),
        (RunStatus::Failed, StepStatus::Failed)
    );
    assert!(
        fault.detail.contains("budget of 0.300000 USD is spent (0.500000"),
        "{}",
        fault.detail
    );
}

#[test]
fn a_cap_on_the_budget_holds_whatever_was_asked_for() {
    for asked in [None, Some(Usd(900_000))] {
        let mut d = Driver::new();
        let plan = Plan {
            budget_usd: asked,
            ..plan(vec![step("a", &[]), step("b", &["a"]), step("c", &["b"])])
        };
        d.feed(Input::Plan(Box::new(plan.clone())));
        let mut verdict = d.plan_verdict_of(&plan, Decision::Allow);
        let cap = |usd| Obligation {
            kind: Obligation::CAP_BUDGET.into(),
            usd: Some(Usd(usd)),
            ..Obligation::default()
        };
        verdict.obligations = vec![cap(700_000), cap(300_000)];
        d.feed(Input::Verdict(Box::new(verdict)));
        d.answer("a", OK, "");
        d.answer("b", OK, "");
        let left: Vec<_> = d.calls.iter().map(|c| c.budget_left_usd).collect();
        assert_eq!(left, [Some(Usd(300_000)), Some(Usd(50_000))]);
        let fault = d.run().fault.clone().unwrap();
        assert!(fault.detail.contains("a policy caps it"), "{}", fault.detail);
    }
}

#[test]
fn plans_that_cannot_be_run_are_refused_at_once() {
    let mut d = Driver::new();
    d.feed(Input::Plan(Box::new(plan(vec![step("a", &["b"]), step("b", &["a"])]))));
    let fault = d.run().fault.clone().unwrap();
    assert_eq!(
        (d.run().status, fault.code.as_str()),
        (RunStatus::Refused, "PLAN_INVALID")
    );
    assert!(fault.detail.contains("a -> b -> a"), "{}", fault.detail);
    assert_eq!((d.event_kinds(), d.runs.len()), (vec!["run.refused"], 1));

    let mut d = Driver::new();
    let refusal = Refusal {
        code: "CAPSULE_UNKNOWN".into(),
        field: "capsule".into(),
        detail: "no such capsule".into(),
    };
    let refused = Plan {
        refusal: Some(refusal),
        ..plan(vec![])
    };
    let verdict = d.plan_verdict_of(&refused, Decision::Deny);
    d.feed(Input::Verdict(Box::new(verdict)));
    d.feed(Input::Plan(Box::new(refused)));
    assert_eq!(
        (d.run().status, d.run().reason.as_str()),
        (RunStatus::Refused, "capsule: no such capsule")
    );
}

#[test]
fn a_record_under_another_key_is_the_records_fault() {
    let (controls, stage) = (Controls::default(), Orchestrator::new(Config::default()));
    let mut fx = Effects::new(Timestamp(1), "run_2", "s", &controls);
    let input = Delivery {
        input: Input::Plan(Box::new(plan(vec![step("a", &[])]))),
        key: "run_2".into(),
        position: Position::default(),
        headers: Headers::default(),
        at: Timestamp(1),
    };
    let fault = stage.step(&mut State::default(), &input, &mut fx).unwrap_err();
    assert_eq!(fault.code, FaultCode::RecordInvalid);
    assert!(
        fault.detail.contains("field `run_id` of the plan is `run_1`"),
        "{}",
        fault.detail
    );
}

#[test]
fn waiting_times_out_of_range_are_all_named() {
    assert!(Config::default().check().is_empty());
    let faults = Config {
        approval_hours: 0,
        grace_ms: -1,
        permit_ms: -1,
        forget_hours: 0.001,
    }
    .check();
    assert_eq!(
        faults.iter().map(|f| f.path.as_str()).collect::<Vec<_>>(),
        ["approval_hours", "grace_ms", "permit_ms", "forget_hours"]
    );
}
