//! One simulated history of the control tower: the production loop and stages on a simulated cluster, from one seed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kernel::Clock;
use runtime::sim::{Chances, Cluster, Counts, Rng, SimClock, SimLog, is_crash};
use runtime::{Health, Limits, Member, Metrics, Part, ProcessorStage, SharedControls, StageContext, Waker};
use schemas::records::{Control, ControlAction, Request, Run, Scope};
use schemas::{Timestamp, digest, topics};
use stages::{intake, invoker, memory_indexer, orchestrator, policy_gate};

use super::world::{SimTool, World};
use crate::cases::driver::texts;

pub(super) const PIPELINE: &str = "sim";
const PARTITIONS: usize = 3;
const START: Timestamp = Timestamp(1_790_000_000_000_000);
/// A history that has not ended by then never will.
const ROUNDS_MAX: usize = 60_000;
pub(super) const DOOMED: &str = "doomed";

/// Which stages share a task.
const FUSED: &[&[&str]] = &[
    &["intake"],
    &["policy_gate", "orchestrator", "invoker", "memory_indexer"],
];
const APART: &[&[&str]] = &[
    &["intake"],
    &["policy_gate"],
    &["orchestrator"],
    &["invoker"],
    &["memory_indexer"],
];

/// What a history is made of.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) fused: bool,
    pub(crate) disturbed: bool,
}

/// What came of a history.
pub(crate) struct History {
    pub(crate) plan: Plan,
    pub(crate) violations: Vec<String>,
    /// Final status by run.
    pub(crate) ends: BTreeMap<String, String>,
    pub(crate) counts: Counts,
    pub(crate) simulated: Duration,
    /// Digest of every record's key and value, topic by topic.
    pub(crate) digest: String,
}

struct Shipped {
    catalogue: Vec<(String, String)>,
    policy: Vec<(String, String)>,
}

fn shipped() -> &'static Shipped {
    static SHIPPED: OnceLock<Shipped> = OnceLock::new();
    SHIPPED.get_or_init(|| Shipped {
        catalogue: [texts("capsules"), texts("wizards")].concat(),
        policy: texts("policies/base"),
    })
}

pub(super) struct Node {
    pub(super) group: String,
    pub(super) instance: String,
    pub(super) names: &'static [&'static str],
    pub(super) alive: Option<(ProcessorStage, StageContext)>,
}

pub(super) struct Simulation {
    pub(super) plan: Plan,
    pub(super) rng: Rng,
    pub(super) cluster: Cluster,
    pub(super) clock: SimClock,
    pub(super) world: World,
    pub(super) controls: SharedControls,
    pub(super) metrics: Metrics,
    pub(super) runtime: Arc<tokio::runtime::Runtime>,
    pub(super) nodes: Vec<Node>,
    pub(super) requests: Vec<Request>,
    pub(super) killed_at: Option<Timestamp>,
    pub(super) violations: Vec<String>,
    pub(super) rounds: usize,
}

fn member(name: &str, world: &World, clock: &SimClock) -> Box<dyn Member> {
    let state = format!("{PIPELINE}.{name}.state");
    let key = [7; 32];
    match name {
        "intake" => {
            let catalogue = intake::Catalogue::parse(&shipped().catalogue).unwrap();
            let values = [("receiver_url".to_owned(), "http://sim".to_owned())].into();
            let intake = intake::Intake::new(catalogue, values, 24).unwrap();
            Box::new(Part::new(name, state, intake, None))
        }
        "policy_gate" => {
            let bundle = policy_gate::Bundle::parse(&shipped().policy).unwrap();
            let gate = policy_gate::PolicyGate::new(bundle, key, || 0);
            Box::new(Part::new(name, String::new(), gate, None))
        }
        "orchestrator" => {
            let orchestrator = orchestrator::Orchestrator::new(Default::default());
            Box::new(Part::new(name, state, orchestrator, None))
        }
        "invoker" => {
            let tools = ["http", "terraform", "notify"].map(|name| {
                let world = world.clone();
                Arc::new(SimTool { name, world }) as Arc<dyn kernel::Tool>
            });
            let engine = tools::Engine::new(
                tools.into(),
                tools::Secrets(BTreeMap::new()),
                Default::default(),
                Arc::new(clock.clone()),
            );
            let invoker = invoker::Invoker::new(policy_gate::public_key(key), Default::default());
            Box::new(Part::new(name, state, invoker, Some(Arc::new(engine))))
        }
        _ => {
            let memory = memory_indexer::MemoryIndexer::new();
            Box::new(Part::new(name, String::new(), memory, None))
        }
    }
}

fn requests(rng: &mut Rng) -> Vec<Request> {
    let count = 4 + rng.below(8);
    let mut all: Vec<Request> = (0..count)
        .map(|i| {
            let tenant = ["acme", "globex", DOOMED][usize::try_from(rng.below(3)).unwrap()];
            let url = format!("http://sim/{i}");
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

impl Simulation {
    fn new(plan: Plan) -> Self {
        let mut rng = Rng::of(plan.seed);
        let chances = if plan.disturbed {
            chances(&mut rng)
        } else {
            Chances::default()
        };
        let cluster = Cluster::new(plan.seed ^ 0xc1_05_7e, chances);
        let everything = [
            "soma.requests",
            "soma.plans",
            "soma.proposals",
            "soma.verdicts",
            "soma.approvals",
            "soma.calls",
            "soma.outcomes",
            "soma.runs",
            "soma.memories",
            "soma.events",
        ];
        for topic in everything {
            cluster.create(topic, PARTITIONS);
            cluster.create(&topics::dlq_of(topic), 1);
        }
        for name in ["intake", "orchestrator", "invoker"] {
            cluster.create(&format!("{PIPELINE}.{name}.state"), PARTITIONS);
        }
        let clock = SimClock::at(START);
        // Draws for requests come from a stream of their own: a disturbed run is asked for the same as an undisturbed one.
        let requests = requests(&mut Rng::of(plan.seed ^ 0x5eed));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let layout = if plan.fused { FUSED } else { APART };
        let instances: &[&str] = if plan.disturbed { &["a", "b"] } else { &["a"] };
        let mut simulation = Self {
            world: World::new(plan.seed, if plan.seed.is_multiple_of(3) { 0 } else { 120 }),
            plan,
            rng,
            cluster,
            clock,
            controls: SharedControls::default(),
            metrics: Metrics::new(PIPELINE).unwrap(),
            runtime: Arc::new(runtime),
            nodes: Vec::new(),
            requests,
            killed_at: None,
            violations: Vec::new(),
            rounds: 0,
        };
        for names in layout.iter().copied() {
            for instance in instances {
                simulation.nodes.push(Node {
                    group: format!("{PIPELINE}.{}", names.join("+")),
                    instance: (*instance).to_owned(),
                    names,
                    alive: None,
                });
            }
        }
        for names in layout.iter().copied() {
            simulation.rebalance(names);
        }
        simulation
    }

    fn lead(names: &[&str], world: &World, clock: &SimClock) -> &'static str {
        member(names[0], world, clock).topics()[0]
    }

    /// Gives every partition of a group to some instance.
    fn rebalance(&mut self, names: &[&str]) {
        let group = format!("{PIPELINE}.{}", names.join("+"));
        let instances: Vec<String> = self
            .nodes
            .iter()
            .filter(|n| n.group == group)
            .map(|n| n.instance.clone())
            .collect();
        let dead: BTreeSet<String> = self
            .nodes
            .iter()
            .filter(|n| n.group == group && n.alive.is_none())
            .map(|n| n.instance.clone())
            .collect();
        let owners: BTreeMap<i32, String> = (0..i32::try_from(PARTITIONS).unwrap())
            .map(|p| {
                let at = usize::try_from(self.rng.below(u64::try_from(instances.len()).unwrap())).unwrap();
                (p, instances[at].clone())
            })
            .collect();
        let topic = Self::lead(names, &self.world, &self.clock);
        self.cluster.assign(&group, topic, &owners, &dead);
    }

    fn start(&mut self, at: usize) {
        let node = &self.nodes[at];
        let members: Vec<_> = node.names.iter().map(|n| member(n, &self.world, &self.clock)).collect();
        let mut read: Vec<String> = Vec::new();
        for topic in members.iter().flat_map(|m| m.topics()) {
            if !read.iter().any(|t| t == topic) {
                read.push(topic.to_owned());
            }
        }
        self.cluster.join(&node.group, &read[0], &node.instance);
        let log = SimLog::new(&self.cluster, &self.clock, &node.group, &node.instance, read);
        let (clock, runtime) = (self.clock.clone(), self.runtime.clone());
        let pass = move |wait: Duration| {
            clock.advance(i64::try_from(wait.as_millis()).unwrap());
            go_on(&runtime);
        };
        let cx = StageContext {
            stage: node.names.join("+"),
            log: Box::new(log),
            decoder: self.cluster.decoder(),
            controls: self.controls.clone(),
            clock: Arc::new(self.clock.clone()),
            metrics: self.metrics.clone(),
            health: Health::default(),
            limits: Limits {
                batch_max: 50,
                ..Limits::default()
            },
            stop: Arc::new(AtomicBool::new(false)),
            state_topic: String::new(),
            handle: self.runtime.handle().clone(),
            waker: Waker::simulated(Arc::new(pass)),
        };
        self.nodes[at].alive = Some((ProcessorStage::new(PIPELINE, members), cx));
    }

    /// Lets one instance go round once.
    fn go_round(&mut self, at: usize) {
        let Some((stage, cx)) = self.nodes[at].alive.as_mut() else {
            return self.start(at);
        };
        match stage.go_round(cx) {
            Ok(_) => {}
            Err(fault) if is_crash(&fault) => {
                // Everything in the process is gone: its state, what it had in flight, what it had heard.
                self.nodes[at].alive = None;
            }
            Err(fault) => {
                self.violations
                    .push(format!("{} halted: {fault}", self.nodes[at].group));
                self.nodes[at].alive = None;
            }
        }
    }

    fn misfortune(&mut self) {
        if self.rng.chance(15) {
            let names =
                self.nodes[usize::try_from(self.rng.below(u64::try_from(self.nodes.len()).unwrap())).unwrap()].names;
            self.rebalance(names);
        }
        if self.rng.chance(2) {
            let back = self.rng.chance(500);
            self.clock.jump(if back { -2_000 } else { 5_000 });
        }
        if self.killed_at.is_none() && self.rounds > 150 && self.plan.seed.is_multiple_of(2) {
            self.kill();
        }
    }

    fn kill(&mut self) {
        let now = self.clock.now();
        self.killed_at = Some(now);
        self.controls.apply(Control {
            scope: Scope::Tenant,
            target: DOOMED.into(),
            action: ControlAction::Kill,
            reason: "simulated".into(),
            actor: "carol".into(),
            issued_at: now,
        });
    }

    pub(super) fn expected(&self) -> BTreeMap<String, &Request> {
        let all = self.requests.iter();
        all.map(|r| (digest::run_id(&r.tenant, &r.idempotency_key), r))
            .collect()
    }

    pub(super) fn ended(&self) -> BTreeMap<String, Vec<Run>> {
        let mut ends: BTreeMap<String, Vec<Run>> = BTreeMap::new();
        for run in self.cluster.read(topics::RUNS) {
            if run.finished_at.is_some() {
                ends.entry(run.run_id.clone()).or_default().push(run);
            }
        }
        ends
    }

    fn is_quiet(&self) -> bool {
        let idle = self
            .nodes
            .iter()
            .all(|n| n.alive.as_ref().is_some_and(|(s, _)| s.in_flight() == 0));
        idle && self.ended().len() >= self.expected().len()
            && self.nodes.iter().all(|n| {
                let topics = n
                    .names
                    .iter()
                    .flat_map(|m| member(m, &self.world, &self.clock).topics());
                self.cluster
                    .is_read(&n.group, &topics.map(str::to_owned).collect::<Vec<_>>())
            })
    }

    fn run(mut self) -> History {
        let mut waiting = self.requests.clone();
        waiting.reverse();
        let calm_after = 1_500;
        while self.rounds < ROUNDS_MAX {
            self.rounds += 1;
            if self.rounds.is_multiple_of(20)
                && let Some(request) = waiting.pop()
            {
                let key = format!("{}:{}", request.tenant, request.idempotency_key);
                self.cluster.produce(topics::REQUESTS, &key, &request, self.clock.now());
                if waiting.is_empty() {
                    self.cluster
                        .produce_raw("soma.requests", "acme:poison", b"{}", self.clock.now());
                }
            }
            let at = usize::try_from(self.rng.below(u64::try_from(self.nodes.len()).unwrap())).unwrap();
            self.go_round(at);
            let ms = i64::try_from(self.rng.below(40)).unwrap();
            self.clock.advance(ms);
            go_on(&self.runtime);
            if self.plan.disturbed && self.rounds < calm_after {
                self.misfortune();
            }
            if self.rounds == calm_after {
                self.cluster.calm();
            }
            // Time for retries and timers once nothing else moves.
            if self.rounds > calm_after && self.rounds.is_multiple_of(50) {
                self.clock.advance(2_000);
            }
            if self.rounds > calm_after && self.rounds.is_multiple_of(100) && waiting.is_empty() && self.is_quiet() {
                break;
            }
        }
        self.check()
    }
}

fn go_on(runtime: &tokio::runtime::Runtime) {
    runtime.block_on(async {
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
    });
}

fn chances(rng: &mut Rng) -> Chances {
    let mut some = |most: u64| if rng.chance(500) { rng.below(most) } else { 0 };
    Chances {
        crash_before: some(150),
        crash_after: some(150),
        commit_refused: some(150),
        commit_unknown: some(150),
        commit_slow: some(200),
        registry_down: some(100),
        poll_failed: some(60),
        short_poll: some(400),
    }
}

/// Runs one history.
pub(crate) fn history(plan: Plan) -> History {
    Simulation::new(plan).run()
}
