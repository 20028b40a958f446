//! Kill, pause, resume, cancel.

use super::*;

const OK: OutcomeStatus = OutcomeStatus::Succeeded;

fn two_of_three() -> Driver {
    let mut d = Driver::running(vec![undoable("a", &[]), step("b", &["a"]), step("c", &["b"])]);
    d.answer("a", OK, r#"{"id":1}"#);
    d
}

#[test]
fn a_kill_ends_the_run_at_once_and_keeps_late_answers() {
    let mut d = two_of_three();
    d.control(Scope::Tenant, "acme", ControlAction::Kill);
    assert_eq!(
        (d.run().status, d.step("b").status, d.step("c").status),
        (RunStatus::Killed, StepStatus::Running, StepStatus::Skipped)
    );
    assert_eq!(d.run().reason, "killed by ops at tenant:acme: because");
    assert_eq!(d.run().fault.as_ref().unwrap().code, "CONTROL_STOPPED");
    d.answer("b", OK, r#"{"late":true}"#);
    assert_eq!(
        (d.step("b").status, d.step("b").result.as_str()),
        (StepStatus::Succeeded, r#"{"late":true}"#)
    );
    assert_eq!(
        (d.run().status, d.called().len(), d.proposals.len()),
        (RunStatus::Killed, 2, 0)
    );
    d.control(Scope::Tenant, "acme", ControlAction::Resume);
    d.pass(HOUR_MS);
    assert_eq!((d.run().status, d.called().len()), (RunStatus::Killed, 2));
}

#[test]
fn a_kill_stops_retries_waits_and_the_way_back() {
    let mut d = two_of_three();
    d.fail("b", true);
    d.control(Scope::Tenant, "acme", ControlAction::Kill);
    assert_eq!(d.step("b").status, StepStatus::Failed);
    d.pass(HOUR_MS);
    assert_eq!(d.called(), ["a#1", "b#1"]);

    let mut d = two_of_three();
    d.fail("b", false);
    d.control(Scope::Capsule, "rollout", ControlAction::Kill);
    assert_eq!(
        (d.run().status, d.step("a").status),
        (RunStatus::Killed, StepStatus::Succeeded)
    );
    d.judge(Decision::Allow);
    assert_eq!(d.called(), ["a#1", "b#1"]);

    let mut d = Driver::new();
    let p = plan(vec![step("a", &[])]);
    d.feed(Input::Plan(Box::new(p.clone())));
    d.plan_verdict(&p, Decision::Escalate);
    let approval = d.approval(ApprovalDecision::Approve);
    d.control(Scope::Run, "run_1", ControlAction::Kill);
    d.approve(approval);
    assert_eq!(
        (d.run().status, d.run().waiting.len(), d.proposals.len()),
        (RunStatus::Killed, 0, 0)
    );
    assert_eq!(d.event("approval.refused").payload["reason"], "the run has ended");
    assert_eq!(d.timers.keys().collect::<Vec<_>>(), ["forget"]);
}

#[test]
fn a_kill_that_stands_when_the_plan_comes_lets_nothing_begin() {
    let mut d = Driver::new();
    d.control(Scope::Tool, "http", ControlAction::Kill);
    d.feed(Input::Plan(Box::new(plan(vec![step("a", &[])]))));
    assert_eq!((d.run().status, d.called().len()), (RunStatus::Killed, 0));
}

#[test]
fn a_control_on_a_tool_covers_only_runs_that_still_need_it() {
    let mut other = step("b", &["a"]);
    other.tool = "notify".into();
    let mut d = Driver::running(vec![step("a", &[]), other]);
    d.answer("a", OK, "");
    d.control(Scope::Tool, "http", ControlAction::Kill);
    assert_eq!(d.run().status, RunStatus::Running);
    d.control(Scope::Tool, "notify", ControlAction::Kill);
    assert_eq!(d.run().status, RunStatus::Killed);
}

#[test]
fn a_pause_holds_what_would_start_and_a_resume_lets_it_go() {
    let mut d = two_of_three();
    d.control(Scope::Run, "run_1", ControlAction::Pause);
    assert_eq!(
        (d.run().status, d.run().reason.as_str()),
        (RunStatus::Paused, "paused by ops at run:run_1: because")
    );
    d.answer("b", OK, "");
    assert_eq!((d.step("b").status, d.called().len()), (StepStatus::Succeeded, 2));
    d.control(Scope::Run, "run_1", ControlAction::Resume);
    assert_eq!((d.run().status, d.called().len()), (RunStatus::Running, 3));
    d.answer("c", OK, "");
    assert_eq!(d.run().status, RunStatus::Succeeded);
}

#[test]
fn a_pause_holds_retries_verdicts_approvals_and_the_way_back() {
    let mut d = two_of_three();
    d.fail("b", true);
    d.control(Scope::Tenant, "acme", ControlAction::Pause);
    d.pass(HOUR_MS);
    assert_eq!(d.called().len(), 2);
    d.control(Scope::Tenant, "acme", ControlAction::Resume);
    assert_eq!(d.called(), ["a#1", "b#1", "b#2"]);
    d.control(Scope::Tenant, "acme", ControlAction::Pause);
    d.fail("b", false);
    assert_eq!((d.proposals.len(), d.run().status), (0, RunStatus::Paused));
    d.control(Scope::Tenant, "acme", ControlAction::Resume);
    assert_eq!((d.proposals.len(), d.run().status), (1, RunStatus::Compensating));
    d.control(Scope::Tenant, "acme", ControlAction::Pause);
    d.judge(Decision::Escalate);
    d.approve(d.approval(ApprovalDecision::Approve));
    assert_eq!(d.proposals.len(), 1);
    d.control(Scope::Tenant, "acme", ControlAction::Resume);
    assert_eq!(d.proposals.len(), 2);
    d.control(Scope::Tenant, "acme", ControlAction::Pause);
    d.judge(Decision::Allow);
    assert_eq!(d.called().len(), 3);
    d.control(Scope::Tenant, "acme", ControlAction::Resume);
    assert_eq!(d.called().last().unwrap(), "-a#1");
}

#[test]
fn a_call_refused_by_a_pause_we_had_not_seen_is_made_again() {
    let mut d = two_of_three();
    for nth in 1..=5 {
        let refused = failure(
            d.calls.last().unwrap(),
            OutcomeStatus::Refused,
            "CONTROL_STOPPED",
            false,
        );
        d.feed(Input::Outcome(Box::new(refused)));
        assert_eq!(d.step("b").status, StepStatus::Retrying);
        d.pass(1000);
        assert_eq!(d.called().last().unwrap(), &format!("b#{}", nth + 1));
    }
    for _ in 0..3 {
        d.fail("b", true);
        d.pass(2000);
    }
    assert_eq!((d.called().len(), d.step("b").status), (1 + 5 + 3, StepStatus::Failed));
}

#[test]
fn a_cancel_awaits_compensates_and_ends_cancelled() {
    let mut d = two_of_three();
    d.control(Scope::Run, "run_1", ControlAction::Cancel);
    assert_eq!(
        (d.run().status, d.step("c").status),
        (RunStatus::Running, StepStatus::Skipped)
    );
    d.answer("b", OK, "");
    assert_eq!(d.run().status, RunStatus::Compensating);
    d.judge(Decision::Allow);
    d.answer("a", OutcomeStatus::Compensated, "");
    assert_eq!(
        (d.run().status, d.run().reason.as_str()),
        (RunStatus::Cancelled, "cancelled by ops at run:run_1: because")
    );
    assert_eq!(
        (d.called(), d.step("a").status),
        (vec!["a#1".into(), "b#1".into(), "-a#1".into()], StepStatus::Compensated)
    );
}

#[test]
fn a_cancel_of_a_run_that_waits_ends_it_at_once() {
    let mut d = Driver::new();
    let p = plan(vec![step("a", &[])]);
    d.feed(Input::Plan(Box::new(p.clone())));
    d.plan_verdict(&p, Decision::Escalate);
    d.control(Scope::Run, "run_1", ControlAction::Cancel);
    assert_eq!(
        (d.run().status, d.run().waiting.len(), d.called().len()),
        (RunStatus::Cancelled, 0, 0)
    );
    d.plan_verdict(&p, Decision::Allow);
    assert_eq!(d.called().len(), 0);
}

#[test]
fn a_failed_undo_of_a_cancelled_run_is_not_hidden() {
    let mut d = two_of_three();
    d.answer("b", OK, "");
    d.control(Scope::Run, "run_1", ControlAction::Cancel);
    d.answer("c", OK, "");
    d.judge(Decision::Deny);
    assert_eq!(
        (d.run().status, d.step("a").status),
        (RunStatus::Failed, StepStatus::CompensationFailed)
    );
}

#[test]
fn a_cancel_keeps_the_reason_of_a_run_that_failed_before() {
    let mut d = two_of_three();
    d.fail("b", false);
    d.control(Scope::Run, "run_1", ControlAction::Cancel);
    d.judge(Decision::Allow);
    d.answer("a", OutcomeStatus::Compensated, "");
    assert_eq!(
        (d.run().status, d.run().reason.as_str()),
        (RunStatus::Compensated, "b did not work")
    );
}
