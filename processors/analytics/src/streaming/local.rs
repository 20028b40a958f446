//! The local half: one source partition. Which records count and for which views depends on the order of its records alone, so it
//! comes out the same however they are cut into batches, and wherever they are read.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::compute::{filter, max, min};
use arrow::datatypes::TimestampMicrosecondType;
use datafusion::common::Result as Done;
use kernel::{Change, Fault, FaultCode, Headers, RawEmit, Refused, Slab};

use super::frame::Mark;
use super::groups::Groups;
use super::lookups::Tables;
use super::plan::View;
use super::reader::Taken;
use super::rewrite::PANE;
use super::seen::Seen;
use super::windows::{Window, floor};

/// 0001-01-01 and 9999-12-31: what is outside is no time but garbage.
const YEARS: (i64, i64) = (-62_135_596_800_000_000, 253_402_300_799_999_999);

/// A view that reads a source, as its local half sees it.
pub(crate) struct Reads {
    pub(crate) view: Arc<View>,
    pub(crate) lateness: i64,
}

/// What every partition of a source shares.
pub(crate) struct Setup {
    pub(crate) topic: Arc<str>,
    pub(crate) late_topic: Arc<str>,
    pub(crate) time: (usize, String),
    pub(crate) unique: Option<usize>,
    pub(crate) delay: i64,
    pub(crate) idle: i64,
    pub(crate) future: i64,
    pub(crate) reads: Vec<Reads>,
    /// Only this one counts, the others have their say in what is late and what is forgotten: a backfill of one view.
    pub(crate) only: Option<usize>,
}

impl Setup {
    /// A record whose event time is before this, at that watermark, is too late for every view.
    fn horizon(&self, watermark: i64) -> i64 {
        let reach = |r: &Reads| r.view.window.width().saturating_add(r.lateness);
        watermark.saturating_sub(self.reads.iter().map(reach).max().unwrap_or(0))
    }
}

/// What became of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Counted in at least one view.
    pub counted: u64,
    /// Too late for at least one view: a copy is in the late topic.
    pub late: u64,
    /// Seen before.
    pub duplicate: u64,
    /// Refused: unreadable, without a time, or too far in the future.
    pub refused: u64,
    /// Partial rows that came when their window was gone already: a partition woke.
    pub woke: u64,
}

impl Outcomes {
    pub(crate) fn add(&mut self, other: Self) {
        self.counted += other.counted;
        self.late += other.late;
        self.duplicate += other.duplicate;
        self.refused += other.refused;
        self.woke += other.woke;
    }
}

/// Where records go that are not counted.
#[derive(Default)]
pub(crate) struct Out {
    pub(crate) emits: Vec<RawEmit>,
    pub(crate) refused: Vec<Refused>,
    pub(crate) outcomes: Outcomes,
}

/// One source partition.
#[derive(Default)]
pub(crate) struct Local {
    /// Greatest event time.
    pub(crate) newest: Option<i64>,
    /// When it last had a record, by the loop's clock; not kept.
    pub(crate) quiet_since: Option<i64>,
    pub(crate) idle: bool,
    /// What was sent last; `None` after a restore, so that it is sent again.
    pub(crate) sent: Option<Mark>,
    pub(crate) changed: bool,
    pub(crate) groups: Vec<Option<Groups>>,
    pub(crate) seen: Seen,
    pub(crate) out: Out,
}

/// Which rows of a batch go where.
struct Sorted {
    /// Not refused and not a duplicate; `None`: all.
    alive: Option<Vec<bool>>,
    /// By row, a bit for each view that it is too late for; `None`: late for none.
    late: Option<Vec<u64>>,
}

impl Local {
    /// How far it has come.
    pub(crate) fn mark(&self, setup: &Setup) -> Mark {
        Mark {
            watermark: self.newest.map(|newest| newest.saturating_sub(setup.delay)),
            idle: self.idle,
        }
    }

    /// An idle partition is not waited for.
    pub(crate) fn look_at_the_clock(&mut self, setup: &Setup, now: i64) {
        let since = *self.quiet_since.get_or_insert(now);
        self.idle = now.saturating_sub(since) >= setup.idle;
    }

    /// Time in which nobody looked is no time of quiet: a stage or a broker that stood still has not seen what came meanwhile.
    pub(crate) fn not_looked(&mut self, missed: i64) {
        if let Some(since) = self.quiet_since.as_mut().filter(|_| missed > 0) {
            *since = since.saturating_add(missed);
        }
    }

    /// Bytes it takes.
    pub(crate) fn size(&self) -> usize {
        self.seen.size() + self.groups.iter().flatten().map(Groups::size).sum::<usize>()
    }

    /// What it keeps.
    pub(crate) fn changes(&mut self, setup: &Setup, partition: i32) -> Vec<Change> {
        let mut out = Vec::new();
        let topic = &setup.topic;
        if std::mem::take(&mut self.changed)
            && let Some(newest) = self.newest
        {
            out.push(Change {
                partition,
                key: format!("l|{topic}"),
                value: Some(newest.to_le_bytes().to_vec()),
            });
            let horizon = setup.horizon(newest.saturating_sub(setup.delay));
            let named = |(key, value)| Change {
                partition,
                key: format!("s|{topic}|{key}"),
                value,
            };
            out.extend(self.seen.changes(horizon).into_iter().map(named));
        }
        out
    }

    /// Takes back what [`Local::changes`] gave.
    pub(crate) fn restore(&mut self, kind: &str, rest: &str, value: Option<&[u8]>) -> Result<(), Fault> {
        if kind == "s" {
            return self.seen.restore(rest, value);
        }
        let newest = value.and_then(|v| v.first_chunk::<8>());
        self.newest = newest.map(|bytes| i64::from_le_bytes(*bytes));
        Ok(())
    }

    /// Takes a batch of its records in.
    pub(crate) fn take(
        &mut self,
        setup: &Setup,
        taken: &Taken,
        slab: &Slab,
        now: i64,
        tables: &Tables,
    ) -> Result<(), Fault> {
        let times = taken
            .batch
            .column(setup.time.0)
            .as_primitive::<TimestampMicrosecondType>()
            .clone();
        let before = self.newest;
        let mut out = std::mem::take(&mut self.out);
        let sorted = self.sort(setup, taken, &times.values()[..], slab, now, &mut out)?;
        self.tell_late(setup, &sorted, taken, slab, &mut out);
        self.out = out;
        self.changed = true;
        // Records that are refused do not keep a partition from being idle.
        if self.newest != before || sorted.alive.as_ref().is_none_or(|alive| alive.contains(&true)) {
            self.quiet_since = Some(now);
            self.idle = false;
        }
        self.groups.resize_with(setup.reads.len(), || None);
        let wanted = |i: usize| setup.only.is_none_or(|only| only == i);
        for (i, reads) in setup.reads.iter().enumerate().filter(|(i, _)| wanted(*i)) {
            let mask = sorted.of(i);
            let groups = match &mut self.groups[i] {
                Some(groups) => groups,
                none => none.insert(Groups::new(&reads.view.aggregate).map_err(failed)?),
            };
            count(
                (&reads.view, tables),
                &taken.batch,
                &times.values()[..],
                mask.as_ref(),
                groups,
            )
            .map_err(failed)?;
        }
        Ok(())
    }

    fn sort(
        &mut self,
        setup: &Setup,
        taken: &Taken,
        times: &[i64],
        slab: &Slab,
        now: i64,
        out: &mut Out,
    ) -> Result<Sorted, Fault> {
        let column = taken.batch.column(setup.time.0);
        let limit = now.saturating_add(setup.future);
        let plain = column.as_primitive::<TimestampMicrosecondType>();
        let (least, most) = (min(plain).unwrap_or(i64::MIN), max(plain).unwrap_or(i64::MAX));
        let sound = column.null_count() == 0 && least >= YEARS.0 && most <= limit.min(YEARS.1);
        let alive = (!sound).then(|| refuse(setup, taken, times, slab, limit, out));
        let newest = self.newest.unwrap_or(i64::MIN);
        if sound && setup.unique.is_none() {
            let watermark = newest.max(most).saturating_sub(setup.delay);
            let in_time = |r: &Reads| r.view.window.last_end(least).saturating_add(r.lateness) > watermark;
            if setup.reads.iter().all(in_time) {
                self.newest = Some(newest.max(most));
                out.outcomes.counted += times.len() as u64;
                return Ok(Sorted {
                    alive: None,
                    late: None,
                });
            }
        }
        self.one_by_one(setup, taken, times, alive, out)
    }

    /// The same, row after row: where the watermark matters in between, or values must be unique.
    fn one_by_one(
        &mut self,
        setup: &Setup,
        taken: &Taken,
        times: &[i64],
        alive: Option<Vec<bool>>,
        out: &mut Out,
    ) -> Result<Sorted, Fault> {
        let mut alive = alive.unwrap_or_else(|| vec![true; times.len()]);
        let hashes = match setup.unique {
            Some(column) => Some(super::seen::hashes(taken.batch.column(column))?),
            None => None,
        };
        let all = u64::MAX >> (64 - setup.reads.len().clamp(1, 64));
        let mut late = vec![0u64; times.len()];
        for (row, ts) in times
            .iter()
            .copied()
            .enumerate()
            .filter(|(row, _)| alive[*row])
            .collect::<Vec<_>>()
        {
            let watermark = self
                .newest
                .map_or(i64::MIN, |newest| newest.saturating_sub(setup.delay));
            if let Some(hash) = hashes.as_ref().and_then(|h| h[row])
                && !self.seen.first(hash, ts, setup.horizon(watermark))
            {
                alive[row] = false;
                out.outcomes.duplicate += 1;
                continue;
            }
            for (i, reads) in setup.reads.iter().enumerate() {
                let until = reads.view.window.last_end(ts).saturating_add(reads.lateness);
                late[row] |= u64::from(until <= watermark) << i;
            }
            out.outcomes.counted += u64::from(late[row] != all);
            out.outcomes.late += u64::from(late[row] != 0);
            self.newest = Some(self.newest.map_or(ts, |newest| newest.max(ts)));
        }
        Ok(Sorted {
            alive: alive.contains(&false).then_some(alive),
            late: late.iter().any(|l| *l != 0).then_some(late),
        })
    }

    /// Sends a copy of each late record, as it is, to the late topic.
    fn tell_late(&self, setup: &Setup, sorted: &Sorted, taken: &Taken, slab: &Slab, out: &mut Out) {
        let Some(late) = &sorted.late else { return };
        for (row, bits) in late.iter().enumerate().filter(|(_, bits)| **bits != 0) {
            let index = taken.rows[row] as usize;
            let named: Vec<_> = setup
                .reads
                .iter()
                .enumerate()
                .filter(|(i, _)| bits >> i & 1 == 1)
                .map(|(_, r)| r.view.name.as_str())
                .collect();
            let headers = Headers::build(|put| {
                put("soma-late-topic", setup.topic.as_bytes());
                put("soma-late-partition", slab.partition.to_string().as_bytes());
                put(
                    "soma-late-offset",
                    slab.offsets.get(index).copied().unwrap_or(-1).to_string().as_bytes(),
                );
                put("soma-late-reason", b"late");
                put("soma-late-views", named.join(",").as_bytes());
            });
            out.emits.push(RawEmit {
                topic: Arc::clone(&setup.late_topic),
                partition: Some(slab.partition),
                key: String::new(),
                value: Some(Arc::from(slab.value(index))),
                headers,
            });
        }
    }
}

impl Sorted {
    /// Rows that count for a view; `None`: all.
    fn of(&self, view: usize) -> Option<BooleanArray> {
        match (&self.alive, &self.late) {
            (None, None) => None,
            (Some(alive), None) => Some(BooleanArray::from(alive.clone())),
            (alive, Some(late)) => {
                let counts = late
                    .iter()
                    .enumerate()
                    .map(|(row, bits)| alive.as_ref().is_none_or(|alive| alive[row]) && bits >> view & 1 == 0);
                Some(BooleanArray::from(counts.collect::<Vec<_>>()))
            }
        }
    }
}

/// Refuses rows without a believable time. They never move the watermark.
fn refuse(setup: &Setup, taken: &Taken, times: &[i64], slab: &Slab, limit: i64, out: &mut Out) -> Vec<bool> {
    let column = taken.batch.column(setup.time.0);
    let name = &setup.time.1;
    let mut alive = vec![true; times.len()];
    for (row, ts) in times.iter().enumerate() {
        let detail = if column.is_null(row) {
            format!("field `{name}` has no time")
        } else if *ts < YEARS.0 || *ts > YEARS.1 {
            format!("field `{name}` is {ts} microseconds, which is no time between the years 1 and 9999")
        } else if *ts > limit {
            format!(
                "field `{name}` is {}, further ahead of now than future_max_ms",
                schemas::Timestamp(*ts)
            )
        } else {
            continue;
        };
        alive[row] = false;
        out.outcomes.refused += 1;
        out.refused.push(refused(
            slab,
            taken.rows[row] as usize,
            Fault::new(FaultCode::RecordInvalid, detail),
        ));
    }
    alive
}

/// A record for the dead-letter topic.
pub(crate) fn refused(slab: &Slab, index: usize, fault: Fault) -> Refused {
    Refused {
        topic: Arc::clone(&slab.topic),
        partition: slab.partition,
        offset: slab.offsets.get(index).copied().unwrap_or(-1),
        fault,
    }
}

/// Aggregates the rows that count.
fn count(
    (view, tables): (&View, &Tables),
    batch: &RecordBatch,
    times: &[i64],
    mask: Option<&BooleanArray>,
    groups: &mut Groups,
) -> Done<()> {
    let mut panes: ArrayRef = Arc::new(panes(view.window, times));
    if let Some(mask) = mask {
        panes = filter(&panes, mask)?;
    }
    let rows = panes.len();
    let mut columns = Vec::with_capacity(view.takes.fields().len());
    let mut whole = Vec::new();
    for field in view.takes.fields() {
        if field.name() == PANE {
            columns.push(Arc::clone(&panes));
        } else {
            whole.push(columns.len());
            columns.push(Arc::clone(batch.column(batch.schema().index_of(field.name())?)));
        }
    }
    if let Some(mask) = mask {
        for i in whole {
            columns[i] = filter(&columns[i], mask)?;
        }
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let input = RecordBatch::try_new_with_options(Arc::clone(&view.takes), columns, &options)?;
    groups.update(&view.aggregate, &view.before.run(input, tables)?)
}

/// Start of each time's pane. Times come nearly in order: the pane of the one before is tried first.
fn panes(window: Window, times: &[i64]) -> Int64Array {
    let width = window.pane();
    if width == 1 {
        return Int64Array::from(times.to_vec());
    }
    let mut start = i64::MIN;
    let of = |ts: &i64| {
        if ts.wrapping_sub(start).cast_unsigned() >= width.cast_unsigned() || start == i64::MIN {
            start = floor(*ts, width);
        }
        start
    };
    times.iter().map(of).collect::<Vec<_>>().into()
}

pub(crate) fn failed(error: datafusion::error::DataFusionError) -> Fault {
    Fault::new(
        FaultCode::Internal,
        format!("the query engine failed: {}", error.strip_backtrace()),
    )
}
