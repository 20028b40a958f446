//! `soma policy`: a bundle tested, another one tried on recorded history, and a verdict explained.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use kernel::ConfigFault;
use schemas::records::{Obligation, Plan, Proposal, Run, Verdict};
use schemas::{Record, topics};
use serde_json::json;
use stages::policy_gate::{Bundle, Coverage};

use super::context::{Context, now};
use super::failure::{Done, FAILED, Failure, OK};
use super::policies::{self, Of, Publish};
use super::reprocess::past;
use super::{members, out, runs, shadow, when};
use crate::backtest::{Backtest, Group, Put, groups, run as backtest};
use crate::govern;

/// Tests, backtests and explains.
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Runs the Rego tests of a bundle
    #[command(after_help = "Example:
  soma policy test pipelines/policies/base
  soma policy test my-policies --coverage     and the lines no test came to

Exit code: 0 all pass, 1 some do not, 2 the bundle does not compile (file and line are named).")]
    Test {
        /// Folder of the bundle
        #[arg(default_value = "pipelines/policies/base")]
        bundle: PathBuf,
        /// Also say which lines no test came to
        #[arg(long)]
        coverage: bool,
    },
    /// Judges recorded history with another bundle: which verdicts would change?
    #[command(after_help = "Examples:
  soma policy backtest --bundle my-policies --since 7d
  soma policy backtest --bundle my-policies --tenant acme --html report.html

Every plan and proposal of that time is judged again, at the time it was judged, by the bundle given; nothing is written to any topic.
Exit code: 0 no verdict changes, 1 some do.")]
    Backtest(Args),
    /// Judges what the running pipeline judges with another bundle too, as it comes
    #[command(after_help = "Examples:
  soma policy shadow --bundle my-policies                     until Ctrl-C; then what would have changed
  soma policy shadow --bundle my-policies --tenant acme --for 1h --into trial

The running pipeline is not touched. Every verdict is given again at its time, with the bundles, constitutions and roles in force at the
start; the candidate's verdicts are written, unsigned, to the side topic <into>.soma.verdicts.
Exit code: 0 no verdict changes, 1 some do.")]
    Shadow(shadow::Args),
    /// Puts a bundle in force for a tenant, or for all, while the platform runs
    #[command(after_help = "Examples:
  soma policy publish my-policies --tenant acme --reason 'quarter end'
  soma policy publish freeze --tenant '*' --reason 'incident 12'
  soma policy publish probes --tenant acme --capsule endpoint_probe --reason 'its own rules'

It is judged by beside the deployed bundle and tightens: what either denies is denied, unless a constitution's precedence lets the
stronger one waive it (soma constitution --help). The bundle must compile and its tests
pass, or nothing is written. It holds over restarts until another is published or `soma policy withdraw`.")]
    Publish(Publish),
    /// Takes a tenant's bundle out of force
    #[command(after_help = "Example:\n  soma policy withdraw --tenant acme --reason 'quarter is over'")]
    Withdraw(Of),
    /// Lists the bundles in force beside the deployed one
    #[command(after_help = "Example:\n  soma policy list")]
    List,
    /// Shows why a run was judged as it was: every verdict, every rule, and what it spoke against
    #[command(after_help = "Examples:
  soma policy explain 3f2a91
  soma policy explain 3f2a91 --input     and the document the policies were given, for example to ask OPA about it")]
    Explain {
        /// Run id, or its beginning
        run: String,
        /// Also show what the policies were given
        #[arg(long)]
        input: bool,
        /// Folder of the bundle whose weighted rules are part of that
        #[arg(long, value_name = "DIR", default_value = "pipelines/policies/base")]
        bundle: PathBuf,
    },
}

/// What to try.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Folder of the bundle to try
    #[arg(long, value_name = "DIR")]
    bundle: PathBuf,
    /// From when on: a time (RFC 3339), or a duration back from now
    #[arg(long, default_value = "7d", value_name = "WHEN")]
    since: String,
    /// One tenant only
    #[arg(long)]
    tenant: Option<String>,
    /// Also write a page to read
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

pub(super) fn run(command: &Command, cx: &Context) -> Done {
    match command {
        Command::Test { bundle, coverage } => test(bundle, *coverage, cx),
        Command::Backtest(args) => try_on_history(args, cx),
        Command::Shadow(args) => shadow::run(args, cx),
        Command::Publish(args) => policies::publish(args, cx),
        Command::Withdraw(args) => policies::withdraw(args, cx),
        Command::List => policies::list(cx),
        Command::Explain { run, input, bundle } => explain(run, input.then_some(bundle.as_path()), cx),
    }
}

pub(super) fn refused(faults: Vec<ConfigFault>) -> Failure {
    let lines: Vec<_> = faults.iter().map(ToString::to_string).collect();
    Failure::input(
        "POLICY_UNREADABLE",
        lines.join("\n"),
        "the bundle that runs is not touched; mend these and try again",
    )
}

pub(super) fn read(folder: &Path) -> Result<Vec<(String, String)>, Failure> {
    let files = crate::registry::texts(Path::new(""), &[folder.to_owned()]).map_err(refused)?;
    if files.is_empty() {
        let text = format!("{} holds no .rego, .yaml or .json file", folder.display());
        return Err(Failure::input("POLICY_UNREADABLE", text, "give the folder of a bundle"));
    }
    Ok(files)
}

fn test(folder: &Path, coverage: bool, cx: &Context) -> Done {
    let bundle = Bundle::parse(&read(folder)?).map_err(refused)?;
    let (results, covered) = if coverage {
        let done = bundle.test_with_coverage();
        done.map_err(|e| Failure::failed("INTERNAL", e, "leave --coverage out"))?
    } else {
        (bundle.test(), Vec::new())
    };
    let failed = results.iter().filter(|r| !r.passed).count();
    if cx.json {
        let all: Vec<_> = results
            .iter()
            .map(|r| json!({"test": r.name, "passed": r.passed, "detail": r.detail}))
            .collect();
        out::json(
            &json!({"revision": bundle.revision(), "tests": all, "failed": failed, "coverage": json_of(&covered), "interpreted_because": bundle.slow()}),
        )?;
    } else {
        for r in &results {
            let word = if r.passed {
                out::paint(out::GREEN, "pass")
            } else {
                out::paint(out::RED, "FAIL")
            };
            out::line(format!(
                "{word}  {}{}{}",
                r.name,
                if r.passed { "" } else { ": " },
                r.detail
            ))?;
        }
        covered.iter().map(missed).try_for_each(out::line)?;
        if let Some(why) = bundle.slow() {
            out::note(format!(
                "interpreted, several times slower than bytecode: {why} (pipelines/policies/README.md, Fast bundles)"
            ));
        }
        out::line(format!(
            "policy tests={} failed={failed} revision={}",
            results.len(),
            bundle.revision()
        ))?;
    }
    Ok(if failed == 0 { OK } else { FAILED })
}

/// What of a file no test came to, as lines and stretches of lines.
fn missed(of: &Coverage) -> String {
    let all = of.covered + of.missed.len();
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for line in &of.missed {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == *line => *last = *line,
            _ => parts.push((*line, *line)),
        }
    }
    let text = parts
        .iter()
        .map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") });
    let text: Vec<_> = text.collect();
    let which = if text.is_empty() {
        String::new()
    } else {
        format!(", not lines {}", text.join(", "))
    };
    format!("{}: {} of {all} lines{which}", of.path, of.covered)
}

fn json_of(covered: &[Coverage]) -> Vec<serde_json::Value> {
    let one = |c: &Coverage| json!({"file": c.path, "covered": c.covered, "missed": c.missed});
    covered.iter().map(one).collect()
}

fn all<R: Record>(
    cx: &Context,
    topic: &str,
    since: schemas::Timestamp,
    keep: impl Fn(&R) -> bool,
) -> Result<Vec<R>, Failure> {
    let registry = cx.registry()?;
    let records = past(cx, topic, since, now())?;
    let read = records.iter().filter_map(|r| r.value.as_deref());
    // What cannot be read was not judged either; `soma dlq list` has it.
    let read = read.filter_map(|value| kernel::decode::<R>(value, registry.as_ref()).ok());
    Ok(read.filter(|r| keep(r)).collect())
}

fn try_on_history(args: &Args, cx: &Context) -> Done {
    let files = read(&args.bundle)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let bundles = (0..cores)
        .map(|_| Bundle::parse(&files))
        .collect::<Result<Vec<_>, _>>()
        .map_err(refused)?;
    let revision = bundles.first().map(|b| b.revision().to_owned()).unwrap_or_default();
    let since = when::instant(&args.since, now())
        .map_err(|e| Failure::input("USAGE", e, "write for example 7d or 2026-01-31T12:00:00Z"))?;
    let mine = |tenant: &str| args.tenant.as_deref().is_none_or(|t| t == tenant);
    let verdicts = all::<Verdict>(cx, topics::VERDICTS.name, since, |v| mine(&v.tenant))?;
    let plans = all::<Plan>(cx, topics::PLANS.name, since, |p| mine(&p.tenant))?;
    let proposals = all::<Proposal>(cx, topics::PROPOSALS.name, since, |p| mine(&p.tenant))?;
    let puts = plans.into_iter().map(Put::plan);
    let puts = puts.chain(proposals.into_iter().map(Put::proposal));
    let puts: Vec<_> = puts.collect();
    let (held, shelf) = (members::as_they_stand(cx)?, policies::shelf(cx)?);
    // Nobody sees its signatures.
    let gate = |bundle| govern::trial(bundle).with_shelf(shelf.clone());
    let gates = bundles.into_iter().map(gate).collect();
    let began = Instant::now();
    let found = backtest(gates, &held, &puts, &verdicts)?;
    let seconds = began.elapsed().as_secs_f64();
    let alike = groups(&found.changes);
    if let Some(file) = &args.html {
        let page = html(&found, &alike, &revision);
        std::fs::write(file, page).map_err(|e| {
            Failure::input(
                "FILE_UNWRITABLE",
                format!("{}: {e}", file.display()),
                "name another with --html",
            )
        })?;
    }
    #[allow(clippy::cast_precision_loss, reason = "verdicts a second")]
    let per_s = found.judged as f64 / seconds.max(1e-9);
    let more = json!({"revision": revision, "seconds": seconds});
    summary(
        "backtest",
        &found,
        &more,
        &format!("seconds={seconds:.2} backtest_per_s={per_s:.0}"),
        cx,
    )
}

/// What came of judging again: `more` beside it in JSON, `last` behind it in text.
pub(super) fn summary(word: &str, found: &Backtest, more: &serde_json::Value, last: &str, cx: &Context) -> Done {
    let alike = groups(&found.changes);
    if cx.json {
        let mut all = json!({"judged": found.judged, "changed": found.changes.len(), "reworded": found.reworded, "unmatched": found.unmatched, "groups": alike, "changes": found.changes});
        if let (Some(all), Some(more)) = (all.as_object_mut(), more.as_object()) {
            all.extend(more.clone());
        }
        out::json(&all)?;
    } else {
        table(&alike)?;
        out::line(format!(
            "{word} judged={} changed={} reworded={} unmatched={} {last}",
            found.judged,
            found.changes.len(),
            found.reworded,
            found.unmatched
        ))?;
    }
    Ok(if found.changes.is_empty() { OK } else { FAILED })
}

/// Changes that are alike, a line each.
fn table(alike: &[Group<'_>]) -> Result<(), Failure> {
    let head = [
        "VERDICTS",
        "TENANT",
        "TOOLS",
        "WAS",
        "WOULD BE",
        "RULES NEW",
        "RULES GONE",
        "EXAMPLE",
    ];
    out::table(&head, &rows(alike))
}

fn rows(alike: &[Group<'_>]) -> Vec<Vec<String>> {
    let row = |g: &Group<'_>| {
        let c = g.example;
        let words = |rules: &[String]| {
            if rules.is_empty() {
                "-".to_owned()
            } else {
                rules.join(", ")
            }
        };
        vec![
            g.count.to_string(),
            c.tenant.clone(),
            c.tools.clone(),
            c.before.to_owned(),
            c.after.to_owned(),
            words(&c.rules_new),
            words(&c.rules_gone),
            format!("{} {}", c.run_id, c.subject_id),
        ]
    };
    alike.iter().map(row).collect()
}

fn html(found: &Backtest, alike: &[Group<'_>], revision: &str) -> String {
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let cells = |row: Vec<String>| {
        row.iter()
            .map(|c| format!("<td>{}</td>", escape(c)))
            .collect::<String>()
    };
    let lines: String = rows(alike)
        .into_iter()
        .zip(alike)
        .map(|(row, g)| format!("<tr>{}<td>{}</td></tr>", cells(row), escape(&g.example.reason)))
        .collect();
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Policy backtest</title><style>\
         body{{font:14px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:80rem;padding:0 1rem;color:#222}}\
         table{{border-collapse:collapse;width:100%}}td,th{{border-bottom:1px solid #ddd;padding:.4rem .5rem;text-align:left;vertical-align:top}}\
         td{{word-break:break-word}}</style></head><body><h1>Policy backtest</h1><p>Bundle <code>{}</code>: {} verdicts judged again, \
         <strong>{} would change</strong>, {} keep their decision for other reasons, {} plans or proposals had no recorded verdict.</p>\
         <table><tr><th>Verdicts</th><th>Tenant</th><th>Tools</th><th>Was</th><th>Would be</th><th>Rules new</th><th>Rules gone</th>\
         <th>Example</th><th>Why</th></tr>{lines}</table></body></html>\n",
        escape(revision),
        found.judged,
        found.changes.len(),
        found.reworded,
        found.unmatched
    )
}

/// The documents that judgements were made on, by verdict.
fn documents(
    folder: &Path,
    run: &Run,
    verdicts: &[Verdict],
    cx: &Context,
) -> Result<BTreeMap<String, serde_json::Value>, Failure> {
    let bundle = Bundle::parse(&read(folder)?).map_err(refused)?;
    // It signs nothing.
    let gate = govern::trial(bundle).with_shelf(policies::shelf(cx)?);
    let began = run.created_at.plus_ms(-60_000);
    let plans = all::<Plan>(cx, topics::PLANS.name, began, |p| p.run_id == run.run_id)?;
    let proposals = all::<Proposal>(cx, topics::PROPOSALS.name, began, |p| p.run_id == run.run_id)?;
    let puts = plans.into_iter().map(Put::plan);
    let puts = puts.chain(proposals.into_iter().map(Put::proposal));
    let puts: Vec<_> = puts.collect();
    let of = |v: &Verdict| {
        let put = puts.iter().find(|p| p.was_judged(v))?;
        Some((v.verdict_id.clone(), gate.document(&put.0, v.decided_at)))
    };
    Ok(verdicts.iter().filter_map(of).collect())
}

/// An obligation in a line.
fn obligation(o: &Obligation) -> String {
    let what = match (o.kind.as_str(), &o.usd) {
        (Obligation::REDACT, _) => format!("results lose {}", o.fields.join(", ")),
        (Obligation::CAP_BUDGET, Some(usd)) => format!("the run spends at most {usd} USD"),
        (Obligation::DRY_RUN, _) => "a dry run, nothing else".to_owned(),
        (other, _) => other.to_owned(),
    };
    let about = o.step_id.as_ref().map(|s| format!(" (step {s})")).unwrap_or_default();
    format!("{}{about}: {what}", o.rule)
}

fn explain(run: &str, bundle: Option<&Path>, cx: &Context) -> Done {
    let run = runs::find(cx, run)?;
    let began = run.created_at.plus_ms(-60_000);
    let verdicts = all::<Verdict>(cx, topics::VERDICTS.name, began, |v| v.run_id == run.run_id)?;
    let given = match bundle {
        Some(folder) => documents(folder, &run, &verdicts, cx)?,
        None => BTreeMap::new(),
    };
    if cx.json {
        match bundle {
            Some(_) => out::json(&json!({"verdicts": verdicts, "inputs": given}))?,
            None => out::json(&json!(verdicts))?,
        }
        return Ok(OK);
    }
    for v in &verdicts {
        let head = format!(
            "{:?} {} {} score {} {}",
            v.subject,
            v.subject_id,
            v.decision.word(),
            v.score,
            when::shown(v.decided_at)
        );
        out::line(out::paint(out::BOLD, &head))?;
        let constitution = v
            .constitution_hash
            .as_ref()
            .map(|h| format!("  constitution {h}"))
            .unwrap_or_default();
        out::line(format!(
            "  verdict {}  policy {}{constitution}",
            v.verdict_id, v.policy_revision
        ))?;
        if let Some(document) = given.get(&v.verdict_id) {
            out::line(format!("{document:#}"))?;
        }
        if v.violations.is_empty() {
            out::line("  no rule speaks against it")?;
        }
        for rule in &v.violations {
            let about = rule
                .step_id
                .as_ref()
                .map(|s| format!(" (step {s})"))
                .unwrap_or_default();
            out::line(format!(
                "  {}{about}: {}",
                out::paint(out::YELLOW, &rule.rule),
                rule.description
            ))?;
            if !rule.excerpt.is_empty() {
                out::line(format!("    in: …{}…", rule.excerpt))?;
            }
        }
        for a in &v.adjudications {
            let about = a.step_id.as_ref().map(|s| format!(" (step {s})")).unwrap_or_default();
            let (how, colour) = if a.upheld {
                ("stands", out::YELLOW)
            } else {
                ("is waived", out::GREEN)
            };
            out::line(format!(
                "  {} of {}{about} {}: {} would lift it ({}); {}",
                a.rule,
                a.source,
                out::paint(colour, how),
                a.waived_by,
                a.reason,
                a.why
            ))?;
        }
        for o in &v.obligations {
            out::line(format!("  obliges {}", obligation(o)))?;
        }
        for ask in &v.asks {
            out::line(format!("  asks for {}", super::approve::needs(ask)))?;
        }
        for approval in v
            .approval_ids
            .iter()
            .chain(v.approval_id.iter().filter(|_| v.approval_ids.is_empty()))
        {
            out::line(format!("  rests on approval {approval}"))?;
        }
        for step in &v.steps {
            let why = if step.reason.is_empty() {
                String::new()
            } else {
                format!(": {}", step.reason)
            };
            out::line(format!("  step {} {}{why}", step.step_id, step.decision.word()))?;
        }
    }
    Ok(OK)
}
