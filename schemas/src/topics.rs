//! Typed topic handles, and the catalogue of `topics.yaml` behind them.

use std::marker::PhantomData;

use serde::Deserialize;

use crate::Record;
use crate::records::{
    Approval, AuditEntry, Call, Checkpoint, Constitution, Control, Delegation, Event, Heartbeat, Member, Memory,
    Metric, Outcome, Plan, Policy, Proposal, Receipt, Request, Run, Sbom, Strike, Tally, Verdict,
};

/// A topic and the record it carries.
pub struct Topic<R> {
    /// Kafka topic name.
    pub name: &'static str,
    record: PhantomData<fn() -> R>,
}

impl<R> Clone for Topic<R> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<R> Copy for Topic<R> {}

impl<R: Record> Topic<R> {
    /// A topic of a pipeline of one's own. The platform's are the constants below.
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            record: PhantomData,
        }
    }
}

/// Goals; written by users.
pub const REQUESTS: Topic<Request> = Topic::new("soma.requests");
/// Plans or refusals; written by intake.
pub const PLANS: Topic<Plan> = Topic::new("soma.plans");
/// Steps put before the gate while running; written by the orchestrator.
pub const PROPOSALS: Topic<Proposal> = Topic::new("soma.proposals");
/// Verdicts; written by the policy gate.
pub const VERDICTS: Topic<Verdict> = Topic::new("soma.verdicts");
/// Humans' answers; written by users.
pub const APPROVALS: Topic<Approval> = Topic::new("soma.approvals");
/// Decisions humans hand on; written by users.
pub const DELEGATIONS: Topic<Delegation> = Topic::new("soma.delegations");
/// What became of humans' answers; written by the orchestrator.
pub const RECEIPTS: Topic<Receipt> = Topic::new("soma.receipts");
/// Roles as they stand; written by users, read by every stage.
pub const MEMBERS: Topic<Member> = Topic::new("soma.members");
/// Policy bundles in force beside the deployed one; written by users, read by the policy gate.
pub const POLICIES: Topic<Policy> = Topic::new("soma.policies");
/// Signed constitutions, every version; written by users, read by the policy gate.
pub const CONSTITUTIONS: Topic<Constitution> = Topic::new("soma.constitutions");
/// Signs of life of who watches; written by users, read by every stage where a pipeline wants them.
pub const HEARTBEATS: Topic<Heartbeat> = Topic::new("soma.heartbeats");
/// Breaches of moderation and their pardons; written by the policy gate and by users, read by the policy gate.
pub const STRIKES: Topic<Strike> = Topic::new("soma.strikes");
/// What tools and capsules are made of; written by users, read by the policy gate.
pub const SBOMS: Topic<Sbom> = Topic::new("soma.sboms");
/// Allowed steps that policies count; written and read by the policy gate.
pub const TALLIES: Topic<Tally> = Topic::new("soma.tallies");
/// Kill switches; written by users, read by every stage.
pub const CONTROLS: Topic<Control> = Topic::new("soma.controls");
/// Attempts; written by the orchestrator.
pub const CALLS: Topic<Call> = Topic::new("soma.calls");
/// What came of them; written by the invoker.
pub const OUTCOMES: Topic<Outcome> = Topic::new("soma.outcomes");
/// Run states; written by the orchestrator.
pub const RUNS: Topic<Run> = Topic::new("soma.runs");
/// Memories; written by the memory indexer.
pub const MEMORIES: Topic<Memory> = Topic::new("soma.memories");
/// Analytics events; written by every stage.
pub const EVENTS: Topic<Event> = Topic::new("soma.events");
/// Windowed numbers; written by analytics.
pub const METRICS: Topic<Metric> = Topic::new("soma.metrics");
/// Audit chains, one a partition; written by audit.
pub const AUDIT: Topic<AuditEntry> = Topic::new("soma.audit");
/// Signed checkpoints of the audit chains; written by audit.
pub const CHECKPOINTS: Topic<Checkpoint> = Topic::new("soma.checkpoints");

/// How old records go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cleanup {
    /// By age.
    Delete,
    /// By newer records of the same key.
    Compact,
}

/// One line of the catalogue with its defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Topic name.
    pub name: String,
    /// Record name, which is also the `.avsc` name; empty for topics without one schema.
    pub record: String,
    /// What the key is made of.
    pub key: String,
    /// Number of partitions.
    pub partitions: i32,
    /// Replication factor.
    pub replication: i32,
    /// Retention in hours; 0 keeps for ever.
    pub retention_hours: i64,
    /// How old records go.
    pub cleanup: Cleanup,
    /// Largest record, bytes.
    pub bytes_max: i64,
    /// Who writes it.
    pub owner: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    name: Option<String>,
    record: Option<String>,
    key: Option<String>,
    owner: Option<String>,
    partitions: Option<i32>,
    replication: Option<i32>,
    retention_hours: Option<i64>,
    cleanup: Option<Cleanup>,
    bytes_max: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    defaults: Line,
    topics: Vec<Line>,
    dlq: Line,
    state: Line,
}

/// The catalogue of `topics.yaml`.
pub struct Catalogue {
    /// Topics that carry records.
    pub topics: Vec<Entry>,
    file: File,
}

impl Catalogue {
    /// The catalogue this build was made with.
    ///
    /// # Errors
    /// `topics.yaml` does not parse; the text says where.
    pub fn load() -> Result<Self, String> {
        Self::parse(include_str!("../topics.yaml"))
    }

    /// The same with another default number of partitions: a cluster's size is not the catalogue's business. Topics that name
    /// their own keep it.
    ///
    /// # Errors
    /// As [`Catalogue::load`].
    pub fn with_partitions(partitions: Option<i32>) -> Result<Self, String> {
        let mut file = Self::load()?.file;
        file.defaults.partitions = partitions.or(file.defaults.partitions);
        let topics = file.topics.iter().map(|line| entry(line, &file.defaults, "")).collect();
        Ok(Self { topics, file })
    }

    /// Reads a catalogue.
    ///
    /// # Errors
    /// The text is not a catalogue.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: File = serde_yaml_ng::from_str(text).map_err(|e| format!("topics.yaml: {e}"))?;
        let topics = file.topics.iter().map(|line| entry(line, &file.defaults, "")).collect();
        Ok(Self { topics, file })
    }

    /// The entry of a topic.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.topics.iter().find(|t| t.name == name)
    }

    /// The dead-letter topic of a topic.
    pub fn dlq(&self, topic: &str) -> Entry {
        entry(&self.file.dlq, &self.file.defaults, &dlq_of(topic))
    }

    /// The changelog of a stage, with as many partitions as its inputs.
    pub fn state(&self, name: &str, partitions: i32) -> Entry {
        Entry {
            partitions,
            ..entry(&self.file.state, &self.file.defaults, name)
        }
    }
}

/// Name of a topic's dead-letter topic.
pub fn dlq_of(topic: &str) -> String {
    format!("{topic}.dlq")
}

fn entry(line: &Line, defaults: &Line, name: &str) -> Entry {
    Entry {
        name: line.name.clone().unwrap_or_else(|| name.to_owned()),
        record: line.record.clone().unwrap_or_default(),
        key: line.key.clone().unwrap_or_default(),
        partitions: line.partitions.or(defaults.partitions).unwrap_or(1),
        replication: line.replication.or(defaults.replication).unwrap_or(1),
        retention_hours: line.retention_hours.or(defaults.retention_hours).unwrap_or(168),
        cleanup: line.cleanup.or(defaults.cleanup).unwrap_or(Cleanup::Delete),
        bytes_max: line.bytes_max.or(defaults.bytes_max).unwrap_or(1_048_576),
        owner: line.owner.clone().unwrap_or_default(),
    }
}
