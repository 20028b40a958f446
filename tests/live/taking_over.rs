//! Partitions that an instance takes over are read back beside those it has: however long that takes, here for as long as somebody holds a
//! transaction open in their changelog, the others go on.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kafka::{Admin, Groups, KafkaLog, LogConfig, Standing};
use kernel::{Delivery, Effects, Fault, Processor};
use runtime::{Health, Limits, Metrics, Part, ProcessorStage, SharedControls, Stage, StageContext, SystemClock, Waker};
use schemas::digest;
use schemas::records::Event;
use schemas::topics::{Cleanup, Entry, Topic};

use super::harness::{Live, live, now};

const TOPIC: Topic<Event> = Topic::new("live.taking-over");
const STATE: &str = "live.taking-over.state";
const GROUP: &str = "live.taking-over";
const PARTITIONS: usize = 2;
/// How long the state of what is taken over cannot be read back.
const HELD: Duration = Duration::from_secs(8);
/// The longest that the other partition may commit nothing meanwhile. Its records come twenty a second.
const OTHERS_MAX: Duration = Duration::from_secs(2);

kernel::inputs! {
    enum Input {
        Event(Event) = TOPIC,
    }
}

/// Remembers the last of each key.
struct Remembers;

impl Processor for Remembers {
    type In = Input;
    type State = String;

    fn name(&self) -> &'static str {
        "remembers"
    }

    fn step(&self, state: &mut String, delivery: &Delivery<Input>, _: &mut Effects<'_>) -> Result<(), Fault> {
        let Input::Event(event) = &delivery.input;
        state.clone_from(&event.event_id);
        Ok(())
    }
}

fn topics(live: &Live) {
    let admin = Admin::open(&live.brokers).unwrap();
    for (name, cleanup) in [(TOPIC.name, Cleanup::Delete), (STATE, Cleanup::Compact)] {
        let entry = Entry {
            name: name.to_owned(),
            record: String::new(),
            key: String::new(),
            partitions: i32::try_from(PARTITIONS).unwrap(),
            replication: 1,
            retention_hours: 1,
            cleanup,
            bytes_max: 1 << 20,
            owner: "live-test".into(),
        };
        let there = admin.partitions().unwrap();
        live.handle().block_on(admin.apply(&entry, &there)).unwrap();
    }
}

/// An instance of the stage on a thread of its own; it leaves its group when it stops.
struct Instance {
    stop: Arc<AtomicBool>,
    ended: JoinHandle<Result<(), Fault>>,
}

impl Instance {
    fn start(live: &'static Live, name: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let config = LogConfig {
            brokers: live.brokers.clone(),
            group: GROUP.to_owned(),
            instance: name.to_owned(),
            topics: vec![TOPIC.name.to_owned()],
            copartitioned: true,
            linger_ms: 0,
            bulk: false,
            pipeline: "live".into(),
            stage: "remembers".into(),
            session_timeout_ms: 6_000,
            transaction_timeout_ms: 15_000,
            leaving: Arc::new(AtomicBool::new(true)),
        };
        let mut cx = StageContext {
            stage: format!("remembers {name}"),
            log: Box::new(KafkaLog::open(config, live.registry.clone()).unwrap()),
            decoder: live.registry.clone(),
            controls: SharedControls::default(),
            clock: Arc::new(SystemClock),
            metrics: Metrics::new("live").unwrap(),
            health: Health::default(),
            limits: Limits::default(),
            stop: stop.clone(),
            state_topic: String::new(),
            handle: live.handle(),
            waker: Waker::default(),
        };
        let ended = std::thread::spawn(move || {
            let member = Part::new("remembers", STATE.into(), Remembers, None);
            ProcessorStage::new("live", vec![Box::new(member)]).run(&mut cx)
        });
        Self { stop, ended }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.ended.join().unwrap().unwrap();
    }
}

/// Twenty records a second to each partition until told to stop.
fn write(live: &Live, stop: &AtomicBool) {
    let writer = live.writer();
    let of = |wanted: u32| {
        let mut keys = (0..).map(|i| format!("key-{i}"));
        keys.find(|key| digest::partition(key, u32::try_from(PARTITIONS).unwrap()) == wanted)
            .unwrap()
    };
    let keys = [of(0), of(1)];
    for n in 0_u64.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        for key in &keys {
            let event = Event {
                event_id: format!("evt_{n}"),
                ts: now(),
                tenant: "live".into(),
                kind: "taking_over".into(),
                ..Event::default()
            };
            writer.write(TOPIC, key, "live", &event, None).unwrap();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Somebody else's transaction, open on a partition of the changelog.
fn open_transaction(live: &Live, partition: i32) -> Child {
    let script = live.root().join("tests/live/open_transaction.py");
    let python = live
        .env
        .get("SOMA_LIVE_PYTHON")
        .expect("SOMA_LIVE_PYTHON: run `python3 deploy/dev/stack.py setup --for test`");
    let mut child = Command::new(python)
        .arg(script)
        .args([&live.brokers.bootstrap, STATE, &partition.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let out = child.stdout.as_mut().unwrap();
    BufReader::new(out).read_line(&mut said).unwrap();
    assert_eq!(said.trim(), "open");
    child
}

fn until<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(began.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// How far the group comes while what `b` had cannot be read back: its partition, how far that came, and the other's longest silence.
fn held(live: &'static Live) -> (i32, i64, Duration) {
    let groups = Groups::open(&live.brokers).unwrap();
    let standing = Standing::open(&live.brokers, GROUP, TOPIC.name).unwrap();
    let owners = || groups.owners(GROUP, TOPIC.name).unwrap();
    let a = Instance::start(live, "a");
    let b = Instance::start(live, "b");
    let limit = Duration::from_secs(60);
    let theirs = until("each has a partition", limit, || {
        let owners = owners();
        let of = |name: &str| owners.iter().find(|(_, o)| *o == name).map(|(p, _)| *p);
        of("a").and(of("b"))
    });
    until("both are at work", limit, || {
        let stands = standing.read().unwrap();
        (stands.len() == PARTITIONS && stands.values().all(|next| *next > 20)).then_some(())
    });
    let mut somebody = open_transaction(live, theirs);
    b.stop();
    until("a is given what b had", limit, || {
        (owners().values().filter(|o| *o == "a").count() == PARTITIONS).then_some(())
    });
    let began = standing.read().unwrap();
    let (mut last, mut changed, mut longest) = (began.clone(), Instant::now(), Duration::ZERO);
    let since = Instant::now();
    while since.elapsed() < HELD {
        let stands: BTreeMap<i32, i64> = standing.read().unwrap();
        longest = longest.max(changed.elapsed());
        if stands.iter().any(|(p, next)| *p != theirs && *next > last[p]) {
            (last, changed) = (stands, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let came = standing.read().unwrap()[&theirs] - began[&theirs];
    drop(somebody.stdin.take());
    assert!(somebody.wait().unwrap().success());
    let next = standing.read().unwrap()[&theirs];
    until("what b had goes on", limit, || {
        (standing.read().unwrap()[&theirs] > next + 20).then_some(())
    });
    a.stop();
    (theirs, came, longest)
}

#[test]
fn the_others_go_on_while_state_is_read_back() {
    let live = live();
    topics(live);
    let stop = AtomicBool::new(false);
    let (partition, came, longest) = std::thread::scope(|scope| {
        scope.spawn(|| write(live, &stop));
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| held(live)));
        stop.store(true, Ordering::SeqCst);
        found.unwrap_or_else(|e| std::panic::resume_unwind(e))
    });
    println!(
        "taking over: partition={partition} came_while_held={came} others_pause_max_ms={}",
        longest.as_millis()
    );
    assert_eq!(came, 0, "it was not held back: this shows nothing");
    assert!(longest < OTHERS_MAX, "the other partition stood still for {longest:?}");
}
