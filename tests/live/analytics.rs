//! ClickHouse beside the log: each table has the rows its topic has records, key by key, and the minute tables are what the facts
//! add up to, after kills of the pipeline and of ClickHouse itself. And every panel of every board has an answer after the demo.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use schemas::topics;
use serde_json::Value;

use super::harness::{Live, live, request, text, unique};

/// Topic, table, and the key of a row as the log has it. The audit's entries lie by chain, whatever their keys.
const TABLES: &[(&str, &str, &str)] = &[
    ("soma.events", "events", "run_id"),
    ("soma.runs", "runs", "run_id"),
    ("soma.verdicts", "verdicts", "run_id"),
    ("soma.outcomes", "outcomes", "run_id"),
    (
        "soma.metrics",
        "metrics",
        "concat(name, '{', arrayStringConcat(arrayMap((k, v) -> concat(k, '=', v), mapKeys(labels), mapValues(labels)), ','), '}')",
    ),
    ("soma.audit", "audit", "toString(_partition)"),
    ("soma.checkpoints", "checkpoints", "toString(chain)"),
];

const MINUTES: &[(&str, &str, &str)] = &[
    ("events_1m", "sum(events)", "(SELECT count() FROM events)"),
    ("verdicts_1m", "sum(verdicts)", "(SELECT count() FROM verdicts)"),
    (
        "rules_1m",
        "sum(verdicts)",
        "(SELECT sum(greatest(1, length(arrayDistinct(rules)))) FROM verdicts)",
    ),
    ("runs_1m", "sum(states)", "(SELECT count() FROM runs)"),
    ("calls_1m", "sum(calls)", "(SELECT count() FROM outcomes)"),
    ("audit_1m", "sum(entries)", "(SELECT count() FROM audit)"),
];

/// How many, and the sum of their offsets: the same records give the same numbers, one twice or one missing does not.
type Count = (i64, i64);

fn rows(live: &Live, sql: &str) -> Vec<Vec<Value>> {
    let out = live.soma(&["sql", sql, "--json"]);
    assert!(out.status.success(), "{sql}: {}", text(&out.stderr));
    let all: Vec<serde_json::Map<String, Value>> = serde_json::from_slice(&out.stdout).unwrap();
    all.into_iter()
        .map(|row| row.into_iter().map(|(_, v)| v).collect())
        .collect()
}

fn in_topic(live: &Live, topic: &str) -> BTreeMap<String, Count> {
    let mut counts: BTreeMap<String, Count> = BTreeMap::new();
    for record in live.read_raw(topic).iter().filter(|r| r.value.is_some()) {
        let by_chain = topic == topics::AUDIT.name;
        let key = if by_chain {
            record.position.partition.to_string()
        } else {
            record.key.clone()
        };
        let count = counts.entry(key).or_default();
        *count = (count.0 + 1, count.1 + record.position.offset);
    }
    counts
}

fn in_table(live: &Live, table: &str, key: &str) -> BTreeMap<String, Count> {
    let sql = format!("SELECT {key} AS a, count() AS b, sum(_offset) AS c FROM {table} GROUP BY a");
    let count = |row: &Vec<Value>| {
        (
            row[0].as_str().unwrap().to_owned(),
            (row[1].as_i64().unwrap(), row[2].as_i64().unwrap()),
        )
    };
    rows(live, &sql).iter().map(count).collect()
}

/// What the table has otherwise than the topic, in words.
fn differences(topic: &str, wanted: &BTreeMap<String, Count>, have: &BTreeMap<String, Count>) -> Vec<String> {
    let keys: std::collections::BTreeSet<_> = wanted.keys().chain(have.keys()).collect();
    let differ = keys.into_iter().filter(|key| wanted.get(*key) != have.get(*key));
    differ
        .map(|key| {
            format!(
                "{topic}, key {key}: the topic has {:?}, ClickHouse {:?} (count, sum of offsets)",
                wanted.get(key),
                have.get(key)
            )
        })
        .collect()
}

/// ClickHouse compared with the topics and the minute tables with their recomputation, once the sink has caught up; what is wrong,
/// in words. Prints what was compared.
pub(crate) fn agree(live: &Live) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(120);
    let (mut wrong, mut records, mut keys) = (Vec::new(), 0, 0);
    for (topic, table, key) in TABLES {
        let found = loop {
            let wanted = in_topic(live, topic);
            let found = differences(topic, &wanted, &in_table(live, table, key));
            if found.is_empty() || Instant::now() > deadline {
                records += wanted.values().map(|c| c.0).sum::<i64>();
                keys += wanted.len();
                break found;
            }
            std::thread::sleep(Duration::from_secs(1));
        };
        wrong.extend(found);
    }
    let mut minutes = 0;
    for (table, sum, facts) in MINUTES {
        let asked = rows(
            live,
            &format!("SELECT count() AS a, {sum} AS b, {facts} AS c FROM {table}"),
        );
        minutes += asked[0][0].as_i64().unwrap();
        if asked[0][1] != asked[0][2] || asked[0][1].as_i64() == Some(0) {
            wrong.push(format!("{table} counts {}, the facts are {}", asked[0][1], asked[0][2]));
        }
    }
    let drift = rows(
        live,
        "SELECT name AS a, toString(minute) AS b, toString(what) AS c, toString(kept) AS d, toString(facts) AS e FROM minutes_drift",
    );
    wrong.extend(drift.iter().map(|row| format!("minutes_drift: {row:?}")));
    println!(
        "analytics tables={} records={records} keys={keys} minute_tables={} minute_rows={minutes} drift={} wrong={}",
        TABLES.len(),
        MINUTES.len(),
        drift.len(),
        wrong.len()
    );
    wrong
}

/// Every panel of every board: its answer is no error and not empty.
pub(crate) fn every_panel_answers(live: &Live) -> Vec<String> {
    let (mut wrong, mut panels, mut answered) = (Vec::new(), 0, 0);
    for (board, _) in pipelines::dash::BOARDS {
        let out = live.soma(&["dash", board, "--since", "1h", "--json"]);
        let boards: Value =
            serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{board}: {e}: {}", text(&out.stderr)));
        for panel in boards[0]["panels"].as_array().unwrap() {
            panels += 1;
            let count = panel["rows"].as_array().map_or(0, Vec::len);
            answered += count;
            if count == 0 {
                wrong.push(format!("{board}/{}: {}", panel["name"], panel["error"]));
            }
        }
    }
    println!(
        "boards={} panels={panels} rows={answered} wrong={}",
        pipelines::dash::BOARDS.len(),
        wrong.len()
    );
    wrong
}

#[test]
fn tables_and_minutes_equal_the_topics_after_kills() {
    let live = live();
    let tag = unique("analytics");
    let ok = format!("{}/ok", live.receiver());
    let wave = |n: usize| {
        let one = |i: usize| {
            let tenant = ["acme", "globex", "initech"][i % 3];
            request(tenant, &format!("{tag}-{n}-{i}"), "endpoint_probe", &[("url", &ok)])
        };
        live.produce(&(0..60).map(one).collect::<Vec<_>>())
    };
    let mut runs = wave(0);
    for n in 1..=3 {
        // The sink is in the middle of it, then its server is.
        live.stack(&["kill", "control-tower"]);
        live.stack(&["start", "control-tower"]);
        runs.extend(wave(n));
        std::thread::sleep(Duration::from_millis(700));
        live.stack(&["kill", "clickhouse"]);
        live.stack(&["start", "clickhouse"]);
    }
    live.wait(&runs, Duration::from_secs(180));
    let wrong = agree(live);
    assert!(wrong.is_empty(), "{wrong:#?}");
}
