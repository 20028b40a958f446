//! Rows computed from the past held against those that stand: what differs becomes a row with the next revision, what should not be
//! comes again as deleted, what is the same is left alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::make_comparator;
use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{SortOptions, take};
use arrow::datatypes::{DataType, Float64Type, Int32Type, TimestampMicrosecondType};
use kernel::{Fault, Headers, RawEmit};

use super::super::finals::Finish;
use super::super::local::failed;
use super::super::results::Columns;
use super::super::windows::Window;
use super::super::{Schemas, keys};
use super::rows::Answers;
use super::said::{Difference, Differences, Kind, shown};

/// Rows taken at a time.
const ROWS: usize = 8_192;
/// Floats as near to each other are the same: sums of them depend on the order of adding.
const NEAR: f64 = 1e-9;
/// Columns before a row's own: start and end of its window. As many are behind them: revision and deleted.
const FRAME: usize = 2;

/// What is compared.
pub(super) struct Declared {
    pub(super) finish: Finish,
    pub(super) avro: String,
    pub(super) schemas: Arc<dyn Schemas>,
    pub(super) range: (i64, i64),
}

/// A row as it was read: its window, and its bytes.
#[derive(Clone)]
struct Row {
    start: i64,
    end: i64,
    revision: i32,
    deleted: bool,
    value: Arc<[u8]>,
}

/// Rows computed, and those that stand, by key.
pub struct Comparison {
    declared: Declared,
    answers: Answers,
    computed: BTreeMap<String, Row>,
    standing: BTreeMap<String, Row>,
    /// Rows that stand and were not looked at yet.
    pending: Vec<(String, Arc<[u8]>)>,
}

/// Two rows of one key side by side: indices into a batch of each.
struct Pair<'a> {
    key: &'a str,
    computed: Option<usize>,
    standing: Option<(usize, &'a Row)>,
}

impl Comparison {
    pub(super) fn new(declared: Declared, emits: Vec<RawEmit>) -> Result<Self, Fault> {
        let mut answers = Answers::new(&declared.finish.topic, &declared.avro, &declared.schemas)?;
        let mut computed = BTreeMap::new();
        let rows = emits.into_iter().filter_map(|e| e.value.map(|value| (e.key, value)));
        let rows: Vec<_> = rows.collect();
        for some in rows.chunks(ROWS) {
            computed.extend(within(&mut answers, some, declared.range)?);
        }
        Ok(Self {
            declared,
            answers,
            computed,
            standing: BTreeMap::new(),
            pending: Vec::new(),
        })
    }

    /// Takes a record of the result topic in. Of those with one key the greatest revision stands.
    ///
    /// # Errors
    /// It cannot be read, or the registry does not answer.
    pub fn stands(&mut self, key: &str, value: &[u8]) -> Result<(), Fault> {
        self.pending.push((key.to_owned(), value.into()));
        if self.pending.len() >= ROWS {
            self.look()
        } else {
            Ok(())
        }
    }

    fn look(&mut self) -> Result<(), Fault> {
        let pending = std::mem::take(&mut self.pending);
        for (key, row) in within(&mut self.answers, &pending, self.declared.range)? {
            match self.standing.get_mut(&key) {
                Some(known) if known.revision > row.revision => {}
                Some(known) => *known = row,
                None => _ = self.standing.insert(key, row),
            }
        }
        Ok(())
    }

    /// Everything that stands is taken in: what differs. `with`: schema id of the rows to write, and the revision of rows that do not
    /// stand; `show` says of which kinds how many rows are wanted for people.
    ///
    /// # Errors
    /// The engine fails.
    pub fn differences(
        mut self,
        with: (i32, i32),
        headers: &Headers,
        show: (&[Kind], usize),
    ) -> Result<Differences, Fault> {
        self.look()?;
        let beyond = self.leave();
        let unsteady = self.unsteady();
        let fields = self.answers.columns.fields();
        let names: Vec<String> = fields.iter().map(|f| f.name().clone()).collect();
        let own = names.len() - FRAME;
        let mut out = Differences {
            beyond,
            unsteady: (FRAME..own)
                .filter(|i| unsteady[i - FRAME])
                .map(|i| names[i].clone())
                .collect(),
            columns: names[..own].to_vec(),
            ..Differences::default()
        };
        let (computed, standing) = (std::mem::take(&mut self.computed), std::mem::take(&mut self.standing));
        let mut keys: Vec<&String> = computed.keys().chain(standing.keys()).collect();
        keys.sort_unstable();
        keys.dedup();
        for some in keys.chunks(ROWS) {
            let of = |rows: &'_ BTreeMap<String, Row>| -> Vec<Arc<[u8]>> {
                some.iter()
                    .filter_map(|k| rows.get(*k))
                    .map(|r| Arc::clone(&r.value))
                    .collect()
            };
            let made = self.answers.read(of(&computed).iter().map(|v| &**v))?;
            let told = self.answers.read(of(&standing).iter().map(|v| &**v))?;
            let pairs = pairs(some, &computed, &standing);
            self.chunk(&pairs, (&made, &told), (&unsteady, show), &mut out, (with, headers))?;
        }
        Ok(out)
    }

    /// Judges pairs and writes what is to be written.
    fn chunk(
        &self,
        pairs: &[Pair<'_>],
        (made, told): (&RecordBatch, &RecordBatch),
        (unsteady, (kinds, most)): (&[bool], (&[Kind], usize)),
        out: &mut Differences,
        ((id, first), headers): ((i32, i32), &Headers),
    ) -> Result<(), Fault> {
        let (mut fresh, mut gone) = (Vec::new(), Vec::new());
        let alike = Alike::of(made, told, unsteady)?;
        for pair in pairs {
            let live = pair.standing.filter(|(_, row)| !row.deleted);
            let next = pair.standing.map_or(first, |(_, row)| row.revision.saturating_add(1));
            let (kind, batch, row, revision) = match (pair.computed, live) {
                (Some(i), Some((j, row))) if alike.same(i, j) => (Kind::Same, made, i, row.revision),
                (Some(i), Some(_)) => (Kind::Corrected, made, i, next),
                (Some(i), None) => (Kind::Added, made, i, next),
                (None, Some((j, _))) => (Kind::Deleted, told, j, next),
                (None, None) => continue,
            };
            out.count(kind);
            match kind {
                Kind::Same => {}
                Kind::Deleted => gone.push((pair.key, row, revision)),
                _ => fresh.push((pair.key, row, revision)),
            }
            if kinds.contains(&kind) && out.rows.len() < most {
                let row = shown(&out.columns, batch, row);
                let stood = live.filter(|_| kind == Kind::Corrected);
                let mut before = stood.map(|(j, _)| shown(&out.columns, told, j)).unwrap_or_default();
                before.retain(|name, value| row.get(name) != Some(value));
                out.rows.push(Difference {
                    kind,
                    revision,
                    row,
                    before,
                });
            }
        }
        out.emits.extend(self.write(made, &fresh, false, (id, headers))?);
        out.emits.extend(self.write(told, &gone, true, (id, headers))?);
        Ok(())
    }

    /// Rows of a batch, by key, index and revision, as records.
    fn write(
        &self,
        batch: &RecordBatch,
        rows: &[(&str, usize, i32)],
        deleted: bool,
        (id, headers): (i32, &Headers),
    ) -> Result<Vec<RawEmit>, Fault> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let chosen = UInt32Array::from_iter_values(rows.iter().filter_map(|(_, i, _)| u32::try_from(*i).ok()));
        let own = (FRAME..batch.num_columns() - FRAME)
            .map(|c| take(batch.column(c), &chosen, None))
            .collect::<Result<_, _>>()
            .map_err(|e| failed(e.into()))?;
        let times = |c: usize| -> Vec<i64> {
            let times = batch.column(c).as_primitive::<TimestampMicrosecondType>();
            rows.iter().map(|(_, i, _)| times.value(*i)).collect()
        };
        let columns = Columns {
            starts: times(0),
            ends: times(1),
            own,
            revisions: rows.iter().map(|(_, _, revision)| *revision).collect(),
            deleted: vec![deleted; rows.len()],
        };
        let finish = &self.declared.finish;
        let values = finish.rows.write(id, columns)?;
        let emit = |(value, (key, ..)): (Arc<[u8]>, &(&str, usize, i32))| RawEmit {
            topic: Arc::clone(&finish.topic),
            partition: None,
            key: (*key).to_owned(),
            value: Some(value),
            headers: headers.clone(),
        };
        Ok(values.into_iter().zip(rows).map(emit).collect())
    }

    /// By column of a row's own: whether it makes no difference by itself. Where all are so, all do.
    fn unsteady(&self) -> Vec<bool> {
        let view = &self.declared.finish.view;
        let results = view.aggregate.unsteady();
        let made_of = view.after.made_of(results.len());
        let depends = |column: usize, on: &dyn Fn(usize) -> bool| made_of[column].iter().any(|i| on(*i));
        let own = || view.gives.iter().map(|(i, _)| *i);
        let keys = view.aggregate.keys();
        let loose: Vec<bool> = own().map(|i| depends(i, &|c| results[c])).collect();
        let firm = own().zip(&loose).any(|(i, loose)| !loose && depends(i, &|c| c >= keys));
        if firm { loose } else { vec![false; loose.len()] }
    }

    /// Leaves out what does not lie within the range as a whole; how many sessions that are.
    fn leave(&mut self) -> usize {
        let (from, to) = self.declared.range;
        let inside = |row: &Row| row.start >= from && row.end <= to;
        if !matches!(self.declared.finish.view.window, Window::Session { .. }) {
            self.computed.retain(|_, row| inside(row));
            self.standing.retain(|_, row| inside(row));
            return 0;
        }
        // Sessions of one key that lie over each other are one matter, however often they were told.
        let mut spans: BTreeMap<String, Vec<(i64, i64)>> = BTreeMap::new();
        let live = self.standing.iter().filter(|(_, row)| !row.deleted);
        for (key, row) in self.computed.iter().chain(live) {
            spans.entry(group(key, row)).or_default().push((row.start, row.end));
        }
        for all in spans.values_mut() {
            all.sort_unstable();
            let mut joined: Vec<(i64, i64)> = Vec::new();
            for (start, end) in all.drain(..) {
                match joined.last_mut().filter(|last| start <= last.1) {
                    Some(last) => last.1 = last.1.max(end),
                    None => joined.push((start, end)),
                }
            }
            joined.retain(|(start, end)| *start < from || *end > to);
            *all = joined;
        }
        let before = self.computed.len() + self.standing.len();
        let stays = |key: &String, row: &mut Row| {
            let out = spans.get(&group(key, row)).into_iter().flatten();
            inside(row)
                && !out
                    .into_iter()
                    .any(|(start, end)| row.start >= *start && row.end <= *end)
        };
        self.computed.retain(stays);
        self.standing.retain(stays);
        before - self.computed.len() - self.standing.len()
    }
}

/// A row's key without the start of its window.
fn group(key: &str, row: &Row) -> String {
    let start = keys::with_start("", row.start);
    key.strip_suffix(&start).unwrap_or(key).to_owned()
}

/// Rows that touch the range.
fn within(
    answers: &mut Answers,
    rows: &[(String, Arc<[u8]>)],
    (from, to): (i64, i64),
) -> Result<Vec<(String, Row)>, Fault> {
    let batch = answers.read(rows.iter().map(|(_, value)| &**value))?;
    let time = |c: usize| batch.column(c).as_primitive::<TimestampMicrosecondType>();
    let last = batch.num_columns() - 1;
    let revisions = batch.column(last - 1).as_primitive::<Int32Type>();
    let deleted = batch.column(last).as_boolean();
    let row = |(i, (key, value)): (usize, &(String, Arc<[u8]>))| {
        let row = Row {
            start: time(0).value(i),
            end: time(1).value(i),
            revision: revisions.value(i),
            deleted: deleted.value(i),
            value: Arc::clone(value),
        };
        (row.start < to && row.end > from).then(|| (key.clone(), row))
    };
    Ok(rows.iter().enumerate().filter_map(row).collect())
}

/// Keys with the places of their rows in batches of all rows of these keys.
fn pairs<'a>(
    keys: &[&'a String],
    computed: &BTreeMap<String, Row>,
    standing: &'a BTreeMap<String, Row>,
) -> Vec<Pair<'a>> {
    let (mut made, mut told) = (0.., 0..);
    let pair = |key: &&'a String| Pair {
        key: key.as_str(),
        computed: computed.get(*key).and_then(|_| made.next()),
        standing: standing.get(*key).and_then(|row| told.next().map(|i| (i, row))),
    };
    keys.iter().map(pair).collect()
}

/// Says of rows of two batches whether their own columns are the same, and the ends of their windows.
struct Alike<'a>(Vec<Box<dyn Fn(usize, usize) -> bool + 'a>>);

impl<'a> Alike<'a> {
    fn of(a: &'a RecordBatch, b: &'a RecordBatch, unsteady: &[bool]) -> Result<Self, Fault> {
        let columns = (1..a.num_columns() - FRAME).filter(|c| *c < FRAME || !unsteady[*c - FRAME]);
        let one = |c: usize| -> Result<Box<dyn Fn(usize, usize) -> bool + 'a>, Fault> {
            let (a, b) = (a.column(c), b.column(c));
            if *a.data_type() == DataType::Float64 {
                return Ok(Box::new(move |i, j| near((a.as_ref(), i), (b.as_ref(), j))));
            }
            let order =
                make_comparator(a.as_ref(), b.as_ref(), SortOptions::default()).map_err(|e| failed(e.into()))?;
            Ok(Box::new(move |i, j| order(i, j).is_eq()))
        };
        Ok(Self(columns.map(one).collect::<Result<_, _>>()?))
    }

    fn same(&self, i: usize, j: usize) -> bool {
        self.0.iter().all(|same| same(i, j))
    }
}

fn near((a, i): (&dyn Array, usize), (b, j): (&dyn Array, usize)) -> bool {
    if a.is_null(i) || b.is_null(j) {
        return a.is_null(i) == b.is_null(j);
    }
    let (a, b) = (
        a.as_primitive::<Float64Type>().value(i),
        b.as_primitive::<Float64Type>().value(j),
    );
    a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= NEAR * a.abs().max(1.0)
}
