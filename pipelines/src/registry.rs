//! The one visible list of components: what a pipeline may `use`. No link-time magic.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kernel::{ConfigFault, Fault, FaultCode, Input, Performer, Processor, Sink};
use runtime::{Member, Part, SinkStage, Stage, WindowStage};
use schemas::records::{
    Approval, AuditEntry, Call, Checkpoint, Constitution, Control, Delegation, Event, Memory, Metric, Outcome, Plan,
    Policy, Proposal, Receipt, Request, Run, Verdict,
};
use schemas::{Record, topics};
use serde::Deserialize;
use stages::{intake, invoker, memory_indexer, orchestrator, policy_gate};

use crate::apply::state_topic;
use crate::config::{Pipeline, StageEntry, read};
use crate::govern::{audit, check_policy_gate, gate, key};
use crate::wire::Shared;
use crate::{stores, streaming};

type Check = fn(&StageEntry, &Pipeline) -> Result<String, Vec<ConfigFault>>;
type Build = fn(&StageEntry, &Shared) -> Result<Built, Fault>;

/// A component, built.
pub enum Built {
    /// A processor: alone or with others in one task.
    Member(Box<dyn Member>),
    /// A stage with a loop of its own.
    Stage(Box<dyn Stage>),
}

/// One component.
pub struct Component {
    /// Name in a pipeline file.
    pub name: &'static str,
    /// Topics it reads; the first leads when they are partitioned alike.
    pub topics: fn() -> Vec<&'static str>,
    /// Whether it keeps state per partition, in a changelog.
    pub stateful: bool,
    /// Whether it may run in one task with others (`fuse` in a pipeline file).
    pub fusable: bool,
    /// Checks its configuration without touching anything outside; a line that says what it found.
    pub check: Check,
    /// Builds it; may connect.
    pub build: Build,
}

/// Components that act on the world.
pub const ACTING: &[&str] = &["invoker"];

/// Every component of this build.
pub const COMPONENTS: &[Component] = &[
    Component {
        name: "intake",
        topics: <intake::Intake as Processor>::In::topics,
        stateful: true,
        fusable: true,
        check: check_intake,
        build: |entry, shared| {
            let intake = made(intake(entry, &shared.pipeline))?.0;
            Ok(part(entry, shared, intake, None))
        },
    },
    Component {
        name: "policy_gate",
        topics: <policy_gate::PolicyGate as Processor>::In::topics,
        stateful: false,
        fusable: true,
        check: check_policy_gate,
        build: |entry, shared| {
            let gate = made(gate(entry, &shared.pipeline))?.0;
            Ok(part(entry, shared, gate.with_shelf(shared.shelf.clone()), None))
        },
    },
    Component {
        name: "orchestrator",
        topics: <orchestrator::Orchestrator as Processor>::In::topics,
        stateful: true,
        fusable: true,
        check: |entry, _| orchestrator(entry).map(|c| format!("approvals expire after {} h", c.approval_hours)),
        build: |entry, shared| {
            let config = made(orchestrator(entry))?;
            Ok(part(entry, shared, orchestrator::Orchestrator::new(config), None))
        },
    },
    Component {
        name: "invoker",
        topics: <invoker::Invoker as Processor>::In::topics,
        stateful: true,
        fusable: true,
        check: |entry, pipeline| {
            let (config, names) = invoker_config(entry, pipeline)?;
            Ok(format!(
                "tools {}; workspaces in {}",
                names.join(", "),
                config.tools.workspaces_dir.display()
            ))
        },
        build: build_invoker,
    },
    Component {
        name: "memory_indexer",
        topics: <memory_indexer::MemoryIndexer as Processor>::In::topics,
        stateful: false,
        fusable: true,
        check: nothing,
        build: |entry, shared| Ok(part(entry, shared, memory_indexer::MemoryIndexer::new(), None)),
    },
    Component {
        name: "audit",
        topics: <stages::audit::Audit as Processor>::In::topics,
        stateful: true,
        // Its state is a partition's, not a run's.
        fusable: false,
        check: |entry, _| {
            let audit = audit(entry)?;
            Ok(format!("signs with key {}", audit.public_key()))
        },
        build: |entry, shared| Ok(part(entry, shared, made(audit(entry))?, None)),
    },
    Component {
        name: "events_per_minute",
        topics: <analytics::EventsPerMinute as kernel::Window>::In::topics,
        stateful: true,
        fusable: false,
        check: |entry, pipeline| {
            let window = window(entry, pipeline)?;
            Ok(format!("SQL of {} reads", kernel::Window::name(&window)))
        },
        build: |entry, shared| {
            let window = made(window(entry, &shared.pipeline))?;
            Ok(Built::Stage(Box::new(WindowStage::new(window))))
        },
    },
    Component {
        name: streaming::COMPONENT,
        // Its SQL names them: `streaming::reads`.
        topics: Vec::new,
        stateful: true,
        fusable: false,
        check: streaming::check,
        build: streaming::build,
    },
    Component {
        name: "clickhouse_sink",
        topics: || {
            vec![
                topics::EVENTS.name,
                topics::RUNS.name,
                topics::VERDICTS.name,
                topics::OUTCOMES.name,
                topics::METRICS.name,
                topics::AUDIT.name,
                topics::CHECKPOINTS.name,
            ]
        },
        stateful: false,
        fusable: false,
        check: |entry, pipeline| {
            let config = configured(entry, stores::clickhouse(&pipeline.connections))?;
            checked(
                sinks::clickhouse::check(&config),
                format!("database {} at {}", config.database, config.url),
            )
        },
        build: |_, shared| {
            let config = stores::clickhouse(&shared.pipeline.connections)?;
            sink(
                shared
                    .handle
                    .block_on(sinks::clickhouse::ClickHouseSink::connect(&config))?,
            )
        },
    },
    Component {
        name: "qdrant_sink",
        topics: || vec![topics::MEMORIES.name],
        stateful: false,
        fusable: false,
        check: |entry, pipeline| {
            let config = configured(entry, stores::qdrant(&pipeline.connections))?;
            checked(
                sinks::qdrant::check(&config),
                format!("collection {} at {}", config.collection, config.url),
            )
        },
        build: |_, shared| {
            let config = stores::qdrant(&shared.pipeline.connections)?;
            let model = stores::embedder(&shared.pipeline.embeddings)?;
            sink(
                shared
                    .handle
                    .block_on(sinks::qdrant::QdrantSink::connect(&config, model))?,
            )
        },
    },
    Component {
        name: "redis_sink",
        topics: || vec![topics::MEMORIES.name],
        stateful: false,
        fusable: false,
        check: |entry, pipeline| {
            let config = configured(entry, stores::redis(&pipeline.connections))?;
            checked(sinks::redis::check(&config), "history per run and tenant".to_owned())
        },
        build: |_, shared| {
            let config = stores::redis(&shared.pipeline.connections)?;
            sink(shared.handle.block_on(sinks::redis::RedisSink::connect(&config))?)
        },
    },
    Component {
        name: "pushgateway_sink",
        topics: || vec![topics::METRICS.name],
        stateful: false,
        fusable: false,
        check: |entry, pipeline| {
            let config = configured(entry, stores::pushgateway(&pipeline.connections, &pipeline.pipeline))?;
            checked(sinks::pushgateway::check(&config), format!("at {}", config.url))
        },
        build: |_, shared| {
            let config = stores::pushgateway(&shared.pipeline.connections, &shared.pipeline.pipeline)?;
            sink(
                shared
                    .handle
                    .block_on(sinks::pushgateway::PushgatewaySink::connect(&config))?,
            )
        },
    },
];

/// A component by name.
pub fn find(name: &str) -> Option<&'static Component> {
    COMPONENTS.iter().find(|c| c.name == name)
}

/// Schema text of a record by name.
pub fn schema_text(record: &str) -> Option<&'static str> {
    const ALL: &[(&str, fn() -> &'static str)] = &[
        (Request::NAME, Request::schema_text),
        (Plan::NAME, Plan::schema_text),
        (Proposal::NAME, Proposal::schema_text),
        (Verdict::NAME, Verdict::schema_text),
        (Approval::NAME, Approval::schema_text),
        (Control::NAME, Control::schema_text),
        (
            schemas::records::Heartbeat::NAME,
            schemas::records::Heartbeat::schema_text,
        ),
        (Delegation::NAME, Delegation::schema_text),
        (Receipt::NAME, Receipt::schema_text),
        (schemas::records::Member::NAME, schemas::records::Member::schema_text),
        (Policy::NAME, Policy::schema_text),
        (Constitution::NAME, Constitution::schema_text),
        (schemas::records::Strike::NAME, schemas::records::Strike::schema_text),
        (schemas::records::Sbom::NAME, schemas::records::Sbom::schema_text),
        (schemas::records::Tally::NAME, schemas::records::Tally::schema_text),
        (Call::NAME, Call::schema_text),
        (Outcome::NAME, Outcome::schema_text),
        (Run::NAME, Run::schema_text),
        (Memory::NAME, Memory::schema_text),
        (Event::NAME, Event::schema_text),
        (Metric::NAME, Metric::schema_text),
        (AuditEntry::NAME, AuditEntry::schema_text),
        (Checkpoint::NAME, Checkpoint::schema_text),
    ];
    ALL.iter().find(|(name, _)| *name == record).map(|(_, text)| text())
}

fn sink<S: Sink>(sink: S) -> Result<Built, Fault> {
    Ok(Built::Stage(Box::new(SinkStage::new(sink))))
}

fn made<T>(result: Result<T, Vec<ConfigFault>>) -> Result<T, Fault> {
    result.map_err(|faults| {
        let lines: Vec<_> = faults.iter().map(ToString::to_string).collect();
        Fault::new(FaultCode::ConfigInvalid, lines.join("; "))
    })
}

fn checked(faults: Vec<ConfigFault>, line: String) -> Result<String, Vec<ConfigFault>> {
    if faults.is_empty() { Ok(line) } else { Err(faults) }
}

/// A sink takes its connection from the pipeline's `connections` and has nothing of its own.
fn configured<T>(entry: &StageEntry, config: Result<T, Fault>) -> Result<T, Vec<ConfigFault>> {
    if !entry.config.is_null() {
        return Err(vec![ConfigFault::new("", "takes no configuration; see `connections`")]);
    }
    config.map_err(|fault| vec![ConfigFault::new("", fault.detail)])
}

fn nothing(entry: &StageEntry, _: &Pipeline) -> Result<String, Vec<ConfigFault>> {
    if entry.config.is_null() {
        Ok("ready".to_owned())
    } else {
        Err(vec![ConfigFault::new("", "takes no configuration")])
    }
}

/// The stage's own configuration, or its defaults when there is none.
pub(crate) fn own<T: serde::de::DeserializeOwned>(entry: &StageEntry) -> Result<T, Vec<ConfigFault>> {
    let value = if entry.config.is_null() {
        serde_yaml_ng::Value::Mapping(Default::default())
    } else {
        entry.config.clone()
    };
    read(value, "").map_err(|f| vec![f])
}

/// Every YAML, Rego or JSON file of these folders, as (path, text), sorted.
pub(crate) fn texts(base: &Path, dirs: &[PathBuf]) -> Result<Vec<(String, String)>, Vec<ConfigFault>> {
    let mut files = Vec::new();
    let mut todo: Vec<PathBuf> = dirs.iter().map(|d| base.join(d)).collect();
    while let Some(dir) = todo.pop() {
        let unreadable = |e: std::io::Error| {
            vec![ConfigFault::new(
                dir.display().to_string(),
                format!("cannot be read: {e}"),
            )]
        };
        for entry in std::fs::read_dir(&dir).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if path.is_dir() {
                todo.push(path);
            } else if path
                .extension()
                .is_some_and(|e| ["yaml", "yml", "json", "rego"].iter().any(|k| e == *k))
            {
                let text = std::fs::read_to_string(&path).map_err(unreadable)?;
                let short = path.strip_prefix(base).unwrap_or(&path).display().to_string();
                files.push((short.trim_start_matches("../").to_owned(), text));
            }
        }
    }
    files.sort();
    Ok(files)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IntakeConfig {
    /// Folders of capsules and wizards, from the pipeline file.
    catalogue: Vec<PathBuf>,
    #[serde(default = "week")]
    dedupe_hours: f64,
}

fn week() -> f64 {
    7.0 * 24.0
}

fn intake(entry: &StageEntry, pipeline: &Pipeline) -> Result<(intake::Intake, String), Vec<ConfigFault>> {
    let config: IntakeConfig = own(entry)?;
    let files = texts(&pipeline.dir, &config.catalogue)?;
    let catalogue = intake::Catalogue::parse(&files)?;
    let line = format!("{} catalogue files", files.len());
    Ok((
        intake::Intake::new(catalogue, pipeline.values.clone(), config.dedupe_hours)?,
        line,
    ))
}

fn check_intake(entry: &StageEntry, pipeline: &Pipeline) -> Result<String, Vec<ConfigFault>> {
    let config: IntakeConfig = own(entry)?;
    let catalogue = intake::Catalogue::parse(&texts(&pipeline.dir, &config.catalogue)?)?;
    let known = tool_names()?;
    let unknown: Vec<_> = catalogue
        .tools()
        .into_iter()
        .filter(|(_, tool, _)| !known.iter().any(|k| k == tool))
        .map(|(capsule, tool, _)| ConfigFault::new(capsule, format!("there is no tool `{tool}`")))
        .collect();
    if unknown.is_empty() {
        intake(entry, pipeline).map(|(_, line)| line)
    } else {
        Err(unknown)
    }
}

/// Names of the tools of this build, whatever their configuration.
fn tool_names() -> Result<Vec<&'static str>, Vec<ConfigFault>> {
    let config: tools::Config =
        serde_json::from_value(serde_json::json!({"terraform_path": "terraform", "workspaces_dir": "."}))
            .map_err(|e| vec![ConfigFault::new("tools", e.to_string())])?;
    Ok(tools::all(&config).iter().map(|t| t.name()).collect())
}

fn orchestrator(entry: &StageEntry) -> Result<orchestrator::Config, Vec<ConfigFault>> {
    let config: orchestrator::Config = own(entry)?;
    let faults = config.check();
    if faults.is_empty() { Ok(config) } else { Err(faults) }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InvokerConfig {
    /// File with the gate's signing key; only its public half is kept.
    verdict_key_file: PathBuf,
    #[serde(default)]
    stage: invoker::Config,
    tools: tools::Config,
    #[serde(default)]
    limits: tools::Limits,
}

fn invoker_config(entry: &StageEntry, _: &Pipeline) -> Result<(InvokerConfig, Vec<&'static str>), Vec<ConfigFault>> {
    let config: InvokerConfig = own(entry)?;
    key(&config.verdict_key_file, "verdict_key_file")?;
    let mut faults: Vec<_> = config
        .tools
        .check()
        .into_iter()
        .map(|f| ConfigFault::new(format!("tools.{}", f.path), f.detail))
        .collect();
    faults.extend(
        config
            .stage
            .check()
            .into_iter()
            .map(|f| ConfigFault::new(format!("stage.{}", f.path), f.detail)),
    );
    let dir = &config.tools.workspaces_dir;
    if let Err(e) = writable(dir) {
        let detail = format!(
            "{} cannot be written: {e}; name a folder this user may write to",
            dir.display()
        );
        faults.push(ConfigFault::new("tools.workspaces_dir", detail));
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let names = tools::all(&config.tools).iter().map(|t| t.name()).collect();
    Ok((config, names))
}

/// Makes the folder and a file in it, as the first run would.
fn writable(dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    // Instances that start at once each try a file of their own.
    let probe = dir.join(format!(".writable-{}", std::process::id()));
    std::fs::write(&probe, b"")?;
    std::fs::remove_file(&probe)
}

fn build_invoker(entry: &StageEntry, shared: &Shared) -> Result<Built, Fault> {
    let (config, _) = made(invoker_config(entry, &shared.pipeline))?;
    let public = policy_gate::public_key(made(key(&config.verdict_key_file, "verdict_key_file"))?);
    let secrets = tools::Secrets(shared.pipeline.secrets.clone());
    let controls = shared.controls.clone();
    let engine = tools::Engine::new(
        tools::all(&config.tools),
        secrets,
        config.limits,
        shared.clock.clone(),
        Arc::new(move || controls.now().0),
    );
    let invoker = invoker::Invoker::new(public, config.stage);
    Ok(part(entry, shared, invoker, Some(Arc::new(engine))))
}

fn part<P: Processor>(
    entry: &StageEntry,
    shared: &Shared,
    processor: P,
    performer: Option<Arc<dyn Performer>>,
) -> Built {
    let state = if std::mem::size_of::<P::State>() > 0 {
        state_topic(&shared.pipeline.pipeline, entry.name())
    } else {
        String::new()
    };
    let at = shared.pipeline.state_at(entry);
    let part = Part::new(entry.name(), state.clone(), processor, performer).state_at(at);
    if !entry.standby.0 {
        return Built::Member(Box::new(part));
    }
    let follow = kafka::Follower::new(&shared.pipeline.connections.kafka, &state);
    Built::Member(Box::new(part.standby(Box::new(follow), shared.metrics.clone())))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WindowConfig {
    /// SQL file, from the pipeline file.
    sql: PathBuf,
    #[serde(default)]
    window: analytics::Config,
}

fn window(entry: &StageEntry, pipeline: &Pipeline) -> Result<analytics::EventsPerMinute, Vec<ConfigFault>> {
    let config: WindowConfig = own(entry)?;
    let path = pipeline.dir.join(&config.sql);
    let sql = std::fs::read_to_string(&path)
        .map_err(|e| vec![ConfigFault::new("sql", format!("{}: {e}", path.display()))])?;
    analytics::EventsPerMinute::new(config.window, &sql)
}
