//! Reads every topic, every store and the receiving server's own log, and says what was lost, doubled, torn or out of order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use kernel::RawRecord;
use pipelines::config::Connections;
use schemas::records::{Call, Event, Memory, Outcome, Plan, Request, Run, Verdict};
use schemas::topics::{self, Topic};
use schemas::{Record, Timestamp, digest};

use crate::live::harness::{Live, now};

#[derive(Default)]
pub(super) struct Found {
    pub(super) lost: usize,
    pub(super) duplicated: usize,
    pub(super) torn: usize,
    pub(super) out_of_order: usize,
    /// Everything of the above, in words.
    pub(super) wrong: Vec<String>,
    /// When each run ended.
    pub(super) ended: Vec<Timestamp>,
}

impl Found {
    fn lost(&mut self, what: String) {
        self.lost += 1;
        self.wrong.push(format!("lost: {what}"));
    }

    fn doubled(&mut self, what: String) {
        self.duplicated += 1;
        self.wrong.push(format!("duplicated: {what}"));
    }

    fn torn(&mut self, what: String) {
        self.torn += 1;
        self.wrong.push(format!("torn: {what}"));
    }
}

/// A topic's records of these runs, with where each stands.
pub(super) fn read<R: Record>(live: &Live, topic: Topic<R>, keep: impl Fn(&R) -> bool) -> Vec<(RawRecord, R)> {
    let raw = live.read_raw(topic.name).into_iter();
    raw.filter_map(|r| {
        let record = kernel::decode::<R>(r.value.as_deref()?, live.registry.as_ref()).ok()?;
        keep(&record).then_some((r, record))
    })
    .collect()
}

fn repeated<T: Ord + Clone>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut times: BTreeMap<T, usize> = BTreeMap::new();
    all.for_each(|one| *times.entry(one).or_default() += 1);
    times.into_iter().filter(|(_, n)| *n > 1).map(|(one, _)| one).collect()
}

struct Topics {
    plans: Vec<(RawRecord, Plan)>,
    verdicts: Vec<(RawRecord, Verdict)>,
    calls: Vec<(RawRecord, Call)>,
    outcomes: Vec<(RawRecord, Outcome)>,
    runs: Vec<(RawRecord, Run)>,
    memories: Vec<(RawRecord, Memory)>,
    events: Vec<(RawRecord, Event)>,
}

pub(super) fn check(live: &Live, asked: &[Request]) -> Found {
    let ids: BTreeSet<String> = asked
        .iter()
        .map(|r| digest::run_id(&r.tenant, &r.idempotency_key))
        .collect();
    live.wait(&ids.iter().cloned().collect::<Vec<_>>(), Duration::from_secs(180));
    let topics = Topics {
        plans: read(live, topics::PLANS, |r| ids.contains(&r.run_id)),
        verdicts: read(live, topics::VERDICTS, |r| ids.contains(&r.run_id)),
        calls: read(live, topics::CALLS, |r| ids.contains(&r.run_id)),
        outcomes: read(live, topics::OUTCOMES, |r| ids.contains(&r.run_id)),
        runs: read(live, topics::RUNS, |r| ids.contains(&r.run_id)),
        memories: read(live, topics::MEMORIES, |r| ids.contains(&r.run_id)),
        events: read(live, topics::EVENTS, |r| ids.contains(&r.run_id)),
    };
    let mut found = Found::default();
    runs(&topics, &ids, &mut found);
    whole(&topics, &ids, &mut found);
    world(live, &topics, &mut found);
    clickhouse(live, &topics, &mut found);
    for what in crate::live::analytics::agree(live) {
        found.torn(what);
    }
    memories(live, &topics, &mut found);
    let chains = live.soma(&["audit", "verify", "--no-table"]);
    if !chains.status.success() {
        let said = String::from_utf8_lossy(&chains.stdout).into_owned() + &String::from_utf8_lossy(&chains.stderr);
        found.torn(format!("the audit: {said}"));
    }
    println!(
        "chaos: {}",
        String::from_utf8_lossy(&chains.stdout)
            .lines()
            .last()
            .unwrap_or_default()
    );
    let dead = live.dead_total();
    if dead > 0 {
        found.lost(format!("{dead} good records are dead letters"));
    }
    println!(
        "chaos: read {} plans, {} verdicts, {} calls, {} outcomes, {} run states, {} memories, {} events",
        topics.plans.len(),
        topics.verdicts.len(),
        topics.calls.len(),
        topics.outcomes.len(),
        topics.runs.len(),
        topics.memories.len(),
        topics.events.len()
    );
    found
}

/// Every request ends once, and its states come in order.
fn runs(topics: &Topics, ids: &BTreeSet<String>, found: &mut Found) {
    let mut by_run: BTreeMap<&str, Vec<&Run>> = BTreeMap::new();
    for (raw, run) in &topics.runs {
        by_run.entry(&run.run_id).or_default().push(run);
        if run.finished_at.is_some() {
            found.ended.push(raw.at);
        }
    }
    for id in ids {
        let states = by_run.get(id.as_str()).map(Vec::as_slice).unwrap_or_default();
        match states.iter().filter(|r| r.finished_at.is_some()).count() {
            0 => found.lost(format!("run {id} never ended")),
            1 => {}
            n => found.doubled(format!("run {id} ended {n} times")),
        }
        if states.windows(2).any(|w| w[0].revision >= w[1].revision) {
            found.out_of_order += 1;
            let revisions: Vec<_> = states.iter().map(|r| r.revision).collect();
            found.wrong.push(format!("out of order: run {id}: {revisions:?}"));
        }
    }
}

/// What was written in one transaction, or follows from what was, is there whole and once.
fn whole(topics: &Topics, ids: &BTreeSet<String>, found: &mut Found) {
    for id in repeated(topics.calls.iter().map(|(_, c)| &c.call_id)) {
        found.doubled(format!("call {id}"));
    }
    for id in repeated(topics.outcomes.iter().map(|(_, o)| &o.call_id)) {
        found.doubled(format!("outcome of {id}"));
    }
    for id in repeated(topics.plans.iter().map(|(_, p)| &p.plan_id)) {
        found.doubled(format!("plan {id}"));
    }
    for id in repeated(topics.verdicts.iter().map(|(_, v)| &v.verdict_id)) {
        found.doubled(format!("verdict {id}"));
    }
    for id in repeated(topics.events.iter().map(|(_, e)| &e.event_id)) {
        found.doubled(format!("event {id}"));
    }
    let planned: BTreeSet<&str> = topics.plans.iter().map(|(_, p)| p.run_id.as_str()).collect();
    let judged: BTreeSet<&str> = topics.verdicts.iter().map(|(_, v)| v.run_id.as_str()).collect();
    for id in ids {
        if !planned.contains(id.as_str()) || !judged.contains(id.as_str()) {
            found.torn(format!("run {id} has no plan or no verdict"));
        }
    }
    let called: BTreeSet<&str> = topics.calls.iter().map(|(_, c)| c.call_id.as_str()).collect();
    let answered: BTreeSet<&str> = topics.outcomes.iter().map(|(_, o)| o.call_id.as_str()).collect();
    for id in called.symmetric_difference(&answered) {
        found.torn(format!("call {id} has no outcome, or the outcome no call"));
    }
    let remembered: BTreeSet<&str> = topics.memories.iter().map(|(_, m)| m.run_id.as_str()).collect();
    for (_, outcome) in &topics.outcomes {
        if !remembered.contains(outcome.run_id.as_str()) {
            found.torn(format!("outcome {} is not remembered", outcome.call_id));
        }
    }
}

/// The receiving server's own log: no key twice, except of calls declared safe to repeat.
fn world(live: &Live, topics: &Topics, found: &mut Found) {
    let calls: BTreeMap<&str, &Call> = topics
        .calls
        .iter()
        .map(|(_, c)| (c.idempotency_key.as_str(), c))
        .collect();
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for line in live.receiver_log() {
        *times
            .entry(line["key"].as_str().unwrap_or_default().to_owned())
            .or_default() += 1;
    }
    for (key, n) in &times {
        if calls.get(key.as_str()).is_some_and(|c| !c.replay_safe) && *n > 1 {
            found.doubled(format!("the receiver saw key {key} {n} times"));
        }
    }
    for (_, outcome) in &topics.outcomes {
        let call = calls.get(outcome.idempotency_key.as_str());
        let happened = outcome.tool == "http" && outcome.status == schemas::records::OutcomeStatus::Succeeded;
        if call.is_some() && happened && !times.contains_key(&outcome.idempotency_key) {
            found.lost(format!("{} succeeded, and the receiver never saw it", outcome.call_id));
        }
    }
}

/// ClickHouse holds as many rows as the topics records, once the sink has caught up.
fn clickhouse(live: &Live, topics: &Topics, found: &mut Found) {
    let tables = [
        ("runs", topics.runs.len()),
        ("verdicts", topics.verdicts.len()),
        ("outcomes", topics.outcomes.len()),
        ("events", topics.events.len()),
    ];
    let deadline = Instant::now() + Duration::from_secs(90);
    for (table, wanted) in tables {
        let sql = format!(
            "SELECT count() FROM {table} WHERE run_id IN (SELECT DISTINCT run_id FROM runs WHERE idempotency_key LIKE 'chaos-%')"
        );
        let rows = || {
            let out = live.soma(&["sql", &sql, "--csv"]);
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            let last = text.lines().rfind(|l| !l.is_empty()).unwrap_or_default();
            last.parse::<usize>().unwrap_or_else(|_| panic!("{table}: {text}"))
        };
        let mut have = rows();
        while have != wanted && Instant::now() < deadline {
            std::thread::sleep(Duration::from_secs(2));
            have = rows();
        }
        if have > wanted {
            found.doubled(format!(
                "ClickHouse {table} has {have} rows, the topic {wanted} records"
            ));
        }
        if have < wanted {
            found.lost(format!(
                "ClickHouse {table} has {have} rows, the topic {wanted} records"
            ));
        }
    }
}

/// Redis and Qdrant hold the memories of each run; most runs are asked of Qdrant too.
fn memories(live: &Live, topics: &Topics, found: &mut Found) {
    let at = Connections::from_env(&live.env).unwrap();
    let model = pipelines::stores::embedder_from_env(&live.env).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut by_run: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for (_, m) in &topics.memories {
        by_run.entry((&m.tenant, &m.run_id)).or_default().insert(&m.memory_id);
    }
    let every = by_run.len().div_ceil(1_500).max(1);
    let deadline = Instant::now() + Duration::from_secs(120);
    for ((tenant, run), wanted) in by_run.iter().step_by(every) {
        for store in ["Redis", "Qdrant"] {
            let ask = || -> BTreeSet<String> {
                let held = if store == "Redis" {
                    runtime.block_on(pipelines::stores::history_of_run(&at, tenant, run, now()))
                } else {
                    runtime.block_on(pipelines::stores::memories_of_run(&at, model.clone(), tenant, run))
                };
                held.unwrap().into_iter().map(|m| m.memory_id).collect()
            };
            let same = |held: &BTreeSet<String>| held.iter().map(String::as_str).eq(wanted.iter().copied());
            let mut held = ask();
            while !same(&held) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_secs(1));
                held = ask();
            }
            if !same(&held) {
                found.lost(format!(
                    "{store} holds {} memories of {run}, the topic {}",
                    held.len(),
                    wanted.len()
                ));
            }
        }
    }
    println!(
        "chaos: memories of {} of {} runs compared in Redis and Qdrant",
        by_run.len().div_ceil(every),
        by_run.len()
    );
}
