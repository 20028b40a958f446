//! Filters and projections of a plan, run on a batch where they stand: no stream, no task, nothing planned again.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::{and, filter_record_batch, prep_null_mask_filter};
use arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;

/// One of them.
#[derive(Clone, Debug)]
enum Step {
    Project(Vec<Arc<dyn PhysicalExpr>>, SchemaRef),
    Filter(Arc<dyn PhysicalExpr>, Option<Vec<usize>>),
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
                steps.push(Step::Project(exprs, plan.schema()));
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
                Step::Project(exprs, _) => exprs
                    .iter()
                    .map(|e| collect_columns(e).iter().flat_map(|c| take(c.index())).collect())
                    .collect(),
                Step::Filter(_, Some(columns)) => columns.iter().map(|i| take(*i)).collect(),
                Step::Filter(_, None) => of,
            };
        }
        of
    }

    /// What comes out of `batch`.
    pub(crate) fn run(&self, batch: RecordBatch) -> Result<RecordBatch> {
        let mut batch = batch;
        for step in &self.0 {
            batch = match step {
                Step::Project(exprs, schema) => project(exprs, schema, &batch)?,
                Step::Filter(predicate, projection) => {
                    filter_record_batch(&narrow(&batch, projection)?, &mask(predicate, &batch)?)?
                }
            };
        }
        Ok(batch)
    }

    /// As [`Steps::run`], but all rows stay, beside a mask of those that pass.
    pub(crate) fn run_masked(&self, batch: RecordBatch) -> Result<(RecordBatch, Option<BooleanArray>)> {
        let (mut batch, mut passes) = (batch, None);
        for step in &self.0 {
            batch = match step {
                Step::Project(exprs, schema) => project(exprs, schema, &batch)?,
                Step::Filter(predicate, projection) => {
                    let found = mask(predicate, &batch)?;
                    passes = Some(match passes {
                        Some(before) => and(&before, &found)?,
                        None => found,
                    });
                    narrow(&batch, projection)?
                }
            };
        }
        Ok((batch, passes))
    }
}

fn project(exprs: &[Arc<dyn PhysicalExpr>], schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch> {
    let rows = batch.num_rows();
    let columns = evaluate(exprs, batch)?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(
        Arc::clone(schema),
        columns,
        &options,
    )?)
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
