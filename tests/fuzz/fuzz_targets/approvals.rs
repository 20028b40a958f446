//! Approvals of a run that waits for one: only an answer to exactly what waits moves it, and the gate allows nothing on an
//! approval that is not for this digest and revision, by somebody else, in time.
#![no_main]

use std::sync::LazyLock;

use kernel::controls::Controls;
use kernel::members::Members;
use libfuzzer_sys::fuzz_target;
use schemas::records::{Approval, ApprovalDecision, Decision, Plan, Proposal, Run, Step, Verdict};
use schemas::{Record, digest};
use stages::orchestrator::{Config, Input, Orchestrator, State};
use stages::policy_gate::{self, Bundle, PolicyGate};

static GATE: LazyLock<PolicyGate> = LazyLock::new(|| {
    PolicyGate::new(Bundle::parse(&fuzz::files("policies/base")).expect("the shipped bundle"), [7; 32], || 0)
});
/// A run that waits for an approval: its state, and the run as a follower sees it.
static WAITING: LazyLock<(State, Run)> = LazyLock::new(|| {
    let step = Step {
        step_id: "away".into(),
        tool: "http".into(),
        operation: "request".into(),
        arguments: r#"{"method":"DELETE","url":"http://127.0.0.1:1/x"}"#.into(),
        retry: schemas::records::Retry { attempts_max: 1, ..Default::default() },
        timeout_ms: 1000,
        ..Step::default()
    };
    let mut plan = Plan {
        plan_id: "plan_1".into(),
        run_id: "run_1".into(),
        tenant: "acme".into(),
        actor: "ada".into(),
        steps: vec![step],
        ..Plan::default()
    };
    plan.digest = digest::plan(&plan.run_id, &plan.steps).expect("steps of JSON");
    let verdict = GATE.judge(&policy_gate::Input::Plan(Box::new(plan.clone())), fuzz::NOW, &Members::default()).expect("a plan");
    assert_eq!(verdict.decision, Decision::Escalate);
    let mut state = State::default();
    let mut run = None;
    for input in [Input::Plan(Box::new(plan)), Input::Verdict(Box::new(verdict))] {
        let stage = Orchestrator::new(Config::default());
        let emits = fuzz::step(&stage, &mut state, input, "run_1", &Controls::default()).expect("a waiting run");
        run = emits.iter().filter(|e| e.record == Run::NAME).next_back().and_then(|e| fuzz::record(&e.avro)).or(run);
    }
    (state, run.expect("it is published"))
});

fuzz_target!(|data: &[u8]| {
    let (mut state, run) = WAITING.clone();
    let waiting = run.waiting.first().expect("it waits");
    let stage = Orchestrator::new(Config::default());
    for line in data.split(|b| *b == b'\n') {
        // A placeholder lets the fuzzer hit the digest, which it could not guess.
        let text = String::from_utf8_lossy(line).replace("@D", &waiting.digest).replace("@R", &waiting.policy_revision);
        let approval = match fuzz::from_text::<Approval>(text.as_bytes()) {
            Some(approval) => approval,
            None => match fuzz::record::<Approval>(line) {
                Some(approval) => approval,
                None => continue,
            },
        };
        let input = Input::Approval(Box::new(approval.clone()));
        let Ok(emits) = fuzz::step(&stage, &mut state, input, "run_1", &Controls::default()) else { continue };
        for emit in emits.iter().filter(|e| e.record == Proposal::NAME) {
            let right = approval.tenant == "acme"
                && approval.digest == waiting.digest
                && approval.policy_revision == waiting.policy_revision
                && approval.subject_id == waiting.subject_id
                && approval.decision == ApprovalDecision::Approve
                && !approval.approver.trim().is_empty()
                && approval.approver != "ada"
                && approval.expires_at.is_none_or(|end| end > fuzz::NOW);
            assert!(right, "taken: {approval:?}");
            let proposal: Proposal = fuzz::record(&emit.avro).expect("a proposal can be read");
            let input = policy_gate::Input::Proposal(Box::new(proposal));
            let verdict: Verdict = GATE.judge(&input, fuzz::NOW, &Members::default()).expect("a proposal");
            assert_eq!(verdict.decision, Decision::Allow, "{verdict:?}");
        }
    }
});
