//! Starts a pipeline: connects the stages to Kafka, runs them, and stops them in order.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kafka::{Admin, Brokers, KafkaLog, LogConfig, Registry, Watch};
use kernel::{Clock, Fault, FaultCode};
use runtime::{Health, Metrics, ProcessorStage, SharedControls, Stage, StageContext, SystemClock, Waker};
use schemas::topics::Catalogue;

use crate::apply::state_topic;
use crate::config::{Environment, Pipeline};
use crate::registry::Built;
use crate::task::Task;
use crate::{check, handover, membership, registry, standing, streaming, telemetry};

/// Longest time all stages may take to drain and stop; after it the process ends, and what was in flight is looked into at
/// the next start.
const STOP: Duration = Duration::from_secs(25);
/// After so long stages that act on nothing stop too, whatever those that act still wait for.
const STOP_OTHERS: Duration = Duration::from_secs(20);
/// How long a stage waits for what stands before it says so.
const PATIENCE: Duration = Duration::from_secs(5);
/// After so long the broker aborts a transaction nobody finishes: readers of what else was written wait for it.
const TRANSACTION_MS: u32 = 15_000;
/// The same of streaming SQL, whose transactions are large: two hundred thousand rows of windows, and runs of kept rows put together. Aborted for
/// its size one would be tried again for ever.
const CLOSING_MS: u32 = 60_000;

/// What all stages of a process share.
#[derive(Clone)]
pub struct Shared {
    /// The pipeline.
    pub pipeline: Arc<Pipeline>,
    /// Registry client.
    pub registry: Arc<Registry>,
    /// Controls.
    pub controls: SharedControls,
    /// Policy bundles and constitutions in force beside the deployed bundle.
    pub shelf: stages::policy_gate::Shelf,
    /// Metrics.
    pub metrics: Metrics,
    /// Health.
    pub health: Health,
    /// Set when the process is to stop.
    pub stop: Arc<AtomicBool>,
    /// Set with it when the instance will not come back.
    pub leaving: Arc<AtomicBool>,
    /// Clock.
    pub clock: Arc<dyn Clock>,
    /// Where futures run.
    pub handle: tokio::runtime::Handle,
    /// Whether every partition has an owner.
    pub watch: Arc<Watch>,
}

/// Runs a pipeline in the foreground until SIGTERM or SIGINT.
///
/// # Errors
/// `CONFIG_INVALID` with every fault found; a dependency that is not there at the start is waited for, not an error.
pub fn start(file: &Path, env: &Environment) -> Result<(), Fault> {
    let listed = |faults: Vec<kernel::ConfigFault>| {
        let lines: Vec<_> = faults.iter().map(|f| format!("  {f}")).collect();
        Fault::new(
            FaultCode::ConfigInvalid,
            format!("{} faults in {}:\n{}", faults.len(), file.display(), lines.join("\n")),
        )
    };
    let pipeline = Pipeline::load(file, env).map_err(listed)?;
    let _telemetry = telemetry::start(&pipeline)?;
    tracing::info!(pipeline = %pipeline.pipeline, instance = %pipeline.instance, "begins");
    check::stages(&pipeline).map_err(listed)?;
    // Sets the process's one TLS stack up, and shows missing root certificates now rather than at the first call.
    tools::client(&tools::HttpLimits::default())?;
    tracing::debug!("checked");
    // What loading and planning took; the rest of the start takes its own.
    runtime::give_back_program();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Fault::new(FaultCode::Internal, format!("runtime: {e}")))?;
    let stop = Arc::new(AtomicBool::new(false));
    let leaving = Arc::new(AtomicBool::new(false));
    watch_signals(&runtime, &stop, &leaving)?;
    let shared = Shared {
        leaving,
        ..share(pipeline, runtime.handle(), &stop)?
    };
    let address: SocketAddr = shared.pipeline.admin.listen.parse().map_err(|e| {
        Fault::new(
            FaultCode::ConfigInvalid,
            format!(
                "admin.listen `{}`: {e}; write address:port",
                shared.pipeline.admin.listen
            ),
        )
    })?;
    runtime.block_on(runtime::serve_http(
        address,
        shared.health.clone(),
        shared.metrics.clone(),
    ))?;
    let lasting = Shared {
        stop: Arc::default(),
        ..shared.clone()
    };
    // They belong to no group, so nothing has to be taken over for them first.
    let mut others = follow(&lasting)?;
    take_over(&shared, &runtime)?;
    // Not waited for at a stop: a look at brokers that are gone takes its time, and leaves nothing undone.
    drop(beside(&shared, "membership", membership::keep)?);
    let mut acting = Vec::new();
    for task in shared.pipeline.tasks() {
        let (cx, threads) = if task.acts() {
            (shared.clone(), &mut acting)
        } else {
            (lasting.clone(), &mut others)
        };
        let (name, stop) = (task.name(), cx.stop.clone());
        let before = AtomicBool::new(false);
        let open = move || open(&task, &cx, before.swap(true, Ordering::SeqCst));
        let (health, metrics) = (shared.health.clone(), shared.metrics.clone());
        threads.push(runtime::spawn(&name, health, metrics, stop, open)?);
    }
    tracing::info!(pipeline = %shared.pipeline.pipeline, instance = %shared.pipeline.instance, stages = shared.pipeline.stages.len(), "started");
    wait(&stop, &acting, &lasting.stop, &others);
    tracing::info!("stopped");
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(())
}

fn share(pipeline: Pipeline, handle: &tokio::runtime::Handle, stop: &Arc<AtomicBool>) -> Result<Shared, Fault> {
    Ok(Shared {
        registry: Arc::new(Registry::new(&pipeline.connections.registry.url, handle.clone())?),
        controls: SharedControls::default(),
        shelf: stages::policy_gate::Shelf::default(),
        metrics: Metrics::new(&pipeline.pipeline).map_err(|e| Fault::new(FaultCode::Internal, e.to_string()))?,
        health: Health::default(),
        stop: stop.clone(),
        leaving: Arc::default(),
        clock: Arc::new(SystemClock),
        handle: handle.clone(),
        watch: Arc::new(Watch::new(&pipeline.connections.kafka)),
        pipeline: Arc::new(pipeline),
    })
}

/// Begins to follow what stands whatever a record says, and to learn the schemas' ids, beside everything else.
fn follow(shared: &Shared) -> Result<Vec<JoinHandle<()>>, Fault> {
    let topics = Catalogue::load().map(|c| c.topics).unwrap_or_default();
    let texts = topics.into_iter().map(|t| (t.name, registry::schema_text(&t.record)));
    let texts = texts.filter_map(|(name, text)| Some((name, text?.to_owned())));
    shared.registry.warm(texts);
    // The stages are named too before anything runs: followers alone, all at work, would pass for a process that is ready, and
    // `soma deploy` would not wait for what is taken over.
    let tasks: Vec<String> = shared.pipeline.tasks().iter().map(Task::name).collect();
    let followers = standing::FOLLOWED.iter().map(|(name, _)| *name);
    for name in followers.chain(tasks.iter().map(String::as_str)) {
        shared.health.set(name, runtime::StageState::Starting, 0);
    }
    let followed = standing::FOLLOWED.iter();
    followed
        .map(|&(name, read)| beside(shared, name, move |shared| standing::follow(shared, name, read)))
        .collect()
}

/// A thread of its own for what goes on beside the stages.
fn beside(shared: &Shared, name: &str, run: impl FnOnce(&Shared) + Send + 'static) -> Result<JoinHandle<()>, Fault> {
    let shared = shared.clone();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || run(&shared))
        .map_err(|e| Fault::new(FaultCode::Internal, format!("thread {name}: {e}")))
}

/// Takes over from a former layout, waiting for brokers that are not there yet.
fn take_over(shared: &Shared, runtime: &tokio::runtime::Runtime) -> Result<(), Fault> {
    let mut told = false;
    while !shared.stop.load(Ordering::SeqCst) {
        match runtime.block_on(handover::take_over(&shared.pipeline)) {
            Err(fault) if fault.blame == kernel::Blame::Dependency => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(code = %fault.code, detail = %fault.detail, "waiting for a dependency");
                }
                std::thread::sleep(Duration::from_millis(300));
            }
            done => return done,
        }
    }
    Ok(())
}

/// Waits for the signal, then for the threads. What acts stops at once and waits for its calls, often for seconds; the others go on meanwhile, and stop
/// when that is done. Stopped with it they would be missed before the instance is back: a session runs out, and each of their groups
/// shares its partitions out anew, twice. Nor would what the last calls bring be handled here, or a kill reach them.
fn wait(stop: &AtomicBool, acting: &[JoinHandle<()>], stop_others: &AtomicBool, others: &[JoinHandle<()>]) {
    while !stop.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(50));
    }
    tracing::info!("stopping: draining what is in flight");
    let began = Instant::now();
    let ended = |threads: &[JoinHandle<()>], at_most| {
        while threads.iter().any(|t| !t.is_finished()) && began.elapsed() < at_most {
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    ended(acting, STOP_OTHERS);
    let drained_ms = began.elapsed().as_millis();
    stop_others.store(true, Ordering::SeqCst);
    ended(others, STOP);
    ended(acting, STOP);
    tracing::info!(drained_ms, ended_ms = began.elapsed().as_millis(), "drained");
}

/// SIGTERM comes from who restarts us, or may: our partitions wait for us. SIGINT is a person's, or a scale-in's: they go to the others.
fn watch_signals(
    runtime: &tokio::runtime::Runtime,
    stop: &Arc<AtomicBool>,
    leaving: &Arc<AtomicBool>,
) -> Result<(), Fault> {
    use tokio::signal::unix::{SignalKind, signal};
    let _guard = runtime.enter();
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut stream = signal(kind).map_err(|e| Fault::new(FaultCode::Internal, format!("signal handler: {e}")))?;
        let (stop, leaving) = (stop.clone(), leaving.clone());
        runtime.spawn(async move {
            stream.recv().await;
            leaving.store(kind == SignalKind::interrupt(), Ordering::SeqCst);
            stop.store(true, Ordering::SeqCst);
        });
    }
    Ok(())
}

/// What a stage or task is made of, before its log is open.
struct Made {
    members: Vec<Box<dyn runtime::Member>>,
    alone: Option<Box<dyn Stage>>,
    known_ms: u128,
    built_ms: u128,
}

/// Builds a stage and its log. Called again while a dependency is down.
///
/// At the first time both are done at once: the clients find their brokers, settle what a killed predecessor left open and join the group while
/// what stands is read and the stage is built. `again`, the log comes last: an instance that cannot build its stage
/// must not take partitions, time and again, from those that can.
fn open(task: &Task, shared: &Shared, again: bool) -> Result<(Box<dyn Stage>, StageContext), Fault> {
    let began = Instant::now();
    let pipeline = &shared.pipeline;
    let (wanted, states) = topics_of(task, pipeline)?;
    let limits = task.limits();
    let bulk = task.stages.iter().any(|s| s.component == streaming::COMPONENT);
    let join = || {
        topics_exist(&pipeline.connections.kafka, &wanted, &states)?;
        let config = LogConfig {
            brokers: pipeline.connections.kafka.clone(),
            group: task.group(&pipeline.pipeline),
            instance: pipeline.instance.clone(),
            topics: wanted.clone(),
            copartitioned: !states.is_empty() || task.stages.len() > 1,
            linger_ms: limits.linger_ms,
            bulk,
            pipeline: pipeline.pipeline.clone(),
            stage: task.name(),
            session_timeout_ms: pipeline.session_timeout_ms,
            transaction_timeout_ms: if bulk { CLOSING_MS } else { TRANSACTION_MS },
            leaving: shared.leaving.clone(),
        };
        let log = KafkaLog::open(config, shared.registry.clone());
        log.map(|log| (log, began.elapsed().as_millis()))
    };
    let (made, log) = if again {
        (make(task, shared, began)?, join()?)
    } else {
        std::thread::scope(|scope| {
            let log = scope.spawn(join);
            let made = make(task, shared, began);
            let panicked = |_| Err(Fault::new(FaultCode::Internal, "opening a log panicked"));
            Ok::<_, Fault>((made?, log.join().unwrap_or_else(panicked)?))
        })?
    };
    let ((log, log_ms), Made { known_ms, built_ms, .. }) = (log, &made);
    tracing::info!(stage = %task.name(), known_ms, built_ms, log_ms, "joining");
    shared.watch.add(log.member());
    // Before the first fetch: memory that filled up while the pages of planning are there would be the most that is ever taken.
    runtime::give_back_program();
    let alone = made.alone;
    let stage = alone.unwrap_or_else(|| Box::new(ProcessorStage::new(&pipeline.pipeline, made.members)));
    let cx = StageContext {
        stage: task.name(),
        log: Box::new(log),
        decoder: shared.registry.clone(),
        controls: shared.controls.clone(),
        clock: shared.clock.clone(),
        metrics: shared.metrics.clone(),
        health: shared.health.clone(),
        limits,
        stop: shared.stop.clone(),
        // A window's; members of a task know their own.
        state_topic: states.into_iter().next().unwrap_or_default(),
        handle: shared.handle.clone(),
        waker: Waker::default(),
    };
    Ok((stage, cx))
}

/// Topics a task reads, and those of its state.
fn topics_of(task: &Task, pipeline: &Pipeline) -> Result<(Vec<String>, Vec<String>), Fault> {
    let (mut wanted, mut states) = (Vec::<String>::new(), Vec::new());
    for entry in &task.stages {
        let component = registry::find(&entry.component)
            .ok_or_else(|| Fault::new(FaultCode::ConfigInvalid, format!("no component {}", entry.component)))?;
        for topic in streaming::reads(entry, pipeline) {
            if !wanted.contains(&topic) {
                wanted.push(topic);
            }
        }
        if component.stateful {
            states.push(state_topic(&pipeline.pipeline, entry.name()));
        }
    }
    Ok((wanted, states))
}

/// Builds a task's stages, once what stands is known: a kill, a role taken away, a tenant's policy must hold over a restart.
fn make(task: &Task, shared: &Shared, began: Instant) -> Result<Made, Fault> {
    let known = || standing::is_known(shared);
    while !known() && !shared.stop.load(Ordering::SeqCst) && began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(10));
    }
    if !known() {
        return Err(Fault::new(
            FaultCode::BrokerUnavailable,
            "soma.controls, soma.members, soma.strikes, soma.tallies, soma.policies, soma.constitutions and soma.sboms have not been read to their ends yet",
        ));
    }
    let known_ms = began.elapsed().as_millis();
    let (mut members, mut alone) = (Vec::new(), None);
    for entry in &task.stages {
        let component = registry::find(&entry.component)
            .ok_or_else(|| Fault::new(FaultCode::ConfigInvalid, format!("no component {}", entry.component)))?;
        match (component.build)(entry, shared)? {
            Built::Member(member) => members.push(member),
            Built::Stage(stage) => alone = Some(stage),
        }
    }
    Ok(Made {
        members,
        alone,
        known_ms,
        built_ms: began.elapsed().as_millis(),
    })
}

fn topics_exist(brokers: &Brokers, wanted: &[String], states: &[String]) -> Result<(), Fault> {
    let have = Admin::open(brokers)?.partitions()?;
    let needed = wanted.iter().chain(states).map(String::as_str);
    let missing: Vec<_> = needed.filter(|t| !have.contains_key(*t)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    // A cluster that has just started may not know them yet; the stage waits and says so.
    let detail = format!("topics {} are not there; run `soma topics apply`", missing.join(", "));
    Err(Fault {
        blame: kernel::Blame::Dependency,
        ..Fault::new(FaultCode::TopicsMismatched, detail)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_on_nothing_goes_on_until_calls_are_answered() {
        let flag = || Arc::new(AtomicBool::new(false));
        let (answered, stop_others, seen) = (flag(), flag(), flag());
        let (told, see, asked) = (answered.clone(), seen.clone(), stop_others.clone());
        let acting = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            answered.store(true, Ordering::SeqCst);
        });
        let other = std::thread::spawn(move || {
            while !asked.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
            see.store(told.load(Ordering::SeqCst), Ordering::SeqCst);
        });
        wait(&AtomicBool::new(true), &[acting], &stop_others, &[other]);
        assert!(seen.load(Ordering::SeqCst), "it was stopped while a call was under way");
    }
}
