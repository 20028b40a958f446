//! Streaming SQL as a stage of a pipeline: its files, the topics it needs, and what stands between the engine and the registry.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use analytics::streaming::{Program, Schemas, Settings};
use analytics::udf::Udfs;
use kafka::{Admin, Registry};
use kernel::{Blame, ConfigFault, Fault, FaultCode};
use runtime::DataflowStage;
use schemas::topics::{Catalogue, Cleanup, Entry};
use serde::Deserialize;

use crate::config::{Pipeline, StageEntry};
use crate::lookups::Lookups;
use crate::registry::{self, Built, own};
use crate::wire::Shared;

/// Name of the component.
pub const COMPONENT: &str = "streaming_sql";
/// Partial results are only read by the stage itself, and soon.
const PARTIALS_HOURS: i64 = 24;
/// Frames of partial rows and pieces of state: below what the producer sends at most.
const FRAME_BYTES_MAX: i64 = 8 << 20;
/// A topic that takes its number of partitions from the environment, as those of streaming SQL do.
const LIKE: &str = "soma.events";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// SQL file, from the pipeline file.
    sql: PathBuf,
    /// Avro schema files of sources that are not the platform's, by topic, from the pipeline file.
    #[serde(default)]
    schemas: BTreeMap<String, PathBuf>,
    /// Folder of UDFs the SQL may call, as `make udfs` builds them; none when left out or empty.
    #[serde(default)]
    udfs: PathBuf,
    #[serde(default)]
    idle_ms: Option<i64>,
    #[serde(default)]
    allowed_lateness_ms: Option<i64>,
    #[serde(default)]
    future_max_ms: Option<i64>,
    /// Most that open windows may take in one instance.
    #[serde(default)]
    state_mb_max: Option<usize>,
    /// Most that lookups may take in one instance.
    #[serde(default)]
    lookup_mb_max: Option<usize>,
}

/// A stage's SQL, planned.
pub struct Planned {
    /// The program.
    pub program: Program,
    /// Its SQL.
    pub sql: String,
    /// Where its SQL is, from the pipeline file.
    pub file: PathBuf,
    /// How to run it; the number of partitions is the topics' own.
    pub settings: Settings,
    /// Avro JSON of sources that are not the platform's, by topic.
    pub schemas: BTreeMap<String, String>,
    /// Avro JSON of every source, by topic.
    pub sources: BTreeMap<String, String>,
}

/// What the stages of a pipeline were planned to, by their names. Planning takes more than all else of a start, and touches more of the
/// program than all else of a stage: the check, the topics a task reads and the stage itself share one plan, and so mean the same SQL
/// whatever becomes of the file meanwhile.
#[derive(Clone, Default)]
pub struct Plans(Arc<Mutex<BTreeMap<String, Arc<Planned>>>>);

impl std::fmt::Debug for Plans {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str("Plans")
    }
}

/// The plan of a stage's SQL; made at the first call, from the files as they are then.
///
/// # Errors
/// Every fault, with file, line and column.
pub fn plan(entry: &StageEntry, pipeline: &Pipeline) -> Result<Arc<Planned>, Vec<ConfigFault>> {
    let mut plans = pipeline.plans.0.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(planned) = plans.get(entry.name()) {
        return Ok(planned.clone());
    }
    let planned = Arc::new(planned(entry, pipeline)?);
    plans.insert(entry.name().to_owned(), planned.clone());
    Ok(planned)
}

/// Reads and plans.
fn planned(entry: &StageEntry, pipeline: &Pipeline) -> Result<Planned, Vec<ConfigFault>> {
    let config: Config = own(entry)?;
    let file = config.sql.clone();
    let shown = |faults: Vec<ConfigFault>| faults.into_iter().map(|f| placed(&file, f)).collect::<Vec<_>>();
    let sql = text(pipeline, &config.sql, "sql")?;
    let given = |(topic, path): (&String, &PathBuf)| {
        text(pipeline, path, &format!("schemas.{topic}")).map(|text| (topic.clone(), text))
    };
    let schemas: BTreeMap<_, _> = config.schemas.iter().map(given).collect::<Result<_, _>>()?;
    let catalogue = Catalogue::load().map_err(|e| vec![ConfigFault::new("topics.yaml", e)])?;
    let (mut sources, mut faults) = (BTreeMap::new(), Vec::new());
    for topic in Program::topics(&sql).map_err(shown)? {
        let ours = catalogue.get(&topic).and_then(|t| registry::schema_text(&t.record));
        match schemas.get(&topic).map(String::as_str).or(ours) {
            Some(schema) => _ = sources.insert(topic, schema.to_owned()),
            None => faults.push(ConfigFault::new(
                format!("schemas.{topic}"),
                format!("the schema of {topic} is not known; name its .avsc file here"),
            )),
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let udfs = udfs(&config, pipeline)?;
    let program = Program::plan_with(&sql, &sources, &udfs).map_err(shown)?;
    let settings = settings(&config, entry, pipeline);
    Ok(Planned {
        program,
        sql,
        file,
        settings,
        schemas,
        sources,
    })
}

fn udfs(config: &Config, pipeline: &Pipeline) -> Result<Udfs, Vec<ConfigFault>> {
    if config.udfs.as_os_str().is_empty() {
        return Ok(Udfs::default());
    }
    let at = |f: ConfigFault| ConfigFault::new("udfs", f.to_string());
    let loaded = analytics::udf::load(&pipeline.dir.join(&config.udfs));
    loaded.map_err(|faults| faults.into_iter().map(at).collect())
}

fn settings(config: &Config, entry: &StageEntry, pipeline: &Pipeline) -> Settings {
    let usual = Settings::default();
    Settings {
        pipeline: pipeline.pipeline.clone(),
        stage: entry.name().to_owned(),
        idle_ms: config.idle_ms.unwrap_or(usual.idle_ms),
        allowed_lateness_ms: config.allowed_lateness_ms.unwrap_or(usual.allowed_lateness_ms),
        future_max_ms: config.future_max_ms.unwrap_or(usual.future_max_ms),
        lookup_bytes_max: config.lookup_mb_max.map_or(usual.lookup_bytes_max, |mb| mb << 20),
        state_bytes_max: config.state_mb_max.map_or(usual.state_bytes_max, |mb| mb << 20),
        ..usual
    }
}

/// The engine speaks of lines and columns; of which file, it does not know.
fn placed(file: &std::path::Path, fault: ConfigFault) -> ConfigFault {
    let file = file.display();
    let path = match fault.path.as_str() {
        "" | "sql" => file.to_string(),
        place => format!(
            "{file}:{}",
            place.trim_start_matches("sql").trim_start_matches([':', '.'])
        ),
    };
    ConfigFault::new(path, fault.detail)
}

fn text(pipeline: &Pipeline, path: &std::path::Path, at: &str) -> Result<String, Vec<ConfigFault>> {
    let path = pipeline.dir.join(path);
    std::fs::read_to_string(&path).map_err(|e| vec![ConfigFault::new(at, format!("{}: {e}", path.display()))])
}

impl Planned {
    /// Topics an instance reads, the sources first.
    pub fn reads(&self) -> Vec<String> {
        let own = self.program.repartitions();
        let own = own.iter().map(|suffix| self.settings.topic(suffix));
        self.program.sources().into_iter().chain(own).collect()
    }

    /// Topics it needs beside its changelog and those of the catalogue: sources of its own with their dead letters, results,
    /// partial results, and what came too late.
    pub fn topics(&self, catalogue: &Catalogue) -> Vec<Entry> {
        let like = self.like(catalogue);
        let plain = |name: String| Entry { name, ..like.clone() };
        let mut all = Vec::new();
        let sources = self.program.sources().into_iter().map(|t| (t, Cleanup::Delete));
        // A lookup is its newest rows.
        let lookups = self.program.lookups().into_iter().map(|t| (t, Cleanup::Compact));
        for (name, cleanup) in sources.chain(lookups).filter(|(t, _)| catalogue.get(t).is_none()) {
            all.push(catalogue.dlq(&name));
            all.push(Entry { cleanup, ..plain(name) });
        }
        let results = self.program.results().into_iter();
        all.extend(
            results
                .map(|r| plain(r.topic))
                .filter(|t| catalogue.get(&t.name).is_none()),
        );
        all.extend(self.program.repartitions().iter().map(|suffix| Entry {
            retention_hours: PARTIALS_HOURS,
            bytes_max: FRAME_BYTES_MAX,
            ..plain(self.settings.topic(suffix))
        }));
        all.push(plain(self.settings.topic("late")));
        all
    }

    /// Schemas to register: (subject, Avro JSON), of sources that are not the platform's and of results.
    pub fn subjects(&self) -> Vec<(String, String)> {
        let sources = self.schemas.iter();
        let sources = sources.map(|(topic, text)| (format!("{topic}-value"), text.clone()));
        let results = self.program.results().into_iter();
        sources.chain(results.map(|r| (r.subject, r.avro_json))).collect()
    }

    /// The changelog's entry.
    pub fn state(&self, catalogue: &Catalogue) -> Entry {
        Entry {
            bytes_max: FRAME_BYTES_MAX,
            ..catalogue.state(&self.settings.topic("state"), self.like(catalogue).partitions)
        }
    }

    /// What all its topics are like: the first source of the catalogue, else a topic of the platform's that a cluster sizes.
    fn like(&self, catalogue: &Catalogue) -> Entry {
        let sources = self.program.sources();
        let known = sources.iter().find_map(|t| catalogue.get(t));
        let like = known.or_else(|| catalogue.get(LIKE)).cloned();
        Entry {
            record: String::new(),
            key: String::new(),
            owner: self.settings.pipeline.clone(),
            cleanup: Cleanup::Delete,
            ..like.unwrap_or_else(|| catalogue.dlq(""))
        }
    }
}

/// Checks a stage without touching anything outside.
pub(crate) fn check(entry: &StageEntry, pipeline: &Pipeline) -> Result<String, Vec<ConfigFault>> {
    let planned = plan(entry, pipeline)?;
    let results: Vec<_> = planned.program.results().into_iter().map(|r| r.topic).collect();
    let lookups = planned.program.lookups();
    let looks_up = if lookups.is_empty() {
        String::new()
    } else {
        format!(", looks up in {}", lookups.join(", "))
    };
    let line = format!(
        "{} reads {}{looks_up}, writes {}",
        planned.file.display(),
        planned.program.sources().join(", "),
        results.join(", ")
    );
    Ok(line)
}

/// Builds a stage: registers its results' schemas and asks the brokers how its sources are partitioned.
pub(crate) fn build(entry: &StageEntry, shared: &Shared) -> Result<Built, Fault> {
    let planned = plan(entry, &shared.pipeline).map_err(|faults| {
        let lines: Vec<_> = faults.iter().map(ToString::to_string).collect();
        Fault::new(FaultCode::ConfigInvalid, lines.join("; "))
    })?;
    let mut ids = BTreeMap::new();
    for result in planned.program.results() {
        let id = shared.registry.register(&result.subject, &result.avro_json)?;
        ids.insert(result.subject, i32::try_from(id).unwrap_or(i32::MAX));
    }
    let settings = Settings {
        partitions: partitions(&planned, shared)?,
        ..planned.settings.clone()
    };
    let schemas = Arc::new(Written(shared.registry.clone()));
    let lookups = Lookups::new(&shared.pipeline.connections.kafka, planned.program.lookups());
    let streaming = planned
        .program
        .clone()
        .start(settings, schemas, ids)?
        .following(Box::new(lookups));
    Ok(Built::Stage(Box::new(DataflowStage::new(streaming))))
}

/// How many partitions all its topics have: partition n of one goes with partition n of the others.
fn partitions(planned: &Planned, shared: &Shared) -> Result<i32, Fault> {
    let have = Admin::open(&shared.pipeline.connections.kafka)?.partitions()?;
    let reads = planned.reads();
    let counts: BTreeMap<&str, usize> = reads
        .iter()
        .filter_map(|t| have.get(t).map(|n| (t.as_str(), *n)))
        .collect();
    let first = reads.first().and_then(|t| counts.get(t.as_str())).copied();
    let (blame, detail) = match first {
        None => {
            let detail = format!("topics {} are not there; run `soma topics apply`", reads.join(", "));
            (Blame::Dependency, detail)
        }
        Some(n) if counts.values().all(|c| *c == n) => return Ok(i32::try_from(n).unwrap_or(i32::MAX)),
        Some(_) => {
            let detail = format!(
                "{counts:?} have different numbers of partitions; make them alike, or write the views of each in a stage of its own"
            );
            (Blame::Ourselves, detail)
        }
    };
    Err(Fault {
        blame,
        ..Fault::new(FaultCode::TopicsMismatched, detail)
    })
}

/// Writers' schemas, from the registry.
pub(crate) struct Written(pub(crate) Arc<Registry>);

impl Schemas for Written {
    fn writer(&self, _: &str, id: i32) -> Result<String, Fault> {
        self.0.text(u32::try_from(id).unwrap_or(u32::MAX))
    }
}

/// Topics a stage reads; the first leads when they are partitioned alike.
pub fn reads(entry: &StageEntry, pipeline: &Pipeline) -> Vec<String> {
    if entry.component == COMPONENT {
        // What is wrong with it the check says.
        return plan(entry, pipeline).map(|p| p.reads()).unwrap_or_default();
    }
    let component = registry::find(&entry.component);
    let topics = component.map(|c| (c.topics)()).unwrap_or_default();
    topics.into_iter().map(str::to_owned).collect()
}
