//! Requests and plans: whatever is asked becomes a plan or a refusal, and whatever is planned gets a verdict. A step is signed
//! for the invoker only when its digest is the digest of its arguments.
#![no_main]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use kernel::controls::Controls;
use kernel::members::Members;
use libfuzzer_sys::fuzz_target;
use schemas::records::{Decision, Plan, Proposal, Request, Verdict};
use schemas::{Record, digest};
use stages::intake::{self, Catalogue, Intake};
use stages::orchestrator::{self, Orchestrator};
use stages::policy_gate::{self, Bundle, PolicyGate};

static INTAKE: LazyLock<Intake> = LazyLock::new(|| {
    let files = [fuzz::files("capsules"), fuzz::files("wizards")].concat();
    let values = BTreeMap::from([("receiver_url".to_owned(), "http://127.0.0.1:1".to_owned())]);
    Intake::new(Catalogue::parse(&files).expect("the shipped catalogue"), values, 168.0).expect("its values")
});
static GATE: LazyLock<PolicyGate> = LazyLock::new(|| {
    PolicyGate::new(Bundle::parse(&fuzz::files("policies/base")).expect("the shipped bundle"), [7; 32], || 0)
});

fn sound(verdict: &Verdict, steps: &[(String, String, String, String)]) {
    assert_eq!(verdict.steps.len(), steps.len());
    for (judged, (step_id, tool, operation, arguments)) in verdict.steps.iter().zip(steps) {
        assert_eq!(&judged.step_id, step_id);
        if !judged.signature.is_empty() {
            assert_eq!((verdict.decision != Decision::Deny, judged.decision), (true, Decision::Allow));
            assert_eq!(Ok(&judged.digest), digest::action(tool, operation, arguments).as_ref());
        }
    }
    assert!((0.0..=1.0).contains(&verdict.score));
    verdict.to_avro().expect("a verdict can be written");
}

fn plan(plan: Plan) {
    let Ok(verdict) = GATE.judge(&policy_gate::Input::Plan(Box::new(plan.clone())), fuzz::NOW, &Members::default()) else { return };
    let of = |s: &schemas::records::Step| (s.step_id.clone(), s.tool.clone(), s.operation.clone(), s.arguments.clone());
    sound(&verdict, &plan.steps.iter().map(of).collect::<Vec<_>>());
    let stage = Orchestrator::new(orchestrator::Config::default());
    let (mut state, controls, key) = (orchestrator::State::default(), Controls::default(), plan.run_id.clone());
    for input in [orchestrator::Input::Plan(Box::new(plan)), orchestrator::Input::Verdict(Box::new(verdict))] {
        if fuzz::step(&stage, &mut state, input, &key, &controls).is_err() {
            return;
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, bytes)) = data.split_first() else { return };
    match kind % 4 {
        0 | 1 => {
            let request = if kind % 4 == 0 { fuzz::from_text::<Request>(bytes) } else { fuzz::record(bytes) };
            let Some(request) = request else { return };
            let key = format!("{}:{}", request.tenant, request.idempotency_key);
            let input = intake::Input::Request(Box::new(request));
            let emits = fuzz::step(&*INTAKE, &mut intake::State::default(), input, &key, &Controls::default());
            let Ok(emits) = emits else { return };
            for emit in emits.iter().filter(|e| e.record == Plan::NAME) {
                plan(fuzz::record(&emit.avro).expect("a plan can be read"));
            }
        }
        2 => fuzz::from_text(bytes).into_iter().for_each(plan),
        _ => {
            let Some(proposal) = fuzz::from_text::<Proposal>(bytes) else { return };
            let of = |s: &schemas::records::ProposedStep| {
                (s.step_id.clone(), s.tool.clone(), s.operation.clone(), s.arguments.clone())
            };
            let steps: Vec<_> = proposal.steps.iter().map(of).collect();
            let verdict = GATE.judge(&policy_gate::Input::Proposal(Box::new(proposal)), fuzz::NOW, &Members::default());
            sound(&verdict.expect("a proposal always gets a verdict"), &steps);
        }
    }
});
