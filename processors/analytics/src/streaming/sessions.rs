//! Sessions: kept rows of one key whose instants lie no further apart than the gap are one. Two records exactly the gap apart are
//! in one session, as Flink has it.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::row::{RowConverter, SortField};
use datafusion::common::Result;

use super::groups::{Aggregate, Groups};

/// Kept rows in order of key and time, and the session each belongs to.
pub(crate) struct Sessions {
    pub(crate) rows: RecordBatch,
    /// Where each row stood in the batches given, one after the other.
    pub(crate) from: Vec<u32>,
    /// By row: its session.
    pub(crate) of: Vec<usize>,
    /// By session: first and last instant.
    pub(crate) spans: Vec<(i64, i64)>,
}

/// Finds the sessions of kept rows.
pub(crate) fn find(aggregate: &Aggregate, batches: &[RecordBatch], gap: i64) -> Result<Sessions> {
    let all = concat_batches(&aggregate.state_schema, batches)?;
    let (starts, lasts) = (aggregate.panes(&all), aggregate.lasts(&all));
    let keys: Vec<ArrayRef> = (0..aggregate.keys())
        .filter(|i| *i != aggregate.pane)
        .map(|i| Arc::clone(all.column(i)))
        .collect();
    let fields = keys.iter().map(|k| SortField::new(k.data_type().clone())).collect();
    let converter = RowConverter::new(fields)?;
    let keys = if keys.is_empty() {
        None
    } else {
        Some(converter.convert_columns(&keys)?)
    };
    let key = |row: u32| keys.as_ref().map(|k| k.row(row as usize));
    let mut from: Vec<u32> = (0..u32::try_from(all.num_rows()).unwrap_or(u32::MAX)).collect();
    from.sort_by(|a, b| {
        key(*a)
            .cmp(&key(*b))
            .then(starts.value(*a as usize).cmp(&starts.value(*b as usize)))
    });
    let mut of = Vec::with_capacity(from.len());
    let mut spans: Vec<(i64, i64)> = Vec::new();
    let mut before: Option<u32> = None;
    for row in &from {
        let (start, last) = (starts.value(*row as usize), lasts.value(*row as usize));
        match spans.last_mut() {
            Some(span) if before.is_some_and(|b| key(b) == key(*row)) && start.saturating_sub(span.1) <= gap => {
                span.1 = span.1.max(last);
            }
            _ => spans.push((start, last)),
        }
        of.push(spans.len() - 1);
        before = Some(*row);
    }
    let rows = take_record_batch(&all, &UInt32Array::from(from.clone()))?;
    Ok(Sessions { rows, from, of, spans })
}

impl Sessions {
    /// Merges the rows of some sessions, in order: a group for each.
    pub(crate) fn groups(&self, aggregate: &Aggregate, wanted: &dyn Fn(usize) -> bool) -> Result<Groups> {
        let chosen: Vec<usize> = (0..self.of.len()).filter(|row| wanted(self.of[*row])).collect();
        let starts = Int64Array::from_iter_values(chosen.iter().map(|row| self.spans[self.of[*row]].0));
        let mut groups = Groups::new(aggregate)?;
        if chosen.is_empty() {
            return Ok(groups);
        }
        let rows = if chosen.len() == self.of.len() {
            self.rows.clone()
        } else {
            let chosen = UInt32Array::from_iter_values(chosen.iter().filter_map(|row| u32::try_from(*row).ok()));
            take_record_batch(&self.rows, &chosen)?
        };
        groups.merge(aggregate, &rows, Some(Arc::new(starts)))?;
        Ok(groups)
    }
}
