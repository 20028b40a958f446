//! One view over a bounded history, by the same two halves the stream has: the local half says which records count, the final half
//! says the rows, once, when all of it is read. Then the rows are held against those that stand in the result topic.
//!
//! What is the same as in the stream, and what is not:
//! - Of a topic, each partition is read in its own order, and that alone decides what is late and what is a duplicate: so the rows are
//!   the stream's last ones. With `nothing_late` late records count too.
//! - A file or a table has no order of arrival: nothing in it is late. Of a value that must be unique the first counts.
//! - What the stream had to leave out because a silent partition woke after its windows were gone (`woke`) counts here.
//! - Aggregates that depend on the order of merging ([`super::groups`]) make no difference by themselves.
//! - A session counts when it, and all that the stream told where it is, lie within the range; one that reaches out is left as it is.

mod columns;
mod compare;
mod progress;
mod rows;
mod said;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use kernel::{EventTime, Fault, FaultCode, Slab};
use schemas::Timestamp;

use super::due::Room;
use super::finals::{Final, Finish};
use super::groups::Groups;
use super::local::{Local, Outcomes, Setup, failed};
use super::lookups::Tables;
use super::plan::View;
use super::program::{LATE, Program, subject};
use super::reader::Reader;
use super::results::Rows;
use super::stream::{Reading, late_after, reading};
use super::windows::{Window, floor};
use super::{Schemas, Settings, sessions};

pub use columns::{Column, ColumnKind};
pub use compare::Comparison;
pub use progress::Progress;
pub use said::{Difference, Differences, Kind};

/// Rows kept before they are merged.
const PENDING: usize = 200_000;
/// Groups of a partition that are handed on.
const GROUPS: usize = 65_536;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The view: its sink table's name.
    pub view: String,
    /// Windows that do not begin before this, microseconds.
    pub from: i64,
    /// And do not end behind this.
    pub to: i64,
    /// Late records count.
    pub nothing_late: bool,
    /// The history is a file or a table: only the columns this view takes are wanted.
    pub by_columns: bool,
}

/// A view on its way through a history.
pub struct Backfill {
    setup: Setup,
    reader: Reader,
    schemas: Arc<dyn Schemas>,
    finish: Finish,
    which: usize,
    /// Lateness of the stream, whatever counts here.
    lateness: i64,
    avro: String,
    from: i64,
    to: i64,
    locals: BTreeMap<i32, Local>,
    rows: Vec<RecordBatch>,
    kept: usize,
    merge_at: usize,
    bytes_max: usize,
    outcomes: Outcomes,
}

fn invalid(detail: String) -> Fault {
    Fault::new(FaultCode::ConfigInvalid, detail)
}

fn joined(view: &str, what: &str) -> Fault {
    let detail = format!(
        "view `{view}` {what}: the rows it was joined with are not kept as they were, and a backfill computes views of one source alone; read its topics again with a new pipeline"
    );
    invalid(detail)
}

impl Program {
    /// Names of its views: those of their sink tables.
    pub fn views(&self) -> Vec<String> {
        self.views.iter().map(|v| v.name.clone()).collect()
    }

    /// Makes what takes a history in for one of its views.
    ///
    /// # Errors
    /// `CONFIG_INVALID` when there is no such view or no such range.
    pub fn backfill(&self, ask: &Ask, settings: &Settings, schemas: &Arc<dyn Schemas>) -> Result<Backfill, Fault> {
        let found = self.views.iter().zip(&self.rows).find(|(v, _)| v.name == ask.view);
        if self.joins.iter().any(|j| j.name == ask.view) {
            return Err(joined(&ask.view, "joins two views"));
        }
        let Some((view, rows)) = found else {
            let detail = format!("there is no view `{}`; there are {}", ask.view, self.views().join(", "));
            return Err(invalid(detail));
        };
        if view.before.lookups().next().is_some() {
            return Err(joined(&ask.view, "looks keys up in a topic"));
        }
        if ask.from >= ask.to {
            let (from, to) = (Timestamp(ask.from), Timestamp(ask.to));
            return Err(invalid(format!("the range from {from} to {to} holds no window")));
        }
        let source = self.sources.iter().find(|s| s.name == view.source);
        let source = source.ok_or_else(|| invalid(format!("view `{}` reads no source of its own", view.name)))?;
        let views: Vec<_> = self.halves().cloned().map(Arc::new).collect();
        let late: Arc<str> = settings.topic(LATE).into();
        let Reading { mut setup, mut reader } = reading(source, &views, settings, &late, schemas)?;
        let which = setup.reads.iter().position(|r| r.view.name == ask.view).unwrap_or(0);
        setup.only = Some(which);
        if ask.nothing_late || ask.by_columns {
            setup.reads.iter_mut().for_each(|r| r.lateness = i64::MAX);
        }
        if ask.by_columns {
            let wanted = columns::wanted(source, view);
            setup.time.0 = wanted.index_of(&source.time.1).unwrap_or(0);
            let unique = source.unique.map(|i| source.columns.field(i).name());
            setup.unique = unique.and_then(|name| wanted.index_of(name).ok());
            reader = Reader::new(Arc::clone(&source.topic), String::new(), wanted, Arc::clone(schemas));
        }
        let (from, to) = borders(view.window, ask.from, ask.to);
        Ok(Backfill {
            setup,
            reader,
            schemas: Arc::clone(schemas),
            finish: finish(view, rows, &source.topic),
            which,
            lateness: late_after(source, settings),
            avro: rows.avro.clone(),
            from,
            to,
            locals: BTreeMap::new(),
            rows: Vec::new(),
            kept: 0,
            merge_at: PENDING,
            bytes_max: settings.state_bytes_max,
            outcomes: Outcomes::default(),
        })
    }
}

/// The final half: everything is told once, and nothing waited for.
fn finish(view: &View, rows: &Rows, source: &Arc<str>) -> Finish {
    Finish {
        view: Arc::new(view.clone()),
        rows: rows.clone(),
        id: rows::OWN,
        topic: view.topic.as_str().into(),
        source: Arc::clone(source),
        lateness: 0,
        join: None,
    }
}

/// The range, widened to borders of windows.
fn borders(window: Window, from: i64, to: i64) -> (i64, i64) {
    let step = match window {
        Window::Tumble { width } => width,
        Window::Hop { slide, .. } => slide,
        Window::Session { .. } => return (from, to),
    };
    // A hop's windows begin at multiples of its slide, and end a width later.
    let rest = match window {
        Window::Hop { slide, width } => width.rem_euclid(slide),
        _ => 0,
    };
    let up = floor(to.saturating_sub(rest).saturating_sub(1), step).saturating_add(step + rest);
    (floor(from, step), up)
}

impl Backfill {
    /// The range, from and to: widened to borders of windows.
    pub fn range(&self) -> (EventTime, EventTime) {
        (Timestamp(self.from), Timestamp(self.to))
    }

    /// The last border of windows that is not behind `at`.
    pub fn border(&self, at: EventTime) -> EventTime {
        let (_, up) = borders(self.finish.view.window, at.0, at.0);
        if up == at.0 {
            return at;
        }
        let step = match self.finish.view.window {
            Window::Tumble { width } => width,
            Window::Hop { slide, .. } => slide,
            Window::Session { .. } => 0,
        };
        Timestamp(up.saturating_sub(step))
    }

    /// Records outside of this stretch of time have no say in the range's windows.
    pub fn needs(&self) -> (EventTime, EventTime) {
        let more = match self.finish.view.window {
            Window::Session { gap } => gap,
            _ => 0,
        };
        let (from, to) = (self.from.saturating_sub(more), self.to.saturating_add(more));
        (Timestamp(from), Timestamp(to))
    }

    /// The view.
    pub fn view(&self) -> &str {
        &self.finish.view.name
    }

    /// Topic of its source.
    pub fn source(&self) -> &str {
        &self.setup.topic
    }

    /// Topic of its results.
    pub fn topic(&self) -> &str {
        &self.finish.topic
    }

    /// Subject of the results' schema, and its Avro JSON.
    pub fn schema(&self) -> (String, &str) {
        (subject(&self.finish.topic), &self.avro)
    }

    /// What became of the records so far.
    pub fn outcomes(&self) -> Outcomes {
        self.outcomes
    }

    /// Takes records of a partition of the topic in. The same slabs give the same rows, to the last bit.
    ///
    /// # Errors
    /// The registry does not answer, or the engine fails.
    pub fn take(&mut self, slab: &Slab, now: EventTime) -> Result<(), Fault> {
        let (setup, outcomes) = (&self.setup, &mut self.outcomes);
        let local = self.locals.entry(slab.partition).or_default();
        self.reader.read(
            slab,
            &mut |taken| local.take(setup, &taken, slab, now.0, &Tables::default()),
            &mut |_, _| outcomes.refused += 1,
        )?;
        self.settle(slab.partition)
    }

    /// What a batch left: counted, and its groups handed on when there are many.
    fn settle(&mut self, partition: i32) -> Result<(), Fault> {
        let Some(local) = self.locals.get_mut(&partition) else {
            return Ok(());
        };
        let out = std::mem::take(&mut local.out);
        self.outcomes.add(out.outcomes);
        // What it would write of itself nobody wants; asked for, it forgets what it may.
        drop(local.changes(&self.setup, partition));
        let groups = local.groups.get_mut(self.which);
        match groups.and_then(|g| g.take_if(|g| g.len() >= GROUPS)) {
            Some(groups) => self.keep(groups),
            None => Ok(()),
        }
    }

    /// Keeps rows of groups that may belong to windows of the range.
    fn keep(&mut self, groups: Groups) -> Result<(), Fault> {
        let view = &self.finish.view;
        let rows = groups.rows(&view.aggregate).map_err(failed)?;
        let (from, to) = (self.from, self.to);
        let starts = view.aggregate.panes(&rows).values();
        let keep: BooleanArray = match view.window {
            Window::Session { gap } => {
                let (from, to) = (from.saturating_sub(gap), to.saturating_add(gap));
                let lasts = view.aggregate.lasts(&rows).values();
                let near = |(start, last): (&i64, &i64)| Some(*last >= from && *start <= to);
                starts.iter().zip(lasts).map(near).collect()
            }
            _ => starts.iter().map(|start| Some(*start >= from && *start < to)).collect(),
        };
        let rows = filter_record_batch(&rows, &keep).map_err(|e| failed(e.into()))?;
        self.kept += rows.num_rows();
        self.rows.push(rows);
        if self.kept > self.merge_at {
            self.merge()
        } else {
            Ok(())
        }
    }

    /// Merges the rows kept so far.
    fn merge(&mut self) -> Result<(), Fault> {
        let aggregate = &self.finish.view.aggregate;
        let all = std::mem::take(&mut self.rows);
        let merged = match self.finish.view.window {
            Window::Session { gap } => sessions::find(aggregate, &all, gap)
                .and_then(|found| found.groups(aggregate, &|_| true))
                .map_err(failed)?,
            _ => {
                let mut groups = Groups::new(aggregate).map_err(failed)?;
                for rows in &all {
                    groups.merge(aggregate, rows, None).map_err(failed)?;
                }
                groups
            }
        };
        let rows = merged.rows(aggregate).map_err(failed)?;
        let bytes = rows.get_array_memory_size();
        if bytes > self.bytes_max {
            let detail = format!(
                "the windows of the range take {bytes} bytes, more than state_mb_max allows ({}): take a shorter range",
                self.bytes_max
            );
            return Err(invalid(detail));
        }
        self.kept = rows.num_rows();
        self.merge_at = PENDING.max(2 * self.kept);
        self.rows.push(rows);
        Ok(())
    }

    /// Everything is read: the rows of the range, to be held against those that stand.
    ///
    /// # Errors
    /// The engine fails.
    pub fn finish(mut self) -> Result<Comparison, Fault> {
        let groups: Vec<Groups> = std::mem::take(&mut self.locals)
            .into_values()
            .filter_map(|mut local| local.groups.get_mut(self.which).and_then(Option::take))
            .collect();
        for groups in groups.into_iter().filter(|g| g.len() > 0) {
            self.keep(groups)?;
        }
        let (mut last, mut emits) = (Final::default(), Vec::new());
        last.watermark = Some(i64::MAX);
        last.pending = self.rows;
        last.flush(&self.finish, &mut emits, &mut Room::new(usize::MAX))?;
        let declared = compare::Declared {
            finish: self.finish,
            avro: self.avro,
            schemas: self.schemas,
            range: (self.from, self.to),
        };
        Comparison::new(declared, emits)
    }
}
