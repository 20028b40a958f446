//! Rows beside the windows they belong to: of a pane, one window or, where windows overlap, several; and of those, the rows of some keys.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{filter, filter_record_batch, take_record_batch};
use kernel::Fault;

use super::finals::Finish;
use super::keys;
use super::local::failed;
use super::windows::Window;

pub(crate) fn aggregate_starts(starts: &ArrayRef) -> &[i64] {
    starts
        .as_any()
        .downcast_ref::<Int64Array>()
        .map_or(&[], |starts| starts.values())
}

/// Rows beside the start of each window they belong to that is wanted; `None` when there is none.
pub(crate) fn spread(
    finish: &Finish,
    rows: &RecordBatch,
    wanted: &dyn Fn(i64) -> bool,
) -> Result<Option<(RecordBatch, ArrayRef)>, Fault> {
    let window = finish.view.window;
    let (mut indices, mut starts) = (Vec::new(), Vec::new());
    for (row, pane) in finish.view.aggregate.panes(rows).values().iter().enumerate() {
        let Ok(row) = u32::try_from(row) else { continue };
        if matches!(window, Window::Hop { .. }) {
            for start in window.starts(*pane).filter(|start| wanted(*start)) {
                indices.push(row);
                starts.push(start);
            }
        } else if wanted(*pane) {
            indices.push(row);
            starts.push(*pane);
        }
    }
    if indices.is_empty() {
        return Ok(None);
    }
    let starts: ArrayRef = Arc::new(Int64Array::from(starts));
    if indices.len() == rows.num_rows() && !matches!(window, Window::Hop { .. }) {
        return Ok(Some((rows.clone(), starts)));
    }
    let rows = take_record_batch(rows, &UInt32Array::from(indices)).map_err(|e| failed(e.into()))?;
    Ok(Some((rows, starts)))
}

/// Those of keys whose hash is in wanted shares.
pub(crate) fn of_shares(
    finish: &Finish,
    found: Option<(RecordBatch, ArrayRef)>,
    wanted: &dyn Fn(u64) -> bool,
) -> Result<Option<(RecordBatch, ArrayRef)>, Fault> {
    let Some((rows, starts)) = found else { return Ok(None) };
    let aggregate = &finish.view.aggregate;
    let columns = keys::columns(&rows, aggregate.keys(), aggregate.pane);
    let hashes = keys::hashes(&columns, rows.num_rows()).map_err(|e| failed(e.into()))?;
    let keep: BooleanArray = hashes.into_iter().map(|hash| Some(wanted(hash))).collect();
    if keep.true_count() == 0 {
        return Ok(None);
    }
    let rows = filter_record_batch(&rows, &keep).map_err(|e| failed(e.into()))?;
    let starts = filter(&starts, &keep).map_err(|e| failed(e.into()))?;
    Ok(Some((rows, starts)))
}
