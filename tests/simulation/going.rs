//! A partition that is asked for while a call of it is under way: the others go on, its records are left to its next owner, and it is given
//! up when the call is answered or its time is up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

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

#[test]
fn other_partitions_go_on_while_one_is_drained() {
    let cluster = Cluster::new(7, Chances::default());
    for topic in [IN.name, OUT.name, STATE] {
        cluster.create(topic, 2);
    }
    let clock = SimClock::at(START);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut cx = context(&cluster, &clock, &runtime);
    let part = Part::new("passer", STATE.to_owned(), Passer, Some(Arc::new(Silence)));
    let mut stage = ProcessorStage::new("sim", vec![Box::new(part)]);
    let send = |kind: &str, partition: u32| {
        let event = Event {
            kind: kind.to_owned(),
            event_id: format!("{kind}-{partition}"),
            ..Event::default()
        };
        cluster.produce(IN, &key(partition), &event, clock.now());
    };
    let owners = |of_0: &str| {
        let owners = BTreeMap::from([(0, of_0.to_owned()), (1, "a".to_owned())]);
        cluster.assign(GROUP, &[IN.name.to_owned()], &owners, &BTreeSet::new(), false);
    };
    owners("a");
    cluster.join(GROUP, &[IN.name.to_owned()], "a");
    send("call", 0);
    (0..5).for_each(|_| _ = stage.go_round(&mut cx).unwrap());
    assert_eq!(stage.in_flight(), 1);

    owners("b");
    send("pass", 0);
    send("pass", 1);
    (0..5).for_each(|_| _ = stage.go_round(&mut cx).unwrap());
    let passed: Vec<_> = cluster.read(OUT).into_iter().map(|e| e.event_id).collect();
    assert_eq!(
        passed,
        ["pass-1"],
        "the partition that stays goes on; the one that goes takes nothing more"
    );
    let waited_ms = (clock.now().0 - START.0) / 1000;
    assert!(waited_ms < 1_000, "it took {waited_ms} ms");
    assert_eq!(cluster.owned(GROUP, "a"), [0, 1], "its call is waited for");

    clock.advance(i64::try_from(cx.limits.drain_ms).unwrap());
    stage.go_round(&mut cx).unwrap();
    assert_eq!(cluster.owned(GROUP, "a"), [1], "its time is up");
    assert_eq!(stage.in_flight(), 0);
}
