//! The demo's figures, read from the topics and compared with every store.

use std::collections::{BTreeMap, BTreeSet};

use comfy_table::Table;
use kafka::{From, Tail};
use kernel::{Fault, RawRecord};
use schemas::records::{Decision, Event, Memory, Outcome, Request, Run, RunStatus, Verdict};
use schemas::topics::{self, Topic, dlq_of};
use schemas::{Record, Timestamp, digest};

use super::{Demo, Runs, ended};

/// What the topics hold of this demo.
pub(crate) struct Topics {
    pub(crate) requested: BTreeSet<String>,
    pub(crate) runs: Runs,
    run_states: usize,
    verdicts: Vec<Verdict>,
    outcomes: Vec<Outcome>,
    pub(super) events: Vec<Event>,
    memories: Vec<Memory>,
    dead: usize,
}

fn raw(demo: &Demo, topic: &str) -> Result<Vec<RawRecord>, Fault> {
    let mut tail = Tail::open(&demo.brokers, topic, From::Beginning)?;
    let mut all = Vec::new();
    while !tail.is_at_end() {
        all.extend(tail.next(100)?);
    }
    Ok(all)
}

pub(super) fn read<R: Record>(demo: &Demo, topic: Topic<R>, keep: impl Fn(&R) -> bool) -> Result<Vec<R>, Fault> {
    let mut all = Vec::new();
    for record in raw(demo, topic.name)? {
        let Some(value) = record.value else { continue };
        // A poison record is on the topic too; it is counted where it ended, on the dead-letter topic.
        if let Ok(decoded) = kernel::decode::<R>(&value, demo.registry.as_ref())
            && keep(&decoded)
        {
            all.push(decoded);
        }
    }
    Ok(all)
}

/// The last state of each of this demo's runs.
pub(crate) fn latest_runs(demo: &Demo) -> Result<Runs, Fault> {
    let states = read(demo, topics::RUNS, |r: &Run| r.idempotency_key.starts_with(&demo.tag))?;
    Ok(states.into_iter().map(|r| (r.run_id.clone(), r)).collect())
}

impl Topics {
    pub(crate) fn read(demo: &Demo) -> Result<Self, Fault> {
        let requests = read(demo, topics::REQUESTS, |r: &Request| {
            r.idempotency_key.starts_with(&demo.tag)
        })?;
        let requested: BTreeSet<String> = requests
            .iter()
            .map(|r| digest::run_id(&r.tenant, &r.idempotency_key))
            .collect();
        let states = read(demo, topics::RUNS, |r: &Run| requested.contains(&r.run_id))?;
        let run_states = states.len();
        let letters = raw(demo, &dlq_of(topics::REQUESTS.name))?;
        Ok(Self {
            runs: states.into_iter().map(|r| (r.run_id.clone(), r)).collect(),
            run_states,
            verdicts: read(demo, topics::VERDICTS, |v: &Verdict| requested.contains(&v.run_id))?,
            outcomes: read(demo, topics::OUTCOMES, |o: &Outcome| requested.contains(&o.run_id))?,
            events: read(demo, topics::EVENTS, |e: &Event| requested.contains(&e.run_id))?,
            memories: read(demo, topics::MEMORIES, |m: &Memory| requested.contains(&m.run_id))?,
            dead: letters.iter().filter(|r| r.key.contains(&demo.tag)).count(),
            requested,
        })
    }
}

/// The runs as a table.
pub(crate) fn runs_table(topics: &Topics) -> String {
    let mut table = Table::new();
    table.load_preset(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["tenant", "goal", "capsule", "status", "steps", "why"]);
    for run in topics.runs.values() {
        let steps: Vec<_> = run
            .steps
            .iter()
            .map(|s| format!("{} {:?}", s.step_id, s.status))
            .collect();
        let capsule = run.capsule.clone().unwrap_or_default();
        table.add_row([
            &run.tenant,
            &run.goal,
            &capsule,
            &format!("{:?}", run.status),
            &steps.join("\n"),
            &run.reason,
        ]);
    }
    table.to_string()
}

/// The line that is printed last.
pub(crate) struct Figures {
    runs: usize,
    succeeded: usize,
    denied: usize,
    escalated: usize,
    compensated: usize,
    dead: usize,
    repeats: usize,
    pub(crate) lost: usize,
}

impl Figures {
    pub(crate) fn line(&self) -> String {
        format!(
            "demo runs={} succeeded={} denied={} escalated={} compensated={} dlq={} duplicates_dropped={} lost={}",
            self.runs,
            self.succeeded,
            self.denied,
            self.escalated,
            self.compensated,
            self.dead,
            self.repeats,
            self.lost
        )
    }
}

/// Computes the figures from the topics.
pub(crate) fn figures(topics: &Topics) -> Figures {
    let escalated: BTreeSet<_> = topics
        .verdicts
        .iter()
        .filter(|v| v.decision == Decision::Escalate)
        .map(|v| &v.run_id)
        .collect();
    let lost = topics
        .requested
        .iter()
        .filter(|id| topics.runs.get(*id).is_none_or(|r| r.finished_at.is_none()))
        .count();
    Figures {
        runs: topics.runs.len(),
        succeeded: ended(&topics.runs, RunStatus::Succeeded),
        denied: ended(&topics.runs, RunStatus::Denied),
        escalated: escalated.len(),
        compensated: ended(&topics.runs, RunStatus::Compensated),
        dead: topics.dead,
        repeats: topics.events.iter().filter(|e| e.kind == "request.duplicate").count(),
        lost,
    }
}

/// What does not agree between the topics and the stores.
pub(crate) fn compare(demo: &Demo, topics: &Topics) -> Result<Vec<String>, Fault> {
    let mut wrong = Vec::new();
    let reader = sinks::clickhouse::Reader::new(&crate::stores::clickhouse(&demo.at)?)?;
    let ids: Vec<_> = topics.requested.iter().map(|id| format!("'{id}'")).collect();
    let within = format!("run_id IN ({})", ids.join(","));
    for (table, want) in [
        ("runs", topics.run_states),
        ("verdicts", topics.verdicts.len()),
        ("outcomes", topics.outcomes.len()),
        ("events", topics.events.len()),
    ] {
        let answer = demo
            .runtime
            .block_on(reader.query_json(&format!("SELECT count() FROM {table} WHERE {within}")))?;
        let have = answer
            .rows
            .first()
            .and_then(|r| r.first())
            .and_then(serde_json::Value::as_u64);
        if have != u64::try_from(want).ok() {
            wrong.push(format!(
                "ClickHouse {table} has {have:?} rows, the topic {want} records"
            ));
        }
    }
    let answer = demo
        .runtime
        .block_on(reader.query_json(&format!("SELECT run_id, status FROM runs_latest WHERE {within}")))?;
    let stored: BTreeMap<_, _> = answer
        .rows
        .iter()
        .filter_map(|r| Some((r.first()?.as_str()?.to_owned(), r.get(1)?.as_str()?.to_owned())))
        .collect();
    for (id, run) in &topics.runs {
        let status = serde_json::to_value(run.status)
            .ok()
            .and_then(|v| v.as_str().map(str::to_owned));
        if stored.get(id) != status.as_ref() {
            wrong.push(format!(
                "ClickHouse says {id} is {:?}, the topic {status:?}",
                stored.get(id)
            ));
        }
    }
    wrong.extend(memories(demo, topics)?);
    Ok(wrong)
}

/// Redis holds every memory of each run; Qdrant gives each run's memories back to its own tenant and to no other.
fn memories(demo: &Demo, topics: &Topics) -> Result<Vec<String>, Fault> {
    let mut wrong = Vec::new();
    let mut by_run: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for m in &topics.memories {
        by_run.entry(&m.run_id).or_default().insert(&m.memory_id);
    }
    for (run, wanted) in &by_run {
        let tenant = topics.runs.get(*run).map(|r| r.tenant.as_str()).unwrap_or_default();
        let recent = demo.runtime.block_on(crate::stores::history_of_run(
            &demo.at,
            tenant,
            run,
            Timestamp::default(),
        ))?;
        let found: BTreeSet<&str> = recent.iter().map(|m| m.memory_id.as_str()).collect();
        if found != *wanted {
            wrong.push(format!(
                "Redis holds {} memories of {run}, the topic {}",
                found.len(),
                wanted.len()
            ));
        }
        let stored = demo.runtime.block_on(crate::stores::memories_of_run(
            &demo.at,
            demo.model.clone(),
            tenant,
            run,
        ))?;
        let found: BTreeSet<&str> = stored.iter().map(|m| m.memory_id.as_str()).collect();
        if found != *wanted {
            wrong.push(format!(
                "Qdrant holds {} memories of {run}, the topic {}",
                found.len(),
                wanted.len()
            ));
        }
    }
    Ok(wrong)
}
