//! Two streams joined within a window, as DataFusion planned it: rows meet where their window and their keys are equal, and what meets
//! is aggregated per window. Each side is kept as an aggregate like any other, grouped by all columns that are taken, with how many
//! rows are equal: so a late row, a crash or another cut changes nothing but the counts. How it is run stands in `pairing.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion::common::{JoinType, NullEquality, ScalarValue};
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateExprBuilder;
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy};
use datafusion::physical_plan::joins::HashJoinExec;

use super::enrich::{comparable, table_of};
use super::groups::{Aggregate, Groups};
use super::plan::aggregate_of;
use super::rewrite::PANE;
use super::steps::{On, Origin, Steps, as_it_is, column};

/// How two streams are put together.
#[derive(Clone, Debug)]
pub(crate) struct Streams {
    pub(crate) kind: JoinType,
    /// Columns of each side's rows that are compared, in the same order; the window left out.
    pub(crate) keys: [Vec<usize>; 2],
    pub(crate) on: Option<On>,
    /// Each side's rows as the plan knows them.
    pub(crate) inputs: [SchemaRef; 2],
    pub(crate) schema: SchemaRef,
    pub(crate) projection: Option<Vec<usize>>,
    /// Between the join and the aggregate.
    pub(crate) middle: Steps,
    pub(crate) aggregate: Aggregate,
    pub(crate) after: Steps,
    /// Columns of the answer but the window: index and name.
    pub(crate) gives: Vec<(usize, Field)>,
    /// Names of what the answer is grouped by, the window left out.
    pub(crate) names: Vec<String>,
}

/// A side of the join, from its stream to its kept rows.
pub(crate) struct Half {
    pub(crate) before: Steps,
    pub(crate) takes: SchemaRef,
    pub(crate) aggregate: Aggregate,
    /// Columns whose hash says which partition a row belongs to.
    pub(crate) home: Vec<usize>,
    /// Names of its columns, the window left out.
    pub(crate) names: Vec<String>,
}

const WANTS: &str = "join two streams ON a.window = b.window AND a.key = b.key";
const ASKS: &str =
    "rows of two joined streams are told per window and key: add GROUP BY a.window and what tells rows apart";

impl Streams {
    /// Takes the plan of a join apart. `lookups`: the primary key of each.
    pub(crate) fn of(
        plan: &Arc<dyn ExecutionPlan>,
        lookups: &BTreeMap<String, Vec<String>>,
        gives: Vec<(usize, Field)>,
    ) -> Result<(Self, [Half; 2]), String> {
        let (after, node) = Steps::of(plan);
        if node.downcast_ref::<HashJoinExec>().is_some() {
            return Err(ASKS.to_owned());
        }
        let (first, result_schema) = aggregate_of(&node)?;
        let (middle, below) = Steps::of(first.input());
        let Some(join) = below.downcast_ref::<HashJoinExec>() else {
            let name = below.name();
            return Err(format!("{name} is not something a join of streams can do: {WANTS}"));
        };
        let (kind, on) = checked(join)?;
        let sides = [side(join.left(), lookups)?, side(join.right(), lookups)?];
        let (panes, keys) = compared(join, &sides)?;
        let width = join.left().schema().fields().len();
        let projection = join.projection.as_ref().map(|p| p.to_vec());
        let place = |index: usize| match &projection {
            Some(columns) => columns.get(index).copied(),
            None => Some(index),
        };
        let by = first.group_expr().expr();
        // What each group key is of the joined rows, where it is a column of them.
        let of: Vec<Option<usize>> = by
            .iter()
            .map(|(expr, _)| as_it_is(expr).and_then(|i| middle.same(i)).and_then(place))
            .collect();
        // The window of the side whose rows all stay; of a full join the one that is there.
        let windows = (panes[0], width + panes[1]);
        let is_pane = |i: &usize| {
            let (is, (expr, _)) = (|index| of[*i] == Some(index), &by[*i]);
            spreads(kind, &is, &|pair| is_either(expr, &middle, &place, pair), windows)
        };
        let Some(pane) = (0..by.len()).find(is_pane) else {
            return Err("the window is not in GROUP BY; add it there".to_owned());
        };
        let grouped = |index: usize| of.contains(&Some(index));
        let either = |pair| by.iter().any(|(expr, _)| is_either(expr, &middle, &place, pair));
        let spreads = |(l, r): (usize, usize)| spreads(kind, &grouped, &either, (l, width + r));
        let home: Vec<(usize, usize)> = keys.iter().copied().filter(|pair| spreads(*pair)).collect();
        let aggregate = Aggregate::of(first, result_schema, pane, false).map_err(|e| e.strip_backtrace())?;
        let others = by.iter().enumerate().filter(|(i, _)| *i != pane);
        let streams = Self {
            kind,
            on,
            keys: [keys.iter().map(|k| k.0).collect(), keys.iter().map(|k| k.1).collect()],
            inputs: [join.left().schema(), join.right().schema()],
            schema: Arc::clone(join.join_schema()),
            names: others.map(|(_, (_, name))| name.clone()).collect(),
            projection,
            middle,
            aggregate,
            after,
            gives,
        };
        let [left, right] = sides;
        let left = half(join.left(), left, panes[0], home.iter().map(|h| h.0))?;
        let right = half(join.right(), right, panes[1], home.iter().map(|h| h.1))?;
        Ok((streams, [left, right]))
    }
}

/// Whether all rows of a group of the result have one value of a compared key, and so one home: `grouped` says whether a column is a
/// group key, `either` whether the one of two that is there is.
fn spreads(
    kind: JoinType,
    grouped: &dyn Fn(usize) -> bool,
    either: &dyn Fn((usize, usize)) -> bool,
    (left, right): (usize, usize),
) -> bool {
    match kind {
        JoinType::Left => grouped(left),
        JoinType::Right => grouped(right),
        JoinType::Full => grouped(left) && grouped(right) || either((left, right)),
        _ => grouped(left) || grouped(right) || either((left, right)),
    }
}

/// The type of a join that streams can do, and what it wants beside equal keys.
fn checked(join: &HashJoinExec) -> Result<(JoinType, Option<On>), String> {
    let kind = *join.join_type();
    if !matches!(
        kind,
        JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full
    ) {
        return Err(format!(
            "a {kind} join of streams is not something a window can do: {WANTS}"
        ));
    }
    if join.null_equality() != NullEquality::NullEqualsNothing {
        return Err(format!("keys that are null are equal to nothing here: {WANTS} with ="));
    }
    let (_, right) = Steps::of(join.right());
    if let Some(lookup) = table_of(&right.schema()) {
        return Err(format!(
            "lookup `{lookup}` is joined after the streams: join it inside the view of a side"
        ));
    }
    Ok((kind, On::any(join)?))
}

/// A side's steps, and the stream they begin with.
fn side(
    plan: &Arc<dyn ExecutionPlan>,
    lookups: &BTreeMap<String, Vec<String>>,
) -> Result<(Steps, Arc<dyn ExecutionPlan>), String> {
    let (steps, leaf) = Steps::stream(plan, lookups)?;
    if leaf.name() != "DataSourceExec" || !leaf.children().is_empty() {
        let name = leaf.name();
        return Err(format!(
            "{name} below a join of streams is not something a stream can do: {WANTS}"
        ));
    }
    if let Some(lookup) = table_of(&leaf.schema()) {
        return Err(format!("lookup `{lookup}` stands where a stream is wanted: {WANTS}"));
    }
    Ok((steps, leaf))
}

type Compared = ([usize; 2], Vec<(usize, usize)>);

/// The windows' columns of both sides, and the keys' that are compared.
fn compared(join: &HashJoinExec, sides: &[(Steps, Arc<dyn ExecutionPlan>); 2]) -> Result<Compared, String> {
    let schemas = [join.left().schema(), join.right().schema()];
    let is_pane = |which: usize, index: usize| {
        let (steps, leaf) = &sides[which];
        let found = steps.same(index);
        found.is_some_and(|i| leaf.schema().field(i).name() == PANE)
    };
    let (mut panes, mut keys) = (None, Vec::new());
    for (l, r) in join.on() {
        let (Some(left), Some(right)) = (column(l, &schemas[0]), column(r, &schemas[1])) else {
            return Err(format!(
                "`{l}` and `{r}` are not both columns: compute them in the views of the sides"
            ));
        };
        if is_pane(0, left) && is_pane(1, right) {
            panes = Some([left, right]);
            continue;
        }
        let kinds = (schemas[0].field(left).data_type(), schemas[1].field(right).data_type());
        if !comparable(kinds.0, kinds.1) {
            return Err(format!(
                "`{}` is {} and `{}` {}: cast one in the view of its side",
                schemas[0].field(left).name(),
                kinds.0,
                schemas[1].field(right).name(),
                kinds.1
            ));
        }
        keys.push((left, right));
    }
    keys.sort_unstable();
    keys.dedup();
    let panes = panes.ok_or_else(|| format!("the windows are not compared: {WANTS}"))?;
    Ok((panes, keys))
}

/// Whether an expression is the one of two columns of the joined rows that is there: what `coalesce` is planned as.
fn is_either(
    expr: &Arc<dyn PhysicalExpr>,
    middle: &Steps,
    place: &dyn Fn(usize) -> Option<usize>,
    (left, right): (usize, usize),
) -> bool {
    let (computed, before) = match as_it_is(expr).map(|i| middle.origin(i)) {
        Some(Origin::Computed(computed, before)) => (computed, before),
        Some(_) => return false,
        None => (expr, middle.len()),
    };
    let made = collect_columns(computed);
    let is = |column: &&Column, wanted| match middle.origin_before(before, column.index()) {
        Origin::Column(found) => place(found) == Some(wanted),
        _ => false,
    };
    let named = |wanted: usize| made.iter().find(|c| is(c, wanted)).map(ToString::to_string);
    let (Some(l), Some(r)) = (named(left), named(right)) else {
        return false;
    };
    let said = computed.to_string();
    let case = |a: &str, b: &str| format!("CASE WHEN {a} IS NOT NULL THEN {a} ELSE {b} END");
    said == case(&l, &r) || said == case(&r, &l)
}

/// What is kept of a side: its rows by all their columns, and how many are equal.
fn half(
    plan: &Arc<dyn ExecutionPlan>,
    (before, leaf): (Steps, Arc<dyn ExecutionPlan>),
    pane: usize,
    home: impl Iterator<Item = usize>,
) -> Result<Half, String> {
    let columns = plan.schema();
    for field in columns.fields() {
        if matches!(
            field.data_type(),
            DataType::Map(..) | DataType::Union(..) | DataType::Dictionary(..)
        ) {
            return Err(format!(
                "column `{}` is {}, which is not kept for a join: take what you need of it in the view of its side, as {}['key'] AS name",
                field.name(),
                field.data_type(),
                field.name()
            ));
        }
    }
    let aggregate = equal_rows(plan, pane).map_err(|e| e.strip_backtrace())?;
    Groups::new(&aggregate).map_err(|e| format!("rows of the join cannot be kept: {}", e.strip_backtrace()))?;
    let names = columns.fields().iter().enumerate().filter(|(i, _)| *i != pane);
    Ok(Half {
        before,
        takes: leaf.schema(),
        aggregate,
        home: home.collect(),
        names: names.map(|(_, field)| field.name().clone()).collect(),
    })
}

fn equal_rows(plan: &Arc<dyn ExecutionPlan>, pane: usize) -> datafusion::common::Result<Aggregate> {
    let columns = plan.schema();
    let one: Arc<dyn PhysicalExpr> = Arc::new(Literal::new(ScalarValue::Int64(Some(1))));
    let count = AggregateExprBuilder::new(count_udaf(), vec![one])
        .schema(Arc::clone(&columns))
        .alias("equal rows")
        .build()?;
    let by = columns.fields().iter().enumerate().map(|(i, field)| {
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), i));
        (column, field.name().clone())
    });
    let partial = AggregateExec::try_new(
        AggregateMode::Partial,
        PhysicalGroupBy::new_single(by.collect()),
        vec![Arc::new(count)],
        vec![None],
        Arc::clone(plan),
        Arc::clone(&columns),
    )?;
    let results = partial.schema();
    Aggregate::of(&partial, results, pane, false)
}
