//! Runs a pipeline's pure stages over records in memory: what one stage emits is fed to those that read its topic, in order.
//! There is no log, no clock and no server here, and none is imitated: what the world answers is given by the case.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use kernel::controls::Controls;
use kernel::{
    Decoder, Delivery, Effects, Emit, Fault, FaultCode, Headers, Input, Perform, Position, Processor, Signal, Timer,
};
use schemas::records::{Outcome, Request};
use schemas::topics::Topic;
use schemas::{Record, Schema, Timestamp, Written};

/// Frames a record with an index into a table of schemas, in place of a registry's id.
#[derive(Default)]
pub(crate) struct Table(HashMap<u8, Arc<Written>>);

impl Decoder for Table {
    fn unframe<'a>(&self, value: &'a [u8]) -> Result<(Arc<Written>, &'a [u8]), Fault> {
        let (id, rest) = value
            .split_first()
            .ok_or_else(|| Fault::new(FaultCode::RecordNotFramed, "empty"))?;
        let schema = self
            .0
            .get(id)
            .ok_or_else(|| Fault::new(FaultCode::SchemaUnknown, id.to_string()))?;
        Ok((schema.clone(), rest))
    }
}

/// A stage with its states, whatever its types.
trait Running {
    fn topics(&self) -> Vec<&'static str>;
    fn feed(&mut self, at: &Feed<'_>, key: &str, value: &[u8], position: &Position) -> Given;
    fn done(&mut self, at: &Feed<'_>, key: &str, outcome: Outcome) -> Given;
    fn due(&mut self, at: &Feed<'_>) -> Vec<Given>;
}

pub(crate) struct Feed<'a> {
    now: Timestamp,
    controls: &'a Controls,
    decoder: &'a Table,
}

#[derive(Default)]
pub(crate) struct Given {
    emits: Vec<Emit>,
    performs: Vec<(String, Perform)>,
}

struct Stage<P: Processor> {
    processor: P,
    states: BTreeMap<String, (P::State, Vec<Timer>)>,
}

impl<P: Processor> Stage<P> {
    fn run(
        &mut self,
        at: &Feed<'_>,
        key: &str,
        seed: &str,
        act: impl FnOnce(&P, &mut P::State, &mut Effects<'_>) -> Result<(), Fault>,
    ) -> Given {
        let (mut state, mut timers) = self.states.get(key).cloned().unwrap_or_default();
        let mut fx = Effects::new(at.now, key, seed, at.controls);
        act(&self.processor, &mut state, &mut fx).unwrap_or_else(|f| panic!("{}: {f}", self.processor.name()));
        timers.retain(|t| !fx.timers_dropped.contains(&t.name) && !fx.timers.iter().any(|n| n.name == t.name));
        timers.extend(fx.timers.iter().cloned());
        let given = Given {
            emits: fx.emits,
            performs: fx.performs.into_iter().map(|p| (key.to_owned(), p)).collect(),
        };
        self.states.insert(key.to_owned(), (state, timers));
        given
    }
}

impl<P: Processor> Running for Stage<P> {
    fn topics(&self) -> Vec<&'static str> {
        P::In::topics()
    }

    fn feed(&mut self, at: &Feed<'_>, key: &str, value: &[u8], position: &Position) -> Given {
        let input = P::In::decode(&position.topic, value, at.decoder).unwrap();
        let delivery = Delivery {
            input,
            key: key.to_owned(),
            position: position.clone(),
            headers: Headers::default(),
            at: at.now,
        };
        self.run(at, key, &position.to_string(), |p, state, fx| {
            p.step(state, &delivery, fx)
        })
    }

    fn done(&mut self, at: &Feed<'_>, key: &str, outcome: Outcome) -> Given {
        let seed = format!("done:{}", outcome.call_id);
        self.run(at, key, &seed, |p, state, fx| {
            p.on_signal(state, &Signal::Done(Box::new(outcome)), fx)
        })
    }

    fn due(&mut self, at: &Feed<'_>) -> Vec<Given> {
        let ready: Vec<(String, Timer)> = self
            .states
            .iter()
            .flat_map(|(k, (_, timers))| {
                timers
                    .iter()
                    .filter(|t| t.due <= at.now)
                    .map(|t| (k.clone(), t.clone()))
            })
            .collect();
        ready
            .into_iter()
            .map(|(key, timer)| {
                if let Some((_, timers)) = self.states.get_mut(&key) {
                    timers.retain(|t| t != &timer);
                }
                self.run(at, &key, &timer.name.clone(), |p, state, fx| {
                    p.on_timer(state, &timer, fx)
                })
            })
            .collect()
    }
}

/// The stages of a pipeline and everything they wrote.
pub(crate) struct Driver {
    stages: Vec<Box<dyn Running>>,
    invoker: usize,
    pub(crate) controls: Controls,
    table: Table,
    ids: HashMap<&'static str, u8>,
    queue: VecDeque<(String, String, Vec<u8>)>,
    offset: i64,
    pub(crate) now: Timestamp,
    /// Every record written, as (topic, JSON), in order.
    pub(crate) written: Vec<(String, serde_json::Value)>,
}

/// The folder of shipped pipelines.
pub(crate) fn shipped() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .join("pipelines")
}

pub(crate) fn texts(dir: &str) -> Vec<(String, String)> {
    let mut all: Vec<_> = std::fs::read_dir(shipped().join(dir))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.is_file())
        .map(|p| {
            (
                format!("{dir}/{}", p.file_name().unwrap().to_string_lossy()),
                std::fs::read_to_string(&p).unwrap(),
            )
        })
        .collect();
    all.sort();
    all
}

impl Driver {
    /// The stages with the shipped catalogue and policy.
    pub(crate) fn shipped(receiver_url: &str) -> Self {
        let files = [texts("capsules"), texts("wizards")].concat();
        let catalogue = stages::intake::Catalogue::parse(&files).unwrap_or_else(|f| panic!("{f:#?}"));
        let values = [("receiver_url".to_owned(), receiver_url.to_owned())].into();
        let intake = stages::intake::Intake::new(catalogue, values, 24.0).unwrap();
        let bundle = stages::policy_gate::Bundle::parse(&texts("policies/base")).unwrap_or_else(|f| panic!("{f:#?}"));
        let key = [7; 32];
        let public = stages::policy_gate::public_key(key);
        let gate = stages::policy_gate::PolicyGate::new(bundle, key, || 0);
        let gate = gate.with_traits(std::sync::Arc::new(tools::traits()));
        let orchestrator = stages::orchestrator::Orchestrator::new(Default::default());
        let invoker = stages::invoker::Invoker::new(public, Default::default());
        let memory = stages::memory_indexer::MemoryIndexer::new();
        fn stage<P: Processor>(processor: P) -> Box<dyn Running> {
            Box::new(Stage {
                processor,
                states: BTreeMap::new(),
            })
        }
        Self {
            stages: vec![
                stage(intake),
                stage(gate),
                stage(orchestrator),
                stage(invoker),
                stage(memory),
            ],
            invoker: 3,
            controls: Controls::default(),
            table: Table::default(),
            ids: HashMap::new(),
            queue: VecDeque::new(),
            offset: 0,
            now: Timestamp(1_790_000_000_000_000),
            written: Vec::new(),
        }
    }

    fn frame(&mut self, record: &'static str, schema: impl FnOnce() -> Schema, avro: &[u8]) -> Vec<u8> {
        let next = u8::try_from(self.ids.len()).unwrap();
        let id = *self.ids.entry(record).or_insert(next);
        self.table
            .0
            .entry(id)
            .or_insert_with(|| Arc::new(Written::with(schema())));
        [&[id], avro].concat()
    }

    /// Puts a record on a topic.
    pub(crate) fn put<R: Record>(&mut self, topic: Topic<R>, key: &str, record: &R) {
        let value = self.frame(R::NAME, || R::schema().clone(), &record.to_avro().unwrap());
        self.queue.push_back((topic.name.to_owned(), key.to_owned(), value));
    }

    /// Puts a request.
    pub(crate) fn request(&mut self, request: &Request) {
        let key = format!("{}:{}", request.tenant, request.idempotency_key);
        self.put(schemas::topics::REQUESTS, &key, request);
    }

    fn take(&mut self, given: Given, answer: &mut dyn FnMut(&Perform) -> Outcome) {
        for emit in given.emits {
            let schema = schemas::parse_schema(emit.schema_text).unwrap();
            let value = schemas::decode_value(&schema, &emit.avro, None).unwrap();
            self.written.push((emit.topic.to_owned(), schemas::to_json(&value)));
            let framed = self.frame(emit.record, || schema, &emit.avro);
            self.queue.push_back((emit.topic.to_owned(), emit.key, framed));
        }
        for (key, perform) in given.performs {
            let outcome = answer(&perform);
            let feed = Feed {
                now: self.now,
                controls: &self.controls,
                decoder: &self.table,
            };
            let given = self.stages[self.invoker].done(&feed, &key, outcome);
            self.take(given, answer);
        }
    }

    /// Feeds until nothing is left to feed; `answer` says what came of each outside action.
    pub(crate) fn settle(&mut self, answer: &mut dyn FnMut(&Perform) -> Outcome) {
        while let Some((topic, key, value)) = self.queue.pop_front() {
            self.offset += 1;
            self.now = self.now.plus_ms(1);
            let position = Position {
                topic: topic.as_str().into(),
                partition: 0,
                offset: self.offset,
            };
            for i in 0..self.stages.len() {
                if self.stages[i].topics().contains(&topic.as_str()) {
                    let feed = Feed {
                        now: self.now,
                        controls: &self.controls,
                        decoder: &self.table,
                    };
                    let given = self.stages[i].feed(&feed, &key, &value, &position);
                    self.take(given, answer);
                }
            }
        }
    }

    /// Lets time pass and fires what is due.
    pub(crate) fn pass(&mut self, ms: i64, answer: &mut dyn FnMut(&Perform) -> Outcome) {
        self.now = self.now.plus_ms(ms);
        for i in 0..self.stages.len() {
            let feed = Feed {
                now: self.now,
                controls: &self.controls,
                decoder: &self.table,
            };
            for given in self.stages[i].due(&feed) {
                self.take(given, answer);
            }
        }
        self.settle(answer);
    }

    /// The last record of a topic.
    pub(crate) fn last(&self, topic: &str) -> Option<&serde_json::Value> {
        self.written.iter().rev().find(|(t, _)| t == topic).map(|(_, v)| v)
    }

    /// All records of a topic.
    pub(crate) fn all(&self, topic: &str) -> Vec<&serde_json::Value> {
        self.written
            .iter()
            .filter(|(t, _)| t == topic)
            .map(|(_, v)| v)
            .collect()
    }
}
