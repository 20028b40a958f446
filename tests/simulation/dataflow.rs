//! The loop of streaming queries over a simulated log: a query that copies and counts what it is given, two instances, and everything that
//! can go wrong. Each record is copied once, in its partition's order, with the count it has there; each unreadable one is a dead letter once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kernel::{Change, Dataflow, EventTime, Fault, FaultCode, Flow, Headers, RawEmit, Refused, Slab};
use runtime::sim::{Chances, Cluster, Rng, SimClock, SimLog, is_crash};
use runtime::{DataflowStage, Health, Limits, Metrics, SharedControls, Stage, StageContext, Waker};
use schemas::Timestamp;

const GROUP: &str = "sim.copy";
const STATE: &str = "sim.copy.state";
const PARTITIONS: i32 = 3;
const RECORDS: i32 = 240;
const START: Timestamp = Timestamp(1_790_000_000_000_000);

/// Copies records with their number within the partition.
#[derive(Default)]
struct Copy {
    owned: BTreeSet<i32>,
    counts: BTreeMap<i32, u64>,
    flow: Flow,
    touched: BTreeSet<i32>,
}

impl Dataflow for Copy {
    fn name(&self) -> &str {
        "copy"
    }

    fn on_batch(&mut self, slabs: &[Slab], _: EventTime) -> Result<(), Fault> {
        for slab in slabs {
            for (i, offset) in slab.offsets.iter().enumerate() {
                if slab.value(i).starts_with(b"bad") {
                    self.flow.refused.push(Refused {
                        topic: slab.topic.clone(),
                        partition: slab.partition,
                        offset: *offset,
                        fault: Fault::new(FaultCode::RecordInvalid, "simulated: bad"),
                    });
                    continue;
                }
                let count = self.counts.entry(slab.partition).or_default();
                *count += 1;
                let value = format!("{}={count}", String::from_utf8_lossy(slab.value(i)));
                self.flow.emits.push(RawEmit {
                    topic: "sim.copies".into(),
                    partition: Some(slab.partition),
                    key: String::new(),
                    value: Some(value.into_bytes().into()),
                    headers: Headers::default(),
                });
                self.touched.insert(slab.partition);
            }
        }
        Ok(())
    }

    fn flush(&mut self, _: EventTime) -> Result<Flow, Fault> {
        let mut flow = std::mem::take(&mut self.flow);
        for p in std::mem::take(&mut self.touched) {
            flow.changes.push(Change {
                partition: p,
                key: "count".into(),
                value: Some(self.counts[&p].to_be_bytes().to_vec()),
            });
        }
        Ok(flow)
    }

    fn restore(&mut self, partition: i32, _: &str, value: Option<&[u8]>) -> Result<(), Fault> {
        let count = u64::from_be_bytes(value.unwrap().try_into().unwrap());
        self.counts.insert(partition, count);
        Ok(())
    }

    fn begin(&mut self, partition: i32) {
        self.owned.insert(partition);
    }

    fn release(&mut self, partition: i32) {
        self.owned.remove(&partition);
        self.counts.remove(&partition);
        self.touched.remove(&partition);
        self.flow.emits.retain(|e| e.partition != Some(partition));
        self.flow.refused.retain(|r| r.partition != partition);
    }
}

type Running = Option<(DataflowStage<Copy>, StageContext)>;

struct History {
    cluster: Cluster,
    clock: SimClock,
    runtime: tokio::runtime::Runtime,
    running: BTreeMap<&'static str, Running>,
    topics: Vec<String>,
}

impl History {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::of(seed);
        let mut some = |most: u64| if rng.chance(500) { rng.below(most) } else { 0 };
        let chances = Chances {
            crash_before: some(100),
            crash_after: some(100),
            crash_reading: some(50),
            commit_refused: some(150),
            commit_unknown: some(150),
            commit_slow: some(200),
            restore_failed: some(200),
            poll_failed: some(60),
            short_poll: some(400),
            ..Chances::default()
        };
        let cluster = Cluster::new(seed, chances);
        for (topic, partitions) in [("sim.in", 3), ("sim.copies", 3), (STATE, 3), ("sim.in.dlq", 1)] {
            cluster.create(topic, partitions);
        }
        Self {
            cluster,
            clock: SimClock::at(START),
            runtime: tokio::runtime::Builder::new_current_thread().build().unwrap(),
            running: [("a", None), ("b", None)].into(),
            topics: vec!["sim.in".to_owned()],
        }
    }

    fn start(&self, instance: &str) -> (DataflowStage<Copy>, StageContext) {
        self.cluster.join(GROUP, &self.topics, instance);
        let log = SimLog::new(&self.cluster, &self.clock, GROUP, instance, self.topics.clone());
        let clock = self.clock.clone();
        let cx = StageContext {
            stage: "copy".into(),
            log: Box::new(log),
            decoder: self.cluster.decoder(),
            controls: SharedControls::default(),
            clock: Arc::new(self.clock.clone()),
            metrics: Metrics::new("sim").unwrap(),
            health: Health::default(),
            limits: Limits {
                batch_max: 20,
                linger_ms: 30,
                ..Limits::default()
            },
            stop: Arc::new(AtomicBool::new(false)),
            state_topic: STATE.into(),
            handle: self.runtime.handle().clone(),
            waker: Waker::simulated(Arc::new(move |wait| {
                clock.advance(i64::try_from(wait.as_millis()).unwrap());
            })),
        };
        (DataflowStage::new(Copy::default()), cx)
    }

    fn rebalance(&self, rng: &mut Rng) {
        let dead = self
            .running
            .iter()
            .filter(|(_, r)| r.is_none())
            .map(|(i, _)| (*i).to_owned());
        let dead: BTreeSet<_> = dead.collect();
        let owner = |rng: &mut Rng| if rng.chance(500) { "a" } else { "b" }.to_owned();
        let owners = (0..PARTITIONS).map(|p| (p, owner(rng))).collect();
        let abruptly = rng.chance(300);
        self.cluster.assign(GROUP, &self.topics, &owners, &dead, abruptly);
    }

    fn go_round(&mut self, instance: &'static str) {
        let next = match self.running.insert(instance, None).flatten() {
            None => Some(self.start(instance)),
            Some((mut stage, mut cx)) => match stage.go_round(&mut cx) {
                Ok(_) => Some((stage, cx)),
                Err(fault) if is_crash(&fault) => None,
                Err(fault) => panic!("halted: {fault}"),
            },
        };
        self.running.insert(instance, next);
    }
}

fn run(seed: u64) -> u64 {
    let mut history = History::new(seed);
    let mut rng = Rng::of(seed ^ 0xda7a);
    history.rebalance(&mut rng);
    let mut sent = 0;
    for round in 0..6_000 {
        history.clock.advance(7);
        if round < 1_000 && sent < RECORDS && rng.chance(300) {
            let kind = if rng.chance(50) { "bad" } else { "r" };
            history.cluster.produce_raw(
                "sim.in",
                &format!("key-{sent}"),
                format!("{kind}{sent}").as_bytes(),
                START,
            );
            sent += 1;
        }
        if round == 1_500 {
            history.cluster.calm();
        }
        if round < 1_500 && rng.chance(20) {
            history.rebalance(&mut rng);
        }
        let instance = if rng.chance(500) { "a" } else { "b" };
        history.go_round(instance);
        if round > 1_600 && history.cluster.is_read(GROUP, &history.topics) {
            break;
        }
    }
    assert!(
        history.cluster.is_read(GROUP, &history.topics),
        "seed {seed}: not read to its end"
    );
    judge(seed, &history);
    history.cluster.counts().crashes
}

/// What was copied is what was sent, in each partition in order.
fn judge(seed: u64, history: &History) {
    let (mut expected, mut bad) = (BTreeMap::<i32, Vec<String>>::new(), Vec::new());
    for record in history.cluster.raw("sim.in") {
        let value = String::from_utf8(record.value.unwrap()).unwrap();
        if value.starts_with("bad") {
            bad.push((record.key, value));
        } else {
            let copies = expected.entry(record.position.partition).or_default();
            copies.push(format!("{value}={}", copies.len() + 1));
        }
    }
    let mut copied = BTreeMap::<i32, Vec<String>>::new();
    for record in history.cluster.raw("sim.copies") {
        let value = String::from_utf8(record.value.unwrap()).unwrap();
        copied.entry(record.position.partition).or_default().push(value);
    }
    assert_eq!(copied, expected, "seed {seed}");
    let letters = history.cluster.raw("sim.in.dlq").into_iter();
    let mut letters: Vec<_> = letters
        .map(|r| (r.key, String::from_utf8(r.value.unwrap()).unwrap()))
        .collect();
    letters.sort();
    bad.sort();
    assert_eq!(letters, bad, "seed {seed}: dead letters");
    assert_eq!(history.cluster.broken(), Vec::<String>::new(), "seed {seed}");
}

#[test]
fn a_streaming_query_is_given_each_record_once() {
    let crashes: u64 = (1..=600).map(run).sum();
    assert!(crashes > 40, "only {crashes} crashes: nothing was shown");
}
