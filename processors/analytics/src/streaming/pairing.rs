//! Runs a join of two streams: pairs of rows of the same window and key, as many as both sides have of them, put through what stands
//! behind the join and aggregated, some thousands at a time. A window's pairs are never held together.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{filter_record_batch, take, take_record_batch};
use arrow::datatypes::Int64Type;
use datafusion::common::{JoinType, Result as Done};

use super::groups::{Groups, as_type};
use super::joined::{Put, Touched};
use super::keys;
use super::lookups::Tables;
use super::plan::View;
use super::streams::Streams;

/// Pairs that are put through at once.
const CHUNK: usize = 8_192;

/// One side of some windows: its rows, each as often as `counts` says.
struct Met {
    columns: Vec<ArrayRef>,
    counts: Vec<i64>,
    starts: Vec<i64>,
    names: Vec<String>,
    /// A key that is null equals nothing.
    null: Vec<bool>,
}

/// A pair: where its rows stand on both sides.
type Pair = (Option<u32>, Option<u32>);

/// Pairs on their way into the aggregate.
struct Run<'a> {
    streams: &'a Streams,
    sides: &'a [Met; 2],
    groups: Groups,
    pairs: Vec<Pair>,
    /// By side and row: whether it met another.
    met: [Vec<bool>; 2],
}

impl Streams {
    /// Where kept rows of a side belong, whose windows begin at `starts`.
    pub(crate) fn touched(&self, view: &View, rows: &RecordBatch, starts: &[i64]) -> Done<Touched> {
        let homes = homes(view, rows)?;
        Ok(homes.into_iter().zip(starts.iter().copied()).collect())
    }

    /// The rows of the join of two sides' kept rows; with `chosen`, only of what belongs there.
    pub(crate) fn put(&self, views: [&View; 2], rows: [RecordBatch; 2], chosen: Option<&Touched>) -> Done<Put> {
        let [left, right] = rows;
        let sides = [
            self.side(0, views[0], left, chosen)?,
            self.side(1, views[1], right, chosen)?,
        ];
        let met = [vec![false; sides[0].starts.len()], vec![false; sides[1].starts.len()]];
        let mut run = Run {
            streams: self,
            sides: &sides,
            groups: Groups::new(&self.aggregate)?,
            pairs: Vec::with_capacity(CHUNK),
            met,
        };
        run.meet()?;
        run.alone()?;
        let (results, _) = run.groups.results(&self.aggregate)?;
        let starts = self.aggregate.panes(&results).values().to_vec();
        let columns = keys::columns(&results, self.aggregate.keys(), self.aggregate.pane);
        let (names, _) = keys::marked(&columns, results.num_rows())?;
        let (answer, passes) = self.after.run_masked(results)?;
        Ok(Put {
            names: names.into_iter().zip(starts).collect(),
            answer,
            passes,
        })
    }

    fn side(&self, which: usize, view: &View, rows: RecordBatch, chosen: Option<&Touched>) -> Done<Met> {
        let mut rows = rows;
        if let Some(chosen) = chosen {
            let places = homes(view, &rows)?
                .into_iter()
                .zip(view.aggregate.panes(&rows).values().iter().copied());
            let keep: BooleanArray = places.map(|place| Some(chosen.contains(&place))).collect();
            rows = filter_record_batch(&rows, &keep)?;
        }
        let fields = self.inputs[which].fields().iter().enumerate();
        let columns = fields
            .map(|(i, field)| as_type(rows.column(i), field.data_type()))
            .collect::<Done<Vec<_>>>()?;
        let compared: Vec<&ArrayRef> = self.keys[which].iter().map(|i| rows.column(*i)).collect();
        let (names, null) = keys::marked(&compared, rows.num_rows())?;
        let counts = rows.column(view.aggregate.keys()).as_primitive::<Int64Type>();
        Ok(Met {
            columns,
            counts: counts.values().to_vec(),
            starts: view.aggregate.panes(&rows).values().to_vec(),
            names,
            null,
        })
    }
}

/// Which partition's share kept rows belong to, as text.
fn homes(view: &View, rows: &RecordBatch) -> Done<Vec<String>> {
    let columns: Vec<&ArrayRef> = view.home.iter().map(|i| rows.column(*i)).collect();
    Ok(keys::texts(&columns, rows.num_rows())?)
}

impl Run<'_> {
    /// Rows that have another.
    fn meet(&mut self) -> Done<()> {
        let [left, right] = self.sides;
        let mut known: HashMap<(i64, &str), Vec<u32>> = HashMap::new();
        for (row, (start, name)) in (0u32..).zip(right.starts.iter().zip(&right.names)) {
            if !right.null[row as usize] {
                known.entry((*start, name.as_str())).or_default().push(row);
            }
        }
        for (row, (start, name)) in (0u32..).zip(left.starts.iter().zip(&left.names)) {
            let others = known.get(&(*start, name.as_str())).filter(|_| !left.null[row as usize]);
            for other in others.into_iter().flatten() {
                self.pairs.push((Some(row), Some(*other)));
                if self.pairs.len() >= CHUNK {
                    self.flush(true)?;
                }
            }
        }
        self.flush(true)
    }

    /// Rows that an outer join keeps without another.
    fn alone(&mut self) -> Done<()> {
        let kind = self.streams.kind;
        if matches!(kind, JoinType::Left | JoinType::Full) {
            let rows = (0u32..).zip(&self.met[0]).filter(|(_, met)| !**met);
            self.pairs.extend(rows.map(|(row, _)| (Some(row), None)));
        }
        if matches!(kind, JoinType::Right | JoinType::Full) {
            let rows = (0u32..).zip(&self.met[1]).filter(|(_, met)| !**met);
            self.pairs.extend(rows.map(|(row, _)| (None, Some(row))));
        }
        self.flush(false)
    }

    /// Aggregates the pairs at hand; those that `meet` must meet the join's condition too.
    fn flush(&mut self, meet: bool) -> Done<()> {
        for pairs in std::mem::take(&mut self.pairs).chunks(CHUNK) {
            let batch = self.batch(pairs)?;
            let passes = match self.streams.on.as_ref().filter(|_| meet) {
                Some(on) => Some(on.mask(&batch)?),
                None => None,
            };
            let mut rows = Vec::with_capacity(CHUNK);
            for (row, pair) in (0u32..).zip(pairs) {
                if passes.as_ref().is_some_and(|p| !p.value(row as usize)) {
                    continue;
                }
                if let (Some(l), Some(r)) = pair {
                    self.met[0][*l as usize] = true;
                    self.met[1][*r as usize] = true;
                }
                for _ in 0..self.times(*pair) {
                    rows.push(row);
                    if rows.len() >= CHUNK {
                        self.aggregate(&batch, std::mem::take(&mut rows))?;
                    }
                }
            }
            self.aggregate(&batch, rows)?;
        }
        Ok(())
    }

    /// How often a pair is there: each row of the one side with each equal one of the other.
    fn times(&self, (left, right): Pair) -> u64 {
        let of = |which: usize, row: Option<u32>| row.map_or(1, |row| self.sides[which].counts[row as usize]);
        u64::try_from(of(0, left).saturating_mul(of(1, right))).unwrap_or(0)
    }

    /// The joined rows.
    fn batch(&self, pairs: &[Pair]) -> Done<RecordBatch> {
        let lefts: UInt32Array = pairs.iter().map(|pair| pair.0).collect();
        let rights: UInt32Array = pairs.iter().map(|pair| pair.1).collect();
        let mut columns = Vec::with_capacity(self.streams.schema.fields().len());
        for (side, chosen) in self.sides.iter().zip([&lefts, &rights]) {
            for array in &side.columns {
                columns.push(take(array, chosen, None)?);
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(pairs.len()));
        let schema = Arc::clone(&self.streams.schema);
        Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
    }

    fn aggregate(&mut self, batch: &RecordBatch, rows: Vec<u32>) -> Done<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let all = rows.len() == batch.num_rows() && (0u32..).zip(&rows).all(|(i, row)| i == *row);
        let mut chosen = match all {
            true => batch.clone(),
            false => take_record_batch(batch, &UInt32Array::from(rows))?,
        };
        if let Some(projection) = &self.streams.projection {
            chosen = chosen.project(projection)?;
        }
        let input = self.streams.middle.run(chosen, &Tables::default())?;
        self.groups.update(&self.streams.aggregate, &input)
    }
}
