//! Verdicts and approvals: allow, deny, escalate, drift, expiry.

use super::*;

const OK: OutcomeStatus = OutcomeStatus::Succeeded;

/// What is wrong with an approval.
type Change = fn(&mut Approval);

fn planned() -> Plan {
    plan(vec![step("a", &[]), step("b", &["a"])])
}

fn with_plan() -> Driver {
    let mut d = Driver::new();
    d.feed(Input::Plan(Box::new(planned())));
    d
}

/// A step whose arguments come from another, escalated.
fn escalated_step() -> Driver {
    let mut b = step("b", &["a"]);
    b.arguments = r#"{"id":"${steps.a.result.id}"}"#.into();
    let mut d = Driver::running(vec![undoable("a", &[]), b]);
    d.answer("a", OK, r#"{"id":9}"#);
    d.judge(Decision::Escalate);
    d
}

#[test]
fn a_verdict_may_come_before_its_plan() {
    let mut d = Driver::new();
    let verdict = d.plan_verdict_of(&planned(), Decision::Allow);
    d.feed(Input::Verdict(Box::new(verdict)));
    assert!(d.runs.is_empty() && d.timers.contains_key("forget"));
    d.feed(Input::Plan(Box::new(planned())));
    assert_eq!(
        (d.called(), d.run().status, d.run().revision),
        (vec!["a#1".to_owned()], RunStatus::Running, 1)
    );
    assert!(!d.timers.contains_key("forget"));

    let mut orphan = Driver::new();
    let verdict = orphan.plan_verdict_of(&planned(), Decision::Allow);
    orphan.feed(Input::Verdict(Box::new(verdict)));
    orphan.pass(25 * HOUR_MS);
    assert_eq!(orphan.state, State::default());
}

#[test]
fn a_denied_plan_ends_with_the_rules_words() {
    let mut d = with_plan();
    d.plan_verdict(&planned(), Decision::Deny);
    assert_eq!(
        (d.run().status, d.run().reason.as_str()),
        (RunStatus::Denied, "a human must look")
    );
    assert_eq!(d.run().fault.as_ref().unwrap().code, "POLICY_DENIED");
    assert!(d.called().is_empty());
    assert_eq!(d.event_kinds(), ["run.started", "run.denied"]);
    assert!(d.run().steps.iter().all(|s| s.status == StepStatus::Skipped));
}

#[test]
fn an_escalated_plan_goes_on_after_an_approval_and_a_new_verdict() {
    let mut d = with_plan();
    d.plan_verdict(&planned(), Decision::Escalate);
    let waiting = d.run().waiting[0].clone();
    assert_eq!(
        (d.run().status, waiting.subject, waiting.subject_id.as_str()),
        (RunStatus::WaitingApproval, Subject::Plan, "plan_1")
    );
    assert_eq!(
        (&waiting.digest, waiting.policy_revision.as_str()),
        (&planned().digest, REVISION)
    );
    assert!(waiting.arguments.contains(r#""of":"a""#), "{}", waiting.arguments);
    assert_eq!(d.event("run.waiting").payload["reason"], "a human must look");
    d.approve(d.approval(ApprovalDecision::Approve));
    let proposal = d.proposals[0].clone();
    assert_eq!(
        (proposal.subject, &proposal.subject_digest, proposal.steps.len()),
        (Subject::Plan, &planned().digest, 2)
    );
    assert_eq!(proposal.approval.as_ref().unwrap().approver, "ada");
    assert_eq!(
        (d.run().status, d.run().waiting.len(), d.called().len()),
        (RunStatus::Judging, 0, 0)
    );
    d.judge(Decision::Allow);
    d.answer("a", OK, "");
    d.answer("b", OK, "");
    assert_eq!((d.run().status, d.proposals.len()), (RunStatus::Succeeded, 1));
}

#[test]
fn an_approved_plan_may_be_escalated_again() {
    let mut d = with_plan();
    d.plan_verdict(&planned(), Decision::Escalate);
    d.approve(d.approval(ApprovalDecision::Approve));
    d.judge(Decision::Escalate);
    assert_eq!((d.run().status, d.run().waiting.len()), (RunStatus::WaitingApproval, 1));
    d.approve(d.approval(ApprovalDecision::Approve));
    d.judge(Decision::Allow);
    assert_eq!((d.called(), d.proposals.len()), (vec!["a#1".to_owned()], 2));
}

#[test]
fn a_human_or_silence_denies_a_plan() {
    let mut d = with_plan();
    d.plan_verdict(&planned(), Decision::Escalate);
    d.approve(d.approval(ApprovalDecision::Deny));
    assert_eq!(
        (d.run().status, d.run().reason.as_str()),
        (RunStatus::Denied, "ada denied it: as discussed")
    );
    assert_eq!(d.run().fault.as_ref().unwrap().code, "APPROVAL_DENIED");

    let mut d = with_plan();
    d.plan_verdict(&planned(), Decision::Escalate);
    d.pass(7 * 24 * HOUR_MS - 1);
    assert_eq!(d.run().status, RunStatus::WaitingApproval);
    d.pass(1);
    assert_eq!(
        (d.run().status, d.run().reason.as_str()),
        (RunStatus::Denied, "nobody answered within 168 hours")
    );
}

#[test]
fn an_approval_of_anything_but_what_was_shown_is_refused() {
    let mut d = with_plan();
    d.plan_verdict(&planned(), Decision::Escalate);
    let published = d.runs.len();
    let good = d.approval(ApprovalDecision::Approve);
    let cases: [(Change, &str); 6] = [
        (|a| a.digest = "other".into(), "it is for digest other"),
        (|a| a.subject_id = "a".into(), "nothing called `a` waits"),
        (
            |a| a.policy_revision = "policy-0".into(),
            "the policy changed since revision policy-0",
        ),
        (|a| a.expires_at = Some(Timestamp(1)), "the approval ended at"),
        (
            |a| (a.digest, a.decision) = ("other".into(), ApprovalDecision::Deny),
            "it is for digest other",
        ),
        (
            |a| (a.subject_id, a.comment) = (String::new(), String::new()),
            "nothing called ``",
        ),
    ];
    for (change, words) in cases {
        let mut approval = good.clone();
        change(&mut approval);
        d.approve(approval);
        let reason = &d.event("approval.refused").payload["reason"];
        assert!(reason.contains(words), "{reason}");
    }
    assert_eq!((d.runs.len(), d.proposals.len()), (published, 0));
    d.approve(good);
    assert_eq!(d.proposals.len(), 1);
}

#[test]
fn an_approval_of_another_tenant_or_of_no_run_is_refused() {
    let mut d = with_plan();
    d.plan_verdict(&planned(), Decision::Escalate);
    let fx_controls = Controls::default();
    let mut fx = Effects::new(Timestamp(9), "run_1", "s", &fx_controls);
    let foreign = Approval {
        tenant: "globex".into(),
        ..d.approval(ApprovalDecision::Approve)
    };
    let input = Delivery {
        input: Input::Approval(Box::new(foreign)),
        key: "run_1".into(),
        position: Position::default(),
        headers: Headers::default(),
        at: Timestamp(9),
    };
    let before = d.state.clone();
    for state in [&mut d.state, &mut State::default()] {
        d.stage.step(state, &input, &mut fx).unwrap();
    }
    let reasons: Vec<String> = fx
        .emits
        .iter()
        .filter(|e| e.record == Event::NAME)
        .map(|e| Event::from_avro(Event::schema(), &e.avro).unwrap().payload["reason"].clone())
        .collect();
    assert_eq!(reasons, ["the run belongs to another tenant", "there is no such run"]);
    assert_eq!(d.state, before);
}

#[test]
fn an_escalated_step_shows_its_exact_arguments_and_goes_on_after_approval() {
    let mut d = escalated_step();
    let waiting = d.run().waiting[0].clone();
    assert_eq!(
        (waiting.subject_id.as_str(), waiting.arguments.as_str()),
        ("b", r#"{"id":9}"#)
    );
    assert_eq!(
        (d.step("b").status, d.run().status),
        (StepStatus::WaitingApproval, RunStatus::WaitingApproval)
    );
    d.approve(d.approval(ApprovalDecision::Approve));
    let again = d.proposals.last().unwrap();
    assert_eq!(
        (again.subject_id.as_str(), &again.subject_digest),
        ("b", &waiting.digest)
    );
    assert_eq!(again.approval.as_ref().unwrap().digest, waiting.digest);
    d.judge(Decision::Allow);
    d.answer("b", OK, "");
    assert_eq!(d.run().status, RunStatus::Succeeded);
}

#[test]
fn a_step_denied_by_a_human_a_rule_or_silence_is_followed_by_compensation() {
    let ways: [fn(&mut Driver); 3] = [
        |d| d.approve(d.approval(ApprovalDecision::Deny)),
        |d| {
            let proposal = d.proposals[0].clone();
            let verdict = d.verdict_of(&proposal, Decision::Deny);
            d.feed(Input::Verdict(Box::new(verdict)));
        },
        |d| d.pass(8 * 24 * HOUR_MS),
    ];
    for way in ways {
        let mut d = escalated_step();
        way(&mut d);
        assert_eq!(
            (d.step("b").status, d.run().status),
            (StepStatus::Denied, RunStatus::Compensating)
        );
        assert_eq!(d.proposals.last().unwrap().subject_id, "a.compensation");
        d.judge(Decision::Allow);
        d.answer("a", OutcomeStatus::Compensated, "");
        assert_eq!(d.run().status, RunStatus::Compensated);
    }
}

#[test]
fn a_denied_step_with_nothing_to_undo_denies_the_run() {
    let mut b = step("b", &["a"]);
    b.arguments = r#"{"id":"${steps.a.result}"}"#.into();
    let mut d = Driver::running(vec![step("a", &[]), b]);
    d.answer("a", OK, "1");
    d.judge(Decision::Deny);
    assert_eq!(
        (d.run().status, d.step("b").status),
        (RunStatus::Denied, StepStatus::Denied)
    );
    assert_eq!(d.event("step.denied").payload["code"], "POLICY_DENIED");
}

#[test]
fn an_allow_counts_only_signed_and_for_the_same_digest() {
    let mut d = with_plan();
    let mut verdict = d.plan_verdict_of(&planned(), Decision::Allow);
    verdict.steps[0].digest = "other".into();
    d.feed(Input::Verdict(Box::new(verdict)));
    assert_eq!((d.called().len(), d.proposals[0].subject_id.as_str()), (0, "a"));
    let proposal = d.proposals[0].clone();
    let mut foreign = d.verdict_of(&proposal, Decision::Allow);
    (foreign.digest, foreign.steps[0].digest) = ("other".into(), "other".into());
    d.feed(Input::Verdict(Box::new(foreign)));
    assert_eq!(
        (d.called().len(), d.event("verdict.ignored").payload["subject"].as_str()),
        (0, "a")
    );
    let mut unsigned = d.verdict_of(&proposal, Decision::Allow);
    unsigned.steps[0].signature.clear();
    d.feed(Input::Verdict(Box::new(unsigned)));
    assert_eq!(
        (d.called().len(), d.run().fault.as_ref().unwrap().code.as_str()),
        (0, "PERMIT_INVALID")
    );

    let mut d = with_plan();
    let mut verdict = d.plan_verdict_of(&planned(), Decision::Allow);
    verdict.digest = "other".into();
    d.feed(Input::Verdict(Box::new(verdict)));
    assert_eq!((d.run().status, d.called().len()), (RunStatus::Judging, 0));
}

#[test]
fn an_approval_that_runs_out_during_a_pause_is_not_used() {
    let mut d = escalated_step();
    let until = d.now.plus_ms(HOUR_MS);
    d.approve(Approval {
        expires_at: Some(until),
        ..d.approval(ApprovalDecision::Approve)
    });
    d.control(Scope::Run, "run_1", ControlAction::Pause);
    d.judge(Decision::Allow);
    d.pass(2 * HOUR_MS);
    d.control(Scope::Run, "run_1", ControlAction::Resume);
    assert_eq!(d.called(), ["a#1"]);
    let again = d.proposals.last().unwrap();
    assert_eq!((again.subject_id.as_str(), again.approval.clone()), ("b", None));
}
