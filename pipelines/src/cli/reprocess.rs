//! `soma replay`: a stretch of the past through one stage as it is now, into side topics, compared with what was written then.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka::{Admin, From, Tail};
use kernel::{Emit, Fault, RawRecord};
use runtime::{Health, Metrics, SystemClock};
use schemas::Timestamp;
use schemas::topics::{Cleanup, Entry};
use serde_json::{Value as Json, json};

use super::context::{Context, now, read_to_end};
use super::failure::{Done, FAILED, Failure, OK};
use super::pipeline::file_of;
use super::subscribe::decode;
use super::{members, out, policies, when};
use crate::config::Pipeline;
use crate::registry;
use crate::reprocess::{difference, run as reprocess, settle};
use crate::wire::Shared;

/// What was written then may have been written so much later than what caused it.
const LATER_MS: i64 = 60_000;
/// Differences shown.
const SHOWN: usize = 5;

/// Runs past records of a stage's topics through it again, into side topics, and compares.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  soma replay policy_gate --since 2h                what would the policy of this checkout have said?
  soma replay intake --since 2026-01-31T12:00:00Z --until 2026-01-31T13:00:00Z --into trial

The stage runs here, with the configuration of this checkout, at the times the records were written; the running pipeline is
not touched. State begins empty: a stage whose answer depends on earlier records answers as if there had been none. Compared is
all but times, what is made of times, and signatures. Stages that act on the world or keep what others decided are refused.
Exit code: 0 all the same, 1 something differs.")]
pub(super) struct Args {
    /// Stage of the pipeline
    stage: String,
    /// Pipeline, by name or path
    #[arg(long, default_value = "control-tower", value_name = "NAME")]
    pipeline: String,
    /// From when on: a time (RFC 3339), or a duration back from now
    #[arg(long, default_value = "1h", value_name = "WHEN")]
    since: String,
    /// Up to when (default: now)
    #[arg(long, value_name = "WHEN")]
    until: Option<String>,
    /// Prefix of the side topics (default: replay.STAGE.SECONDS)
    #[arg(long, value_name = "PREFIX")]
    into: Option<String>,
    /// Refuse to take more records than this into memory
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    limit: usize,
}

/// What came of one topic.
#[derive(Default)]
struct Compared {
    replayed: usize,
    same: usize,
    differences: Vec<String>,
}

/// Records of a topic within a stretch of time.
pub(super) fn past(cx: &Context, topic: &str, since: Timestamp, until: Timestamp) -> Result<Vec<RawRecord>, Failure> {
    let mut tail = Tail::open(&cx.brokers()?, topic, From::Time(since))?;
    let mut records = Vec::new();
    read_to_end(&mut tail, &mut |record| {
        if record.at >= since && record.at <= until {
            records.push(record);
        }
        Ok(true)
    })?;
    Ok(records)
}

fn shared(cx: &Context, pipeline: Pipeline) -> Result<Shared, Failure> {
    let metrics = Metrics::new(&pipeline.pipeline).map_err(|e| Failure::failed("INTERNAL", e.to_string(), ""))?;
    Ok(Shared {
        registry: cx.registry()?,
        // No control of today stops a replay; roles and policies are those in force.
        controls: members::shared(cx)?,
        shelf: policies::shelf(cx)?,
        metrics,
        health: Health::default(),
        stop: Arc::default(),
        leaving: Arc::default(),
        clock: Arc::new(SystemClock),
        handle: cx.runtime()?.handle().clone(),
        watch: Arc::new(kafka::Watch::new(&pipeline.connections.kafka)),
        pipeline: Arc::new(pipeline),
    })
}

/// A side topic, kept for a week.
pub(super) fn side(name: String, owner: &str) -> Entry {
    Entry {
        name,
        record: String::new(),
        key: String::new(),
        partitions: 1,
        replication: 1,
        retention_hours: 168,
        cleanup: Cleanup::Delete,
        bytes_max: 10 << 20,
        owner: owner.into(),
    }
}

/// Writes what the stage wrote to side topics.
fn keep(cx: &Context, emits: &[Emit], into: &str) -> Result<(), Failure> {
    let (admin, registry, writer) = (Admin::open(&cx.brokers()?)?, cx.registry()?, cx.writer()?);
    let existing = admin.partitions()?;
    let topics: std::collections::BTreeSet<&str> = emits.iter().map(|e| e.topic).collect();
    for topic in topics {
        let side = side(format!("{into}.{topic}"), "soma replay");
        cx.runtime()?.block_on(admin.apply(&side, &existing))?;
    }
    for emit in emits {
        let topic = format!("{into}.{}", emit.topic);
        let value = registry.framed(&topic, emit.schema_text, &emit.avro)?;
        let headers = kafka::cloud_event("soma/replay", emit.record, now(), &emit.tenant, None);
        writer.write_raw(&topic, &emit.key, Some(&value), &headers)?;
    }
    Ok(writer.flush()?)
}

fn settled(mut value: Json) -> Json {
    settle(&mut value);
    value
}

/// Each record written now, against those written then under the same key.
fn compare(emits: &[Json], keys: &[String], then: &[(String, Json)]) -> Compared {
    let mut by_key: BTreeMap<&str, Vec<&Json>> = BTreeMap::new();
    then.iter()
        .for_each(|(key, value)| by_key.entry(key).or_default().push(value));
    let mut compared = Compared::default();
    for (key, value) in keys.iter().zip(emits) {
        compared.replayed += 1;
        let before = by_key.entry(key).or_default();
        if let Some(at) = before.iter().position(|b| *b == value) {
            before.remove(at);
            compared.same += 1;
        } else if compared.differences.len() < SHOWN {
            // The nearest of those with this key: the one whose differences are told the shortest.
            let nearest = before.iter().map(|b| difference("", value, b)).min_by_key(String::len);
            let what = nearest.unwrap_or_else(|| "nothing was written then under this key".to_owned());
            compared
                .differences
                .push(format!("{key}: {}", what.trim_end_matches("; ")));
        }
    }
    compared
}

pub(super) fn run(args: &Args, cx: &Context) -> Done {
    let usage = |e: String| Failure::input("USAGE", e, "--since 2h, --until 2026-01-31T13:00:00Z");
    let asked = now();
    let since = when::instant(&args.since, asked).map_err(usage)?;
    let until = args
        .until
        .as_deref()
        .map_or(Ok(asked), |t| when::instant(t, asked))
        .map_err(usage)?;
    let file = file_of(&args.pipeline)?;
    let pipeline = Pipeline::load(&file, &cx.env).map_err(|faults| {
        let lines: Vec<_> = faults.iter().map(ToString::to_string).collect();
        Failure::input("CONFIG_INVALID", lines.join("\n"), "`soma check` lists every fault")
    })?;
    let known: Vec<_> = pipeline.stages.iter().map(|s| s.name().to_owned()).collect();
    let entry = pipeline
        .stages
        .iter()
        .find(|s| s.name() == args.stage)
        .cloned()
        .ok_or_else(|| {
            let text = format!("{} has no stage {}", args.pipeline, args.stage);
            Failure::input("STAGE_UNKNOWN", text, format!("there are {}", known.join(", ")))
        })?;
    let topics = registry::find(&entry.component)
        .map(|c| (c.topics)())
        .unwrap_or_default();
    let mut records = Vec::new();
    for topic in &topics {
        records.extend(past(cx, topic, since, until)?);
    }
    if records.len() > args.limit {
        let text = format!("{} records; more than --limit {}", records.len(), args.limit);
        return Err(Failure::input(
            "TOO_MANY",
            text,
            "take a shorter stretch with --since and --until, or raise --limit",
        ));
    }
    let count = records.len();
    records.sort_by(|a, b| (a.at, &a.position).cmp(&(b.at, &b.position)));
    out::note(format!(
        "replaying {count} records of {} through {}",
        topics.join(", "),
        args.stage
    ));
    let written = reprocess(&shared(cx, pipeline)?, &entry, records)?;
    let into = args
        .into
        .clone()
        .unwrap_or_else(|| format!("replay.{}.{}", args.stage, asked.0 / 1_000_000));
    keep(cx, &written.emits, &into)?;
    report(cx, &written.emits, (since, until), (&into, written.letters, count))
}

fn report(
    cx: &Context,
    emits: &[Emit],
    (since, until): (Timestamp, Timestamp),
    (into, letters, count): (&str, usize, usize),
) -> Done {
    let registry = cx.registry()?;
    let mut by_topic: BTreeMap<&str, (Vec<String>, Vec<Json>)> = BTreeMap::new();
    for emit in emits {
        let value = schemas::decode_value((emit.schema)(), &emit.avro, None);
        let value = value.map_err(|e| Fault::new(kernel::FaultCode::Internal, e.0))?;
        let (keys, values) = by_topic.entry(emit.topic).or_default();
        keys.push(emit.key.clone());
        values.push(settled(schemas::to_json(&value)));
    }
    let mut lines = Vec::new();
    let mut all_same = letters == 0;
    for (topic, (keys, values)) in &by_topic {
        let before = past(cx, topic, since, until.plus_ms(LATER_MS))?;
        let then: Vec<(String, Json)> = before
            .into_iter()
            .map(|r| Ok((r.key.clone(), settled(decode(&r, &registry)?))))
            .collect::<Result<_, Failure>>()?;
        let c = compare(values, keys, &then);
        all_same &= c.same == c.replayed;
        lines.push(json!({
            "topic": topic, "side_topic": format!("{into}.{topic}"), "replayed": c.replayed, "same": c.same,
            "different": c.replayed - c.same, "differences": c.differences,
        }));
    }
    if cx.json {
        out::json(&json!({"records": count, "dead_lettered": letters, "topics": lines}))?;
    } else {
        let cell = |l: &Json, name: &str| l[name].as_str().map_or_else(|| l[name].to_string(), str::to_owned);
        let rows: Vec<Vec<_>> = lines
            .iter()
            .map(|l| {
                ["topic", "side_topic", "replayed", "same", "different"]
                    .map(|c| cell(l, c))
                    .to_vec()
            })
            .collect();
        out::table(&["TOPIC", "SIDE TOPIC", "REPLAYED", "SAME", "DIFFERENT"], &rows)?;
        let differences = lines
            .iter()
            .flat_map(|l| l["differences"].as_array().cloned().unwrap_or_default());
        differences
            .filter_map(|d| d.as_str().map(str::to_owned))
            .try_for_each(|d| out::line(format!("  {d}")))?;
        if letters > 0 {
            out::note(format!("{letters} records would be dead letters"));
        }
    }
    Ok(if all_same { OK } else { FAILED })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_record_is_compared_with_one_of_its_key() {
        let then =
            [("a", json!({"x": 1})), ("a", json!({"x": 2})), ("b", json!({"x": 3}))].map(|(k, v)| (k.to_owned(), v));
        let keys = ["a", "a", "b", "c"].map(str::to_owned);
        let emits = [json!({"x": 2}), json!({"x": 2}), json!({"x": 4}), json!({"x": 5})];
        let c = compare(&emits, &keys, &then);
        assert_eq!((c.replayed, c.same), (4, 1));
        assert_eq!(
            c.differences,
            [
                "a: .x is 2, not 1",
                "b: .x is 4, not 3",
                "c: nothing was written then under this key"
            ]
        );
    }
}
