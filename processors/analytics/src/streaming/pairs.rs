//! The final half of a join of two windowed aggregates in one partition. Both sides have one watermark, the lesser of their sources'.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::take;
use arrow::datatypes::Field;
use datafusion::common::DataFusionError;
use kernel::{Fault, RawEmit};

use super::finals::{Final, Finish};
use super::groups::Groups;
use super::joined::{How, Put, Touched};
use super::kept::Written;
use super::keys;
use super::local::failed;
use super::results::Columns;
use super::spread::{aggregate_starts, spread};

/// Both sides' state, what they are run with, and how they are joined.
pub(crate) struct Sides<'a> {
    pub(crate) finals: [&'a mut Final; 2],
    pub(crate) finishes: [&'a Finish; 2],
    pub(crate) how: &'a How,
}

/// A row to write: its place in the answer, revision, and whether it is no row any more.
struct Tell {
    index: u32,
    revision: i32,
    deleted: bool,
}

impl Sides<'_> {
    /// Tells what is to be told; gives the changes of each side's state.
    pub(crate) fn flush(&mut self, emits: &mut Vec<RawEmit>) -> Result<[Vec<Written>; 2], Fault> {
        let watermark = self.finals[0].watermark;
        let before = self.finals[0].told_until;
        if self.finals.iter().all(|f| f.pending.is_empty()) && watermark == before {
            return Ok([Vec::new(), Vec::new()]);
        }
        let until = watermark.unwrap_or(i64::MIN);
        let fresh = [self.fresh(0)?, self.fresh(1)?];
        self.tell_due(&fresh, before.unwrap_or(i64::MIN), until, emits)?;
        if let Some(before) = before {
            self.tell_again(&fresh, before, emits)?;
        }
        let window = self.finishes[0].view.window;
        let lateness = self.finishes.iter().map(|f| f.lateness).max().unwrap_or(0);
        let dead = until.saturating_sub(window.kept(lateness));
        let mut written = [Vec::new(), Vec::new()];
        for (which, rows) in fresh.into_iter().enumerate() {
            let aggregate = &self.finishes[which].view.aggregate;
            let kept = self.finals[which].kept.add(aggregate, rows, dead)?;
            written[which].extend(kept.into_iter().map(|(key, value)| (format!("r|{key}"), value)));
            let told = self.finals[which].told.changes(dead);
            written[which].extend(told.into_iter().map(|(key, value)| (format!("t|{key}"), value)));
            if watermark != before {
                self.finals[which].told_until = watermark;
                written[which].push(("u".to_owned(), Some(until.to_le_bytes().to_vec())));
            }
        }
        Ok(written)
    }

    /// Rows of a side since the last commit, put together.
    fn fresh(&mut self, which: usize) -> Result<RecordBatch, Fault> {
        let aggregate = &self.finishes[which].view.aggregate;
        let mut groups = Groups::new(aggregate).map_err(failed)?;
        for batch in std::mem::take(&mut self.finals[which].pending) {
            groups.merge(aggregate, &batch, None).map_err(failed)?;
        }
        groups.rows(aggregate).map_err(failed)
    }

    /// Windows of both sides that are `wanted`, of kept rows of panes in `panes` and of `fresh` ones, joined.
    fn put(
        &self,
        (from, to): (i64, i64),
        fresh: Option<&[RecordBatch; 2]>,
        wanted: &dyn Fn(i64) -> bool,
        names: Option<&Touched>,
    ) -> Result<Put, Fault> {
        let mut sides = Vec::with_capacity(2);
        for which in 0..2 {
            let finish = self.finishes[which];
            let aggregate = &finish.view.aggregate;
            let mut groups = Groups::new(aggregate).map_err(failed)?;
            let fresh = fresh.map(|f| &f[which]);
            for batch in self.finals[which].kept.between(from, to).chain(fresh) {
                if let Some((rows, starts)) = spread(finish, batch, wanted)? {
                    groups.merge(aggregate, &rows, Some(starts)).map_err(failed)?;
                }
            }
            sides.push(groups);
        }
        let [left, right] = <[Groups; 2]>::try_from(sides).map_err(|_| failed(two_sides()))?;
        let views = self.finishes.map(|finish| &*finish.view);
        self.how.put(views, [left, right], names).map_err(failed)
    }

    /// Windows whose end the watermark passed since the last time.
    fn tell_due(
        &self,
        fresh: &[RecordBatch; 2],
        before: i64,
        until: i64,
        emits: &mut Vec<RawEmit>,
    ) -> Result<(), Fault> {
        if until <= before {
            return Ok(());
        }
        let window = self.finishes[0].view.window;
        let due = |start: i64| {
            let end = window.end(start, start);
            end > before && end <= until
        };
        let first = before.saturating_sub(window.width()).saturating_add(1);
        let put = self.put((first, until), Some(fresh), &due, None)?;
        let tells = passing(&put).map(|index| Tell {
            index,
            revision: 0,
            deleted: false,
        });
        let tells = tells.collect();
        self.emit(&put, tells, emits)
    }

    /// Windows that were told before, and in which a key of either side changed.
    fn tell_again(&mut self, fresh: &[RecordBatch; 2], before: i64, emits: &mut Vec<RawEmit>) -> Result<(), Fault> {
        let window = self.finishes[0].view.window;
        let was_told = |start: i64| window.end(start, start) <= before;
        let (mut names, mut touched) = (HashSet::new(), BTreeSet::new());
        for (which, rows) in fresh.iter().enumerate() {
            let finish = self.finishes[which];
            if let Some((rows, starts)) = spread(finish, rows, &was_told)? {
                let starts = aggregate_starts(&starts);
                touched.extend(starts.iter().copied());
                names.extend(self.how.touched(which, &finish.view, &rows, starts).map_err(failed)?);
            }
        }
        let (Some(least), Some(most)) = (touched.first(), touched.last()) else {
            return Ok(());
        };
        let panes = (*least, most.saturating_add(window.width()));
        let is_touched = |start: i64| touched.contains(&start);
        let old = self.put(panes, None, &is_touched, Some(&names))?;
        let new = self.put(panes, Some(fresh), &is_touched, Some(&names))?;
        let stood: HashSet<&(String, i64)> = passing(&old).map(|i| &old.names[i as usize]).collect();
        let stands: HashSet<&(String, i64)> = passing(&new).map(|i| &new.names[i as usize]).collect();
        let unchanged = match self.how {
            How::Windows(_) => HashSet::new(),
            How::Streams(streams) => equal_rows(&old, &new, &streams.gives)?,
        };
        let told = &mut self.finals[0].told;
        let mut revised = |name: &(String, i64)| {
            let key = keys::with_start(&name.0, name.1);
            let revision = match (told.revision(&key), stood.contains(name)) {
                (Some(revision), _) => revision + 1,
                (None, stood) => i32::from(stood),
            };
            if revision > 0 {
                told.put(&key, window.end(name.1, name.1), revision);
                if !stands.contains(name) {
                    told.remove(&key, revision);
                }
            }
            revision
        };
        let gone = |index: &u32| !stands.contains(&old.names[*index as usize]);
        let mut tells = |put: &Put, chosen: Vec<u32>, deleted| {
            let tell = |index: u32| Tell {
                index,
                revision: revised(&put.names[index as usize]),
                deleted,
            };
            chosen.into_iter().map(tell).collect::<Vec<_>>()
        };
        let deleted = tells(&old, passing(&old).filter(gone).collect(), true);
        let again = tells(
            &new,
            passing(&new).filter(|row| !unchanged.contains(row)).collect(),
            false,
        );
        self.emit(&old, deleted, emits)?;
        self.emit(&new, again, emits)
    }

    fn emit(&self, put: &Put, tells: Vec<Tell>, emits: &mut Vec<RawEmit>) -> Result<(), Fault> {
        if tells.is_empty() {
            return Ok(());
        }
        let finish = self.finishes[0];
        let mut out = Columns::default();
        let mut keys_of = Vec::with_capacity(tells.len());
        for tell in &tells {
            let (name, start) = &put.names[tell.index as usize];
            let end = finish.view.window.end(*start, *start);
            keys_of.push(keys::with_start(name, *start));
            out.put(*start, end, tell.revision, tell.deleted);
        }
        let chosen: UInt32Array = tells.iter().map(|t| Some(t.index)).collect();
        for (i, _) in self.how.gives() {
            out.own
                .push(take(put.answer.column(*i), &chosen, None).map_err(|e| failed(e.into()))?);
        }
        let rows = finish.rows.write(finish.id, out)?;
        emits.extend(rows.into_iter().zip(keys_of).map(|(value, key)| RawEmit {
            topic: Arc::clone(&finish.topic),
            partition: None,
            key,
            value: Some(value),
            headers: kernel::Headers::default(),
        }));
        Ok(())
    }
}

/// Rows of `new` that passed in `old` with the same columns: what a late row touched may be more than what it changed.
fn equal_rows(old: &Put, new: &Put, gives: &[(usize, Field)]) -> Result<HashSet<u32>, Fault> {
    let known: HashMap<&(String, i64), u32> = passing(old).map(|row| (&old.names[row as usize], row)).collect();
    let both = passing(new).filter_map(|row| Some((*known.get(&new.names[row as usize])?, row)));
    let (before, after): (Vec<u32>, Vec<u32>) = both.unzip();
    let mut same = vec![true; after.len()];
    let (olds, news) = (UInt32Array::from(before), UInt32Array::from(after.clone()));
    for (i, _) in gives {
        let was = take(old.answer.column(*i), &olds, None).map_err(|e| failed(e.into()))?;
        let is = take(new.answer.column(*i), &news, None).map_err(|e| failed(e.into()))?;
        let equal = not_distinct(&was, &is).map_err(|e| failed(e.into()))?;
        same.iter_mut()
            .zip(equal.values().iter())
            .for_each(|(same, equal)| *same &= equal);
    }
    Ok(after
        .into_iter()
        .zip(same)
        .filter(|(_, same)| *same)
        .map(|(row, _)| row)
        .collect())
}

fn two_sides() -> DataFusionError {
    DataFusionError::Internal("a join has two sides".to_owned())
}

/// Rows that are no matter of a WHERE.
fn passing(put: &Put) -> impl Iterator<Item = u32> + '_ {
    let passes = |row: &u32| put.passes.as_ref().is_none_or(|p| p.value(*row as usize));
    (0u32..).take(put.names.len()).filter(passes)
}
