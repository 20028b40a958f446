//! The options of a table: which topic, what for, and our own settings (`soma.*`), which are left out where another engine runs the
//! file.

use datafusion::sql::sqlparser::tokenizer::Location;
use kernel::ConfigFault;

use super::dialect::at;
use super::span;

/// Known options. Those of Arroyo that say nothing to us are accepted.
const KNOWN: &[&str] = &[
    "connector",
    "type",
    "topic",
    "format",
    "bootstrap_servers",
    "avro.confluent_schema_registry",
    "schema_registry.endpoint",
    "source.offset",
    "source.group_id",
    "source.read_mode",
    "sink.commit_mode",
    "event_time_field",
    "watermark_field",
    "soma.unique",
    "soma.allowed_lateness",
    "soma.idle",
    "soma.lookup",
];

/// What a table is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Source,
    Sink,
    /// A compacted topic that every instance holds, to look keys up in.
    Lookup,
}

/// Settings of a table.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) topic: String,
    pub(crate) role: Role,
    pub(crate) unique: Option<String>,
    pub(crate) lateness: Option<i64>,
    pub(crate) idle: Option<i64>,
}

/// Reads `WITH (...)`.
pub(crate) fn options(given: &[(String, String, Location)], start: Location) -> Result<Options, Vec<ConfigFault>> {
    let mut faults = Vec::new();
    let mut fault = |place: Location, detail: String| faults.push(ConfigFault::new(at(place), detail));
    let mut read = Options {
        topic: String::new(),
        role: Role::Source,
        unique: None,
        lateness: None,
        idle: None,
    };
    let (mut role, mut lookup) = (None, false);
    for (name, value, place) in given {
        match name.as_str() {
            "topic" => read.topic.clone_from(value),
            "connector" if value != "kafka" => {
                fault(*place, format!("connector '{value}' is not known; the log is 'kafka'"))
            }
            "format" if value != "avro" => fault(*place, format!("format '{value}' is not known; records are 'avro'")),
            "type" => match value.as_str() {
                "source" => role = Some(Role::Source),
                "sink" => role = Some(Role::Sink),
                "lookup" => role = Some(Role::Lookup),
                _ => fault(
                    *place,
                    format!("type '{value}' is neither 'source' nor 'sink' nor 'lookup'"),
                ),
            },
            "soma.unique" => read.unique = Some(value.clone()),
            "soma.lookup" => lookup = value == "true",
            "soma.allowed_lateness" | "soma.idle" => match span::micros(value) {
                Ok(micros) if name == "soma.idle" => read.idle = Some(micros),
                Ok(micros) => read.lateness = Some(micros),
                Err(says) => fault(*place, format!("option `{name}`: {says}")),
            },
            known if KNOWN.contains(&known) => {}
            unknown => fault(
                *place,
                format!("option `{unknown}` is not known; did you mean `{}`?", nearest(unknown)),
            ),
        }
    }
    if read.topic.is_empty() {
        fault(start, "the table names no topic; add topic = '...'".to_owned());
    }
    match role {
        Some(Role::Source) if lookup => read.role = Role::Lookup,
        Some(Role::Sink) if lookup => fault(
            start,
            "a sink is no lookup: take 'soma.lookup' out, or write type = 'source'".to_owned(),
        ),
        Some(role) => read.role = role,
        None => fault(
            start,
            "the table has no type; add type = 'source' or type = 'sink'".to_owned(),
        ),
    }
    if faults.is_empty() { Ok(read) } else { Err(faults) }
}

/// The known option that takes the fewest edits.
fn nearest(unknown: &str) -> &'static str {
    KNOWN
        .iter()
        .min_by_key(|known| edits(unknown, known))
        .copied()
        .unwrap_or("topic")
}

/// Levenshtein's distance.
pub(crate) fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let replaced = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(corner + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}
