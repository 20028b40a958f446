//! The final half of one view in one partition of the repartition topic: merges partial rows per window and key, tells windows when
//! the watermark passes their end, and tells them again, by revision, when rows come for them later.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take};
use kernel::{Fault, RawEmit};

use super::due::{Cursor, Part, Room};
use super::groups::Groups;
use super::joined::How;
use super::kept::{Kept, Written};
use super::local::failed;
use super::plan::View;
use super::results::{Columns, Rows};
use super::spread::{aggregate_starts, of_shares, spread};
use super::told::Told;
use super::windows::Window;
use super::{keys, sessions};

/// What the final half of a view is run with.
pub(crate) struct Finish {
    pub(crate) view: Arc<View>,
    pub(crate) rows: Rows,
    pub(crate) id: i32,
    pub(crate) topic: Arc<str>,
    /// Topic of the view's source.
    pub(crate) source: Arc<str>,
    pub(crate) lateness: i64,
    /// A side of a join: which, how they are joined, and the topics of both sides' sources.
    pub(crate) join: Option<(usize, Arc<How>, [Arc<str>; 2])>,
}

/// State of one view in one partition.
#[derive(Default)]
pub(crate) struct Final {
    /// Least watermark of the source partitions that are waited for.
    pub(crate) watermark: Option<i64>,
    /// Windows that end until then were told.
    pub(crate) told_until: Option<i64>,
    /// And of those that end next, these shares.
    part: Option<Part>,
    /// Rows since the last commit.
    pub(crate) pending: Vec<RecordBatch>,
    pub(crate) kept: Kept,
    pub(crate) told: Told,
    /// End of the first session that was not told; unknown before the first look.
    next_end: Option<i64>,
}

/// A row to tell.
struct Tell {
    /// Index into the results.
    index: u32,
    revision: i32,
    /// Start and end of a session that is no row any more, because it grew into the one at `index`.
    gone: Option<(i64, i64)>,
}

impl Tell {
    fn row(index: u32, revision: i32) -> Self {
        Self {
            index,
            revision,
            gone: None,
        }
    }
}

impl Final {
    /// Whether rows of that pane come too late even for a revision: a partition woke.
    pub(crate) fn gone(&self, finish: &Finish, last: i64) -> bool {
        let until = finish.view.window.last_end(last).saturating_add(finish.lateness);
        self.watermark.is_some_and(|watermark| until <= watermark)
    }

    /// Tells what is to be told, and gives the changes of its state.
    pub(crate) fn flush(
        &mut self,
        finish: &Finish,
        emits: &mut Vec<RawEmit>,
        room: &mut Room,
    ) -> Result<Vec<Written>, Fault> {
        if self.pending.is_empty() && !self.is_behind() {
            return Ok(Vec::new());
        }
        let before = self.cursor();
        let mut written = match finish.view.window {
            Window::Session { gap } => {
                let until = self.watermark.unwrap_or(i64::MIN);
                let written = self.flush_sessions(finish, gap, until, emits)?;
                self.told_until = self.watermark;
                written
            }
            _ => self.flush_panes(finish, emits, room)?,
        };
        let dead = self.dead(finish);
        written.extend(
            self.told
                .changes(dead)
                .into_iter()
                .map(|(key, value)| (format!("t|{key}"), value)),
        );
        if self.cursor() != before || self.is_behind() {
            written.push(("u".to_owned(), Some(self.reached())));
        }
        Ok(written)
    }

    /// Whether windows are still to be told that the watermark has passed.
    pub(crate) fn is_behind(&self) -> bool {
        self.told_until != self.watermark
    }

    fn cursor(&self) -> Cursor {
        Cursor {
            until: self.told_until,
            part: self.part,
        }
    }

    /// Rows of panes before this are not needed any more.
    fn dead(&self, finish: &Finish) -> i64 {
        let told = self.told_until.unwrap_or(i64::MIN);
        told.saturating_sub(finish.view.window.kept(finish.lateness))
    }

    /// How far it is told, as it is kept: and where that is behind, the watermark and what is told in part.
    fn reached(&self) -> Vec<u8> {
        let mut out = self.told_until.unwrap_or(i64::MIN).to_le_bytes().to_vec();
        if self.is_behind() {
            let part = self.part.unwrap_or(Part { end: 0, done: 0, of: 0 });
            out.extend(self.watermark.unwrap_or(i64::MIN).to_le_bytes());
            out.extend(part.end.to_le_bytes());
            out.extend(part.done.to_le_bytes());
            out.extend(part.of.to_le_bytes());
        }
        out
    }

    /// Takes back what [`Final::reached`] gave; `None` when it is cut off.
    pub(crate) fn reach(&mut self, bytes: &[u8]) -> Option<()> {
        let (told, rest) = bytes.split_first_chunk::<8>()?;
        self.told_until = Some(i64::from_le_bytes(*told));
        (self.watermark, self.part) = (self.told_until, None);
        if let Some((watermark, rest)) = rest.split_first_chunk::<8>() {
            self.watermark = Some(i64::from_le_bytes(*watermark));
            let (end, rest) = rest.split_first_chunk::<8>()?;
            let (done, of) = rest.split_first_chunk::<4>()?;
            let (end, done) = (i64::from_le_bytes(*end), u32::from_le_bytes(*done));
            let of = u32::from_le_bytes(*of.first_chunk::<4>()?);
            self.part = (of > 0).then_some(Part { end, done, of });
        }
        Some(())
    }

    fn flush_panes(
        &mut self,
        finish: &Finish,
        emits: &mut Vec<RawEmit>,
        room: &mut Room,
    ) -> Result<Vec<Written>, Fault> {
        let aggregate = &finish.view.aggregate;
        let mut groups = Groups::new(aggregate).map_err(failed)?;
        for batch in std::mem::take(&mut self.pending) {
            groups.merge(aggregate, &batch, None).map_err(failed)?;
        }
        let fresh = groups.rows(aggregate).map_err(failed)?;
        let from = self.cursor();
        let to = match self.watermark {
            Some(until) if Some(until) > from.until => {
                let due = || self.due(finish, &fresh, until);
                from.next(until, due, room)
            }
            _ => from,
        };
        self.tell_due(finish, &fresh, to, emits)?;
        self.tell_again(finish, &fresh, emits)?;
        (self.told_until, self.part) = (to.until, to.part);
        let written = self.kept.add(aggregate, fresh, self.dead(finish))?;
        Ok(written
            .into_iter()
            .map(|(key, value)| (format!("r|{key}"), value))
            .collect())
    }

    /// Rows, kept and `fresh`, among which are those of windows that end behind `before`, and not behind `until`.
    fn rows_of<'a>(
        &'a self,
        window: Window,
        (before, until): (i64, i64),
        fresh: &'a RecordBatch,
    ) -> impl Iterator<Item = &'a RecordBatch> {
        let first = before.saturating_sub(window.width()).saturating_add(1);
        let behind = match window {
            Window::Tumble { width } => until.saturating_sub(width).saturating_add(1),
            _ => until,
        };
        self.kept.between(first, behind).chain([fresh])
    }

    /// How many rows windows have that may be told, by their end. A key may be in several rows: it is counted as often.
    fn due(&self, finish: &Finish, fresh: &RecordBatch, until: i64) -> BTreeMap<i64, usize> {
        let (window, before) = (finish.view.window, self.told_until.unwrap_or(i64::MIN));
        let mut due = BTreeMap::new();
        let mut count = |start: i64, rows: usize| {
            let end = window.end(start, start);
            if end > before && end <= until {
                *due.entry(end).or_default() += rows;
            }
        };
        for batch in self.rows_of(window, (before, until), fresh) {
            let panes = finish.view.aggregate.panes(batch).values();
            for alike in panes.chunk_by(|one, next| one == next) {
                match window {
                    Window::Hop { .. } => window.starts(alike[0]).for_each(|start| count(start, alike.len())),
                    _ => count(alike[0], alike.len()),
                }
            }
        }
        due
    }

    /// Windows, or the share of one, from where they are told until now to where they are told `to`.
    fn tell_due(
        &self,
        finish: &Finish,
        fresh: &RecordBatch,
        to: Cursor,
        emits: &mut Vec<RawEmit>,
    ) -> Result<(), Fault> {
        if to == self.cursor() {
            return Ok(());
        }
        let (window, aggregate) = (finish.view.window, &finish.view.aggregate);
        let part = self.part.or(to.part);
        let (before, until) = match part {
            Some(part) => (part.end.saturating_sub(1), part.end),
            None => (self.told_until.unwrap_or(i64::MIN), to.until.unwrap_or(i64::MIN)),
        };
        let due = |start: i64| {
            let end = window.end(start, start);
            end > before && end <= until
        };
        let nth = self.part.map_or(0, |part| part.done);
        let mut groups = Groups::new(aggregate).map_err(failed)?;
        for batch in self.rows_of(window, (before, until), fresh) {
            let found = spread(finish, batch, &due)?;
            let found = match part {
                Some(part) => of_shares(finish, found, &|hash| part.share(hash) == nth)?,
                None => found,
            };
            if let Some((rows, starts)) = found {
                groups.merge(aggregate, &rows, Some(starts)).map_err(failed)?;
            }
        }
        let count = u32::try_from(groups.len()).unwrap_or(u32::MAX);
        let tell = (0..count).map(|i| Tell::row(i, 0)).collect();
        emit(finish, groups, |_, _| tell, emits)
    }

    /// Rows for windows that were told before, whole or in part.
    fn tell_again(&mut self, finish: &Finish, fresh: &RecordBatch, emits: &mut Vec<RawEmit>) -> Result<(), Fault> {
        let window = finish.view.window;
        let before = self.told_until.unwrap_or(i64::MIN);
        if let Some(found) = spread(finish, fresh, &|start| window.end(start, start) <= before)? {
            self.tell_revised(finish, found, emits)?;
        }
        let Some(part) = self.part else { return Ok(()) };
        let found = spread(finish, fresh, &|start| window.end(start, start) == part.end)?;
        if let Some(found) = of_shares(finish, found, &|hash| part.share(hash) < part.done)? {
            self.tell_revised(finish, found, emits)?;
        }
        Ok(())
    }

    fn tell_revised(
        &mut self,
        finish: &Finish,
        (rows, starts): (RecordBatch, ArrayRef),
        emits: &mut Vec<RawEmit>,
    ) -> Result<(), Fault> {
        let (window, aggregate) = (finish.view.window, &finish.view.aggregate);
        let touched: BTreeSet<i64> = aggregate_starts(&starts).iter().copied().collect();
        let (Some(least), Some(most)) = (touched.first(), touched.last()) else {
            return Ok(());
        };
        let mut groups = Groups::new(aggregate).map_err(failed)?;
        let is_touched = |start: i64| touched.contains(&start);
        for batch in self.kept.between(*least, most.saturating_add(window.width())) {
            if let Some((rows, starts)) = spread(finish, batch, &is_touched)? {
                groups.merge(aggregate, &rows, Some(starts)).map_err(failed)?;
            }
        }
        let known = groups.len();
        let ids: BTreeSet<usize> = groups
            .merge(aggregate, &rows, Some(starts))
            .map_err(failed)?
            .iter()
            .copied()
            .collect();
        let told = &mut self.told;
        let tell = |keys: &[String], starts: &[i64]| {
            let mut out = Vec::with_capacity(ids.len());
            for id in &ids {
                let revision = match told.revision(&keys[*id]) {
                    Some(revision) => revision + 1,
                    None => i32::from(*id < known),
                };
                if revision > 0 {
                    told.put(&keys[*id], window.end(starts[*id], starts[*id]), revision);
                }
                out.extend(u32::try_from(*id).map(|id| Tell::row(id, revision)));
            }
            out
        };
        emit(finish, groups, tell, emits)
    }

    fn flush_sessions(
        &mut self,
        finish: &Finish,
        gap: i64,
        until: i64,
        emits: &mut Vec<RawEmit>,
    ) -> Result<Vec<Written>, Fault> {
        if self.pending.is_empty() && self.next_end.is_some_and(|end| end > until) {
            return Ok(Vec::new());
        }
        let aggregate = &finish.view.aggregate;
        let fresh = concat_batches(&aggregate.state_schema, &std::mem::take(&mut self.pending))
            .map_err(|e| failed(e.into()))?;
        let known = self.kept.rows();
        let batches: Vec<_> = self.kept.all().cloned().chain([fresh.clone()]).collect();
        let found = sessions::find(aggregate, &batches, gap).map_err(failed)?;
        self.tell_sessions(finish, &found, known, until, emits)?;
        let dead = until.saturating_sub(finish.view.window.kept(finish.lateness));
        let alive = |session: usize| found.spans[session].1 >= dead;
        let living = found.spans.iter().filter(|span| span.1 >= dead).count();
        // Written new as a whole when it would halve; until then only what came in.
        let written = if known + fresh.num_rows() > 2 * living + 1_024 {
            let rows = found
                .groups(aggregate, &alive)
                .and_then(|g| g.rows(aggregate))
                .map_err(failed)?;
            self.kept.replace(aggregate, rows)?
        } else {
            self.kept.append(aggregate, fresh)?
        };
        Ok(written
            .into_iter()
            .map(|(key, value)| (format!("r|{key}"), value))
            .collect())
    }

    fn tell_sessions(
        &mut self,
        finish: &Finish,
        found: &sessions::Sessions,
        known: usize,
        until: i64,
        emits: &mut Vec<RawEmit>,
    ) -> Result<(), Fault> {
        let (window, aggregate) = (finish.view.window, &finish.view.aggregate);
        let before = self.told_until.unwrap_or(i64::MIN);
        let mut touched = vec![false; found.spans.len()];
        let mut starts: Vec<BTreeSet<i64>> = vec![BTreeSet::new(); found.spans.len()];
        for (row, session) in found.of.iter().enumerate() {
            touched[*session] |= found.from[row] as usize >= known;
            starts[*session].insert(aggregate.panes(&found.rows).value(row));
        }
        let end = |session: usize| window.end(found.spans[session].0, found.spans[session].1);
        let wanted = |session: usize| touched[session] || end(session) > before && end(session) <= until;
        self.next_end = Some(
            (0..touched.len())
                .map(end)
                .filter(|end| *end > until)
                .min()
                .unwrap_or(i64::MAX),
        );
        let chosen: Vec<usize> = (0..touched.len()).filter(|s| wanted(*s)).collect();
        let groups = found.groups(aggregate, &wanted).map_err(failed)?;
        let told = &mut self.told;
        let tell = |names: &[String], firsts: &[i64]| {
            let mut out = Vec::new();
            for (i, session) in chosen.iter().enumerate() {
                let Ok(index) = u32::try_from(i) else { continue };
                let key = names[i].strip_suffix(&keys::with_start("", firsts[i])).unwrap_or("");
                let key = key.strip_suffix('|').unwrap_or(key);
                for start in starts[*session].iter().filter(|start| **start != firsts[i]) {
                    let name = keys::with_start(key, *start);
                    if let Some(revision) = told.live(&name) {
                        let gone = Some((*start, told.end(&name)));
                        let revision = revision + 1;
                        out.push(Tell { index, revision, gone });
                        told.remove(&name, revision);
                    }
                }
                if end(*session) <= until {
                    let revision = told.revision(&names[i]).map_or(0, |r| r + 1);
                    told.put(&names[i], end(*session), revision);
                    out.push(Tell::row(index, revision));
                }
            }
            out
        };
        emit(finish, groups, tell, emits)
    }
}

/// Evaluates groups and writes the rows that `tell` names, given each group's key and window start.
fn emit(
    finish: &Finish,
    groups: Groups,
    tell: impl FnOnce(&[String], &[i64]) -> Vec<Tell>,
    emits: &mut Vec<RawEmit>,
) -> Result<(), Fault> {
    if groups.len() == 0 {
        return Ok(());
    }
    let (view, aggregate) = (&finish.view, &finish.view.aggregate);
    let (results, lasts) = groups.results(aggregate).map_err(failed)?;
    let starts = aggregate.panes(&results).values().to_vec();
    let columns = keys::columns(&results, aggregate.keys(), aggregate.pane);
    let texts = keys::texts(&columns, results.num_rows()).map_err(|e| failed(e.into()))?;
    let names: Vec<String> = texts
        .iter()
        .zip(&starts)
        .map(|(text, start)| keys::with_start(text, *start))
        .collect();
    let tells = tell(&names, &starts);
    let (answer, passes) = view.after.run_masked(results).map_err(failed)?;
    let mut out = Columns::default();
    let (mut chosen, mut written) = (Vec::new(), Vec::new());
    for Tell { index, revision, gone } in tells {
        let row = index as usize;
        let filtered = passes.as_ref().is_some_and(|p| !p.value(row));
        if filtered && gone.is_none() && revision == 0 {
            continue;
        }
        let last = lasts.get(row).copied().unwrap_or(starts[row]);
        let (start, end) = gone.unwrap_or((starts[row], view.window.end(starts[row], last)));
        chosen.push(index);
        written.push(keys::with_start(&texts[row], start));
        out.put(start, end, revision, filtered || gone.is_some());
    }
    let chosen = UInt32Array::from(chosen);
    for (i, _) in &view.gives {
        out.own
            .push(take(answer.column(*i), &chosen, None).map_err(|e| failed(e.into()))?);
    }
    let rows = finish.rows.write(finish.id, out)?;
    emits.extend(rows.into_iter().zip(written).map(|(value, key)| RawEmit {
        topic: Arc::clone(&finish.topic),
        partition: None,
        key,
        value: Some(value),
        headers: kernel::Headers::default(),
    }));
    Ok(())
}

impl Columns {
    pub(crate) fn put(&mut self, start: i64, end: i64, revision: i32, deleted: bool) {
        self.starts.push(start);
        self.ends.push(end);
        self.revisions.push(revision);
        self.deleted.push(deleted);
    }
}
