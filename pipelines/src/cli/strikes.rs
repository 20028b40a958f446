//! `soma strike`: who broke the rules of moderation, on `soma.strikes`, and the pardon of it.

use std::collections::BTreeMap;

use schemas::records::Strike;
use schemas::topics;
use serde_json::json;

use super::constitution::Why;
use super::context::Context;
use super::failure::{Done, FAILED, Failure, OK};
use super::{out, when};

/// Lists and pardons strikes.
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// List the strikes that count
    #[command(after_help = "Example:
  soma strike list --tenant acme

A rule with `strike: true` that denies a plan strikes who asked for it. `moderation` in the policy's data says how many within which
time lock an actor out (pipelines/policies/base/data.yaml). Exit code: 0 there are some, 1 there are none.")]
    List {
        /// Of this tenant alone
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Let one count no more
    #[command(after_help = "Example:\n  soma strike pardon str_3f2a --reason 'quoted a ticket'")]
    Pardon {
        /// Strike id, or its beginning
        strike: String,
        #[command(flatten)]
        why: Why,
    },
}

pub(super) fn run(command: &Command, cx: &Context) -> Done {
    match command {
        Command::List { tenant } => list(tenant.as_deref(), cx),
        Command::Pardon { strike, why } => pardon(strike, why, cx),
    }
}

/// Every strike and pardon there is, in order.
pub(super) fn all(cx: &Context) -> Result<Vec<Strike>, Failure> {
    let mut all = Vec::new();
    cx.each(topics::STRIKES, &mut |_, strike| all.push(strike))?;
    Ok(all)
}

/// Those that count.
fn counting(cx: &Context) -> Result<Vec<Strike>, Failure> {
    let mut by_id = BTreeMap::new();
    for strike in all(cx)? {
        if strike.pardoned {
            by_id.remove(&strike.strike_id);
        } else {
            by_id.insert(strike.strike_id.clone(), strike);
        }
    }
    let mut all: Vec<_> = by_id.into_values().collect();
    all.sort_by_key(|s| s.struck_at);
    Ok(all)
}

fn list(tenant: Option<&str>, cx: &Context) -> Done {
    let mut all = counting(cx)?;
    all.retain(|s| tenant.is_none_or(|only| only == s.tenant));
    if cx.json {
        out::json(&json!(all))?;
    } else if all.is_empty() {
        out::line("nobody has a strike")?;
    } else {
        let row = |s: &Strike| {
            let run = s.run_id.clone();
            vec![
                s.strike_id.clone(),
                s.tenant.clone(),
                s.person.clone(),
                s.rule.clone(),
                when::shown(s.struck_at),
                run,
                out::short(&s.reason, 60),
            ]
        };
        let rows: Vec<_> = all.iter().map(row).collect();
        out::table(&["STRIKE", "TENANT", "WHO", "RULE", "AT", "RUN", "REASON"], &rows)?;
    }
    Ok(if all.is_empty() { FAILED } else { OK })
}

fn pardon(id: &str, why: &Why, cx: &Context) -> Done {
    if why.reason.trim().is_empty() {
        return Err(Failure::input(
            "USAGE",
            "--reason is empty",
            "soma strike pardon --help",
        ));
    }
    let found: Vec<_> = counting(cx)?
        .into_iter()
        .filter(|s| s.strike_id.starts_with(id))
        .collect();
    let [strike] = found.as_slice() else {
        let text = format!("{} strikes that count begin with `{id}`", found.len());
        return Err(Failure::failed(
            "NOT_FOUND",
            text,
            "soma strike list; give more of the id",
        ));
    };
    let pardon = Strike {
        pardoned: true,
        reason: why.reason.clone(),
        actor: cx.actor(why.who.as_deref())?,
        ..strike.clone()
    };
    if pardon.actor == pardon.person {
        return Err(Failure::input(
            "SELF_PARDON",
            "nobody pardons their own strike",
            "ask somebody else, or say who you are with --as",
        ));
    }
    let writer = cx.writer()?;
    writer.write(
        topics::STRIKES,
        &format!("{}:{}", pardon.tenant, pardon.person),
        &pardon.tenant,
        &pardon,
        None,
    )?;
    writer.flush()?;
    if cx.json {
        out::json(&json!(pardon))?;
    } else {
        out::line(format!("{} of {} counts no more", pardon.strike_id, pardon.person))?;
    }
    Ok(OK)
}
