//! A partition that is asked for while a call of it is under way: the others go on, its records are left to its next owner, and it is given
//! up when the call is answered or its time is up. A call that has not begun is its next owner's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kernel::{Approach, Clock, Delivery, Effects, Fault, Pending, Performer, Processor};
use runtime::sim::{Chances, Cluster, SimClock, SimLog};
use runtime::{Health, Limits, Metrics, Part, ProcessorStage, SharedControls, Stage, StageContext, Waker};
use schemas::records::{Call, Event, Outcome};
use schemas::topics::Topic;
use schemas::{Timestamp, digest};

const GROUP: &str = "sim.going";
const STATE: &str = "sim.going.state";
const IN: Topic<Event> = Topic::new("sim.in");
const OUT: Topic<Event> = Topic::new("sim.out");
const START: Timestamp = Timestamp(1_790_000_000_000_000);

kernel::inputs! {
    /// What it reads.
    pub enum Input {
        Event(Event) = IN,
    }
}

/// Passes on what it is given, or asks for a call of it.
struct Passer;

impl Processor for Passer {
    type In = Input;
    type State = bool;

    fn name(&self) -> &'static str {
        "passer"
    }

    fn step(&self, seen: &mut bool, input: &Delivery<Input>, fx: &mut Effects<'_>) -> Result<(), Fault> {
        let Input::Event(event) = &input.input;
        *seen = true;
        if event.kind == "call" {
            let call = Call {
                call_id: format!("call_{}", event.event_id),
                ..Call::default()
            };
            fx.perform(call, Approach::Fresh);
            return Ok(());
        }
        fx.emit(OUT, input.key.as_str(), &event.tenant, event.as_ref())
    }
}

/// A server that never answers.
struct Silence;

impl Performer for Silence {
    fn perform(&self, _: Call, _: Approach) -> Pending<'static, Outcome> {
        Box::pin(std::future::pending())
    }
}

/// A key of this partition of two.
fn key(partition: u32) -> String {
    let mut keys = (0..).map(|i| format!("key-{i}"));
    keys.find(|key| digest::partition(key, 2) == partition).unwrap()
}

fn context(cluster: &Cluster, clock: &SimClock, runtime: &tokio::runtime::Runtime) -> StageContext {
    let topics = vec![IN.name.to_owned()];
    let passing = clock.clone();
    StageContext {
        stage: "passer".into(),
        log: Box::new(SimLog::new(cluster, clock, GROUP, "a", topics)),
        decoder: cluster.decoder(),
        controls: SharedControls::default(),
        clock: Arc::new(clock.clone()),
        metrics: Metrics::new("sim").unwrap(),
        health: Health::default(),
        limits: Limits::default(),
        stop: Arc::new(AtomicBool::new(false)),
        state_topic: STATE.into(),
        handle: runtime.handle().clone(),
        waker: Waker::simulated(Arc::new(move |wait| {
            passing.advance(i64::try_from(wait.as_millis()).unwrap());
        })),
    }
}

/// A server whose line is so long that no call of it has begun.
struct InLine;

impl Performer for InLine {
    fn perform(&self, _: Call, _: Approach) -> Pending<'static, Outcome> {
        Box::pin(std::future::pending())
    }

    fn withdraw(&self, _: &str) -> bool {
        true
    }
}

/// An instance that owns both partitions and has asked for a call of the first.
struct Scene {
    cluster: Cluster,
    clock: SimClock,
    cx: StageContext,
    stage: ProcessorStage,
    /// Runs the calls.
    _runtime: tokio::runtime::Runtime,
}

impl Scene {
    fn new(performer: Arc<dyn Performer>) -> Self {
        let cluster = Cluster::new(7, Chances::default());
        for topic in [IN.name, OUT.name, STATE] {
            cluster.create(topic, 2);
        }
        let clock = SimClock::at(START);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let cx = context(&cluster, &clock, &runtime);
        let part = Part::new("passer", STATE.to_owned(), Passer, Some(performer));
        let stage = ProcessorStage::new("sim", vec![Box::new(part)]);
        let mut scene = Self {
            cluster,
            clock,
            cx,
            stage,
            _runtime: runtime,
        };
        scene.owner_of_the_first("a");
        scene.cluster.join(GROUP, &[IN.name.to_owned()], "a");
        scene.send("call", 0);
        scene.go(5);
        assert_eq!(scene.stage.in_flight(), 1);
        scene
    }

    fn send(&self, kind: &str, partition: u32) {
        let event = Event {
            kind: kind.to_owned(),
            event_id: format!("{kind}-{partition}"),
            ..Event::default()
        };
        self.cluster.produce(IN, &key(partition), &event, self.clock.now());
    }

    fn owner_of_the_first(&self, name: &str) {
        let owners = BTreeMap::from([(0, name.to_owned()), (1, "a".to_owned())]);
        self.cluster
            .assign(GROUP, &[IN.name.to_owned()], &owners, &BTreeSet::new(), false);
    }

    fn go(&mut self, rounds: usize) {
        (0..rounds).for_each(|_| _ = self.stage.go_round(&mut self.cx).unwrap());
    }

    fn waited_ms(&self) -> i64 {
        (self.clock.now().0 - START.0) / 1000
    }
}

#[test]
fn other_partitions_go_on_while_one_is_drained() {
    let mut scene = Scene::new(Arc::new(Silence));
    scene.owner_of_the_first("b");
    scene.send("pass", 0);
    scene.send("pass", 1);
    scene.go(5);
    let passed: Vec<_> = scene.cluster.read(OUT).into_iter().map(|e| e.event_id).collect();
    assert_eq!(
        passed,
        ["pass-1"],
        "the partition that stays goes on; the one that goes takes nothing more"
    );
    assert!(scene.waited_ms() < 1_000, "it took {} ms", scene.waited_ms());
    assert_eq!(scene.cluster.owned(GROUP, "a"), [0, 1], "its call is waited for");

    scene.clock.advance(i64::try_from(scene.cx.limits.drain_ms).unwrap());
    scene.go(1);
    assert_eq!(scene.cluster.owned(GROUP, "a"), [1], "its time is up");
    assert_eq!(scene.stage.in_flight(), 0);
}

#[test]
fn a_call_that_has_not_begun_is_not_waited_for() {
    let mut scene = Scene::new(Arc::new(InLine));
    scene.owner_of_the_first("b");
    scene.go(5);
    assert_eq!(scene.cluster.owned(GROUP, "a"), [1], "it is given up at once");
    assert_eq!(scene.stage.in_flight(), 0);
    assert!(scene.waited_ms() < 1_000, "it took {} ms", scene.waited_ms());

    let mut scene = Scene::new(Arc::new(InLine));
    scene.cx.stop.store(true, Ordering::Relaxed);
    assert!(!scene.stage.go_round(&mut scene.cx).unwrap(), "it stops");
    assert!(scene.waited_ms() < 1_000, "it took {} ms", scene.waited_ms());
}
