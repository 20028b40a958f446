//! What the fuzz targets share: the shipped stages, and one step of a stage on a record.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use kernel::controls::Controls;
use kernel::{Delivery, Effects, Fault, Headers, Position, Processor};
use schemas::{Record, Timestamp, Written};

/// Any fixed time: 2026-01-01.
pub const NOW: Timestamp = Timestamp(1_767_225_600_000_000);

/// The files below a folder of `pipelines/`, as (path, text).
///
/// # Panics
/// The folder cannot be read.
pub fn files(folder: &str) -> Vec<(String, String)> {
    let base = concat!(env!("CARGO_MANIFEST_DIR"), "/../../pipelines/");
    let listed = std::fs::read_dir(format!("{base}{folder}")).expect("the checkout this was built in");
    let paths = listed.map(|e| e.expect("a readable folder").path());
    let text = |p: std::path::PathBuf| (p.display().to_string(), std::fs::read_to_string(p).expect("text"));
    paths.map(text).collect()
}

/// One step of a stage, as the loop would make it: what it writes, or its fault.
pub fn step<P: Processor>(
    stage: &P,
    state: &mut P::State,
    input: P::In,
    key: &str,
    controls: &Controls,
) -> Result<Vec<kernel::Emit>, Fault> {
    let delivery = Delivery {
        input,
        key: key.to_owned(),
        position: Position::default(),
        headers: Headers::default(),
        at: NOW,
    };
    let mut fx = Effects::new(NOW, key, "fuzz", controls);
    stage.step(state, &delivery, &mut fx)?;
    Ok(fx.emits)
}

/// A record from Avro bytes, as a stage decodes it; `None` when it is refused.
pub fn record<R: Record>(bytes: &[u8]) -> Option<R> {
    // One for each record type: to make one costs more than all the rest.
    static WRITTEN: Mutex<BTreeMap<&str, &Written>> = Mutex::new(BTreeMap::new());
    let mut known = WRITTEN.lock().unwrap_or_else(PoisonError::into_inner);
    let written = *known
        .entry(R::NAME)
        .or_insert_with(|| Box::leak(Box::new(Written::with(R::schema().clone()))));
    drop(known);
    R::from_written(written, bytes).ok()
}

/// A record from JSON text, as `soma produce` reads it; `None` when it is refused.
pub fn from_text<R: Record>(bytes: &[u8]) -> Option<R> {
    schemas::from_json(&serde_json::from_slice(bytes).ok()?).ok()
}
