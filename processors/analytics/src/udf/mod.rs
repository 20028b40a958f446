//! UDFs from dylibs: written with Arroyo's plugin (processors/udfs), loaded here over the Arrow C interface, as Arroyo loads them,
//! and given to DataFusion as functions of its own. What goes wrong in one is an error with its name; it does not sandbox them: a
//! dylib is code of ours and can do what we can.

mod aggregate;
mod called;
mod foreign;
mod said;
mod scalar;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::logical_expr::{AggregateUDF, ScalarUDF};
use datafusion::prelude::SessionContext;
use kernel::ConfigFault;

use called::Called;
pub use called::Failed;
pub use said::{Arg, Said};

/// UDFs that were loaded. The dylibs stay until the process ends: values of theirs may be anywhere.
#[derive(Clone, Debug, Default)]
pub struct Udfs {
    /// Functions of a row.
    pub scalars: Vec<ScalarUDF>,
    /// Functions of the values of a group.
    pub aggregates: Vec<AggregateUDF>,
    /// What each says of itself, by name.
    pub said: Vec<Said>,
}

impl Udfs {
    /// Makes them known to queries. One that has the name of a function of DataFusion's takes its place.
    pub fn register(&self, context: &SessionContext) {
        for udf in &self.scalars {
            context.register_udf(udf.clone());
        }
        for udf in &self.aggregates {
            context.register_udaf(udf.clone());
        }
    }
}

/// Loads every dylib of a folder, by name.
///
/// # Errors
/// The folder cannot be read, and as [`load_files`].
pub fn load(folder: &Path) -> Result<Udfs, Vec<ConfigFault>> {
    let shown = folder.display().to_string();
    let unreadable = |e: std::io::Error| {
        let help = "`make udfs` builds the UDFs into $SOMA_CACHE/udfs";
        vec![ConfigFault::new(&shown, format!("cannot be read: {e}; {help}"))]
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|e| e == std::env::consts::DLL_EXTENSION) {
            paths.push(path);
        }
    }
    paths.sort();
    load_files(&paths)
}

/// Loads dylibs.
///
/// # Errors
/// Every one that cannot be loaded, with its path: no dylib, not one of `make udfs`, built with another version of the plugin, of
/// types that cannot be handed over, or of a name that another has.
pub fn load_files(paths: &[PathBuf]) -> Result<Udfs, Vec<ConfigFault>> {
    let mut faults = Vec::new();
    let mut named: BTreeMap<String, (&PathBuf, Arc<Called>)> = BTreeMap::new();
    for path in paths {
        match Called::open(path) {
            Ok(called) => {
                if let Some((other, _)) = named.get(&called.said.name) {
                    let detail = format!(
                        "udf `{}`: {} has one of this name; remove one",
                        called.said.name,
                        other.display()
                    );
                    faults.push(ConfigFault::new(path.display().to_string(), detail));
                } else {
                    named.insert(called.said.name.clone(), (path, Arc::new(called)));
                }
            }
            Err(detail) => faults.push(ConfigFault::new(path.display().to_string(), detail)),
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let mut udfs = Udfs::default();
    for (_, called) in named.into_values() {
        udfs.said.push(called.said.clone());
        if called.said.aggregate {
            udfs.aggregates.push(aggregate::of(called));
        } else {
            udfs.scalars.push(scalar::of(called));
        }
    }
    Ok(udfs)
}
