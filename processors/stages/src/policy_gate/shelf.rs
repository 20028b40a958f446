//! Bundles in force beside the deployed one: for a tenant, or for all. They are put here while the gate runs. What any bundle
//! says against a subject stands, so they can only tighten.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use kernel::members::EVERY;
use schemas::digest;

use super::bundle::Bundle;
use super::judge::Judge;

/// The bundles of a process, shared by whoever reads them and the gate.
#[derive(Clone, Default)]
pub struct Shelf(Arc<RwLock<BTreeMap<String, Arc<Shelved>>>>);

pub(super) struct Shelved {
    pub(super) judge: Judge,
    pub(super) revision: String,
}

impl std::fmt::Debug for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Shelf").field(&self.revisions()).finish()
    }
}

impl Shelf {
    /// Puts a bundle in force for a tenant, or for all as `*`, in place of the one that was.
    pub fn put(&self, tenant: &str, bundle: Bundle) {
        let revision = bundle.revision().to_owned();
        let judge = Judge::new(bundle);
        let shelved = Arc::new(Shelved { judge, revision });
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(tenant.to_owned(), shelved);
    }

    /// Takes a tenant's bundle out of force.
    pub fn remove(&self, tenant: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(tenant);
    }

    /// Revision by tenant.
    pub fn revisions(&self) -> BTreeMap<String, String> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(t, s)| (t.clone(), s.revision.clone())).collect()
    }

    /// The bundles over a tenant.
    pub(super) fn over(&self, tenant: &str) -> Vec<Arc<Shelved>> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if all.is_empty() {
            return Vec::new();
        }
        // A tenant of this name is nobody: `*` stands for all.
        let own = (tenant != EVERY).then_some(tenant);
        let names = std::iter::once(EVERY).chain(own);
        names.filter_map(|name| all.get(name).cloned()).collect()
    }
}

/// The revision that verdicts bear when bundles are in force beside the deployed one: 64 hex digits.
pub fn combined(deployed: &str, beside: &[&str]) -> String {
    if beside.is_empty() {
        return deployed.to_owned();
    }
    digest::sha256_hex(&[&["policies", deployed], beside].concat())
}
