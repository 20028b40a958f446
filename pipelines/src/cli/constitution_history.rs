//! The versions of constitutions on `soma.constitutions`: read as the gate reads them, verified, compared.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use schemas::records::Constitution;
use schemas::topics;
use serde_json::{Value, json};
use stages::policy_gate::Shelf;
use stages::policy_gate::constitution::{self, Document, InForce, Signers};

use super::constitution::SIGNERS;
use super::context::Context;
use super::failure::Failure;
use crate::govern;

/// Who may sign, as this shell knows.
pub(super) fn signers(cx: &Context) -> Result<Signers, Failure> {
    govern::signers_of(Path::new(&cx.variable(SIGNERS)?)).map_err(super::constitution::refused)
}

/// Every version, by tenant and number.
pub(super) type History = BTreeMap<(String, i64), Version>;

/// One version on the topic, and what is wrong with it.
pub(super) struct Version {
    pub(super) record: Constitution,
    pub(super) position: String,
    pub(super) read: Result<InForce, String>,
}

/// Every version of every tenant: the last record of each.
pub(super) fn history(cx: &Context) -> Result<History, Failure> {
    // With nobody named, nobody may sign: as the gate has it.
    let named = cx.env.get(SIGNERS).is_some_and(|file| !file.is_empty());
    let signers = if named { signers(cx)? } else { Signers::default() };
    let mut all: History = BTreeMap::new();
    cx.each(topics::CONSTITUTIONS, &mut |record, read| {
        let version = Version {
            position: record.position.to_string(),
            read: constitution::read(&read, &signers),
            record: read,
        };
        let place = (version.record.tenant.clone(), version.record.version);
        // As the gate has it: what cannot be trusted takes nothing's place.
        let good = all.get(&place).is_some_and(|v| v.read.is_ok());
        if version.read.is_ok() || !good {
            all.insert(place, version);
        }
    })?;
    Ok(all)
}

/// Puts what is in force on a shelf, as the gate does: constitutions, and the bills of materials they look into.
pub(super) fn fold(cx: &Context, shelf: &Shelf) -> Result<(), Failure> {
    cx.each(topics::SBOMS, &mut |_, sbom| shelf.supply(sbom))?;
    for version in history(cx)?.into_values() {
        match version.read {
            Ok(read) => drop(shelf.constitute(read)),
            Err(why) => shelf.distrust(&version.record.tenant, &why),
        }
    }
    Ok(())
}

/// The version in force.
pub(super) fn latest<'a>(all: &'a History, tenant: &str) -> Option<&'a InForce> {
    let of = all.iter().filter(|((t, _), _)| t == tenant);
    of.filter_map(|(_, v)| v.read.as_ref().ok()).next_back()
}

/// What is wrong with each version: its own faults, and its link to the one before.
pub(super) fn faults(all: &History) -> BTreeMap<(String, i64), String> {
    let mut found = BTreeMap::new();
    for (place, version) in all {
        let (tenant, number) = place;
        let fault = match &version.read {
            Err(why) => Some(why.clone()),
            Ok(read) => {
                let before = all
                    .get(&(tenant.clone(), number - 1))
                    .and_then(|v| v.read.as_ref().ok());
                let linked = *number == 1 || before.is_some_and(|b| Some(&b.hash) == read.document.previous.as_ref());
                (!linked).then(|| format!("previous: version {} that it names is not there", number - 1))
            }
        };
        if let Some(fault) = fault {
            found.insert(place.clone(), fault);
        }
    }
    found
}

pub(super) fn pick<'a>(all: &'a History, tenant: &str, version: Option<i64>) -> Result<&'a InForce, Failure> {
    let found = match version {
        None => latest(all, tenant),
        Some(n) => all.get(&(tenant.to_owned(), n)).and_then(|v| v.read.as_ref().ok()),
    };
    found.ok_or_else(|| {
        let what = version.map_or_else(|| "a constitution".to_owned(), |n| format!("a version {n}"));
        Failure::failed(
            "NOT_FOUND",
            format!("{tenant} has no good {what}"),
            "soma constitution list; soma constitution verify",
        )
    })
}

/// Every leaf by its path; items of lists go by their `id` where they have one, so that a new one in the middle moves nothing.
fn leaves(value: &Value, path: &str, all: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(name, v)| {
            let at = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}.{name}")
            };
            leaves(v, &at, all);
        }),
        Value::Array(items) => items.iter().enumerate().for_each(|(n, v)| {
            let name = v["id"].as_str().map_or_else(|| n.to_string(), str::to_owned);
            leaves(v, &format!("{path}[{name}]"), all);
        }),
        leaf => drop(all.insert(path.to_owned(), leaf.to_string())),
    }
}

/// (path, before, after) of everything that differs.
pub(super) fn changes(from: &Document, to: &Document) -> Vec<(String, Option<String>, Option<String>)> {
    let of = |d: &Document| {
        let mut all = BTreeMap::new();
        leaves(&json!(d), "", &mut all);
        all
    };
    let (before, after) = (of(from), of(to));
    let paths: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let differ = paths.into_iter().filter(|p| before.get(*p) != after.get(*p));
    differ
        .map(|p| (p.clone(), before.get(p).cloned(), after.get(p).cloned()))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_requirement_put_in_between_is_the_only_change() {
        let of = |requirements: &str| -> Document {
            let text = format!(
                "{{tenant: acme, version: 1, title: t, issued_at: '2026-01-01T00:00:00Z', requirements: [{requirements}]}}"
            );
            serde_yaml_ng::from_str(&text).unwrap()
        };
        let (a, b) = ("{id: a, text: x, deny: true}", "{id: b, text: y, deny: true}");
        let found = changes(&of(b), &of(&format!("{a}, {b}")));
        let paths: Vec<_> = found
            .iter()
            .map(|(path, before, after)| (path.as_str(), before.is_some(), after.is_some()))
            .collect();
        let new = |field| (field, false, true);
        assert_eq!(
            paths,
            [
                new("requirements[a].deny"),
                new("requirements[a].id"),
                new("requirements[a].text")
            ]
        );
        assert_eq!(changes(&of(a), &of(a)), []);
    }
}
