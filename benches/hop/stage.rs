//! Our own stage: the production loop and log around a processor that passes each key on once.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kafka::{KafkaLog, LogConfig, Registry};
use kernel::{Delivery, Effects, Fault, Processor};
use runtime::{Health, Limits, Metrics, Part, ProcessorStage, SharedControls, Stage, StageContext, SystemClock, Waker};
use schemas::records::Event;
use schemas::topics::Topic;

use super::{Contestant, INPUT, brokers, output};

kernel::inputs! {
    /// What a hop reads.
    pub enum Input {
        Event(Event) = INPUT,
    }
}

struct Hop {
    out: Topic<Event>,
}

impl Processor for Hop {
    type In = Input;
    /// Whether the key has been passed on.
    type State = bool;

    fn name(&self) -> &'static str {
        "hop"
    }

    fn step(&self, seen: &mut bool, input: &Delivery<Input>, fx: &mut Effects<'_>) -> Result<(), Fault> {
        let Input::Event(event) = &input.input;
        if std::mem::replace(seen, true) {
            return Ok(());
        }
        fx.emit(self.out, input.key.as_str(), &event.tenant, event.as_ref())
    }
}

/// Runs until it is killed.
pub(crate) fn run(options: &Contestant) -> Result<String, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?;
    let fault = |e: Fault| e.to_string();
    let registry = Arc::new(Registry::new(&options.registry, runtime.handle().clone()).map_err(fault)?);
    let log = KafkaLog::open(
        LogConfig {
            brokers: brokers(&options.brokers),
            group: options.name.clone(),
            instance: "a".into(),
            topics: vec![INPUT.name.to_owned()],
            copartitioned: true,
            linger_ms: options.linger_ms,
            pipeline: "bench".into(),
            stage: "hop".into(),
            session_timeout_ms: 6_000,
            transaction_timeout_ms: 15_000,
        },
        registry.clone(),
    )
    .map_err(fault)?;
    // A typed topic's name is a constant of its program; this one comes from the command line, once.
    let hop = Hop {
        out: Topic::new(Box::leak(output(&options.name).into_boxed_str())),
    };
    let member = Part::new("hop", format!("{}.state", options.name), hop, None);
    let mut stage = ProcessorStage::new("bench", vec![Box::new(member)]);
    let mut cx = StageContext {
        stage: "hop".into(),
        log: Box::new(log),
        decoder: registry,
        controls: SharedControls::default(),
        clock: Arc::new(SystemClock),
        metrics: Metrics::new("bench").map_err(|e| e.to_string())?,
        health: Health::default(),
        limits: Limits {
            batch_max: options.batch,
            linger_ms: options.linger_ms,
            ..Limits::default()
        },
        stop: Arc::new(AtomicBool::new(false)),
        state_topic: String::new(),
        handle: runtime.handle().clone(),
        waker: Waker::default(),
    };
    stage.run(&mut cx).map_err(fault)?;
    Ok(String::new())
}
