//! A schema changes while old and new instances of a stage run side by side: a field is added, one is removed, one is renamed by
//! alias and one is promoted. Readers first, nothing is noticed. Writers first, what an old instance cannot read is a dead letter
//! that names the field, and goes back once the old instance is gone. Either way every record is stepped once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kafka::{Admin, KafkaLog, LogConfig, Registry, Writer};
use kernel::{Decoder, Delivery, Effects, Fault, FaultCode, Headers, Input, Processor};
use runtime::{Health, Limits, Metrics, Part, ProcessorStage, SharedControls, Stage, StageContext, SystemClock, Waker};
use schemas::Record;
use schemas::topics::{Cleanup, Entry, Topic, dlq_of};
use serde::{Deserialize, Serialize};

use super::harness::live;

const OLD: &str = r#"{"type": "record", "name": "Order", "fields": [
    {"name": "id", "type": "string"},
    {"name": "amount", "type": "int"},
    {"name": "note", "type": "string"},
    {"name": "colour", "type": "string", "default": "red"}]}"#;
const NEW: &str = r#"{"type": "record", "name": "Order", "fields": [
    {"name": "id", "type": "string"},
    {"name": "amount", "type": "long"},
    {"name": "memo", "aliases": ["note"], "type": "string"},
    {"name": "origin", "type": "string", "default": "unknown"}]}"#;
/// What nobody may register after them.
const WRONG: &str = r#"{"type": "record", "name": "Order", "fields": [
    {"name": "id", "type": "string"},
    {"name": "amount", "type": "string"}]}"#;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Old {
    id: String,
    amount: i32,
    note: String,
    colour: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct New {
    id: String,
    amount: i64,
    memo: String,
    origin: String,
}

macro_rules! order {
    ($type:ty, $text:ident) => {
        impl Record for $type {
            const NAME: &'static str = "Order";

            fn schema() -> &'static schemas::Schema {
                static SCHEMA: std::sync::LazyLock<schemas::Schema> =
                    std::sync::LazyLock::new(|| schemas::parse_schema($text).unwrap());
                &SCHEMA
            }

            fn schema_text() -> &'static str {
                $text
            }

            fn writer() -> &'static schemas::Writer<'static> {
                static WRITER: std::sync::LazyLock<schemas::Writer<'static>> =
                    std::sync::LazyLock::new(|| schemas::Writer::builder(<$type>::schema()).build().unwrap());
                &WRITER
            }

            fn reader() -> &'static schemas::Reader<'static> {
                static READER: std::sync::LazyLock<schemas::Reader<'static>> =
                    std::sync::LazyLock::new(|| schemas::Reader::builder(<$type>::schema()).build().unwrap());
                &READER
            }

            fn canonical() -> &'static str {
                static CANONICAL: std::sync::LazyLock<String> =
                    std::sync::LazyLock::new(|| <$type>::schema().canonical_form());
                &CANONICAL
            }
        }
    };
}
order!(Old, OLD);
order!(New, NEW);

const TOPICS: [&str; 2] = ["evolve.readers-first", "evolve.writers-first"];
const OUTPUTS: [&str; 2] = ["evolve.readers-first.out", "evolve.writers-first.out"];
const EACH: usize = 60;

/// A record of the nth topic, as a build of this age sees it.
struct Read<R, const N: usize>(R);

impl<R: Record, const N: usize> Input for Read<R, N> {
    fn topics() -> Vec<&'static str> {
        vec![TOPICS[N]]
    }

    fn decode(_: &str, value: &[u8], decoder: &dyn Decoder) -> Result<Self, Fault> {
        kernel::decode(value, decoder).map(Read)
    }
}

/// Passes every record on, and remembers how often it has seen its key.
struct Relay<R, const N: usize>(std::marker::PhantomData<fn() -> R>);

impl<R: Record, const N: usize> Processor for Relay<R, N> {
    type In = Read<R, N>;
    type State = u32;

    fn name(&self) -> &'static str {
        "relay"
    }

    fn step(&self, seen: &mut u32, input: &Delivery<Read<R, N>>, fx: &mut Effects<'_>) -> Result<(), Fault> {
        *seen += 1;
        fx.emit(Topic::<R>::new(OUTPUTS[N]), input.key.as_str(), "", &input.input.0)
    }
}

/// A running instance of one age.
struct Instance {
    stop: Arc<AtomicBool>,
    health: Health,
    thread: JoinHandle<()>,
}

impl Instance {
    fn start<R: Record, const N: usize>(name: &str, registry: &Arc<Registry>) -> Self {
        let live = live();
        let (stop, health) = (Arc::new(AtomicBool::new(false)), Health::default());
        let (name, registry) = (name.to_owned(), registry.clone());
        let (stopped, told) = (stop.clone(), health.clone());
        let handle = live.handle();
        let thread = std::thread::spawn(move || {
            let config = LogConfig {
                brokers: live.brokers.clone(),
                group: format!("{}.relay", TOPICS[N]),
                instance: name,
                topics: vec![TOPICS[N].to_owned()],
                copartitioned: true,
                linger_ms: 5,
                bulk: false,
                pipeline: "evolve".into(),
                stage: "relay".into(),
                session_timeout_ms: 6_000,
                transaction_timeout_ms: 15_000,
                leaving: Arc::default(),
            };
            let mut cx = StageContext {
                stage: "relay".into(),
                log: Box::new(KafkaLog::open(config, registry.clone()).unwrap()),
                decoder: registry,
                controls: SharedControls::default(),
                clock: Arc::new(SystemClock),
                metrics: Metrics::new("evolve").unwrap(),
                health: told,
                limits: Limits::default(),
                stop: stopped,
                state_topic: String::new(),
                handle,
                waker: Waker::default(),
            };
            let relay = Relay::<R, N>(std::marker::PhantomData);
            let member = Part::new("relay", format!("{}.state", TOPICS[N]), relay, None);
            let mut stage = ProcessorStage::new("evolve", vec![Box::new(member)]);
            stage.run(&mut cx).unwrap();
        });
        Self { stop, health, thread }
    }

    fn partitions(&self) -> usize {
        self.health.all().values().map(|h| h.partitions).sum()
    }

    fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
    }
}

/// One of the two orders, as far as it has come.
struct Rollout<const N: usize> {
    old: (Arc<Registry>, Writer),
    new: (Arc<Registry>, Writer),
    sent: BTreeMap<String, i64>,
}

impl<const N: usize> Rollout<N> {
    fn begin() -> Self {
        let live = live();
        let admin = Admin::open(&live.brokers).unwrap();
        let existing = admin.partitions().unwrap();
        let (state, dlq) = (format!("{}.state", TOPICS[N]), dlq_of(TOPICS[N]));
        for (name, cleanup) in [
            (TOPICS[N], Cleanup::Delete),
            (OUTPUTS[N], Cleanup::Delete),
            (dlq.as_str(), Cleanup::Delete),
            (state.as_str(), Cleanup::Compact),
        ] {
            let topic = Entry {
                name: name.to_owned(),
                record: String::new(),
                key: String::new(),
                partitions: 2,
                replication: 1,
                retention_hours: 24,
                cleanup,
                bytes_max: 1 << 20,
                owner: "evolve".into(),
            };
            live.handle().block_on(admin.apply(&topic, &existing)).unwrap();
        }
        // A process knows one schema of a topic: each age has a client of its own.
        let age = || {
            let registry = pipelines::apply::registry_at(&live.env, live.handle()).unwrap();
            let writer = Writer::open(&live.brokers, registry.clone(), "soma/evolve").unwrap();
            (registry, writer)
        };
        Self {
            old: age(),
            new: age(),
            sent: BTreeMap::new(),
        }
    }

    fn send(&mut self, with_new: bool) {
        for _ in 0..EACH {
            let n = self.sent.len();
            let id = format!("order-{n}");
            let amount = i32::try_from(n).unwrap() - 30;
            self.sent.insert(id.clone(), i64::from(amount));
            let text = format!("note of {id}");
            let written = if with_new {
                let order = New {
                    id: id.clone(),
                    amount: i64::from(amount),
                    memo: text,
                    origin: "shop".into(),
                };
                self.new.1.write(Topic::new(TOPICS[N]), &id, "", &order, None)
            } else {
                let order = Old {
                    id: id.clone(),
                    amount,
                    note: text,
                    colour: "blue".into(),
                };
                self.old.1.write(Topic::new(TOPICS[N]), &id, "", &order, None)
            };
            written.unwrap();
        }
        self.old.1.flush().unwrap();
        self.new.1.flush().unwrap();
    }

    fn letters(&self) -> Vec<kernel::RawRecord> {
        live().read_raw(&dlq_of(TOPICS[N]))
    }

    /// Waits until everything sent has come out or is a dead letter.
    fn settle(&self, replayed: usize) -> Vec<New> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let out = live().read_raw(OUTPUTS[N]);
            let letters = self.letters().len() - replayed;
            if out.len() + letters >= self.sent.len() {
                let decoder = self.new.0.as_ref();
                let read = out
                    .iter()
                    .map(|r| kernel::decode(r.value.as_ref().unwrap(), decoder).unwrap());
                return read.collect();
            }
            assert!(
                Instant::now() < deadline,
                "{} of {} came out, {letters} are dead letters",
                out.len(),
                self.sent.len()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Every record once, with its own values.
    fn check(&self, out: &[New]) {
        let by_id: BTreeMap<&str, &New> = out.iter().map(|o| (o.id.as_str(), o)).collect();
        assert_eq!(
            (by_id.len(), out.len()),
            (self.sent.len(), self.sent.len()),
            "each once"
        );
        for (id, amount) in &self.sent {
            let order = by_id[id.as_str()];
            assert_eq!(order.amount, *amount, "{id}");
            assert_eq!(order.memo, format!("note of {id}"));
        }
        let state: BTreeMap<String, Vec<u8>> = live()
            .read_raw(&format!("{}.state", TOPICS[N]))
            .into_iter()
            .filter_map(|r| Some((r.key, r.value?)))
            .collect();
        assert_eq!(state.len(), self.sent.len());
        for (key, bytes) in state {
            let seen: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(seen["s"], 1, "{key} was stepped {seen} times");
        }
    }
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn readers_first_and_nothing_is_noticed() {
    let mut rollout = Rollout::<0>::begin();
    let old = Instance::start::<Old, 0>("a", &rollout.old.0);
    rollout.send(false);
    rollout.settle(0);
    let new = Instance::start::<New, 0>("b", &rollout.new.0);
    rollout.send(false);
    wait_for("old and new side by side", || {
        old.partitions() == 1 && new.partitions() == 1
    });
    rollout.send(false);
    rollout.settle(0);
    old.stop();
    rollout.send(true);
    let out = rollout.settle(0);
    new.stop();
    rollout.check(&out);
    assert!(rollout.letters().is_empty());
    let fresh = out.iter().filter(|o| o.origin == "shop").count();
    assert_eq!(
        fresh, EACH,
        "the added field: {EACH} with a value, the others with its default"
    );

    let subject = format!("{}-value", TOPICS[0]);
    let fault = rollout.new.0.register(&subject, WRONG).unwrap_err();
    assert_eq!(fault.code, FaultCode::ConfigInvalid);
    assert!(fault.detail.contains("amount"), "{fault}");
    println!("evolution order=readers_first records={} letters=0", out.len());
}

#[test]
fn writers_first_and_nothing_is_lost() {
    let mut rollout = Rollout::<1>::begin();
    let old = Instance::start::<Old, 1>("a", &rollout.old.0);
    rollout.send(false);
    rollout.settle(0);
    rollout.send(true);
    rollout.settle(0);
    let letters = rollout.letters();
    assert_eq!(
        letters.len(),
        EACH,
        "an old instance cannot know what a new field was called"
    );
    for letter in &letters {
        let detail = letter.headers.text("soma-dlq-detail").unwrap();
        assert_eq!(letter.headers.text("soma-dlq-code"), Some("RECORD_UNREADABLE"));
        assert!(detail.contains("note"), "{detail}");
    }
    let new = Instance::start::<New, 1>("b", &rollout.new.0);
    wait_for("old and new side by side", || {
        old.partitions() == 1 && new.partitions() == 1
    });
    rollout.send(true);
    rollout.settle(0);
    old.stop();
    let letters = rollout.letters();
    assert!(letters.len() > EACH && letters.len() < 2 * EACH, "{}", letters.len());
    for letter in &letters {
        let back = rollout
            .new
            .1
            .write_raw(TOPICS[1], &letter.key, letter.value.as_deref(), &Headers::default());
        back.unwrap();
    }
    rollout.new.1.flush().unwrap();
    let out = rollout.settle(letters.len());
    new.stop();
    rollout.check(&out);
    println!(
        "evolution order=writers_first records={} letters={} replayed",
        out.len(),
        letters.len()
    );
}
