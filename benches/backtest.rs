//! A week of verdicts seeded into the log, then judged again by `soma policy backtest` with a changed bundle. Every line of its
//! report is held against what the bare Rego engine finds in the same plans under both bundles.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use kernel::members::Members;
use schemas::records::{Plan, Step, Verdict};
use schemas::topics::Cleanup;
use schemas::{Timestamp, Usd, digest, topics};
use serde_json::Value;
use stages::policy_gate::{Bundle, Input, PolicyGate, Rego};

use crate::common::{brokers, create, files, now, registry, text, tokio};

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Kafka's bootstrap servers.
    #[arg(long)]
    brokers: String,
    /// Address of the schema registry.
    #[arg(long)]
    registry: String,
    /// The command line that is measured.
    #[arg(long)]
    soma: PathBuf,
    /// Its environment.
    #[arg(long)]
    env_file: PathBuf,
    /// Folder of the bundle that judged.
    #[arg(long, default_value = "pipelines/policies/base")]
    bundle: PathBuf,
    /// Folder of the bundle to try.
    #[arg(long)]
    changed: PathBuf,
    /// Verdicts of the week.
    #[arg(long, default_value_t = 100_000)]
    verdicts: usize,
}

const WEEK_US: i64 = 7 * 24 * 3600 * 1_000_000;
const TENANTS: [&str; 5] = ["acme", "globex", "hooli", "initech", "umbrella"];

/// The nth plan of the week: which tenant, how much, one to three steps; no two of them alike.
fn plan(n: usize) -> Result<Plan, String> {
    let action = |n: usize| match n % 7 {
        0 | 1 => (
            "http",
            "request",
            format!(r#"{{"method":"GET","url":"http://127.0.0.1:8080/items/{n}"}}"#),
        ),
        2 => (
            "http",
            "request",
            format!(r#"{{"method":"POST","url":"http://127.0.0.1:8080/items","json":{{"name":"item {n}"}}}}"#),
        ),
        3 => (
            "terraform",
            "apply",
            format!(
                r#"{{"workspace":"{}","plan_id":"p{n}","destroy_count":{}}}"#,
                ["web", "api", "db"][n % 3],
                n % 4 / 3
            ),
        ),
        4 => (
            "notify",
            "webhook",
            format!(r#"{{"url":"http://127.0.0.1:8080/hook","text":"done {n}"}}"#),
        ),
        5 => (
            "http",
            "request",
            format!(r#"{{"method":"DELETE","url":"http://127.0.0.1:8080/items/{n}"}}"#),
        ),
        _ => ("http", "request", format!(r#"{{"url":"https://api.example.org/{n}"}}"#)),
    };
    // Multiplied by primes: tenants, budgets, lengths and tools do not go in step.
    let steps: Vec<_> = (0..=n * 31 % 3)
        .map(|s| {
            let (tool, operation, arguments) = action(n * 13 + s);
            Step {
                step_id: format!("s{s}"),
                tool: tool.to_owned(),
                operation: operation.to_owned(),
                arguments,
                ..Step::default()
            }
        })
        .collect();
    let run_id = format!("run_{n:032x}");
    let budget = i64::try_from(n * 17 % 120).map_err(text)?;
    Ok(Plan {
        plan_id: format!("plan_{n:032x}"),
        tenant: TENANTS[n * 7 % TENANTS.len()].to_owned(),
        actor: "ada".to_owned(),
        goal: "keep the service up".to_owned(),
        budget_usd: (n % 5 < 3).then_some(Usd(budget * 1_000_000)),
        digest: digest::plan(&run_id, &steps).map_err(text)?,
        run_id,
        steps,
        ..Plan::default()
    })
}

/// Decision of the whole and of each step, and the rules that speak against it.
#[derive(Debug, PartialEq)]
struct Judged {
    decisions: Vec<&'static str>,
    rules: BTreeSet<String>,
}

/// What the bare engine says of a document.
fn directly(rego: &mut Rego, document: &Value) -> Result<Judged, String> {
    let answers = rego.ask(
        "deny = data.soma.gate.deny; escalate = data.soma.gate.escalate",
        Some(document),
    )?;
    let answer = answers.into_iter().next().ok_or("the bundle answers nothing")?;
    let set = |word: &str| {
        answer[word]
            .as_array()
            .cloned()
            .ok_or_else(|| format!("{word} is no set"))
    };
    let weighted = document["rules"].as_array().cloned().ok_or("no weighted rules")?;
    let (softer, harder) = weighted.into_iter().partition::<Vec<_>, _>(|r| r["escalate"] == true);
    let deny = [set("deny")?, harder].concat();
    let escalate = [set("escalate")?, softer].concat();
    let speaks = |all: &[Value], step: Option<&Value>| {
        let about = |f: &Value| step.is_none_or(|id| f["step_id"].is_null() || f["step_id"] == *id);
        all.iter().any(about)
    };
    let decision = |step| match (speaks(&deny, step), speaks(&escalate, step)) {
        (true, _) => "DENY",
        (_, true) => "ESCALATE",
        _ => "ALLOW",
    };
    let steps = document["steps"].as_array().ok_or("no steps")?;
    Ok(Judged {
        decisions: std::iter::once(None)
            .chain(steps.iter().map(|s| Some(&s["step_id"])))
            .map(decision)
            .collect(),
        rules: deny
            .iter()
            .chain(&escalate)
            .filter_map(|f| f["rule"].as_str())
            .map(str::to_owned)
            .collect(),
    })
}

/// What the report has to say of a verdict: decision before and after, rules new and gone.
type Change = (String, String, BTreeSet<String>, BTreeSet<String>);

/// One share of the week.
#[derive(Default)]
struct Share {
    records: Vec<(Plan, Verdict)>,
    changes: BTreeMap<String, Change>,
}

fn bundle(files: &[(String, String)]) -> Result<Bundle, String> {
    Bundle::parse(files).map_err(|f| f.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
}

/// Judges a share as the gate did, and evaluates it directly under both bundles.
fn share(options: &Options, of: std::ops::Range<usize>, end: Timestamp) -> Result<Share, String> {
    let (old, new) = (files(&options.bundle)?, files(&options.changed)?);
    let gate = PolicyGate::new(bundle(&old)?, [7; 32], || 0);
    let (mut before, mut after) = (bundle(&old)?.rego(), bundle(&new)?.rego());
    let mut share = Share::default();
    let all = i64::try_from(options.verdicts).map_err(text)?;
    for n in of {
        let plan = plan(n)?;
        let at = Timestamp(end.0 - WEEK_US + WEEK_US / all * i64::try_from(n).map_err(text)?);
        let input = Input::Plan(Box::new(plan.clone()));
        let verdict = gate.judge(&input, at, &Members::default()).map_err(text)?;
        let document = gate.document(&input, at);
        let (was, is) = (directly(&mut before, &document)?, directly(&mut after, &document)?);
        if was.decisions != is.decisions {
            let change = (
                was.decisions[0].to_owned(),
                is.decisions[0].to_owned(),
                is.rules.difference(&was.rules).cloned().collect(),
                was.rules.difference(&is.rules).cloned().collect(),
            );
            share.changes.insert(verdict.verdict_id.clone(), change);
        }
        share.records.push((plan, verdict));
    }
    Ok(share)
}

fn reported(report: &Value) -> Result<BTreeMap<String, Change>, String> {
    let word = |c: &Value, name: &str| {
        c[name]
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| format!("no {name} in {c}"))
    };
    let rules = |c: &Value, name: &str| {
        let all = c[name].as_array().ok_or_else(|| format!("no {name} in {c}"))?;
        Ok::<_, String>(all.iter().filter_map(|r| r.as_str()).map(str::to_owned).collect())
    };
    let changes = report["changes"].as_array().ok_or("the report has no changes")?;
    let one = |c: &Value| {
        let change = (
            word(c, "before")?,
            word(c, "after")?,
            rules(c, "rules_new")?,
            rules(c, "rules_gone")?,
        );
        Ok((word(c, "verdict_id")?, change))
    };
    changes.iter().map(one).collect()
}

#[allow(clippy::cast_precision_loss, reason = "verdicts a second")]
pub(crate) fn run(options: &Options) -> Result<String, String> {
    let end = now();
    let half = options.verdicts / 2;
    let shares = std::thread::scope(|scope| {
        let halves = [0..half, half..options.verdicts];
        let working = halves.map(|of| scope.spawn(move || share(options, of, end)));
        let done = working.map(|w| w.join().map_err(|_| "a judge panicked".to_owned())?);
        done.into_iter().collect::<Result<Vec<_>, _>>()
    })?;
    let (runtime, at) = (tokio()?, brokers(&options.brokers));
    for topic in [topics::PLANS.name, topics::VERDICTS.name, topics::PROPOSALS.name] {
        create(&at, &runtime, topic, 4, Cleanup::Delete)?;
    }
    for topic in [
        topics::MEMBERS.name,
        topics::POLICIES.name,
        topics::CONSTITUTIONS.name,
        topics::STRIKES.name,
        topics::TALLIES.name,
        topics::SBOMS.name,
    ] {
        create(&at, &runtime, topic, 1, Cleanup::Compact)?;
    }
    let writer = kafka::Writer::open(&at, registry(&options.registry, &runtime)?, "soma/bench").map_err(text)?;
    let mut expected = BTreeMap::new();
    for share in shares {
        for (plan, verdict) in &share.records {
            writer
                .write(topics::PLANS, &plan.run_id, &plan.tenant, plan, None)
                .map_err(text)?;
            writer
                .write(topics::VERDICTS, &plan.run_id, &plan.tenant, verdict, None)
                .map_err(text)?;
        }
        expected.extend(share.changes);
    }
    writer.flush().map_err(text)?;
    let done = Command::new(&options.soma)
        .arg("--env-file")
        .arg(&options.env_file)
        .args(["--json", "policy", "backtest", "--since", "8d", "--bundle"])
        .arg(&options.changed)
        .output()
        .map_err(text)?;
    let said = String::from_utf8_lossy(&done.stderr);
    let report: Value = serde_json::from_slice(&done.stdout).map_err(|e| format!("{e}: {said}"))?;
    let found = reported(&report)?;
    let judged = report["judged"]
        .as_u64()
        .ok_or("the report does not say how many were judged")?;
    if usize::try_from(judged).map_err(text)? != options.verdicts || report["unmatched"] != 0 {
        return Err(format!("{judged} judged, {} unmatched", report["unmatched"]));
    }
    let wrong = expected
        .iter()
        .filter(|(id, change)| found.get(*id) != Some(*change))
        .count()
        + found.keys().filter(|id| !expected.contains_key(*id)).count();
    let seconds = report["seconds"]
        .as_f64()
        .ok_or("the report does not say how long it took")?;
    let line = format!(
        "backtest verdicts={judged} changed={} wrong={wrong} backtest_per_s={:.0}",
        found.len(),
        judged as f64 / seconds
    );
    if wrong > 0 || found.is_empty() {
        return Err(line);
    }
    Ok(line)
}
