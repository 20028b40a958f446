//! `soma stages`: how each stage of the running pipeline is doing, from its own admin endpoint, and how far it is behind, from
//! the broker. It asks; it changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use kafka::{Admin, Brokers, Groups};
use kernel::Fault;
use serde_json::{Value as Json, json};

use super::context::{Context, now};
use super::failure::{Done, FAILED, Failure, OK};
use super::prometheus::{Sample, parse};
use super::{out, when};
use crate::registry;

/// Shows the stages of the running pipeline.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  soma stages
  soma stages --json
  soma stages --admin http://10.0.0.7:9400      a pipeline on another machine

INST counts the living instances of the stage in the cluster; PARTS, KEYS (with SIZE), RECORDS and DEAD are of the instance
asked. STANDBY: partitions of others that it keeps a warm copy of, and how many changes the copies are behind (`standby: true`); --json
also tells `restored`, the changes read when it last took partitions over. LAG counts records not yet committed, over all instances. COMMIT and LOOP: how long ago it last committed, and came round. STATE halted: the stage gave up without committing; WHY names the code, and
deploy/runbooks/<CODE>.md what to do. waiting: a dependency is down, it goes on by itself.
Exit code: 0 all running, 1 a stage is not, 3 the pipeline does not answer.")]
pub(super) struct Args {
    /// URL of the admin endpoint (default: 127.0.0.1 and SOMA_ADMIN_PORT)
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
}

pub(super) fn run(args: &Args, cx: &Context) -> Done {
    let admin = match &args.admin {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => format!("http://127.0.0.1:{}", cx.variable("SOMA_ADMIN_PORT")?),
    };
    let health: BTreeMap<String, Json> = serde_json::from_str(&get(cx, &format!("{admin}/health"))?).map_err(|e| {
        Failure::failed(
            "ADMIN_UNREADABLE",
            format!("{admin}/health: {e}"),
            "is that the pipeline's admin endpoint?",
        )
    })?;
    let samples = parse(&get(cx, &format!("{admin}/metrics"))?);
    let brokers = cx.brokers()?;
    let lags = lags(&brokers, &health, &samples);
    let members = members(&brokers, &samples);
    let lines: Vec<_> = health
        .iter()
        .map(|(stage, health)| {
            let mut line = line(stage, health, &samples, lags.get(stage));
            line["instances"] = members.get(stage).map_or(Json::Null, |n| json!(n));
            line
        })
        .collect();
    let all_run = lines.iter().all(|l| l["state"] == "running");
    if cx.json {
        out::json(&Json::Array(lines))?;
    } else {
        const COLUMNS: [&str; 14] = [
            "stage",
            "state",
            "instances",
            "partitions",
            "lag",
            "state_keys",
            "state_size",
            "standby",
            "in_flight",
            "records",
            "dead_lettered",
            "commit_age",
            "loop_age",
            "why",
        ];
        let text = |v: &Json| {
            v.as_str().map_or_else(
                || if v.is_null() { "-".to_owned() } else { v.to_string() },
                str::to_owned,
            )
        };
        let rows: Vec<Vec<_>> = lines
            .iter()
            .map(|l| COLUMNS.iter().map(|c| text(&l[*c])).collect())
            .collect();
        out::table(
            &[
                "STAGE",
                "STATE",
                "INST",
                "PARTS",
                "LAG",
                "KEYS",
                "SIZE",
                "STANDBY",
                "IN FLIGHT",
                "RECORDS",
                "DEAD",
                "COMMIT",
                "LOOP",
                "WHY / FAULTS",
            ],
            &rows,
        )?;
    }
    Ok(if all_run && !health.is_empty() { OK } else { FAILED })
}

/// The body, whatever the status: /health answers 503 with the same words when a stage is down.
pub(super) fn get(cx: &Context, url: &str) -> Result<String, Failure> {
    // The client wants to know a TLS library, though the admin endpoint speaks plain HTTP; that one is there already is fine.
    rustls::crypto::ring::default_provider().install_default().ok();
    let asked = async {
        let client = reqwest::Client::builder()
            .timeout(std::time::Duration::from_secs(5))
            .build()?;
        client.get(url).send().await?.text().await
    };
    cx.runtime()?.block_on(asked).map_err(|e| {
        let help = "is the pipeline up? `soma dev status` shows it, `soma deploy control-tower` starts it";
        Failure::unreachable("PIPELINE_UNREACHABLE", format!("{url}: {e}"), help)
    })
}

/// Records not yet committed, by stage; a stage that reads nothing has no lag. The stages are asked about at the same time.
fn lags(
    brokers: &Brokers,
    health: &BTreeMap<String, Json>,
    samples: &[Sample],
) -> BTreeMap<String, Result<i64, Fault>> {
    let pipeline = pipeline_of(samples);
    std::thread::scope(|scope| {
        let asked: Vec<_> = health
            .keys()
            .map(|stage| (stage, topics_of(stage, samples)))
            .filter(|(_, topics)| !topics.is_empty() && !pipeline.is_empty())
            .map(|(stage, topics)| {
                (
                    stage.clone(),
                    scope.spawn(move || lag(brokers, &format!("{pipeline}.{stage}"), &topics)),
                )
            })
            .collect();
        asked
            .into_iter()
            .filter_map(|(stage, thread)| Some((stage, thread.join().ok()?)))
            .collect()
    })
}

fn pipeline_of(samples: &[Sample]) -> &str {
    let names = samples.iter().map(|s| s.label("pipeline"));
    names.into_iter().find(|p| !p.is_empty()).unwrap_or_default()
}

/// Living instances by stage; empty when the broker does not answer, which the lag column says already.
fn members(brokers: &Brokers, samples: &[Sample]) -> BTreeMap<String, usize> {
    let prefix = format!("{}.", pipeline_of(samples));
    let listed = Groups::open(brokers).and_then(|groups| groups.list(&prefix));
    let groups = listed.unwrap_or_default().into_iter();
    groups
        .filter_map(|(name, n)| Some((name.strip_prefix(&prefix)?.to_owned(), n)))
        .collect()
}

/// Topics a stage reads: those of its component, and any it has counted.
fn topics_of(stage: &str, samples: &[Sample]) -> BTreeSet<String> {
    let counted = samples
        .iter()
        .filter(|s| s.name == "soma_records_total" && s.label("stage") == stage);
    let members = stage.split('+');
    let mut topics: BTreeSet<_> = counted
        .map(|s| s.label("topic").to_owned())
        .filter(|t| !t.is_empty())
        .collect();
    topics.extend(
        members
            .filter_map(registry::find)
            .flat_map(|c| (c.topics)())
            .map(str::to_owned),
    );
    topics
}

fn lag(brokers: &Brokers, group: &str, topics: &BTreeSet<String>) -> Result<i64, Fault> {
    let mut behind = 0;
    for topic in topics {
        // A partition nothing was committed of is read from its beginning.
        behind += Admin::lag(brokers, group, topic)?
            .iter()
            .map(|(_, at, end)| end - at.unwrap_or(0))
            .sum::<i64>();
    }
    Ok(behind)
}

/// Whether a metric's stage is this one, or a member of this task.
fn is_of(task: &str, stage: &str) -> bool {
    task == stage || task.split('+').any(|member| member == stage)
}

fn line(stage: &str, health: &Json, samples: &[Sample], lag: Option<&Result<i64, Fault>>) -> Json {
    let own = |name: &'static str| {
        samples
            .iter()
            .filter(move |s| s.name == name && is_of(stage, s.label("stage")))
    };
    let gauge = |what: &str| {
        let values = own("soma_stage").filter(|s| s.label("what") == what);
        values.map(|s| s.value as i64).reduce(|a, b| a + b)
    };
    let count = |outcome: &str| {
        own("soma_records_total")
            .filter(|s| s.label("outcome") == outcome)
            .map(|s| s.value as i64)
            .sum::<i64>()
    };
    let faults: Vec<_> = own("soma_faults_total")
        .map(|s| format!("{} x{}", s.label("code"), s.value))
        .collect();
    let mut why: Vec<_> = health["detail"]
        .as_str()
        .map(|d| out::short(d, 100))
        .into_iter()
        .chain(faults.clone())
        .collect();
    let lag = match lag {
        None => Json::Null,
        Some(Ok(lag)) => json!(lag),
        Some(Err(fault)) => {
            why.push(format!("lag unknown: {}", fault.code));
            Json::Null
        }
    };
    let loop_age_ms = health["loop_age_ms"].as_i64().unwrap_or_default();
    let committed = own("soma_last_commit_timestamp_seconds")
        .map(|s| s.value)
        .reduce(f64::max);
    let commit_age = committed.map(|at| {
        #[allow(clippy::cast_precision_loss, reason = "milliseconds of an age")]
        let ms = (now().0 as f64 / 1e3 - at * 1e3).max(0.0);
        when::took(ms as i64)
    });
    let state_bytes = gauge("state_bytes");
    let (copies, behind) = (gauge("standby_partitions"), gauge("standby_lag"));
    let standby = copies
        .zip(behind)
        .map(|(copies, behind)| format!("{copies}, {behind} behind"));
    json!({
        "stage": stage, "state": health["state"], "partitions": health["partitions"], "lag": lag,
        "state_keys": gauge("state_keys"), "in_flight": gauge("in_flight"), "records": count("ok"),
        "dead_lettered": count("dead_lettered"), "loop_age_ms": loop_age_ms, "loop_age": when::took(loop_age_ms),
        "state_bytes": state_bytes, "state_size": state_bytes.map(size), "commit_age": commit_age,
        "standby": standby, "standby_partitions": copies, "standby_lag": behind, "restored": gauge("restored"),
        "faults": faults, "why": why.join("; "),
    })
}

/// Bytes as a person reads them.
fn size(bytes: i64) -> String {
    let units = [(30, "GB"), (20, "MB"), (10, "kB")];
    let unit = units.iter().find(|(shift, _)| bytes >> shift > 0);
    unit.map_or_else(
        || format!("{bytes} B"),
        |(shift, unit)| format!("{} {unit}", bytes >> shift),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# HELP soma_stage x
soma_stage{pipeline="ct",stage="intake",what="state_keys"} 12
soma_stage{pipeline="ct",stage="intake",what="state_bytes"} 5300000
soma_stage{pipeline="ct",stage="intake",what="standby_partitions"} 2
soma_stage{pipeline="ct",stage="intake",what="standby_lag"} 7
soma_records_total{outcome="ok",pipeline="ct",stage="intake",topic="soma.requests"} 40
soma_records_total{outcome="dead_lettered",pipeline="ct",stage="intake",topic="soma.requests"} 1
soma_faults_total{code="SCHEMA_UNKNOWN",pipeline="ct",stage="intake"} 1
odd{a="x\"y,z"} 1.5
bare 3
"#;

    #[test]
    fn a_stage_on_one_line() {
        let health = json!({"state": "halted", "detail": "FENCED: x", "partitions": 4, "loop_age_ms": 1500});
        let line = line("intake", &health, &parse(TEXT), Some(&Ok(3)));
        assert_eq!(
            (
                &line["state_keys"],
                &line["records"],
                &line["dead_lettered"],
                &line["lag"]
            ),
            (&json!(12), &json!(40), &json!(1), &json!(3))
        );
        assert_eq!(line["why"], "FENCED: x; SCHEMA_UNKNOWN x1");
        assert_eq!(line["loop_age"], "1.5s");
        assert_eq!(line["state_size"], "5 MB");
        assert_eq!(line["standby"], "2, 7 behind");
        assert_eq!(size(900), "900 B");
    }

    #[test]
    fn topics_of_a_stage_come_from_its_component_and_its_counters() {
        assert!(topics_of("intake", &[]).contains("soma.requests"));
        assert!(topics_of("renamed", &parse(TEXT)).is_empty());
    }
}
