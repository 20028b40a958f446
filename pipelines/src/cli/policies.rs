//! `soma policy publish | withdraw | list`: bundles put in force while the platform runs, on `soma.policies`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kernel::members::EVERY;
use schemas::records::Policy;
use schemas::topics;
use serde_json::json;
use stages::policy_gate::{Bundle, Shelf};

use super::constitution_history;
use super::context::{Context, now};
use super::failure::{Done, FAILED, Failure, OK};
use super::policy::{read, refused};
use super::{out, when};
use crate::standing;

/// What to put in force.
#[derive(clap::Args)]
pub(super) struct Publish {
    /// Folder of the bundle
    bundle: PathBuf,
    #[command(flatten)]
    of: Of,
}

/// Whose bundle, and why.
#[derive(clap::Args)]
pub(super) struct Of {
    /// Tenant it is for; `*` for all
    #[arg(long)]
    tenant: String,
    /// For the runs of this capsule alone: `name`, or `name@version`
    #[arg(long)]
    capsule: Option<String>,
    /// Why
    #[arg(long, short)]
    reason: String,
    /// Who says so (default: $USER)
    #[arg(long = "as", value_name = "WHO")]
    who: Option<String>,
}

pub(super) fn publish(args: &Publish, cx: &Context) -> Done {
    let files = read(&args.bundle)?;
    // Faults are shown with the paths the author knows.
    Bundle::parse(&files).map_err(refused)?;
    // Paths from the bundle's own folder: where it was published from is nobody's business.
    let base = format!("{}/", args.bundle.display());
    let files: BTreeMap<_, _> = files
        .into_iter()
        .map(|(path, text)| (path.strip_prefix(&base).unwrap_or(&path).to_owned(), text))
        .collect();
    let named: Vec<_> = files.iter().map(|(p, t)| (p.clone(), t.clone())).collect();
    let revision = Bundle::parse(&named).map_err(refused)?.revision().to_owned();
    let policy = policy(&args.of, files, revision, cx)?;
    standing::bundle(&policy).map_err(|why| {
        let help = "nothing was written; the bundles in force are not touched";
        Failure::input("POLICY_UNREADABLE", why, help)
    })?;
    write(&policy, cx)
}

pub(super) fn withdraw(args: &Of, cx: &Context) -> Done {
    if !in_force(cx)?
        .iter()
        .any(|p| p.tenant == args.tenant && p.capsule == args.capsule)
    {
        let text = format!(
            "no bundle of {} is in force beside the deployed one",
            place(&args.tenant, args.capsule.as_deref())
        );
        return Err(Failure::failed("NOTHING_CHANGES", text, "soma policy list"));
    }
    write(&policy(args, BTreeMap::new(), String::new(), cx)?, cx)
}

fn policy(of: &Of, files: BTreeMap<String, String>, revision: String, cx: &Context) -> Result<Policy, Failure> {
    if of.tenant.trim().is_empty() || of.reason.trim().is_empty() {
        let text = "--tenant and --reason are not empty";
        return Err(Failure::input("USAGE", text, "soma policy publish --help"));
    }
    Ok(Policy {
        tenant: of.tenant.clone(),
        capsule: of.capsule.clone(),
        files,
        revision,
        reason: of.reason.clone(),
        actor: cx.actor(of.who.as_deref())?,
        published_at: now(),
    })
}

fn write(policy: &Policy, cx: &Context) -> Done {
    let writer = cx.writer()?;
    let place = place(&policy.tenant, policy.capsule.as_deref());
    writer.write(topics::POLICIES, &place, "", policy, None)?;
    writer.flush()?;
    if cx.json {
        out::json(
            &json!({"tenant": policy.tenant, "capsule": policy.capsule, "revision": policy.revision, "files": policy.files.len()}),
        )?;
        return Ok(OK);
    }
    let whose = if place == EVERY { "every tenant" } else { &place };
    out::line(if policy.files.is_empty() {
        format!("the bundle of {whose} is withdrawn")
    } else {
        format!("{} files for {whose}, revision {}", policy.files.len(), policy.revision)
    })?;
    Ok(OK)
}

/// The last record of each tenant that has a bundle.
fn in_force(cx: &Context) -> Result<Vec<Policy>, Failure> {
    let mut last: BTreeMap<(String, Option<String>), Policy> = BTreeMap::new();
    cx.each(topics::POLICIES, &mut |record, policy| {
        let of = (policy.tenant.clone(), policy.capsule.clone());
        if policy.files.is_empty() {
            last.remove(&of);
        } else if standing::bundle(&policy).is_ok() {
            last.insert(of, policy);
        } else {
            out::note(format!(
                "{}: the gate refuses the bundle of {} (`soma subscribe soma.policies` shows it)",
                record.position, policy.tenant
            ));
        }
    })?;
    Ok(last.into_values().collect())
}

/// Key of a bundle's record.
fn place(tenant: &str, capsule: Option<&str>) -> String {
    capsule.map_or_else(|| tenant.to_owned(), |capsule| format!("{tenant}/{capsule}"))
}

/// The bundles in force beside the deployed one, and the constitutions.
pub(super) fn shelf(cx: &Context) -> Result<Shelf, Failure> {
    let shelf = Shelf::default();
    for policy in in_force(cx)? {
        if let Ok(bundle) = standing::bundle(&policy) {
            shelf.put(&policy.tenant, policy.capsule.as_deref(), bundle);
        }
    }
    constitution_history::fold(cx, &shelf)?;
    Ok(shelf)
}

pub(super) fn list(cx: &Context) -> Done {
    let all = in_force(cx)?;
    if cx.json {
        out::json(&json!(all))?;
        return Ok(OK);
    }
    if all.is_empty() {
        out::line("no bundle is in force beside the deployed one")?;
        return Ok(FAILED);
    }
    let row = |p: &Policy| {
        vec![
            p.tenant.clone(),
            p.capsule.clone().unwrap_or_else(|| "-".to_owned()),
            p.revision.clone(),
            p.files.len().to_string(),
            when::shown(p.published_at),
            p.actor.clone(),
            out::short(&p.reason, 80),
        ]
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    out::table(
        &["TENANT", "CAPSULE", "REVISION", "FILES", "SINCE", "BY", "REASON"],
        &rows,
    )?;
    Ok(OK)
}
