//! Kept rows of one view in one partition: runs, each about half as long as the one before, so that a commit writes what it
//! changed and, seldom, a merged longer run; never everything.

use arrow::array::Int64Array;
use arrow::array::RecordBatch;
use arrow::compute::kernels::cmp::gt_eq;
use arrow::compute::{filter_record_batch, max, min};
use kernel::Fault;

use super::frame;
use super::groups::{Aggregate, Groups};
use super::local::failed;

/// A change of the changelog: key behind the view's name, and value.
pub(crate) type Written = (String, Option<Vec<u8>>);

/// Rows that were written together.
#[derive(Clone, Debug)]
struct Run {
    number: u64,
    /// In the changelog; those of a restore before they are put together.
    pieces: usize,
    batches: Vec<RecordBatch>,
    least: i64,
    most: i64,
}

impl Run {
    fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }
}

/// All runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    runs: Vec<Run>,
    next: u64,
}

fn bounds(aggregate: &Aggregate, batches: &[RecordBatch]) -> (i64, i64) {
    let least = batches.iter().filter_map(|b| min(aggregate.panes(b))).min();
    let most = batches.iter().filter_map(|b| max(aggregate.panes(b))).max();
    (least.unwrap_or(i64::MAX), most.unwrap_or(i64::MIN))
}

impl Kept {
    /// Rows whose pane is in `from..until`; some outside may come along.
    pub(crate) fn between(&self, from: i64, until: i64) -> impl Iterator<Item = &RecordBatch> {
        let touches = move |run: &&Run| run.most >= from && run.least < until;
        self.runs.iter().filter(touches).flat_map(|run| &run.batches)
    }

    /// All rows.
    pub(crate) fn all(&self) -> impl Iterator<Item = &RecordBatch> {
        self.runs.iter().flat_map(|run| &run.batches)
    }

    /// Bytes they take.
    pub(crate) fn size(&self) -> usize {
        self.all().map(RecordBatch::get_array_memory_size).sum()
    }

    /// How many rows there are.
    pub(crate) fn rows(&self) -> usize {
        self.runs.iter().map(Run::rows).sum()
    }

    /// Takes rows in, and forgets those with a pane before `dead`.
    pub(crate) fn add(&mut self, aggregate: &Aggregate, rows: RecordBatch, dead: i64) -> Result<Vec<Written>, Fault> {
        let mut gone = Vec::new();
        self.runs.retain(|run| {
            let dead = run.most < dead;
            if dead {
                gone.push(run.clone());
            }
            !dead
        });
        let mut rows = alive(aggregate, rows, dead)?;
        while let Some(last) = self.runs.last() {
            if rows.num_rows() == 0 || last.rows() > 2 * rows.num_rows() {
                break;
            }
            let Some(last) = self.runs.pop() else { break };
            let mut groups = Groups::new(aggregate).map_err(failed)?;
            for batch in &last.batches {
                groups
                    .merge(aggregate, &alive(aggregate, batch.clone(), dead)?, None)
                    .map_err(failed)?;
            }
            groups.merge(aggregate, &rows, None).map_err(failed)?;
            rows = groups.rows(aggregate).map_err(failed)?;
            gone.push(last);
        }
        let mut written = forget(&gone);
        written.extend(self.push(aggregate, rows)?);
        Ok(written)
    }

    /// Puts `rows` in place of everything.
    pub(crate) fn replace(&mut self, aggregate: &Aggregate, rows: RecordBatch) -> Result<Vec<Written>, Fault> {
        let mut written = forget(&std::mem::take(&mut self.runs));
        written.extend(self.push(aggregate, rows)?);
        Ok(written)
    }

    /// Puts `rows` in place of everything in memory, and writes only what came in new.
    pub(crate) fn append(&mut self, aggregate: &Aggregate, rows: RecordBatch) -> Result<Vec<Written>, Fault> {
        self.push(aggregate, rows)
    }

    fn push(&mut self, aggregate: &Aggregate, rows: RecordBatch) -> Result<Vec<Written>, Fault> {
        if rows.num_rows() == 0 {
            return Ok(Vec::new());
        }
        let number = self.next;
        self.next += 1;
        let pieces = frame::pieces(&rows)?;
        let (least, most) = bounds(aggregate, std::slice::from_ref(&rows));
        self.runs.push(Run {
            number,
            pieces: pieces.len(),
            batches: vec![rows],
            least,
            most,
        });
        let name = |(i, piece)| (format!("{number}|{i}"), Some(piece));
        Ok(pieces.into_iter().enumerate().map(name).collect())
    }

    /// Takes a piece of a run back.
    pub(crate) fn restore(&mut self, aggregate: &Aggregate, key: &str, value: Option<&[u8]>) -> Result<(), Fault> {
        let numbers = key
            .split_once('|')
            .and_then(|(n, i)| Some((n.parse::<u64>().ok()?, i.parse::<usize>().ok()?)));
        let Some((number, _)) = numbers else {
            let detail = format!("kept rows under `{key}` have no number");
            return Err(Fault::new(kernel::FaultCode::StateUnreadable, detail));
        };
        self.next = self.next.max(number + 1);
        let Some(value) = value else {
            self.runs.retain(|run| run.number != number);
            return Ok(());
        };
        let batch = frame::rows(value, &aggregate.state_schema)?;
        let (least, most) = bounds(aggregate, std::slice::from_ref(&batch));
        match self.runs.iter_mut().find(|run| run.number == number) {
            Some(run) => {
                run.pieces += 1;
                run.batches.push(batch);
                (run.least, run.most) = (run.least.min(least), run.most.max(most));
            }
            None => self.runs.push(Run {
                number,
                pieces: 1,
                batches: vec![batch],
                least,
                most,
            }),
        }
        Ok(())
    }
}

fn forget(runs: &[Run]) -> Vec<Written> {
    let keys = |run: &Run| {
        (0..run.pieces)
            .map(|i| (format!("{}|{i}", run.number), None))
            .collect::<Vec<_>>()
    };
    runs.iter().flat_map(keys).collect()
}

/// The rows with a pane from `dead` on.
fn alive(aggregate: &Aggregate, rows: RecordBatch, dead: i64) -> Result<RecordBatch, Fault> {
    let panes = aggregate.panes(&rows);
    if min(panes).is_none_or(|least| least >= dead) {
        return Ok(rows);
    }
    let keep = gt_eq(panes, &Int64Array::new_scalar(dead)).map_err(|e| failed(e.into()))?;
    filter_record_batch(&rows, &keep).map_err(|e| failed(e.into()))
}
