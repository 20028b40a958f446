//! `soma member`: who holds which roles, on `soma.members`; what is known of people, for who judges here. Approvers are held against it when they approve and when what they
//! approved is called.

use kernel::members::{EVERY, Members};
use schemas::records::Member;
use schemas::topics;
use serde_json::json;

use super::context::{Context, now};
use super::failure::{Done, FAILED, Failure, OK};
use super::{out, strikes};

/// Grants, takes away and lists roles.
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Give somebody roles
    #[command(after_help = "Examples:
  soma member grant grace --tenant acme --role release-manager --reason 'on call'
  soma member grant lin --role security --reason 'audits everybody'      in every tenant

A policy names the roles whose holders may approve: {\"rule\": .., \"roles\": [\"release-manager\"], \"quorum\": 2}.")]
    Grant(Args),
    /// Take roles away: all of them, or those named
    #[command(after_help = "Example:
  soma member revoke grace --tenant acme --reason 'left the team'

What they approved and has not been called yet is put to others.")]
    Revoke(Args),
    /// List who holds which roles
    #[command(after_help = "Example:\n  soma member list")]
    List,
}

/// Whose roles.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Who
    person: String,
    /// In one tenant only
    #[arg(long, default_value = EVERY, hide_default_value = true)]
    tenant: String,
    /// Role; may be given several times
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// Why
    #[arg(long, short)]
    reason: String,
    /// Who says so (default: $USER)
    #[arg(long = "as", value_name = "WHO")]
    who: Option<String>,
}

pub(super) fn run(command: &Command, cx: &Context) -> Done {
    match command {
        Command::Grant(args) if args.roles.is_empty() => Err(Failure::input(
            "ROLE_MISSING",
            "no role is named",
            "name one with --role",
        )),
        Command::Grant(args) => change(args, cx, |held, named| {
            held.extend(named.iter().cloned());
            held.sort();
            held.dedup();
        }),
        Command::Revoke(args) => change(args, cx, |held, named| {
            held.retain(|role| !named.is_empty() && !named.contains(role));
        }),
        Command::List => list(cx),
    }
}

/// Roles and strikes as they stand, taken in as the stages do.
pub(super) fn as_they_stand(cx: &Context) -> Result<Members, Failure> {
    let mut members = Members::default();
    cx.each(topics::MEMBERS, &mut |_, member| members.apply(member))?;
    strikes::all(cx)?.into_iter().for_each(|s| members.apply_strike(s));
    cx.each(topics::TALLIES, &mut |_, tally| members.apply_tally(tally))?;
    Ok(members)
}

/// The same as the stages are told of it, without any control.
pub(super) fn shared(cx: &Context) -> Result<runtime::SharedControls, Failure> {
    let shared = runtime::SharedControls::default();
    for (tenant, person, roles) in as_they_stand(cx)?.all() {
        shared.apply_member(Member {
            tenant: tenant.to_owned(),
            person: person.to_owned(),
            roles: roles.to_vec(),
            ..Member::default()
        });
    }
    strikes::all(cx)?.into_iter().for_each(|s| shared.apply_strike(s));
    cx.each(topics::TALLIES, &mut |_, tally| shared.apply_tally(tally))?;
    Ok(shared)
}

fn change(args: &Args, cx: &Context, how: impl Fn(&mut Vec<String>, &[String])) -> Done {
    let named = [&args.person, &args.tenant, &args.reason];
    if named.iter().any(|text| text.trim().is_empty()) {
        let text = "person, --tenant and --reason are not empty";
        return Err(Failure::input("USAGE", text, "soma member grant --help"));
    }
    let members = as_they_stand(cx)?;
    let held = members.all().find(|(t, p, _)| *t == args.tenant && *p == args.person);
    let before = held.map(|(_, _, roles)| roles.to_vec()).unwrap_or_default();
    let mut roles = before.clone();
    how(&mut roles, &args.roles);
    if roles == before {
        let text = format!("{} has just these roles already: {}", args.person, words(&before));
        return Err(Failure::failed("NOTHING_CHANGES", text, "soma member list"));
    }
    let member = Member {
        tenant: args.tenant.clone(),
        person: args.person.clone(),
        roles,
        reason: args.reason.clone(),
        actor: cx.actor(args.who.as_deref())?,
        changed_at: now(),
    };
    let writer = cx.writer()?;
    let key = format!("{}:{}", member.tenant, member.person);
    writer.write(topics::MEMBERS, &key, &member.tenant, &member, None)?;
    writer.flush()?;
    if cx.json {
        out::json(&json!(member))?;
    } else {
        let place = if member.tenant == EVERY {
            "every tenant"
        } else {
            &member.tenant
        };
        out::line(format!("{} in {place}: {}", member.person, words(&member.roles)))?;
    }
    Ok(OK)
}

fn words(roles: &[String]) -> String {
    if roles.is_empty() {
        "no roles".to_owned()
    } else {
        roles.join(", ")
    }
}

fn list(cx: &Context) -> Done {
    let members = as_they_stand(cx)?;
    if cx.json {
        let all = members.all();
        let all: Vec<_> = all
            .map(|(tenant, person, roles)| json!({"tenant": tenant, "person": person, "roles": roles}))
            .collect();
        out::json(&json!(all))?;
        return Ok(OK);
    }
    let rows: Vec<_> = members
        .all()
        .map(|(tenant, person, roles)| vec![tenant.to_owned(), person.to_owned(), roles.join(", ")])
        .collect();
    if rows.is_empty() {
        out::line("nobody holds a role; `soma member grant` gives one")?;
        return Ok(FAILED);
    }
    out::table(&["TENANT", "PERSON", "ROLES"], &rows)?;
    Ok(OK)
}
