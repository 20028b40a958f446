//! Configuration: the only place that reads the environment. YAML is parsed first, `${VAR}` replaced afterwards in its
//! text values, then everything is checked as a whole and every fault listed at once with its path.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kafka::Brokers;
use kernel::ConfigFault;
use runtime::{Limits, StateAt};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_yaml_ng::Value;

use crate::streaming::Plans;

/// Variables: those of the process, over those of an env file (`.soma/dev.env` of the dev stack).
#[derive(Clone, Debug, Default)]
pub struct Environment {
    vars: BTreeMap<String, String>,
    /// The env file that was read, if any.
    pub file: Option<PathBuf>,
}

impl Environment {
    /// Reads the process's variables and the env file: `given`, else `.soma/dev.env` here or in a folder above.
    ///
    /// # Errors
    /// The given file cannot be read; the text names it.
    pub fn load(given: Option<&Path>) -> Result<Self, String> {
        let file = match given {
            Some(path) => Some(path.to_owned()),
            None => std::env::current_dir().ok().and_then(|here| {
                here.ancestors()
                    .map(|d| d.join(".soma/dev.env"))
                    .find(|candidate| candidate.is_file())
            }),
        };
        let mut vars = BTreeMap::new();
        if let Some(path) = &file {
            let text = std::fs::read_to_string(path)
                .map_err(|e| format!("env file {}: {e}; `make up` writes .soma/dev.env", path.display()))?;
            for line in text
                .lines()
                .map(str::trim)
                .filter(|l| !l.is_empty() && !l.starts_with('#'))
            {
                if let Some((k, v)) = line.split_once('=') {
                    vars.insert(k.trim().to_owned(), v.trim().trim_matches('"').to_owned());
                }
            }
        }
        vars.extend(std::env::vars());
        Ok(Self { vars, file })
    }

    /// Variables given directly, for tests.
    pub fn of(vars: impl IntoIterator<Item = (String, String)>) -> Self {
        Self {
            vars: vars.into_iter().collect(),
            file: None,
        }
    }

    /// A variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.vars.get(name).map(String::as_str)
    }
}

/// One entry of `stages`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageEntry {
    /// Component of the registry.
    #[serde(rename = "use")]
    pub component: String,
    /// Stage name, when it differs from the component's.
    pub name: Option<String>,
    /// Limits of its loop.
    #[serde(default)]
    pub limits: Limits,
    /// Where its state is kept.
    #[serde(default)]
    pub state: StateKept,
    /// Follows the partitions of its state that other instances own, so that taking one over reads only the tail of its changelog.
    #[serde(default)]
    pub standby: Switch,
    /// The component's own configuration.
    #[serde(default)]
    pub config: Value,
}

/// `true` or `false`, as such or, out of a variable, as text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Value")]
pub struct Switch(pub bool);

impl TryFrom<Value> for Switch {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        match &value {
            Value::Bool(on) => Ok(Switch(*on)),
            Value::String(text) if text.trim() == "true" => Ok(Switch(true)),
            Value::String(text) if text.trim() == "false" => Ok(Switch(false)),
            _ => Err("is neither true nor false".to_owned()),
        }
    }
}

/// Where a stage keeps its state; the changelog topic holds it in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StateKept {
    /// In memory.
    #[default]
    Memory,
    /// On disk, below the pipeline's `state_dir`.
    Disk,
}

impl StageEntry {
    /// Name of the stage.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.component)
    }
}

/// Whole seconds, as a number or, out of a variable, as text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Value")]
pub struct Seconds(pub u32);

impl TryFrom<Value> for Seconds {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let number = match &value {
            Value::Number(n) => n.as_u64().and_then(|n| u32::try_from(n).ok()),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        number
            .map(Seconds)
            .ok_or_else(|| "is not whole seconds; write for example 60".to_owned())
    }
}

/// Where ClickHouse is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClickHouseAt {
    /// HTTP URL.
    pub url: String,
    /// Database.
    pub database: String,
    /// User.
    pub user: String,
    /// Password.
    pub password: String,
}

/// Where Qdrant is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QdrantAt {
    /// gRPC URL.
    pub url: String,
    /// API key; empty for none.
    #[serde(default)]
    pub api_key: String,
}

/// A URL.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UrlAt {
    /// The URL, with credentials where the system takes them there.
    pub url: String,
}

/// The real systems the platform talks to.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connections {
    /// Brokers.
    pub kafka: Brokers,
    /// Schema registry.
    pub registry: UrlAt,
    /// ClickHouse.
    pub clickhouse: ClickHouseAt,
    /// Qdrant.
    pub qdrant: QdrantAt,
    /// Redis.
    pub redis: UrlAt,
    /// Pushgateway.
    pub pushgateway: UrlAt,
}

/// Where a model lies on disk.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelAt {
    /// libonnxruntime.
    pub runtime: PathBuf,
    /// The .onnx file.
    pub model: PathBuf,
    /// tokenizer.json.
    pub tokenizer: PathBuf,
}

/// `/health`, `/ready`, `/metrics`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// `address:port`.
    pub listen: String,
}

/// Logs and traces.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// OTLP/HTTP collector, for example `http://collector:4318/v1/traces`; empty exports nothing.
    #[serde(default)]
    pub otlp_url: String,
    /// Log filter, for example `info` or `info,soma_runtime=debug`.
    #[serde(default)]
    pub log: String,
}

/// A pipeline.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// Its name: part of every group, transactional id and changelog.
    pub pipeline: String,
    /// Name of this instance, unique among living instances of the pipeline.
    pub instance: String,
    /// Milliseconds after which a silent instance loses its partitions.
    #[serde(default = "session_timeout_ms")]
    pub session_timeout_ms: u32,
    /// Folder for stages with `state: disk`; each instance has one of its own in it. Relative paths start at the pipeline's folder.
    #[serde(default)]
    pub state_dir: Option<PathBuf>,
    /// Seconds without a heartbeat on `soma.heartbeats` after which everything is held; 0 wants none.
    #[serde(default)]
    pub dead_man_s: Seconds,
    /// File with the public keys that may sign constitutions, by tenant; empty lets nobody.
    #[serde(default)]
    pub constitution_signers_file: PathBuf,
    /// The systems it talks to.
    pub connections: Connections,
    /// The model that embeds text.
    pub embeddings: ModelAt,
    /// Admin endpoint.
    pub admin: Admin,
    /// Logs and traces.
    #[serde(default)]
    pub telemetry: Telemetry,
    /// Operator values the catalogue may refer to as `${values.<name>}`.
    #[serde(default)]
    pub values: BTreeMap<String, String>,
    /// Secrets tools may refer to by name.
    #[serde(default)]
    pub secrets: BTreeMap<String, String>,
    /// Its stages.
    pub stages: Vec<StageEntry>,
    /// Stages that run as one task: one consumer, one transaction, in the order given. Their topics are written all the same.
    #[serde(default)]
    pub fuse: Vec<Vec<String>>,
    /// Folder of the file: relative paths start here.
    #[serde(skip)]
    pub dir: PathBuf,
    /// Plans of its stages of streaming SQL.
    #[serde(skip)]
    pub plans: Plans,
}

fn session_timeout_ms() -> u32 {
    6_000
}

impl Pipeline {
    /// Reads a pipeline file and replaces variables. Component configuration is checked by the registry.
    ///
    /// # Errors
    /// Every fault of the file, with its path.
    pub fn load(file: &Path, env: &Environment) -> Result<Self, Vec<ConfigFault>> {
        let shown = file.display().to_string();
        let text = std::fs::read_to_string(file)
            .map_err(|e| vec![ConfigFault::new(&shown, format!("cannot be read: {e}"))])?;
        let mut pipeline = Self::parse(&text, env)?;
        pipeline.dir = file.parent().unwrap_or(Path::new(".")).to_owned();
        Ok(pipeline)
    }

    /// Parses pipeline text.
    ///
    /// # Errors
    /// As [`Pipeline::load`].
    pub fn parse(text: &str, env: &Environment) -> Result<Self, Vec<ConfigFault>> {
        let mut value: Value =
            serde_yaml_ng::from_str(text).map_err(|e| vec![ConfigFault::new("(file)", format!("is not YAML: {e}"))])?;
        let mut faults = Vec::new();
        replace(&mut value, "", env, &mut faults);
        let stages = value
            .get("stages")
            .and_then(Value::as_sequence)
            .cloned()
            .unwrap_or_default();
        // One fault per part, not the first alone: the parts are read one by one.
        for (i, stage) in stages.iter().enumerate() {
            faults.extend(read::<StageEntry>(stage.clone(), &format!("stages[{i}]")).err());
        }
        if let Value::Mapping(map) = &value {
            for (key, part) in map {
                let (Some(name), part) = (key.as_str(), part.clone()) else {
                    continue;
                };
                faults.extend(match name {
                    "connections" => connections(&part),
                    "admin" => read::<Admin>(part, name).err().into_iter().collect(),
                    "telemetry" => read::<Telemetry>(part, name).err().into_iter().collect(),
                    "embeddings" => read::<ModelAt>(part, name).err().into_iter().collect(),
                    "values" | "secrets" => read::<BTreeMap<String, String>>(part, name).err().into_iter().collect(),
                    "pipeline" | "instance" => read::<String>(part, name).err().into_iter().collect(),
                    "fuse" => read::<Vec<Vec<String>>>(part, name).err().into_iter().collect(),
                    "constitution_signers_file" => read::<PathBuf>(part, name).err().into_iter().collect(),
                    "state_dir" => read::<PathBuf>(part, name).err().into_iter().collect(),
                    "dead_man_s" => read::<Seconds>(part, name).err().into_iter().collect(),
                    "session_timeout_ms" => read::<u32>(part, name).err().into_iter().collect(),
                    "stages" if part.is_sequence() => vec![],
                    "stages" => vec![ConfigFault::new("stages", "must be a list")],
                    other => vec![ConfigFault::new(other, "is not a key of a pipeline file")],
                });
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        read(value, "(file)").map_err(|fault| vec![fault])
    }
}

impl Pipeline {
    /// Where a stage keeps its state.
    pub fn state_at(&self, entry: &StageEntry) -> StateAt {
        match (entry.state, &self.state_dir) {
            (StateKept::Disk, Some(folder)) => {
                let below = [&self.pipeline, &self.instance, entry.name()];
                StateAt::Disk(below.iter().fold(self.dir.join(folder), |path, name| path.join(name)))
            }
            _ => StateAt::Memory,
        }
    }
}

fn connections(part: &Value) -> Vec<ConfigFault> {
    let Value::Mapping(map) = part else {
        return vec![ConfigFault::new("connections", "must be a mapping")];
    };
    let mut faults = Vec::new();
    for (key, at) in map {
        let name = key.as_str().unwrap_or_default();
        let path = format!("connections.{name}");
        faults.extend(match name {
            "kafka" => read::<Brokers>(at.clone(), &path).err(),
            "clickhouse" => read::<ClickHouseAt>(at.clone(), &path).err(),
            "qdrant" => read::<QdrantAt>(at.clone(), &path).err(),
            "registry" | "redis" | "pushgateway" => read::<UrlAt>(at.clone(), &path).err(),
            _ => Some(ConfigFault::new(path, "is not a connection")),
        });
    }
    faults
}

/// Reads a part of a configuration.
///
/// # Errors
/// The fault with its path.
pub fn read<T: DeserializeOwned>(value: Value, path: &str) -> Result<T, ConfigFault> {
    serde_yaml_ng::from_value(value).map_err(|e| ConfigFault::new(path, e.to_string()))
}

/// Replaces `${VAR}` and `${VAR:-default}` in every text value. `$${` stays `${`.
fn replace(value: &mut Value, path: &str, env: &Environment, faults: &mut Vec<ConfigFault>) {
    match value {
        Value::String(text) if text.contains("${") => match expand(text, env) {
            Ok(expanded) => *text = expanded,
            Err(missing) => faults.push(ConfigFault::new(
                path,
                format!("variable {missing} is not set; set it, run `make up` (which writes .soma/dev.env), or give a default as ${{{missing}:-value}}"),
            )),
        },
        Value::Sequence(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                replace(item, &format!("{path}[{i}]"), env, faults);
            }
        }
        Value::Mapping(map) => {
            for (key, item) in map.iter_mut() {
                let name = key.as_str().unwrap_or("?").to_owned();
                let at = if path.is_empty() { name } else { format!("{path}.{name}") };
                replace(item, &at, env, faults);
            }
        }
        _ => {}
    }
}

fn expand(text: &str, env: &Environment) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            out.push_str(&rest[..at - 1]);
            out.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let Some(end) = rest[at..].find('}') else { break };
        let inner = &rest[at + 2..at + end];
        let (name, default) = inner.split_once(":-").map_or((inner, None), |(n, d)| (n, Some(d)));
        match env.get(name).filter(|v| !v.is_empty()).or(default) {
            Some(value) => out.push_str(value),
            None => return Err(name.to_owned()),
        }
        rest = &rest[at + end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_replaced_after_parsing() {
        let env = Environment::of([("A".to_owned(), "x: [1]\n# y".to_owned())]);
        assert_eq!(expand("<${A}>", &env).unwrap(), "<x: [1]\n# y>");
        assert_eq!(expand("${B:-b} $${A}", &env).unwrap(), "b ${A}");
        assert_eq!(expand("${B}", &env).unwrap_err(), "B");
    }

    #[test]
    fn seconds_come_as_a_number_or_out_of_a_variable() {
        let of = |text: &str| Seconds::try_from(serde_yaml_ng::from_str::<Value>(text).unwrap());
        assert_eq!((of("60"), of("'60'")), (Ok(Seconds(60)), Ok(Seconds(60))));
        for bad in ["-1", "1.5", "soon", "[1]", "5000000000"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn all_faults_are_listed_with_their_paths() {
        let text = "pipeline: [x]\ninstance: ${NOPE}\nbogus: 1\nconnections: {kafka: {boot: a}}\nstages: [{use: intake, limits: {batch_max: many}}]";
        let faults = Pipeline::parse(text, &Environment::default()).err().unwrap();
        let paths: Vec<_> = faults.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(
            paths,
            ["instance", "stages[0]", "pipeline", "bogus", "connections.kafka"]
        );
    }
}
