//! Two windowed aggregates joined on their window and keys. Each side is an aggregate of its own, with its own local half and kept rows;
//! both sides' rows of a key go to the same partition. Here the sides' windows are put together: told when the watermark has passed
//! their end on both sides, and told again, by revision, when a late record changes either.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{and, take};
use arrow::datatypes::{Field, SchemaRef};
use datafusion::common::{JoinType, NullEquality, Result as Done};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::HashJoinExec;

use super::enrich::{comparable, table_of};
use super::groups::Groups;
use super::joins::SIDES;
use super::keys;
use super::plan::View;
use super::results::Rows;
use super::steps::{On, Steps, column};
use super::streams::Streams;

/// The join of two views.
#[derive(Clone, Debug)]
pub(crate) struct Join {
    /// The sink table's name.
    pub(crate) name: String,
    pub(crate) topic: String,
    pub(crate) sides: [View; 2],
    pub(crate) rows: Rows,
    /// Names of what a row is told by, the window left out.
    pub(crate) keys: Vec<String>,
    pub(crate) how: Arc<How>,
}

/// How two sides are put together.
#[derive(Clone, Debug)]
pub(crate) enum How {
    /// Each aggregated by itself, and then joined.
    Windows(Box<Joined>),
    /// Joined row by row, and then aggregated.
    Streams(Box<Streams>),
}

impl How {
    pub(crate) fn kind(&self) -> JoinType {
        match self {
            Self::Windows(joined) => joined.kind,
            Self::Streams(streams) => streams.kind,
        }
    }

    /// Columns of the answer but the window: index and name.
    pub(crate) fn gives(&self) -> &[(usize, Field)] {
        match self {
            Self::Windows(joined) => &joined.gives,
            Self::Streams(streams) => &streams.gives,
        }
    }

    /// What kept rows of a side, whose windows begin at `starts`, may change.
    pub(crate) fn touched(&self, which: usize, view: &View, rows: &RecordBatch, starts: &[i64]) -> Done<Touched> {
        match self {
            Self::Windows(joined) => joined.touched(which, view, rows, starts),
            Self::Streams(streams) => streams.touched(view, rows, starts),
        }
    }

    /// Rows of the join of both sides' windows; with `names`, only what those touch.
    pub(crate) fn put(&self, views: [&View; 2], groups: [Groups; 2], names: Option<&Touched>) -> Done<Put> {
        let [left, right] = groups;
        match self {
            Self::Windows(joined) => {
                let chosen = |name: &(String, i64)| names.is_none_or(|names| names.contains(name));
                let (left, right) = (joined.side(0, views[0], left)?, joined.side(1, views[1], right)?);
                joined.put(&left, &right, &chosen)
            }
            Self::Streams(streams) => {
                let rows = [left.rows(&views[0].aggregate)?, right.rows(&views[1].aggregate)?];
                streams.put(views, rows, names)
            }
        }
    }
}

/// Keys and window starts.
pub(crate) type Touched = HashSet<(String, i64)>;

/// What one side brings into the join.
#[derive(Clone, Debug)]
struct Input {
    /// Columns of the side's answer.
    columns: Vec<usize>,
    steps: Steps,
}

/// How two sides are put together.
#[derive(Clone, Debug)]
pub(crate) struct Joined {
    pub(crate) kind: JoinType,
    inputs: [Input; 2],
    on: Option<On>,
    schema: SchemaRef,
    projection: Option<Vec<usize>>,
    after: Steps,
    /// Columns of the answer but the window: index and name.
    pub(crate) gives: Vec<(usize, Field)>,
}

/// One side of some windows: a row per window and key.
struct Evaluated {
    names: Vec<String>,
    starts: Vec<i64>,
    /// A key that is null equals nothing.
    null: Vec<bool>,
    rows: RecordBatch,
    passes: Option<BooleanArray>,
}

/// A row of the join: where it stands on both sides.
type Pair = (Option<u32>, Option<u32>);

/// Rows of the join.
pub(crate) struct Put {
    /// Key and window start of each.
    pub(crate) names: Vec<(String, i64)>,
    pub(crate) answer: RecordBatch,
    pub(crate) passes: Option<BooleanArray>,
}

const WANTS: &str = "join windows ON a.window = b.window AND a.key = b.key, all keys of both sides";

impl Joined {
    /// Takes the plan of a join apart, and sets which columns of the sides agree.
    pub(crate) fn of(
        plan: &Arc<dyn ExecutionPlan>,
        sides: &mut [View; 2],
        answers: &[SchemaRef],
        gives: Vec<(usize, Field)>,
    ) -> Result<Self, String> {
        let (after, node) = Steps::of(plan);
        let Some(join) = node.downcast_ref::<HashJoinExec>() else {
            return Err(format!(
                "{} is not something a join of windows can do: {WANTS}",
                node.name()
            ));
        };
        let kind = *join.join_type();
        if !matches!(
            kind,
            JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full
        ) {
            return Err(format!(
                "a {kind} join of windows is not something a stream can do: {WANTS}"
            ));
        }
        let on = On::of(join).map_err(|detail| format!("{WANTS}; {detail}"))?;
        if join.null_equality() != NullEquality::NullEqualsNothing {
            return Err(format!("keys that are null are equal to nothing here: {WANTS} with ="));
        }
        let (left, left_names) = input(join.left(), SIDES[0], &answers[0])?;
        let (right, right_names) = input(join.right(), SIDES[1], &answers[1])?;
        let (mut pairs, columns) = (Vec::new(), [join.left().schema(), join.right().schema()]);
        for (l, r) in join.on() {
            let (l, r) = (
                column(l, &columns[0]).and_then(|i| left.steps.trace(i)),
                column(r, &columns[1]).and_then(|i| right.steps.trace(i)),
            );
            let place = |input: &Input, view: &View, i: Option<usize>| {
                let found = view.after.trace(*input.columns.get(i?)?);
                found.filter(|column| *column < view.aggregate.keys())
            };
            let (Some(a), Some(b)) = (place(&left, &sides[0], l), place(&right, &sides[1], r)) else {
                let names = (named(&left_names, l), named(&right_names, r));
                return Err(format!("{} and {} are not both group keys: {WANTS}", names.0, names.1));
            };
            pairs.push((a, b));
        }
        agree(&mut pairs, sides)?;
        Ok(Self {
            kind,
            inputs: [left, right],
            on,
            schema: Arc::clone(join.join_schema()),
            projection: join.projection.as_ref().map(|p| p.to_vec()),
            after,
            gives,
        })
    }

    /// What keys of a side are called in records: a null is `\N`, and in a full join the right side's nulls are their own.
    fn names(&self, which: usize, columns: &[&ArrayRef], rows: usize) -> Done<(Vec<String>, Vec<bool>)> {
        let (mut names, null) = keys::marked(columns, rows)?;
        if which == 1 && self.kind == JoinType::Full {
            for row in (0..rows).filter(|row| null[*row]) {
                names[row].push_str("|right");
            }
        }
        Ok((names, null))
    }

    /// Window and key of kept rows of a side, whose windows begin at `starts`.
    fn touched(&self, which: usize, view: &View, rows: &RecordBatch, starts: &[i64]) -> Done<Touched> {
        let columns: Vec<&ArrayRef> = view.home.iter().map(|i| rows.column(*i)).collect();
        let (names, _) = self.names(which, &columns, rows.num_rows())?;
        Ok(names.into_iter().zip(starts.iter().copied()).collect())
    }

    /// A side's windows: its groups, HAVING, and what the join filters of it.
    fn side(&self, which: usize, view: &View, groups: Groups) -> Done<Evaluated> {
        let (results, _) = groups.results(&view.aggregate)?;
        let starts = view.aggregate.panes(&results).values().to_vec();
        let columns: Vec<&ArrayRef> = view.home.iter().map(|i| results.column(*i)).collect();
        let (names, null) = self.names(which, &columns, results.num_rows())?;
        let (answer, having) = view.after.run_masked(results)?;
        let input = &self.inputs[which];
        let (rows, passes) = input.steps.run_masked(answer.project(&input.columns)?)?;
        let passes = both(having, passes)?;
        Ok(Evaluated {
            names,
            starts,
            null,
            rows,
            passes,
        })
    }

    /// Rows of the join of two sides; only those `wanted`.
    fn put(&self, left: &Evaluated, right: &Evaluated, wanted: &dyn Fn(&(String, i64)) -> bool) -> Done<Put> {
        let (mut pairs, mut names): (Vec<Pair>, Vec<(String, i64)>) = (Vec::new(), Vec::new());
        for pair in self.pairs(left, right) {
            let name = match pair {
                (Some(l), _) => (left.names[l as usize].clone(), left.starts[l as usize]),
                (None, Some(r)) => (right.names[r as usize].clone(), right.starts[r as usize]),
                (None, None) => continue,
            };
            if wanted(&name) {
                pairs.push(pair);
                names.push(name);
            }
        }
        let lefts: UInt32Array = pairs.iter().map(|pair| pair.0).collect();
        let rights: UInt32Array = pairs.iter().map(|pair| pair.1).collect();
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        for (rows, chosen) in [(&left.rows, &lefts), (&right.rows, &rights)] {
            for array in rows.columns() {
                columns.push(take(array, chosen, None)?);
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(names.len()));
        let mut batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        let met = self.on.as_ref().map(|on| on.mask(&batch)).transpose()?;
        if let Some(projection) = &self.projection {
            batch = batch.project(projection)?;
        }
        let (answer, passes) = self.after.run_masked(batch)?;
        let passes = both(met, passes)?;
        Ok(Put { names, answer, passes })
    }

    fn pairs(&self, left: &Evaluated, right: &Evaluated) -> Vec<Pair> {
        let alive = |side: &Evaluated, row: usize| side.passes.as_ref().is_none_or(|p| p.value(row));
        let rows = |side: &Evaluated| (0u32..).take(side.starts.len()).collect::<Vec<_>>();
        let place = |side: &Evaluated, row: u32| alive(side, row as usize) && !side.null[row as usize];
        let known: HashMap<(i64, &str), u32> = rows(right)
            .into_iter()
            .filter(|row| place(right, *row))
            .map(|row| ((right.starts[row as usize], right.names[row as usize].as_str()), row))
            .collect();
        let (mut out, mut met) = (Vec::new(), HashSet::new());
        for row in rows(left).into_iter().filter(|row| alive(left, *row as usize)) {
            let key = (left.starts[row as usize], left.names[row as usize].as_str());
            match known.get(&key).filter(|_| !left.null[row as usize]) {
                Some(other) => {
                    met.insert(*other);
                    out.push((Some(row), Some(*other)));
                }
                None if matches!(self.kind, JoinType::Left | JoinType::Full) => out.push((Some(row), None)),
                None => {}
            }
        }
        if matches!(self.kind, JoinType::Right | JoinType::Full) {
            let alone = |row: &u32| alive(right, *row as usize) && !met.contains(row);
            out.extend(rows(right).into_iter().filter(alone).map(|row| (None, Some(row))));
        }
        out
    }
}

/// What passes both.
fn both(a: Option<BooleanArray>, b: Option<BooleanArray>) -> Done<Option<BooleanArray>> {
    Ok(match (a, b) {
        (Some(a), Some(b)) => Some(and(&a, &b)?),
        (a, b) => a.or(b),
    })
}

/// One side of the join's plan, and the names of its columns.
fn input(plan: &Arc<dyn ExecutionPlan>, wanted: &str, answer: &SchemaRef) -> Result<(Input, SchemaRef), String> {
    let (steps, leaf) = Steps::of(plan);
    let columns = leaf.schema();
    if table_of(&columns).is_none_or(|name| name != wanted) || !leaf.children().is_empty() {
        return Err(format!(
            "{} below a join of windows is not something a stream can do: {WANTS}",
            leaf.name()
        ));
    }
    let places = columns.fields().iter().map(|f| answer.index_of(f.name()));
    let places = places.collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
    Ok((Input { columns: places, steps }, columns))
}

fn named(columns: &SchemaRef, index: Option<usize>) -> String {
    index.map_or("a computed value".to_owned(), |i| {
        format!("`{}`", columns.field(i).name())
    })
}

/// Orders what is equal by the left side's keys; all keys of both sides are to be in it, once.
fn agree(pairs: &mut Vec<(usize, usize)>, sides: &mut [View; 2]) -> Result<(), String> {
    let panes = (sides[0].aggregate.pane, sides[1].aggregate.pane);
    if !pairs.contains(&panes) {
        return Err(format!("the windows are not compared: {WANTS}"));
    }
    pairs.retain(|pair| *pair != panes);
    pairs.sort_unstable();
    let schemas = [&sides[0].aggregate.state_schema, &sides[1].aggregate.state_schema];
    for (a, b) in pairs.iter() {
        let kinds = (schemas[0].field(*a).data_type(), schemas[1].field(*b).data_type());
        if !comparable(kinds.0, kinds.1) {
            return Err(format!(
                "keys of a join are {} and {}: cast one in its SELECT",
                kinds.0, kinds.1
            ));
        }
    }
    for (which, side) in sides.iter_mut().enumerate() {
        let of = |pair: &(usize, usize)| if which == 0 { pair.0 } else { pair.1 };
        let given: BTreeSet<usize> = pairs.iter().map(of).collect();
        let wanted: BTreeSet<usize> = side.home.iter().copied().collect();
        if given.len() != pairs.len() || given != wanted {
            return Err(format!(
                "the {} side is grouped by {}; compared are {} of its keys: {WANTS}",
                ["left", "right"][which],
                side.keys.join(", "),
                given.intersection(&wanted).count()
            ));
        }
        side.home = pairs.iter().map(of).collect();
    }
    Ok(())
}
