//! One simulated history of the control tower: the production loop and stages on a simulated cluster, from one seed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use analytics::{EVENTS_PER_MINUTE_SQL, EventsPerMinute};
use kernel::{Clock, Fault};
use runtime::sim::{Cluster, Counts, Rng, SimClock, SimLog, Struck, is_crash};
use runtime::{
    Health, Limits, Metrics, ProcessorStage, SharedControls, SinkStage, StageContext, StateAt, Waker, WindowStage,
};
use schemas::records::{Request, Run};
use schemas::{digest, topics};
use tokio::runtime::Runtime;

use super::build::{START, Surroundings, layout, member, requests};
use super::frozen::{self, Round};
use super::misfortune::cluster;
use super::mutants::{self, Mutant};
use super::node::{Alive, Body, Folder, Node};
use super::outputs::Outputs;
use super::world::{KEPT_TOPICS, Kept, SimSink, World};

pub(super) const PIPELINE: &str = "sim";
pub(super) const PARTITIONS: usize = 3;
/// A history that has not ended by then never will.
const ROUNDS_MAX: usize = 60_000;
pub(super) const SINK: &str = "store";
pub(super) const WINDOW: &str = "events_per_minute";

/// What a history is made of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) fused: bool,
    pub(crate) disturbed: bool,
    pub(crate) mutant: Option<Mutant>,
    /// Of all misfortunes only these.
    pub(crate) only: Option<BTreeSet<u64>>,
    /// Requests left out, by index.
    pub(crate) without: BTreeSet<usize>,
    /// A process dies at the nth place where one may.
    pub(crate) die_at: Option<u64>,
    pub(crate) trace: bool,
}

impl Plan {
    pub(crate) fn of(seed: u64, fused: bool, disturbed: bool) -> Self {
        Self {
            seed,
            fused,
            disturbed,
            ..Self::default()
        }
    }

    /// Answers of the world go wrong.
    pub(crate) fn is_troubled(&self) -> bool {
        !self.seed.is_multiple_of(3)
    }

    /// A tenant is killed half-way.
    pub(crate) fn is_killing(&self) -> bool {
        self.seed.is_multiple_of(2)
    }

    /// States are on disk, by the same engine as in service.
    pub(crate) fn is_on_disk(&self) -> bool {
        self.seed % 16 == 5
    }

    /// What was judged a second ago is judged again, as in service. How often follows from how long things take, which is what
    /// histories differ in: of these, ends and deeds are compared, not each record.
    pub(crate) fn judges_again(&self) -> bool {
        self.seed % 8 == 3
    }

    /// Instances stand still in the middle of their commits, or die there.
    pub(crate) fn is_freezing(&self) -> bool {
        self.seed % 5 != 3
    }

    /// The window stage takes part: its query engine costs more than all the rest.
    fn has_window(&self) -> bool {
        self.seed.is_multiple_of(16)
    }
}

/// What came of a history.
pub(crate) struct History {
    pub(crate) plan: Plan,
    pub(crate) violations: Vec<String>,
    /// Final status by run.
    pub(crate) ends: BTreeMap<String, String>,
    pub(crate) outputs: Outputs,
    pub(crate) counts: Counts,
    pub(crate) struck: Vec<Struck>,
    pub(crate) boundaries: u64,
    /// What was done in the world.
    pub(crate) deeds: usize,
    pub(crate) trace: Vec<String>,
    pub(crate) simulated: Duration,
    /// Digest of every record's key and value, topic by topic.
    pub(crate) digest: String,
}

/// What had been asked for and done in a tenant's name when it was killed.
pub(super) struct Before {
    pub(super) calls: BTreeSet<String>,
    pub(super) deeds: BTreeSet<String>,
    /// Calls of all tenants under way.
    pub(super) under_way: usize,
}

pub(super) struct Simulation {
    pub(super) plan: Plan,
    pub(super) rng: Rng,
    pub(super) cluster: Cluster,
    pub(super) clock: SimClock,
    pub(super) world: World,
    pub(super) controls: SharedControls,
    pub(super) metrics: Metrics,
    pub(super) nodes: Vec<Node>,
    pub(super) requests: Vec<Request>,
    pub(super) kept: Kept,
    pub(super) killed: Option<Before>,
    pub(super) violations: Vec<String>,
    pub(super) rounds: usize,
    /// After the nodes, which have files open in it.
    folder: Option<Folder>,
}

impl Simulation {
    fn new(plan: Plan) -> Self {
        let mut rng = Rng::of(plan.seed);
        let cluster = cluster(&plan, &mut rng);
        let all = requests(plan.seed).into_iter().enumerate();
        let mut simulation = Self {
            world: World::new(plan.seed, if plan.is_troubled() { 120 } else { 0 }, plan.mutant),
            requests: all.filter(|(i, _)| !plan.without.contains(i)).map(|(_, r)| r).collect(),
            rng,
            cluster,
            clock: SimClock::at(START),
            controls: SharedControls::default(),
            metrics: Metrics::new(PIPELINE).unwrap(),
            nodes: Vec::new(),
            kept: Kept::default(),
            killed: None,
            violations: Vec::new(),
            rounds: 0,
            folder: plan.is_on_disk().then(Folder::new),
            plan,
        };
        let layout = layout(&simulation.plan);
        let instances: &[&str] = if simulation.plan.disturbed { &["a", "b"] } else { &["a"] };
        for names in layout.iter().copied() {
            for instance in instances {
                simulation.join(names, instance);
            }
        }
        if simulation.plan.has_window() {
            // Its numbers are sums over all partitions: one instance.
            simulation.join(&[WINDOW], "a");
        }
        let groups: BTreeSet<_> = simulation.nodes.iter().map(|n| n.group.clone()).collect();
        for group in groups {
            simulation.rebalance(&group, &mut Rng::of(simulation.plan.seed));
        }
        simulation
    }

    fn join(&mut self, names: &'static [&'static str], instance: &str) {
        let members = names.iter().map(|n| match *n {
            SINK => KEPT_TOPICS.to_vec(),
            WINDOW => vec!["soma.events"],
            name => member(name, &self.surroundings("")).topics(),
        });
        let mut topics: Vec<String> = Vec::new();
        for topic in members.flatten() {
            if !topics.iter().any(|t| t == topic) {
                topics.push(topic.to_owned());
            }
        }
        self.nodes.push(Node {
            group: format!("{PIPELINE}.{}", names.join("+")),
            instance: instance.to_owned(),
            names,
            topics,
            alive: None,
            frost: None,
            frozen: None,
        });
    }

    fn surroundings(&self, instance: &str) -> Surroundings<'_> {
        let folder = self.folder.as_ref().map(|f| f.0.join(instance));
        Surroundings {
            world: &self.world,
            clock: &self.clock,
            mutant: self.plan.mutant,
            judges_again: self.plan.judges_again(),
            controls: self.heard(),
            state_at: Box::new(move |name| match &folder {
                Some(folder) => StateAt::Disk(folder.join(name)),
                None => StateAt::Memory,
            }),
        }
    }

    /// The controls as stages hear them.
    fn heard(&self) -> SharedControls {
        if self.plan.mutant == Some(Mutant::KillUnheard) {
            SharedControls::default()
        } else {
            self.controls.clone()
        }
    }

    fn body(&self, node: &Node) -> Body {
        match node.names {
            [SINK] => Body::Other(Box::new(SinkStage::new(SimSink {
                cluster: self.cluster.clone(),
                kept: self.kept.clone(),
            }))),
            [WINDOW] => {
                let window = EventsPerMinute::new(Default::default(), EVENTS_PER_MINUTE_SQL).unwrap();
                Body::Other(Box::new(WindowStage::new(window)))
            }
            names => {
                let surroundings = self.surroundings(&node.instance);
                let members = names.iter().map(|n| member(n, &surroundings)).collect();
                Body::Task(Box::new(ProcessorStage::new(PIPELINE, members)))
            }
        }
    }

    fn start(&mut self, at: usize) {
        let node = &self.nodes[at];
        let body = self.body(node);
        self.cluster.join(&node.group, node.subscribed(), &node.instance);
        let topics = node.topics.clone();
        let log = SimLog::new(&self.cluster, &self.clock, &node.group, &node.instance, topics);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = Arc::new(runtime.unwrap());
        let (clock, inner) = (self.clock.clone(), runtime.clone());
        let pass = move |wait: Duration| {
            clock.advance(i64::try_from(wait.as_millis()).unwrap());
            (0..3).for_each(|_| go_on(&inner));
        };
        let state_topic = match node.names {
            [WINDOW] => format!("{PIPELINE}.{WINDOW}.state"),
            _ => String::new(),
        };
        let cx = StageContext {
            stage: node.names.join("+"),
            log: mutants::log(self.plan.mutant, log),
            decoder: self.cluster.decoder(),
            controls: self.heard(),
            clock: Arc::new(self.clock.clone()),
            metrics: self.metrics.clone(),
            health: Health::default(),
            limits: Limits {
                batch_max: 50,
                ..Limits::default()
            },
            stop: Arc::new(AtomicBool::new(false)),
            state_topic,
            handle: runtime.handle().clone(),
            waker: Waker::simulated(Arc::new(pass)),
        };
        self.nodes[at].alive = Some(Alive { body, cx, runtime });
    }

    /// Lets one instance go round once.
    fn go_round(&mut self, at: usize) {
        if self.nodes[at].frozen.is_some() {
            return;
        }
        let frost = self.frost(at);
        let node = &mut self.nodes[at];
        let Some(mut alive) = node.alive.take() else {
            return self.start(at);
        };
        let (alive, went) = match frost {
            None => {
                let went = alive.go_round();
                (alive, went)
            }
            Some(frost) => match frozen::go_round(&self.cluster, &node.who(), alive, frost.after) {
                Round::Stands(frozen) => return self.stands(at, frost, frozen),
                Round::Ended(alive, went) => (*alive, went),
            },
        };
        self.went(at, alive, went);
    }

    /// What becomes of an instance that has gone round.
    pub(super) fn went(&mut self, at: usize, alive: Alive, went: Result<bool, Fault>) {
        match went {
            Ok(_) => self.nodes[at].alive = Some(alive),
            // Everything in the process is gone: its state, what it had in flight, what it had heard.
            Err(fault) if is_crash(&fault) => {}
            Err(fault) => self
                .violations
                .push(format!("no stage halts: {}: {fault}", self.nodes[at].group)),
        }
    }

    /// Lets every call under way come to its next await, where its process may be killed.
    fn calls_go_on(&mut self) {
        for node in &mut self.nodes {
            for _ in 0..3 {
                let Some(alive) = node.alive.as_ref().filter(|a| a.in_flight() > 0) else {
                    break;
                };
                if self.cluster.kills(&node.who()) {
                    node.alive = None;
                    break;
                }
                go_on(&alive.runtime);
            }
        }
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
        let idle = |n: &Node| n.alive.as_ref().is_some_and(|a| a.in_flight() == 0);
        self.nodes
            .iter()
            .all(|n| idle(n) && self.cluster.is_read(&n.group, &n.topics))
            && self.ended().len() >= self.expected().len()
    }

    fn round(&mut self) {
        let at = usize::try_from(self.rng.below(u64::try_from(self.nodes.len()).unwrap())).unwrap();
        self.go_round(at);
        let ms = i64::try_from(self.rng.below(40)).unwrap();
        self.clock.advance(ms);
        self.calls_go_on();
    }

    fn run(mut self) -> History {
        let mut waiting = self.requests.clone();
        waiting.reverse();
        let calm_after = if self.plan.disturbed { 1_500 } else { 0 };
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
            self.round();
            self.thaw(self.rounds);
            if self.rounds < calm_after {
                self.misfortune();
                if self.rounds == 150 && self.plan.is_killing() {
                    self.kill();
                }
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
        self.thaw(usize::MAX);
        // Whoever has only just woken has not heard yet what it lost meanwhile: until it has, it holds state that is others' by now.
        for _ in 0..3 {
            (0..self.nodes.len()).for_each(|at| self.go_round(at));
        }
        if self.plan.has_window() {
            // Windows close a while after their last event.
            for _ in 0..200 * self.nodes.len() {
                self.clock.advance(1_000);
                self.round();
            }
        }
        self.check()
    }
}

fn go_on(runtime: &Runtime) {
    runtime.block_on(tokio::task::yield_now());
}

/// Runs one history.
pub(crate) fn history(plan: Plan) -> History {
    Simulation::new(plan).run()
}
