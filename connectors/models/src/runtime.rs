//! The ONNX Runtime library, loaded from a path at run time. One process has one: the first path that loads is the one.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use kernel::{Fault, FaultCode};
use ort::environment::Environment;

static LOADED: Mutex<Option<(PathBuf, Environment)>> = Mutex::new(None);

/// The environment of the library at `path`.
///
/// # Errors
/// `MODEL_UNAVAILABLE` when it cannot be loaded; `CONFIG_INVALID` when another one was loaded before.
pub(crate) fn environment(path: &Path) -> Result<Environment, Fault> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((first, environment)) = loaded.as_ref() {
        if first != path {
            let detail = format!(
                "ONNX Runtime was loaded from {} and cannot be loaded from {} too; give every model the same path",
                first.display(),
                path.display()
            );
            return Err(Fault::new(FaultCode::ConfigInvalid, detail));
        }
        return Ok(environment.clone());
    }
    present("the ONNX Runtime library", path)?;
    let builder = ort::init_from(path).map_err(|e| unavailable("the ONNX Runtime library", path, &e))?;
    let environment = builder
        .with_name("soma")
        .build()
        .map_err(|e| unavailable("the ONNX Runtime library", path, &e))?;
    *loaded = Some((path.to_owned(), environment.clone()));
    Ok(environment)
}

/// Refuses a path that is no file, before a library says it less clearly.
pub(crate) fn present(what: &str, path: &Path) -> Result<(), Fault> {
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_file() => Ok(()),
        Ok(_) => Err(unavailable(what, path, &"it is not a file")),
        Err(e) => Err(unavailable(what, path, &e)),
    }
}

/// A fault that names the file and the fix.
pub(crate) fn unavailable(what: &str, path: &Path, why: &dyn std::fmt::Display) -> Fault {
    let detail = format!(
        "{what} cannot be loaded from `{}`: {why}; run `python3 deploy/dev/stack.py setup` or correct the path",
        path.display()
    );
    Fault::new(FaultCode::ModelUnavailable, detail)
}
