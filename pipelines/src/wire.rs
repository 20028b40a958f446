//! Starts a pipeline: connects the stages to Kafka, runs them, and stops them in order.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kafka::{Admin, Brokers, KafkaLog, LogConfig, Registry};
use kernel::{Clock, Fault, FaultCode};
use runtime::{Health, Metrics, ProcessorStage, SharedControls, Stage, StageContext, SystemClock, Waker};

use crate::apply::state_topic;
use crate::config::{Environment, Pipeline};
use crate::registry::Built;
use crate::task::Task;
use crate::{check, handover, registry, standing, streaming, telemetry};

/// Longest time all stages may take to drain and stop; after it the process ends, and what was in flight is looked into at
/// the next start.
const STOP: Duration = Duration::from_secs(25);

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
    /// Clock.
    pub clock: Arc<dyn Clock>,
    /// Where futures run.
    pub handle: tokio::runtime::Handle,
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
    check::stages(&pipeline).map_err(listed)?;
    // Sets the process's one TLS stack up, and shows missing root certificates now rather than at the first call.
    tools::client(&tools::HttpLimits::default())?;
    let _telemetry = telemetry::start(&pipeline)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Fault::new(FaultCode::Internal, format!("runtime: {e}")))?;
    let stop = Arc::new(AtomicBool::new(false));
    watch_signals(&runtime, &stop)?;
    let internal = |e: String| Fault::new(FaultCode::Internal, e);
    let shared = Shared {
        registry: Arc::new(Registry::new(
            &pipeline.connections.registry.url,
            runtime.handle().clone(),
        )?),
        controls: SharedControls::default(),
        shelf: stages::policy_gate::Shelf::default(),
        metrics: Metrics::new(&pipeline.pipeline).map_err(|e| internal(e.to_string()))?,
        health: Health::default(),
        stop: stop.clone(),
        clock: Arc::new(SystemClock),
        handle: runtime.handle().clone(),
        pipeline: Arc::new(pipeline),
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
    for (name, _) in standing::FOLLOWED {
        shared.health.set(name, runtime::StageState::Starting, 0);
    }
    take_over(&shared, &runtime)?;
    let mut followers = Vec::new();
    for (name, read) in standing::FOLLOWED {
        let shared = shared.clone();
        let follower = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || standing::follow(&shared, name, read));
        followers.push(follower.map_err(|e| internal(e.to_string()))?);
    }
    let mut threads = Vec::new();
    for task in shared.pipeline.tasks() {
        let cx = shared.clone();
        let name = task.name();
        let open = move || open(&task, &cx);
        threads.push(runtime::spawn(
            &name,
            shared.health.clone(),
            shared.metrics.clone(),
            stop.clone(),
            open,
        )?);
    }
    threads.append(&mut followers);
    tracing::info!(pipeline = %shared.pipeline.pipeline, instance = %shared.pipeline.instance, stages = shared.pipeline.stages.len(), "started");
    wait(&stop, &threads);
    tracing::info!("stopped");
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(())
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

fn wait(stop: &AtomicBool, threads: &[std::thread::JoinHandle<()>]) {
    while !stop.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(50));
    }
    tracing::info!("stopping: draining what is in flight");
    let deadline = std::time::Instant::now() + STOP;
    while threads.iter().any(|t| !t.is_finished()) && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn watch_signals(runtime: &tokio::runtime::Runtime, stop: &Arc<AtomicBool>) -> Result<(), Fault> {
    use tokio::signal::unix::{SignalKind, signal};
    let _guard = runtime.enter();
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut stream = signal(kind).map_err(|e| Fault::new(FaultCode::Internal, format!("signal handler: {e}")))?;
        let stop = stop.clone();
        runtime.spawn(async move {
            stream.recv().await;
            stop.store(true, Ordering::SeqCst);
        });
    }
    Ok(())
}

/// Builds a stage and its log. Called again while a dependency is down.
fn open(task: &Task, shared: &Shared) -> Result<(Box<dyn Stage>, StageContext), Fault> {
    // No stage begins before what stands is known: a kill, a role taken away, a tenant's policy must hold over a restart.
    let known = || standing::is_known(shared);
    let patience = std::time::Instant::now() + Duration::from_secs(5);
    while !known() && !shared.stop.load(Ordering::SeqCst) && std::time::Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(10));
    }
    if !known() {
        return Err(Fault::new(
            FaultCode::BrokerUnavailable,
            "soma.controls, soma.members, soma.strikes, soma.tallies, soma.policies, soma.constitutions and soma.sboms have not been read to their ends yet",
        ));
    }
    let pipeline = &shared.pipeline;
    let name = task.name();
    let group = task.group(&pipeline.pipeline);
    let mut members = Vec::new();
    let mut alone = None;
    let (mut wanted, mut states, mut copartitioned) = (Vec::<String>::new(), Vec::new(), false);
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
        copartitioned |= component.stateful;
        match (component.build)(entry, shared)? {
            Built::Member(member) => members.push(member),
            Built::Stage(stage) => alone = Some(stage),
        }
    }
    topics_exist(&pipeline.connections.kafka, &wanted, &states)?;
    let limits = task.limits();
    let log = KafkaLog::open(
        LogConfig {
            brokers: pipeline.connections.kafka.clone(),
            group,
            instance: pipeline.instance.clone(),
            topics: wanted,
            copartitioned: copartitioned || task.stages.len() > 1,
            linger_ms: limits.linger_ms,
            bulk: task.stages.iter().any(|s| s.component == streaming::COMPONENT),
            pipeline: pipeline.pipeline.clone(),
            stage: name.clone(),
            session_timeout_ms: pipeline.session_timeout_ms,
            transaction_timeout_ms: 15_000,
        },
        shared.registry.clone(),
    )?;
    let stage = alone.unwrap_or_else(|| Box::new(ProcessorStage::new(&pipeline.pipeline, members)));
    let cx = StageContext {
        stage: name,
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
