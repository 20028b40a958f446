//! The stages of a simulated control tower, as shipped, and the requests it is asked for.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use kernel::Clock;
use runtime::sim::{Rng, SimClock};
use runtime::{Member, Part, SharedControls, StateAt};
use schemas::Timestamp;
use schemas::records::Request;
use stages::{intake, invoker, memory_indexer, orchestrator, policy_gate};

use super::mutants::{self, Mutant};
use super::run::{PIPELINE, Plan, SINK};
use super::world::{SimTool, World};
use crate::cases::driver::texts;

pub(super) const START: Timestamp = Timestamp(1_790_000_000_000_000);
/// What the gate signs with.
const KEY: [u8; 32] = [7; 32];
/// Its tenant is killed half-way in every other seed.
pub(super) const DOOMED: &str = "doomed";

/// Which stages share a task.
const FUSED: &[&[&str]] = &[
    &["intake", "policy_gate", "orchestrator", "invoker", "memory_indexer"],
    &[SINK],
];
const PARTLY: &[&[&str]] = &[
    &["intake"],
    &["policy_gate", "orchestrator", "invoker", "memory_indexer"],
    &[SINK],
];
const APART: &[&[&str]] = &[
    &["intake"],
    &["policy_gate"],
    &["orchestrator"],
    &["invoker"],
    &["memory_indexer"],
    &[SINK],
];

pub(super) fn layout(plan: &Plan) -> &'static [&'static [&'static str]] {
    match plan.fused {
        true if plan.seed % 4 == 1 => PARTLY,
        true => FUSED,
        false => APART,
    }
}

struct Shipped {
    catalogue: Vec<(String, String)>,
    /// Its bundle is read and compiled once: that took nine tenths of a simulation's time.
    gate: policy_gate::PolicyGate,
}

fn shipped() -> &'static Shipped {
    static SHIPPED: OnceLock<Shipped> = OnceLock::new();
    SHIPPED.get_or_init(|| Shipped {
        catalogue: [texts("capsules"), texts("wizards")].concat(),
        gate: {
            let bundle = policy_gate::Bundle::parse(&texts("policies/base")).unwrap();
            policy_gate::PolicyGate::new(bundle, KEY, || 0)
        },
    })
}

/// What surrounds a member.
pub(super) struct Surroundings<'a> {
    pub(super) world: &'a World,
    pub(super) clock: &'a SimClock,
    pub(super) mutant: Option<Mutant>,
    pub(super) judges_again: bool,
    pub(super) controls: SharedControls,
    /// Where each stage of an instance keeps its state.
    pub(super) state_at: Box<dyn Fn(&str) -> StateAt + 'a>,
}

pub(super) fn member(name: &str, cx: &Surroundings<'_>) -> Box<dyn Member> {
    let state = format!("{PIPELINE}.{name}.state");
    let at = (cx.state_at)(name);
    let member: Box<dyn Member> = match name {
        "intake" => {
            let catalogue = intake::Catalogue::parse(&shipped().catalogue).unwrap();
            let values = [("receiver_url".to_owned(), "http://127.0.0.1:1".to_owned())].into();
            let intake = intake::Intake::new(catalogue, values, 24.0).unwrap();
            Box::new(Part::new(name, state, intake, None).state_at(at))
        }
        "policy_gate" => Box::new(Part::new(name, String::new(), shipped().gate.another(), None)),
        "orchestrator" => {
            let shipped = orchestrator::Config::default();
            let config = orchestrator::Config {
                permit_ms: if cx.judges_again { shipped.permit_ms } else { i64::MAX },
                ..shipped
            };
            let orchestrator = orchestrator::Orchestrator::new(config);
            Box::new(Part::new(name, state, orchestrator, None).state_at(at))
        }
        "invoker" => {
            let tools = ["http", "terraform", "notify"].map(|name| {
                let world = cx.world.clone();
                Arc::new(SimTool { name, world }) as Arc<dyn kernel::Tool>
            });
            let clock: Arc<dyn Clock> = Arc::new(cx.clock.clone());
            let controls = cx.controls.clone();
            let engine = tools::Engine::new(
                tools.into(),
                tools::Secrets(BTreeMap::new()),
                in_line(),
                clock,
                Arc::new(move || controls.now().0),
            );
            let invoker = invoker::Invoker::new(policy_gate::public_key(KEY), Default::default());
            let performer: Arc<dyn kernel::Performer> = match cx.mutant {
                Some(Mutant::BegunWithdrawn) => Arc::new(mutants::Denies(engine)),
                _ => Arc::new(engine),
            };
            if cx.mutant == Some(Mutant::CallBeforeIntent) {
                let world = cx.world.clone();
                let early = mutants::Early { invoker, world };
                Box::new(Part::new(name, state, early, Some(performer)).state_at(at))
            } else {
                Box::new(Part::new(name, state, invoker, Some(performer)).state_at(at))
            }
        }
        _ => {
            let memory = memory_indexer::MemoryIndexer::new();
            Box::new(Part::new(name, String::new(), memory, None))
        }
    };
    mutants::member(cx.mutant, member)
}

/// Calls wait for their turn, so that some have not begun when their partition goes.
fn in_line() -> tools::Limits {
    tools::Limits {
        concurrency: tools::Concurrency {
            calls_max: 1,
            calls_per_tenant_max: 1,
        },
        ..tools::Limits::default()
    }
}

/// What is asked for: follows from the seed alone, so that a disturbed history is asked for the same as an undisturbed one.
pub(super) fn requests(seed: u64) -> Vec<Request> {
    let rng = &mut Rng::of(seed ^ 0x5eed);
    let count = 4 + rng.below(8);
    let mut all: Vec<Request> = (0..count)
        .map(|i| {
            let tenant = ["acme", "globex", DOOMED][usize::try_from(rng.below(3)).unwrap()];
            let url = format!("http://127.0.0.1:1/{i}");
            let (capsule, inputs): (_, Vec<(&str, &str)>) = match rng.below(4) {
                0 => ("endpoint_probe", vec![("url", url.as_str())]),
                1 => ("http_call", vec![("url", url.as_str()), ("body", "{}")]),
                2 => (
                    "http_call",
                    vec![("url", url.as_str()), ("body", "{}"), ("idempotent", "true")],
                ),
                _ => ("service_rollout", vec![("service", "web"), ("replicas", "2")]),
            };
            Request {
                tenant: tenant.into(),
                actor: "ada".into(),
                idempotency_key: format!("key-{i}"),
                goal: format!("simulated {i}"),
                capsule: Some(capsule.into()),
                inputs: inputs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
                requested_at: START,
                ..Request::default()
            }
        })
        .collect();
    // Somebody sends twice.
    let again = all[usize::try_from(rng.below(count)).unwrap()].clone();
    all.push(again);
    all
}
