//! The way back.

use super::*;

const OK: OutcomeStatus = OutcomeStatus::Succeeded;

/// a, then b and c beside each other, then d fails; b finished after c.
fn failed() -> Driver {
    let mut d = Driver::running(vec![
        undoable("a", &[]),
        undoable("b", &["a"]),
        undoable("c", &["a"]),
        step("d", &["b", "c"]),
    ]);
    d.answer("a", OK, r#"{"id":"A"}"#);
    d.answer("c", OK, r#"{"id":"C"}"#);
    d.answer("b", OK, r#"{"id":"B"}"#);
    d.fail("d", false);
    d
}

#[test]
fn what_was_only_rehearsed_is_neither_undone_nor_done() {
    let mut d = Driver::new();
    let plan = plan(vec![undoable("a", &[]), undoable("b", &["a"]), step("c", &["b"])]);
    d.feed(Input::Plan(Box::new(plan.clone())));
    let mut verdict = d.plan_verdict_of(&plan, Decision::Allow);
    verdict.steps[1].obligations = vec![Obligation {
        kind: Obligation::DRY_RUN.into(),
        ..Obligation::default()
    }];
    d.feed(Input::Verdict(Box::new(verdict)));
    d.answer("a", OK, r#"{"id":"A"}"#);
    let bound = &d.calls.last().unwrap().permit.as_ref().unwrap().obligations;
    assert_eq!(bound[0].kind, Obligation::DRY_RUN);
    d.answer("b", OK, r#"{"dry_run":true}"#);
    d.fail("c", false);
    let undone = d.proposals.last().unwrap();
    assert_eq!(
        undone.subject_id, "a.compensation",
        "b did nothing that could be undone"
    );
    let done: Vec<_> = undone.done.iter().map(|s| s.step_id.as_str()).collect();
    assert_eq!(done, ["a"]);
}

#[test]
fn what_succeeded_is_undone_in_reverse_one_after_another() {
    let mut d = failed();
    for (step_id, id) in [("b", "B"), ("c", "C"), ("a", "A")] {
        assert_eq!(
            (d.run().status, d.step(step_id).status),
            (RunStatus::Compensating, StepStatus::Compensating)
        );
        let proposal = d.proposals.last().unwrap().clone();
        assert_eq!(
            (proposal.subject_id, proposal.steps[0].tool.as_str()),
            (format!("{step_id}.compensation"), "terraform")
        );
        assert_eq!(proposal.steps[0].arguments, format!(r#"{{"id":"{id}"}}"#));
        d.judge(Decision::Allow);
        let call = d.calls.last().unwrap().clone();
        assert_eq!(
            (call.kind, call.step_id.as_str(), call.operation.as_str()),
            (CallKind::Compensation, step_id, "destroy")
        );
        assert!(!call.replay_safe && call.permit.is_some());
        d.answer(step_id, OutcomeStatus::Compensated, "");
        assert_eq!(d.step(step_id).status, StepStatus::Compensated);
    }
    assert_eq!(d.called()[4..], ["-b#1", "-c#1", "-a#1"]);
    assert_eq!(
        (d.run().status, d.run().reason.as_str()),
        (RunStatus::Compensated, "d did not work")
    );
    assert_eq!(
        (d.run().fault.as_ref().unwrap().code.as_str(), d.run().cost_usd),
        ("TOOL_FAILED", Usd(7 * 250_000))
    );
    assert_eq!(d.event_kinds().iter().filter(|k| **k == "step.compensated").count(), 3);
    assert_eq!(d.event_kinds().last(), Some(&"run.compensated"));
}

#[test]
fn running_steps_are_awaited_before_the_way_back() {
    let mut d = Driver::running(vec![undoable("a", &[]), step("b", &[]), step("c", &["a"])]);
    d.fail("b", false);
    assert_eq!((d.run().status, d.proposals.len()), (RunStatus::Running, 0));
    d.answer("a", OK, r#"{"id":1}"#);
    assert_eq!(
        (d.called(), d.step("c").status),
        (vec!["a#1".to_owned(), "b#1".to_owned()], StepStatus::Skipped)
    );
    assert_eq!((d.run().status, d.proposals.len()), (RunStatus::Compensating, 1));
}

#[test]
fn a_running_step_is_not_tried_again_once_the_run_winds_down() {
    let mut d = Driver::running(vec![step("a", &[]), step("b", &[]), step("c", &[])]);
    d.fail("c", true);
    d.fail("b", false);
    assert_eq!(d.step("c").status, StepStatus::Failed);
    d.fail("a", true);
    d.pass(HOUR_MS);
    assert_eq!((d.called().len(), d.run().status), (3, RunStatus::Failed));
    assert_eq!(d.run().reason, "b did not work");
}

#[test]
fn an_escalated_compensation_waits_for_a_human() {
    let mut d = failed();
    d.judge(Decision::Escalate);
    assert_eq!(
        (d.run().status, d.run().waiting[0].subject_id.as_str()),
        (RunStatus::WaitingApproval, "b.compensation")
    );
    d.approve(d.approval(ApprovalDecision::Approve));
    assert_eq!(d.proposals.last().unwrap().approval.as_ref().unwrap().approver, "ada");
    d.judge(Decision::Allow);
    assert_eq!(d.called().last().unwrap(), "-b#1");
}

#[test]
fn a_failed_compensation_leaves_standing_what_its_step_rests_on() {
    let denied: fn(&mut Driver) = |d| d.judge(Decision::Deny);
    let failing: fn(&mut Driver) = |d| {
        d.judge(Decision::Allow);
        d.fail("b", false);
    };
    let unknown: fn(&mut Driver) = |d| {
        d.judge(Decision::Allow);
        d.answer("b", OutcomeStatus::Unknown, "");
    };
    let silent: fn(&mut Driver) = |d| {
        d.judge(Decision::Escalate);
        d.pass(8 * 24 * HOUR_MS);
    };
    for way in [denied, failing, unknown, silent] {
        let mut d = failed();
        way(&mut d);
        assert_eq!(d.step("b").status, StepStatus::CompensationFailed);
        assert_eq!(d.proposals.last().unwrap().subject_id, "c.compensation");
        d.judge(Decision::Allow);
        d.answer("c", OutcomeStatus::Compensated, "");
        assert_eq!(
            (d.step("a").status, d.run().status),
            (StepStatus::Succeeded, RunStatus::Failed)
        );
        assert_eq!(d.run().reason, "d did not work");
        assert!(d.event_kinds().contains(&"step.compensation_failed"));
    }
}

#[test]
fn a_compensation_is_tried_again_like_its_step() {
    let mut d = failed();
    d.judge(Decision::Allow);
    d.fail("b", true);
    assert_eq!(d.step("b").status, StepStatus::Compensating);
    d.pass(1000);
    assert_eq!(d.called()[4..], ["-b#1", "-b#2"]);
    d.answer("b", OutcomeStatus::Compensated, "");
    assert_eq!(d.step("b").status, StepStatus::Compensated);
    assert_eq!(d.calls[4].idempotency_key, d.calls[5].idempotency_key);
    assert_ne!(d.calls[4].idempotency_key, d.calls[2].idempotency_key);
}

#[test]
fn a_compensation_that_refers_to_nothing_fails_and_the_rest_goes_on() {
    let mut d = Driver::running(vec![undoable("a", &[]), step("b", &["a"])]);
    d.answer("a", OK, "{}");
    d.fail("b", false);
    assert_eq!(
        (d.step("a").status, d.run().status),
        (StepStatus::CompensationFailed, RunStatus::Failed)
    );
    assert_eq!(d.step("a").fault.as_ref().unwrap().code, "REFERENCE_INVALID");
}

#[test]
fn the_way_back_is_walked_with_an_empty_purse() {
    let mut d = Driver::new();
    let plan = Plan {
        budget_usd: Some(Usd(250_000)),
        ..plan(vec![undoable("a", &[]), step("b", &["a"])])
    };
    d.feed(Input::Plan(Box::new(plan.clone())));
    d.plan_verdict(&plan, Decision::Allow);
    d.answer("a", OK, r#"{"id":1}"#);
    d.judge(Decision::Allow);
    assert_eq!(
        (d.called(), d.step("b").status),
        (vec!["a#1".to_owned(), "-a#1".to_owned()], StepStatus::Failed)
    );
    d.answer("a", OutcomeStatus::Compensated, "");
    assert_eq!(d.run().status, RunStatus::Compensated);
}
