//! Brings the outside up to what this build expects: topics, schemas, tables. Safe to repeat.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kafka::{Admin, Applied, Registry};
use kernel::{Fault, FaultCode};
use schemas::topics::{Catalogue, Cleanup, Entry};

use crate::config::{Connections, Environment, Pipeline};
use crate::{registry, stores, streaming};

/// Compatibility of every subject: new readers read everything ever written.
const COMPATIBILITY: &str = "BACKWARD_TRANSITIVE";

fn invalid(detail: impl Into<String>) -> Fault {
    Fault::new(FaultCode::ConfigInvalid, detail)
}

fn variable(env: &Environment, name: &str) -> Result<String, Fault> {
    env.get(name).map(str::to_owned).ok_or_else(|| {
        invalid(format!(
            "variable {name} is not set; run `make up` (which writes .soma/dev.env) or set it"
        ))
    })
}

/// Brokers named by the environment.
///
/// # Errors
/// `CONFIG_INVALID` when the variable is missing.
pub fn brokers(env: &Environment) -> Result<kafka::Brokers, Fault> {
    Ok(kafka::Brokers {
        bootstrap: variable(env, "SOMA_KAFKA_BROKERS")?,
        ..kafka::Brokers::default()
    })
}

/// Schema registry named by the environment.
///
/// # Errors
/// `CONFIG_INVALID` when the variable is missing.
pub fn registry_at(env: &Environment, handle: tokio::runtime::Handle) -> Result<Arc<Registry>, Fault> {
    Ok(Arc::new(Registry::new(&variable(env, "SOMA_REGISTRY_URL")?, handle)?))
}

/// The nearest `pipelines` folder from here upwards.
pub fn pipelines_dir() -> Option<PathBuf> {
    let here = std::env::current_dir().ok()?;
    here.ancestors()
        .map(|d| d.join("pipelines"))
        .find(|d| d.join("control-tower/pipeline.yaml").is_file())
}

/// Every shipped pipeline file.
pub fn pipeline_files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut files: Vec<_> = entries
        .flatten()
        .map(|e| e.path().join("pipeline.yaml"))
        .filter(|p| p.is_file())
        .collect();
    files.sort();
    files
}

/// The catalogue, with `SOMA_PARTITIONS` partitions where a topic does not name its own.
///
/// # Errors
/// `CONFIG_INVALID` when the variable is not a number from 1 to 1000.
pub fn catalogue(env: &Environment) -> Result<Catalogue, Fault> {
    let partitions = env.get("SOMA_PARTITIONS").filter(|v| !v.is_empty()).map(|text| {
        text.parse().ok().filter(|n| (1..=1000).contains(n)).ok_or_else(|| {
            let detail =
                format!("SOMA_PARTITIONS is `{text}`; write a number of partitions from 1 to 1000, or leave it out");
            invalid(detail)
        })
    });
    Catalogue::with_partitions(partitions.transpose()?).map_err(invalid)
}

/// Every shipped pipeline file, and others.
fn files(also: &[PathBuf]) -> Vec<PathBuf> {
    let mut files = pipelines_dir().map(|dir| pipeline_files(&dir)).unwrap_or_default();
    let same = |a: &Path, b: &Path| a.canonicalize().ok() == b.canonicalize().ok();
    let new: Vec<_> = also
        .iter()
        .filter(|a| !files.iter().any(|f| same(a, f)))
        .cloned()
        .collect();
    files.extend(new);
    files
}

fn first(file: &Path, faults: &[kernel::ConfigFault]) -> Fault {
    let fault = faults.first().map(ToString::to_string).unwrap_or_default();
    invalid(format!("{}: {fault}", file.display()))
}

/// Schemas of the sources and results of streaming SQL: (subject, Avro JSON).
fn streamed(env: &Environment, also: &[PathBuf]) -> Result<Vec<(String, String)>, Fault> {
    let mut all = Vec::new();
    for file in files(also) {
        let pipeline = Pipeline::load(&file, env).map_err(|faults| first(&file, &faults))?;
        let stages = pipeline.stages.iter();
        for stage in stages.filter(|s| s.component == streaming::COMPONENT) {
            let planned = streaming::plan(stage, &pipeline).map_err(|faults| first(&file, &faults))?;
            all.extend(planned.subjects());
        }
    }
    Ok(all)
}

/// Topics wanted: the catalogue, a dead-letter topic for each, and a changelog for each stage with state.
fn wanted(env: &Environment, also: &[PathBuf]) -> Result<Vec<Entry>, Fault> {
    let catalogue = catalogue(env)?;
    let mut all: Vec<Entry> = catalogue.topics.clone();
    all.extend(catalogue.topics.iter().map(|t| catalogue.dlq(&t.name)));
    for file in files(also) {
        let pipeline = Pipeline::load(&file, env).map_err(|faults| first(&file, &faults))?;
        for stage in &pipeline.stages {
            let Some(component) = registry::find(&stage.component).filter(|c| c.stateful) else {
                continue;
            };
            if stage.component == streaming::COMPONENT {
                let planned = streaming::plan(stage, &pipeline).map_err(|faults| first(&file, &faults))?;
                all.push(planned.state(&catalogue));
                all.extend(planned.topics(&catalogue));
                continue;
            }
            let partitions = (component.topics)()
                .first()
                .and_then(|t| catalogue.get(t))
                .map_or(1, |t| t.partitions);
            all.push(catalogue.state(&state_topic(&pipeline.pipeline, stage.name()), partitions));
        }
    }
    // Two pipelines may read one topic of their own.
    let mut names = BTreeSet::new();
    all.retain(|entry| names.insert(entry.name.clone()));
    Ok(all)
}

/// Changelog of a stage.
pub fn state_topic(pipeline: &str, stage: &str) -> String {
    format!("{pipeline}.{stage}.state")
}

/// Creates what is missing and registers the schemas, of shipped pipelines and of those given: (what, what was done). Nothing is made when a schema is refused.
///
/// # Errors
/// `CONFIG_INVALID` naming subject and field of an incompatible schema; `TOPICS_MISMATCHED`; a dependency that is down.
pub async fn topics(env: &Environment, also: &[PathBuf], dry_run: bool) -> Result<Vec<(String, String)>, Fault> {
    let registry = registry_at(env, tokio::runtime::Handle::current())?;
    let catalogue = catalogue(env)?;
    let mut done = Vec::new();
    for topic in &catalogue.topics {
        let subject = format!("{}-value", topic.name);
        let text = registry::schema_text(&topic.record)
            .ok_or_else(|| invalid(format!("topics.yaml: {} has no .avsc", topic.record)))?;
        for (i, old) in registry.versions(&subject).await?.iter().enumerate() {
            refuse_incompatible(&subject, i + 1, old, text)?;
        }
    }
    let admin = Admin::open(&brokers(env)?)?;
    let existing = admin.partitions()?;
    for entry in wanted(env, also)? {
        if dry_run {
            let plan = if existing.contains_key(&entry.name) {
                "unchanged"
            } else {
                "would be created"
            };
            done.push((entry.name, plan.to_owned()));
            continue;
        }
        let what = match admin.apply(&entry, &existing).await? {
            Applied::Created => "created",
            Applied::Unchanged => "unchanged",
        };
        let how = if entry.cleanup == Cleanup::Compact {
            ", compacted"
        } else {
            ""
        };
        done.push((entry.name, format!("{what} ({} partitions{how})", entry.partitions)));
    }
    if !dry_run {
        registry.set_compatibility(COMPATIBILITY).await?;
        for topic in &catalogue.topics {
            let text = registry::schema_text(&topic.record).unwrap_or_default();
            let id = registry.register(&format!("{}-value", topic.name), text)?;
            done.push((format!("{}-value", topic.name), format!("schema id {id}")));
        }
        for (subject, text) in streamed(env, also)? {
            let id = registry.register(&subject, &text)?;
            done.push((subject, format!("schema id {id}")));
        }
    }
    Ok(done)
}

fn refuse_incompatible(subject: &str, version: usize, old: &str, new: &str) -> Result<(), Fault> {
    let parse = |text: &str| schemas::parse_schema(text).map_err(|e| invalid(format!("{subject}: {e}")));
    match schemas::incompatible(&parse(old)?, &parse(new)?) {
        None => Ok(()),
        Some(why) => Err(invalid(format!(
            "{subject}: this build's schema cannot read what version {version} wrote: {why}; give the field a default, keep its type, or use an alias"
        ))),
    }
}

/// Applies ClickHouse migrations: what was done.
///
/// # Errors
/// A store that is down, or a migration that was changed after it had been applied.
pub async fn migrations(env: &Environment) -> Result<Vec<String>, Fault> {
    let at = stores::clickhouse(&Connections::from_env(env)?)?;
    let done = sinks::clickhouse::migrate(&at).await?;
    Ok(vec![format!("{done:?}")])
}
