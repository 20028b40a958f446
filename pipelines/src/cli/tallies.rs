//! `soma tally`: the steps that policies and constitutions count, from `soma.tallies`.

use std::collections::BTreeMap;

use schemas::records::Tally;
use schemas::topics;
use serde_json::json;

use super::context::{Context, now};
use super::failure::{Done, OK};
use super::{out, when};

/// What is listed.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  soma tally                                          counters of every tenant, and how often within the last hour and day
  soma tally --tenant acme --name constitution.three_an_hour

A constitution counts with `at_most: { times: 3, within_s: 3600 }`, a bundle with `tally contains {\"name\": \"deploys\", \"step_id\": step.step_id}`;
bundles are told of both as `input.tallies` (pipelines/policies/README.md).")]
pub(super) struct Args {
    /// Of this tenant alone
    #[arg(long)]
    tenant: Option<String>,
    /// The steps of this counter, the newest first
    #[arg(long)]
    name: Option<String>,
}

pub(super) fn run(args: &Args, cx: &Context) -> Done {
    let mut by_id = BTreeMap::new();
    cx.each(topics::TALLIES, &mut |_, tally| {
        by_id.insert(tally.tally_id.clone(), tally);
    })?;
    let mut all: Vec<Tally> = by_id.into_values().collect();
    all.retain(|t| args.tenant.as_ref().is_none_or(|only| *only == t.tenant));
    all.retain(|t| args.name.as_ref().is_none_or(|only| *only == t.name));
    all.sort_by_key(|t| std::cmp::Reverse(t.counted_at));
    if cx.json {
        out::json(&json!(all))?;
    } else if all.is_empty() {
        out::line("nothing was counted in the last seven days")?;
    } else if args.name.is_some() {
        let row = |t: &Tally| {
            let (run, step) = (t.run_id.clone(), t.step_id.clone());
            vec![when::shown(t.counted_at), t.tenant.clone(), run, step, t.actor.clone()]
        };
        let rows: Vec<_> = all.iter().map(row).collect();
        out::table(&["ALLOWED", "TENANT", "RUN", "STEP", "WHO"], &rows)?;
    } else {
        out::table(
            &["TENANT", "COUNTER", "LAST HOUR", "LAST DAY", "IN ALL", "LAST"],
            &summed(&all),
        )?;
    }
    Ok(OK)
}

fn summed(all: &[Tally]) -> Vec<Vec<String>> {
    let mut groups: BTreeMap<(&str, &str), Vec<&Tally>> = BTreeMap::new();
    for tally in all {
        groups.entry((&tally.tenant, &tally.name)).or_default().push(tally);
    }
    let now = now();
    let within = |of: &[&Tally], s: i64| {
        let recent = of.iter().filter(|t| now.micros_since(t.counted_at) < s * 1_000_000);
        recent.count().to_string()
    };
    let row = |((tenant, name), of): (&(&str, &str), &Vec<&Tally>)| {
        let last = of.first().map(|t| when::shown(t.counted_at)).unwrap_or_default();
        let (hour, day) = (within(of, 3_600), within(of, 86_400));
        vec![
            (*tenant).to_owned(),
            (*name).to_owned(),
            hour,
            day,
            of.len().to_string(),
            last,
        ]
    };
    groups.iter().map(row).collect()
}
