//! What is in force beside the deployed bundle: bundles for a tenant, a capsule, or for all, and constitutions. They are put here while
//! the gate runs. What any bundle says against a subject stands, so bundles tighten, unless a constitution lets one waive another's.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use kernel::members::EVERY;
use schemas::digest;

use super::answer::Source;
use super::bundle::Bundle;
use super::constitution::InForce;
use super::judge::Judge;
use super::sbom;

/// What is in force in a process, shared by whoever reads it and the gate.
#[derive(Clone, Default)]
pub struct Shelf(Arc<RwLock<Held>>);

/// Tenant, or `*`, and capsule.
type Place = (String, Option<String>);

#[derive(Default)]
struct Held {
    bundles: BTreeMap<Place, Arc<Shelved>>,
    constitutions: BTreeMap<String, Arc<InForce>>,
    /// Why the only constitutions of a tenant there are cannot be trusted.
    distrusted: BTreeMap<String, String>,
    sboms: Arc<sbom::Held>,
}

pub(super) struct Shelved {
    pub(super) judge: Judge,
    pub(super) revision: String,
}

/// What stands over one case.
#[derive(Default)]
pub(super) struct Over {
    pub(super) bundles: Vec<Arc<Shelved>>,
    /// That of all tenants first.
    pub(super) constitutions: Vec<Arc<InForce>>,
    /// Tenant, or `*`, whose only constitutions cannot be trusted, and why.
    pub(super) distrusted: Vec<(String, String)>,
    pub(super) sboms: Arc<sbom::Held>,
}

impl std::fmt::Debug for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Shelf").field(&self.revisions()).finish()
    }
}

impl Shelf {
    fn read(&self) -> RwLockReadGuard<'_, Held> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Held> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a bundle in force for a tenant, or for all as `*`, and there for one capsule, in place of the one that was.
    pub fn put(&self, tenant: &str, capsule: Option<&str>, bundle: Bundle) {
        let revision = bundle.revision().to_owned();
        let source = match (tenant, capsule) {
            (_, Some(_)) => Source::Capsule,
            (EVERY, None) => Source::Base,
            _ => Source::Tenant,
        };
        let judge = Judge::new(bundle, source);
        let shelved = Arc::new(Shelved { judge, revision });
        let place = (tenant.to_owned(), capsule.map(str::to_owned));
        self.write().bundles.insert(place, shelved);
    }

    /// Takes a bundle out of force.
    pub fn remove(&self, tenant: &str, capsule: Option<&str>) {
        let place = (tenant.to_owned(), capsule.map(str::to_owned));
        self.write().bundles.remove(&place);
    }

    /// Puts a constitution in force, unless a later version is. Says whether it is now.
    pub fn constitute(&self, constitution: InForce) -> bool {
        let mut held = self.write();
        let tenant = constitution.document.tenant.clone();
        let version = constitution.document.version;
        if held
            .constitutions
            .get(&tenant)
            .is_some_and(|c| c.document.version > version)
        {
            return false;
        }
        held.distrusted.remove(&tenant);
        held.constitutions.insert(tenant, Arc::new(constitution));
        true
    }

    /// Notes that a constitution cannot be trusted. The one in force stays; where there is none everything is denied: a file of signers
    /// that lost a key must not lift what was signed with it.
    pub fn distrust(&self, tenant: &str, why: &str) {
        let mut held = self.write();
        if !held.constitutions.contains_key(tenant) {
            held.distrusted.insert(tenant.to_owned(), why.to_owned());
        }
    }

    /// Takes a bill of materials in, or out.
    pub fn supply(&self, record: schemas::records::Sbom) {
        Arc::make_mut(&mut self.write().sboms).apply(record);
    }

    /// Revision of the bundles by tenant, and capsule after a `/`.
    pub fn revisions(&self) -> BTreeMap<String, String> {
        let name = |(tenant, capsule): &Place| match capsule {
            Some(capsule) => format!("{tenant}/{capsule}"),
            None => tenant.clone(),
        };
        let held = self.read();
        held.bundles
            .iter()
            .map(|(p, s)| (name(p), s.revision.clone()))
            .collect()
    }

    /// What stands over a tenant and a capsule.
    pub(super) fn over(&self, tenant: &str, capsule: Option<&str>) -> Over {
        let held = self.read();
        if held.bundles.is_empty() && held.constitutions.is_empty() && held.distrusted.is_empty() {
            return Over::default();
        }
        // A tenant of this name is nobody: `*` stands for all.
        let own = (tenant != EVERY).then_some(tenant);
        let names: Vec<_> = std::iter::once(EVERY).chain(own).collect();
        // `name@version`: a bundle may be for one version or for all.
        let mut capsules = vec![None];
        if let Some(capsule) = capsule {
            capsules.extend(capsule.split_once('@').map(|(name, _)| Some(name)));
            capsules.push(Some(capsule));
        }
        let places = capsules
            .iter()
            .flat_map(|capsule| names.iter().map(move |name| (*name, *capsule)));
        let places = places.map(|(name, capsule)| (name.to_owned(), capsule.map(str::to_owned)));
        Over {
            sboms: held.sboms.clone(),
            bundles: places.filter_map(|place| held.bundles.get(&place).cloned()).collect(),
            constitutions: names
                .iter()
                .filter_map(|name| held.constitutions.get(*name).cloned())
                .collect(),
            distrusted: names
                .iter()
                .filter_map(|name| held.distrusted.get_key_value(*name))
                .map(|(n, w)| (n.clone(), w.clone()))
                .collect(),
        }
    }
}

/// The revision that verdicts bear when more is in force than the deployed bundle: 64 hex digits.
pub fn combined(deployed: &str, beside: &[&str]) -> String {
    if beside.is_empty() {
        return deployed.to_owned();
    }
    digest::sha256_hex(&[&["policies", deployed], beside].concat())
}

/// The hash that verdicts bear: that of the constitution over the tenant, or of both, when there is one for all and one of its own.
pub(super) fn constitution_hash(over: &[Arc<InForce>]) -> Option<String> {
    match over {
        [] => None,
        [one] => Some(one.hash.clone()),
        several => {
            let hashes: Vec<_> = several.iter().map(|c| c.hash.as_str()).collect();
            Some(digest::sha256_hex(&[&["constitutions"], hashes.as_slice()].concat()))
        }
    }
}
