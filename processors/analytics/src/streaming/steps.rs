//! Filters, projections and lookups of a plan, run on a batch where they stand: no stream, no task, nothing planned again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::{and, filter_record_batch, prep_null_mask_filter};
use arrow::datatypes::SchemaRef;
use datafusion::common::{DataFusionError, JoinSide, JoinType, Result};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::physical_plan::joins::utils::ColumnIndex;
use datafusion::physical_plan::projection::ProjectionExec;

use super::enrich::Enrich;
use super::groups::plain;
use super::lookups::Tables;

/// One of them.
#[derive(Clone, Debug)]
enum Step {
    Project(Project),
    Filter(Arc<dyn PhysicalExpr>, Option<Vec<usize>>),
    Lookup(Arc<Enrich>),
}

/// Columns computed of those that go in.
#[derive(Clone, Debug)]
struct Project {
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    takes: SchemaRef,
    gives: SchemaRef,
}

/// Where a column is from.
pub(crate) enum Origin<'a> {
    /// The column of what goes in that it is, as it is.
    Column(usize),
    /// It was computed so, behind that many steps.
    Computed(&'a Arc<dyn PhysicalExpr>, usize),
    /// A lookup, or nowhere.
    Elsewhere,
}

/// Steps from a plan's leaf upwards.
#[derive(Clone, Debug, Default)]
pub(crate) struct Steps(Vec<Step>);

impl Steps {
    /// The steps from `plan` down to the first node that is neither; that node comes back too.
    pub(crate) fn of(plan: &Arc<dyn ExecutionPlan>) -> (Self, Arc<dyn ExecutionPlan>) {
        let (mut steps, mut plan) = (Vec::new(), Arc::clone(plan));
        loop {
            let below = if let Some(project) = plan.downcast_ref::<ProjectionExec>() {
                let exprs = project.expr().iter().map(|e| Arc::clone(&e.expr)).collect();
                let (takes, gives) = (project.input().schema(), plan.schema());
                steps.push(Step::Project(Project { exprs, takes, gives }));
                Arc::clone(project.input())
            } else if let Some(filter) = plan.downcast_ref::<FilterExec>() {
                let projection = filter.projection().as_ref().map(|p| p.to_vec());
                steps.push(Step::Filter(Arc::clone(filter.predicate()), projection));
                Arc::clone(filter.input())
            } else {
                steps.reverse();
                return (Self(steps), plan);
            };
            plan = below;
        }
    }

    /// By column that comes out: the columns it is made of, of `width` that go in.
    pub(crate) fn made_of(&self, width: usize) -> Vec<BTreeSet<usize>> {
        let mut of: Vec<BTreeSet<usize>> = (0..width).map(|i| BTreeSet::from([i])).collect();
        for step in &self.0 {
            let take = |i: usize| of.get(i).cloned().unwrap_or_default();
            of = match step {
                Step::Project(project) => project
                    .exprs
                    .iter()
                    .map(|e| collect_columns(e).iter().flat_map(|c| take(c.index())).collect())
                    .collect(),
                Step::Filter(_, Some(columns)) => columns.iter().map(|i| take(*i)).collect(),
                // Lookups stand before an aggregate, and what is asked about stands behind it.
                Step::Filter(_, None) | Step::Lookup(_) => of,
            };
        }
        of
    }

    /// As [`Steps::of`], down to the stream: lookups, with the primary key of each in `keys`, are steps too.
    pub(crate) fn stream(
        plan: &Arc<dyn ExecutionPlan>,
        keys: &BTreeMap<String, Vec<String>>,
    ) -> std::result::Result<(Self, Arc<dyn ExecutionPlan>), String> {
        let (mut own, node) = Self::of(plan);
        let Some(join) = node.downcast_ref::<HashJoinExec>() else {
            return Ok((own, node));
        };
        let enrich = Enrich::of(join, keys)?;
        let (mut all, leaf) = Self::stream(join.left(), keys)?;
        all.0.push(Step::Lookup(Arc::new(enrich)));
        all.0.append(&mut own.0);
        Ok((all, leaf))
    }

    /// As [`Steps::trace`], but of columns as they are.
    pub(crate) fn same(&self, index: usize) -> Option<usize> {
        match self.origin(index) {
            Origin::Column(found) => Some(found),
            _ => None,
        }
    }

    /// Where a column that comes out is from.
    pub(crate) fn origin(&self, index: usize) -> Origin<'_> {
        self.origin_before(self.0.len(), index)
    }

    /// The same of a column that goes into the step behind the first `count`.
    pub(crate) fn origin_before(&self, count: usize, index: usize) -> Origin<'_> {
        let mut index = index;
        for (i, step) in self.0.iter().enumerate().take(count).rev() {
            let below = match step {
                Step::Project(project) => match project.exprs.get(index).map(|e| (e, e.downcast_ref::<Column>())) {
                    Some((_, Some(column))) => Some(column.index()),
                    Some((expr, None)) => return Origin::Computed(expr, i),
                    None => None,
                },
                Step::Filter(_, Some(projection)) => projection.get(index).copied(),
                Step::Filter(_, None) => Some(index),
                Step::Lookup(enrich) => enrich.stream_column(index),
            };
            match below {
                Some(below) => index = below,
                None => return Origin::Elsewhere,
            }
        }
        Origin::Column(index)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The lookups among them.
    pub(crate) fn lookups(&self) -> impl Iterator<Item = &Arc<Enrich>> {
        self.0.iter().filter_map(|step| match step {
            Step::Lookup(enrich) => Some(enrich),
            _ => None,
        })
    }

    /// Which column of what goes in a column of what comes out is: equal in two rows exactly when that is.
    pub(crate) fn trace(&self, index: usize) -> Option<usize> {
        self.0.iter().rev().try_fold(index, |index, step| match step {
            Step::Project(project) => column(project.exprs.get(index)?, &project.takes),
            Step::Filter(_, Some(projection)) => projection.get(index).copied(),
            Step::Filter(_, None) => Some(index),
            Step::Lookup(enrich) => enrich.stream_column(index),
        })
    }

    /// What comes out of `batch`.
    pub(crate) fn run(&self, batch: RecordBatch, tables: &Tables) -> Result<RecordBatch> {
        let mut batch = batch;
        for step in &self.0 {
            batch = match step {
                Step::Project(project) => project.run(&batch)?,
                Step::Filter(predicate, projection) => {
                    filter_record_batch(&narrow(&batch, projection)?, &mask(predicate, &batch)?)?
                }
                Step::Lookup(enrich) => enrich.run(&batch, tables)?,
            };
        }
        Ok(batch)
    }

    /// As [`Steps::run`], but all rows stay, beside a mask of those that pass.
    pub(crate) fn run_masked(&self, batch: RecordBatch) -> Result<(RecordBatch, Option<BooleanArray>)> {
        let (mut batch, mut passes) = (batch, None);
        for step in &self.0 {
            batch = match step {
                Step::Project(project) => project.run(&batch)?,
                Step::Filter(predicate, projection) => {
                    let found = mask(predicate, &batch)?;
                    passes = Some(match passes {
                        Some(before) => and(&before, &found)?,
                        None => found,
                    });
                    narrow(&batch, projection)?
                }
                Step::Lookup(enrich) => {
                    let detail = format!("lookup `{}` stands behind the aggregate", enrich.table);
                    return Err(DataFusionError::Internal(detail));
                }
            };
        }
        Ok((batch, passes))
    }
}

/// What a join wants of a pair of rows beside equal keys. DataFusion puts the conditions of WHERE there that speak of both.
#[derive(Clone, Debug)]
pub(crate) struct On {
    predicate: Arc<dyn PhysicalExpr>,
    /// Columns of the joined rows that it is about.
    columns: Vec<usize>,
}

impl On {
    /// Of a join, if it has one; an outer join's is none, for its rows stay.
    pub(crate) fn of(join: &HashJoinExec) -> std::result::Result<Option<Self>, String> {
        match join.filter() {
            Some(filter) if *join.join_type() != JoinType::Inner => {
                Err(format!("{}: move other conditions into WHERE", filter.expression()))
            }
            _ => Self::any(join),
        }
    }

    /// Of a join of any type, if it has one: whoever runs it knows that rows of an outer join stay.
    pub(crate) fn any(join: &HashJoinExec) -> std::result::Result<Option<Self>, String> {
        let Some(filter) = join.filter() else { return Ok(None) };
        let left = join.left().schema().fields().len();
        let place = |column: &ColumnIndex| match column.side {
            JoinSide::Left => Some(column.index),
            JoinSide::Right => Some(left + column.index),
            JoinSide::None => None,
        };
        let columns = filter.column_indices().iter().map(place).collect::<Option<_>>();
        Ok(Some(Self {
            predicate: Arc::clone(filter.expression()),
            columns: columns.ok_or("a join compares what is of neither side")?,
        }))
    }

    /// Joined rows that pass.
    pub(crate) fn mask(&self, joined: &RecordBatch) -> Result<BooleanArray> {
        mask(&self.predicate, &joined.project(&self.columns)?)
    }
}

/// The column that an expression is, as it is.
pub(crate) fn as_it_is(expr: &Arc<dyn PhysicalExpr>) -> Option<usize> {
    expr.downcast_ref::<Column>().map(Column::index)
}

/// The column of `columns` that an expression is, as it is or as a wider number: any other cast may make one of two values, as that of
/// a time to its day does.
pub(crate) fn column(expr: &Arc<dyn PhysicalExpr>, columns: &SchemaRef) -> Option<usize> {
    let Some(cast) = expr.downcast_ref::<CastExpr>() else {
        return as_it_is(expr);
    };
    let index = column(cast.expr(), columns)?;
    let from = cast.expr().data_type(columns).ok()?;
    let to = cast.cast_type();
    let wider = from.is_integer() && to.is_integer() && from.primitive_width() <= to.primitive_width();
    (wider || plain(&from) == plain(to)).then_some(index)
}

impl Project {
    fn run(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let columns = evaluate(&self.exprs, batch)?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(
            Arc::clone(&self.gives),
            columns,
            &options,
        )?)
    }
}

/// The values of each expression.
pub(crate) fn evaluate(exprs: &[Arc<dyn PhysicalExpr>], batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
    exprs
        .iter()
        .map(|expr| expr.evaluate(batch)?.into_array(batch.num_rows()))
        .collect()
}

/// Rows for which a predicate is true; not those where it is null.
pub(crate) fn mask(predicate: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<BooleanArray> {
    let found = predicate.evaluate(batch)?.into_array(batch.num_rows())?;
    let found = found.as_boolean();
    Ok(if found.null_count() > 0 {
        prep_null_mask_filter(found)
    } else {
        found.clone()
    })
}

fn narrow(batch: &RecordBatch, projection: &Option<Vec<usize>>) -> Result<RecordBatch> {
    Ok(match projection {
        Some(columns) => batch.project(columns)?,
        None => batch.clone(),
    })
}
