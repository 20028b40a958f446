//! What the benchmarks share: clients of the servers, topics of their own, a stage's surroundings, and how much memory a process holds.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{SystemTime, UNIX_EPOCH};

use kafka::{Admin, Brokers, KafkaLog, LogConfig, Registry};
use kernel::Fault;
use runtime::{Health, Limits, Metrics, SharedControls, StageContext, SystemClock, Waker};
use schemas::Timestamp;
use schemas::topics::{Cleanup, Entry};
use tokio::runtime::Runtime;

pub(crate) fn text(e: impl std::fmt::Display) -> String {
    e.to_string()
}

pub(crate) fn brokers(bootstrap: &str) -> Brokers {
    Brokers {
        bootstrap: bootstrap.to_owned(),
        ..Brokers::default()
    }
}

pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// The files of a folder, as (path, text).
pub(crate) fn files(folder: &std::path::Path) -> Result<Vec<(String, String)>, String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(text)? {
        let path = entry.map_err(text)?.path();
        files.push((
            path.display().to_string(),
            std::fs::read_to_string(&path).map_err(text)?,
        ));
    }
    Ok(files)
}

/// Memory a process holds.
pub(crate) fn rss_mb(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kb| kb / 1024)
}

/// Processor time a process has used, seconds.
pub(crate) fn cpu_s(pid: u32) -> Option<f64> {
    const TICKS_PER_S: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<u32>().ok()).map(f64::from);
    Some((ticks(11)? + ticks(12)?) / TICKS_PER_S)
}

pub(crate) fn tokio() -> Result<Runtime, String> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(1).enable_all().build().map_err(text)
}

pub(crate) fn registry(url: &str, runtime: &Runtime) -> Result<Arc<Registry>, String> {
    Registry::new(url, runtime.handle().clone()).map(Arc::new).map_err(text)
}

/// Makes a topic of the benchmark's own.
pub(crate) fn create(
    at: &Brokers,
    runtime: &Runtime,
    name: &str,
    partitions: i32,
    cleanup: Cleanup,
) -> Result<(), String> {
    let topic = Entry {
        name: name.to_owned(),
        record: String::new(),
        key: String::new(),
        partitions,
        replication: 1,
        retention_hours: 24,
        cleanup,
        bytes_max: 1 << 20,
        owner: "bench".into(),
    };
    let admin = Admin::open(at).map_err(text)?;
    let made = runtime.block_on(admin.apply(&topic, &Default::default()));
    made.map(drop).map_err(text)
}

/// A stage's surroundings, as a pipeline gives them.
pub(crate) fn surroundings(
    at: &Brokers,
    registry: &Arc<Registry>,
    runtime: &Runtime,
    (group, topic): (&str, &str),
    limits: Limits,
) -> Result<StageContext, String> {
    let log = KafkaLog::open(
        LogConfig {
            brokers: at.clone(),
            group: group.to_owned(),
            instance: "a".into(),
            topics: vec![topic.to_owned()],
            copartitioned: true,
            linger_ms: limits.linger_ms,
            bulk: false,
            pipeline: "bench".into(),
            stage: "bench".into(),
            session_timeout_ms: 6_000,
            transaction_timeout_ms: 15_000,
            leaving: Arc::default(),
        },
        registry.clone(),
    );
    Ok(StageContext {
        stage: "bench".into(),
        log: Box::new(log.map_err(|e: Fault| e.to_string())?),
        decoder: registry.clone(),
        controls: SharedControls::default(),
        clock: Arc::new(SystemClock),
        metrics: Metrics::new("bench").map_err(text)?,
        health: Health::default(),
        limits,
        stop: Arc::new(AtomicBool::new(false)),
        state_topic: String::new(),
        handle: runtime.handle().clone(),
        waker: Waker::default(),
    })
}
