//! A record delivered again, at once or at any later point, starts nothing that was not started anyway.

use super::*;

const OK: OutcomeStatus = OutcomeStatus::Succeeded;

/// One move of a scenario: what the other ends of the topics do next.
type Move = fn(&mut Driver);

fn steps() -> Vec<Step> {
    let mut c = undoable("c", &["a", "b"]);
    c.arguments = r#"{"id":"${steps.a.result.id}"}"#.into();
    vec![undoable("a", &[]), undoable("b", &[]), c, step("d", &["c"])]
}

const SMOOTH: &[Move] = &[
    |d| d.feed(Input::Plan(Box::new(plan(steps())))),
    |d| d.plan_verdict(&plan(steps()), Decision::Escalate),
    |d| d.approve(d.approval(ApprovalDecision::Approve)),
    |d| d.judge(Decision::Allow),
    |d| d.fail("b", true),
    |d| d.answer("a", OK, r#"{"id":1}"#),
    |d| d.pass(1000),
    |d| d.answer("b", OK, r#"{"id":2}"#),
    |d| d.judge(Decision::Escalate),
    |d| d.approve(d.approval(ApprovalDecision::Approve)),
    |d| d.judge(Decision::Allow),
    |d| d.answer("c", OK, r#"{"id":3}"#),
    |d| d.answer("d", OK, ""),
    |d| d.pass(HOUR_MS),
];

const ROUGH: &[Move] = &[
    |d| {
        let verdict = d.plan_verdict_of(&plan(steps()), Decision::Allow);
        d.feed(Input::Verdict(Box::new(verdict)));
    },
    |d| d.feed(Input::Plan(Box::new(plan(steps())))),
    |d| d.answer("a", OK, r#"{"id":1}"#),
    |d| d.answer("b", OK, r#"{"id":2}"#),
    |d| d.judge(Decision::Allow),
    |d| d.control(Scope::Run, "run_1", ControlAction::Pause),
    |d| d.answer("c", OK, r#"{"id":3}"#),
    |d| d.control(Scope::Run, "run_1", ControlAction::Resume),
    |d| d.fail("d", false),
    |d| d.judge(Decision::Escalate),
    |d| d.approve(d.approval(ApprovalDecision::Approve)),
    |d| d.judge(Decision::Allow),
    |d| d.fail("c", true),
    |d| d.pass(1000),
    |d| d.answer("c", OutcomeStatus::Compensated, ""),
    |d| d.judge(Decision::Allow),
    |d| d.answer("b", OutcomeStatus::Unknown, ""),
    |d| d.judge(Decision::Allow),
    |d| d.answer("a", OutcomeStatus::Compensated, ""),
    |d| d.pass(HOUR_MS),
];

/// Plays the scenario; after move `at` the record fed as number `again` comes once more.
fn play(moves: &[Move], redelivery: Option<(usize, usize)>) -> Driver {
    let mut driver = Driver::new();
    for (nth, act) in moves.iter().enumerate() {
        act(&mut driver);
        if let Some((at, again)) = redelivery
            && at == nth
            && again < driver.fed.len()
        {
            let record = driver.fed[again].clone();
            let fed = driver.fed.len();
            let proposals = driver.proposals.len();
            driver.feed(record);
            driver.fed.truncate(fed);
            assert_eq!(
                driver.proposals.len(),
                proposals,
                "record {again} again after move {at}"
            );
        }
    }
    driver
}

#[test]
fn any_record_again_at_any_time_changes_no_call_and_no_end() {
    for (moves, end) in [(SMOOTH, RunStatus::Succeeded), (ROUGH, RunStatus::Failed)] {
        let plain = play(moves, None);
        assert_eq!(plain.run().status, end, "{:?}", plain.run());
        for at in 0..moves.len() {
            for again in 0..plain.fed.len() {
                let twice = play(moves, Some((at, again)));
                assert_eq!(twice.called(), plain.called(), "record {again} again after move {at}");
                let keys = |d: &Driver| {
                    d.calls
                        .iter()
                        .map(|c| (c.call_id.clone(), c.digest.clone()))
                        .collect::<Vec<_>>()
                };
                assert_eq!(keys(&twice), keys(&plain));
                assert_eq!(
                    twice.run().steps,
                    restamped(&twice, &plain),
                    "record {again} again after move {at}"
                );
                assert_eq!(
                    (twice.run().status, twice.runs.len()),
                    (end, plain.runs.len()),
                    "{again} after {at}"
                );
            }
        }
    }
}

/// The plain run's steps with the other run's times: a redelivery moves the driver's clock.
fn restamped(twice: &Driver, plain: &Driver) -> Vec<RunStep> {
    let times = |s: &RunStep, of: &RunStep| RunStep {
        started_at: of.started_at,
        finished_at: of.finished_at,
        ..s.clone()
    };
    plain
        .run()
        .steps
        .iter()
        .zip(&twice.run().steps)
        .map(|(s, of)| times(s, of))
        .collect()
}

#[test]
fn a_second_plan_and_late_records_after_the_end_change_nothing() {
    let mut d = play(SMOOTH, None);
    let (runs, calls) = (d.runs.len(), d.calls.len());
    for record in d.fed.clone() {
        d.feed(record);
    }
    assert_eq!((d.runs.len(), d.calls.len()), (runs, calls));
    assert_eq!(d.event("plan.duplicate").payload["plan_id"], "plan_1");
    d.pass(25 * HOUR_MS);
    assert_eq!(d.state, State::default());
    d.answer("d", OK, "");
    assert_eq!((d.state.clone(), d.runs.len()), (State::default(), runs));
}

#[test]
fn the_same_input_gives_the_same_effects() {
    let (one, two) = (play(ROUGH, None), play(ROUGH, None));
    assert_eq!(
        (one.calls, one.proposals, one.runs),
        (two.calls, two.proposals, two.runs)
    );
    assert_eq!(one.events, two.events);
}
