//! The shipped capsules and wizards: YAML files in, definitions out, every fault of every file at once.

use std::collections::BTreeMap;

use kernel::ConfigFault;
use serde_json::Value;

use super::definition::{Definition, Origin};
use super::node::{self, Faults, Node};

/// Capsules and wizards by `name@version`.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    definitions: BTreeMap<String, Definition>,
}

impl Catalogue {
    /// Reads (path, text) pairs. A path with a folder `wizards` holds a wizard, any other a capsule.
    ///
    /// # Errors
    /// Every fault of every file, each with its path.
    pub fn parse(files: &[(String, String)]) -> Result<Self, Vec<ConfigFault>> {
        let mut faults = Faults::new();
        let mut read: Vec<(Origin, &str, Value)> = Vec::new();
        for (path, text) in files {
            let origin = if path.split('/').any(|p| p == "wizards") {
                Origin::Wizard
            } else {
                Origin::Capsule
            };
            read.extend(node::read(path, text, &mut faults).map(|value| (origin, path.as_str(), value)));
        }
        let capsules: Vec<_> = read
            .iter()
            .filter(|(o, ..)| *o == Origin::Capsule)
            .map(|(_, p, v)| Node::root(p, v))
            .collect();
        let mut catalogue = Self::default();
        for (origin, path, value) in &read {
            let Some(definition) = Definition::read(*origin, &Node::root(path, value), &capsules, &mut faults) else {
                continue;
            };
            let key = definition.key();
            if catalogue.definitions.insert(key.clone(), definition).is_some() {
                faults.push(ConfigFault::new(
                    *path,
                    format!("`{key}` is in the catalogue twice: raise one version"),
                ));
            }
        }
        if faults.is_empty() { Ok(catalogue) } else { Err(faults) }
    }

    /// Every action the catalogue can ask for: (`name@version`, tool, operation), compensations too, without repeats.
    pub fn tools(&self) -> Vec<(String, String, String)> {
        let mut found = std::collections::BTreeSet::new();
        for (key, definition) in &self.definitions {
            for step in &definition.steps {
                for action in std::iter::once(&step.action).chain(&step.compensation) {
                    found.insert((key.clone(), action.tool.clone(), action.operation.clone()));
                }
            }
        }
        found.into_iter().collect()
    }

    /// `name@version` of everything in the catalogue, in order.
    pub fn keys(&self) -> Vec<&str> {
        self.definitions.keys().map(String::as_str).collect()
    }

    /// Operator values that steps refer to and `values` does not hold.
    pub fn missing_values(&self, values: &BTreeMap<String, String>) -> Vec<ConfigFault> {
        let mut faults = Vec::new();
        for (key, definition) in &self.definitions {
            for name in definition.values.iter().filter(|n| !values.contains_key(*n)) {
                let detail = format!("{key} refers to ${{values.{name}}}: give it in the pipeline's values");
                faults.push(ConfigFault::new(format!("values.{name}"), detail));
            }
        }
        faults
    }

    /// The definition a request names as `name` (its highest version) or `name@version`.
    pub(super) fn find(&self, origin: Origin, wanted: &str) -> Option<&Definition> {
        if wanted.contains('@') {
            return self.definitions.get(wanted).filter(|d| d.origin == origin);
        }
        let named = self
            .definitions
            .values()
            .filter(|d| d.origin == origin && d.name == wanted);
        named.max_by_key(|d| version_order(&d.version))
    }

    /// What the catalogue holds of that origin, for an error text.
    pub(super) fn known(&self, origin: Origin) -> String {
        let names: Vec<_> = self
            .definitions
            .iter()
            .filter(|(_, d)| d.origin == origin)
            .map(|(k, _)| k.as_str())
            .collect();
        if names.is_empty() {
            "none".into()
        } else {
            names.join(", ")
        }
    }
}

/// Orders `2` before `10` and `1.2` before `1.10`.
fn version_order(version: &str) -> Vec<(u64, String)> {
    version
        .split('.')
        .map(|part| (part.parse().unwrap_or(0), part.to_owned()))
        .collect()
}
