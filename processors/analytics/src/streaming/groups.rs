//! Groups and their aggregates, driven by hand: the hash table and the accumulators that DataFusion's own aggregate uses, updated
//! with rows where records are read, merged from states where windows are kept.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{cast, take_arrays};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::common::Result;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::{GroupsAccumulatorAdapter, PhysicalExpr};
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode, aggregate_expressions};

use super::distinct::Distinct;
use super::steps::{evaluate, mask};

/// Name of the column with a session's last instant, behind its states.
const LAST: &str = "__last";

/// An aggregate of a plan: by what, of what.
#[derive(Clone, Debug)]
pub(crate) struct Aggregate {
    by: Vec<Arc<dyn PhysicalExpr>>,
    of: Vec<Arc<AggregateFunctionExpr>>,
    args: Vec<Vec<Arc<dyn PhysicalExpr>>>,
    filters: Vec<Option<Arc<dyn PhysicalExpr>>>,
    /// How many columns the state of each has.
    widths: Vec<usize>,
    group_schema: SchemaRef,
    /// Groups, then states, as the accumulators want them.
    state_types: Vec<DataType>,
    /// The same as it is kept and sent: views of strings as plain strings, for a slice of those carries all of their memory along.
    pub(crate) state_schema: SchemaRef,
    /// Groups, then results.
    pub(crate) result_schema: SchemaRef,
    /// Which group column is the pane.
    pub(crate) pane: usize,
    /// Whether rows carry the last instant of a session.
    pub(crate) session: bool,
}

impl Aggregate {
    /// Reads the partial and the final node of a plan.
    pub(crate) fn of(partial: &AggregateExec, result_schema: SchemaRef, pane: usize, session: bool) -> Result<Self> {
        let by: Vec<_> = partial.group_expr().expr().iter().map(|(e, _)| Arc::clone(e)).collect();
        let of = partial.aggr_expr().to_vec();
        let args = aggregate_expressions(&of, &AggregateMode::Partial, by.len())?;
        let widths = of
            .iter()
            .map(|a| Ok(a.state_fields()?.len()))
            .collect::<Result<Vec<_>>>()?;
        let group_schema = partial.group_expr().group_schema(&partial.input_schema())?;
        let mut fields: Vec<Arc<Field>> = group_schema.fields().to_vec();
        for aggregate in &of {
            fields.extend(aggregate.state_fields()?);
        }
        let state_types = fields.iter().map(|f| f.data_type().clone()).collect();
        let mut kept: Vec<Field> = fields
            .iter()
            .enumerate()
            .map(|(i, f)| Field::new(format!("{i}"), plain(f.data_type()), true))
            .collect();
        if session {
            kept.push(Field::new(LAST, DataType::Int64, false));
        }
        Ok(Self {
            by,
            args,
            filters: partial.filter_expr().to_vec(),
            widths,
            group_schema,
            state_types,
            state_schema: Arc::new(Schema::new(kept)),
            result_schema,
            pane,
            session,
            of,
        })
    }

    /// How many columns a group has.
    pub(crate) fn keys(&self) -> usize {
        self.by.len()
    }

    /// Starts of panes of kept rows.
    pub(crate) fn panes<'a>(&self, rows: &'a RecordBatch) -> &'a Int64Array {
        rows.column(self.pane).as_primitive::<Int64Type>()
    }

    /// Last instants of kept rows of sessions.
    pub(crate) fn lasts<'a>(&self, rows: &'a RecordBatch) -> &'a Int64Array {
        rows.column(rows.num_columns() - 1).as_primitive::<Int64Type>()
    }

    /// By column of the results: whether it depends on the order of merging.
    pub(crate) fn unsteady(&self) -> Vec<bool> {
        let of = self.of.iter().map(|a| UNSTEADY.contains(&a.fun().name()));
        std::iter::repeat_n(false, self.keys()).chain(of).collect()
    }

    /// Names of the aggregates, for people.
    pub(crate) fn names(&self) -> Vec<String> {
        self.of.iter().map(|a| a.name().to_owned()).collect()
    }
}

/// Aggregates whose result depends on the order in which rows are merged: a digest is none the less right, and never the same twice.
const UNSTEADY: &[&str] = &[
    "approx_median",
    "approx_percentile_cont",
    "approx_percentile_cont_with_weight",
    "array_agg",
    "first_value",
    "last_value",
    "nth_value",
    "string_agg",
];

/// The type without views.
pub(crate) fn plain(kind: &DataType) -> DataType {
    let inner = |field: &Arc<Field>| Arc::new(field.as_ref().clone().with_data_type(plain(field.data_type())));
    match kind {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::List(field) => DataType::List(inner(field)),
        DataType::LargeList(field) => DataType::LargeList(inner(field)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect()),
        other => other.clone(),
    }
}

pub(crate) fn as_type(array: &ArrayRef, kind: &DataType) -> Result<ArrayRef> {
    if array.data_type() == kind {
        return Ok(Arc::clone(array));
    }
    Ok(cast(array, kind)?)
}

/// A table of groups.
pub(crate) struct Groups {
    values: Box<dyn GroupValues>,
    states: Vec<Box<dyn GroupsAccumulator>>,
    ids: Vec<usize>,
    distinct: Distinct,
    lasts: Vec<i64>,
}

impl Groups {
    pub(crate) fn new(aggregate: &Aggregate) -> Result<Self> {
        let states = aggregate.of.iter().map(accumulator).collect::<Result<_>>()?;
        Ok(Self {
            values: new_group_values(Arc::clone(&aggregate.group_schema), &GroupOrdering::None)?,
            states,
            ids: Vec::new(),
            distinct: Distinct::default(),
            lasts: Vec::new(),
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// Bytes it takes.
    pub(crate) fn size(&self) -> usize {
        self.values.size() + self.states.iter().map(|s| s.size()).sum::<usize>()
    }

    /// Takes rows in.
    pub(crate) fn update(&mut self, aggregate: &Aggregate, rows: &RecordBatch) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        self.name(&evaluate(&aggregate.by, rows)?)?;
        let total = self.values.len();
        for (i, state) in self.states.iter_mut().enumerate() {
            let args = evaluate(&aggregate.args[i], rows)?;
            let filter = match &aggregate.filters[i] {
                Some(filter) => Some(mask(filter, rows)?),
                None => None,
            };
            state.update_batch(&args, &self.ids, filter.as_ref(), total)?;
        }
        Ok(())
    }

    /// The group of each row.
    fn name(&mut self, by: &[ArrayRef]) -> Result<()> {
        if !self.distinct.find(by) {
            return self.values.intern(by, &mut self.ids);
        }
        let firsts = UInt32Array::from(self.distinct.firsts.clone());
        let mut found = Vec::with_capacity(firsts.len());
        self.values.intern(&take_arrays(by, &firsts, None)?, &mut found)?;
        self.ids.clear();
        self.ids
            .extend(self.distinct.like.iter().map(|nth| found[*nth as usize]));
        Ok(())
    }

    /// Takes kept rows in; `panes` in place of their own. Gives the group of each row.
    pub(crate) fn merge(
        &mut self,
        aggregate: &Aggregate,
        rows: &RecordBatch,
        panes: Option<ArrayRef>,
    ) -> Result<&[usize]> {
        let keys = aggregate.keys();
        let mut by = Vec::with_capacity(keys);
        for (i, field) in aggregate.group_schema.fields().iter().enumerate() {
            by.push(match &panes {
                Some(panes) if i == aggregate.pane => Arc::clone(panes),
                _ => as_type(rows.column(i), field.data_type())?,
            });
        }
        self.values.intern(&by, &mut self.ids)?;
        let (total, mut column) = (self.values.len(), keys);
        for (state, width) in self.states.iter_mut().zip(&aggregate.widths) {
            let given = (column..column + width)
                .map(|c| as_type(rows.column(c), &aggregate.state_types[c]))
                .collect::<Result<Vec<_>>>()?;
            state.merge_batch(&given, &self.ids, total)?;
            column += width;
        }
        if aggregate.session {
            self.lasts.resize(total, i64::MIN);
            for (id, last) in self.ids.iter().zip(aggregate.lasts(rows).values()) {
                self.lasts[*id] = self.lasts[*id].max(*last);
            }
        }
        Ok(&self.ids)
    }

    /// All groups and their states, as they are kept; the table is empty then.
    pub(crate) fn rows(mut self, aggregate: &Aggregate) -> Result<RecordBatch> {
        if self.len() == 0 {
            return Ok(RecordBatch::new_empty(Arc::clone(&aggregate.state_schema)));
        }
        let mut columns = self.values.emit(EmitTo::All)?;
        for state in &mut self.states {
            columns.extend(state.state(EmitTo::All)?);
        }
        if aggregate.session {
            let lasts = if self.lasts.is_empty() {
                // Straight from records: each row is one instant.
                Arc::clone(&columns[aggregate.pane])
            } else {
                Arc::new(Int64Array::from(self.lasts))
            };
            columns.push(lasts);
        }
        kept(aggregate, columns)
    }

    /// All groups and their results, and the last instants of sessions.
    pub(crate) fn results(mut self, aggregate: &Aggregate) -> Result<(RecordBatch, Vec<i64>)> {
        if self.len() == 0 {
            return Ok((RecordBatch::new_empty(Arc::clone(&aggregate.result_schema)), Vec::new()));
        }
        let mut columns = self.values.emit(EmitTo::All)?;
        for state in &mut self.states {
            columns.push(state.evaluate(EmitTo::All)?);
        }
        let columns = columns
            .iter()
            .zip(aggregate.result_schema.fields())
            .map(|(column, field)| as_type(column, field.data_type()))
            .collect::<Result<Vec<_>>>()?;
        Ok((
            RecordBatch::try_new(Arc::clone(&aggregate.result_schema), columns)?,
            self.lasts,
        ))
    }
}

fn kept(aggregate: &Aggregate, columns: Vec<ArrayRef>) -> Result<RecordBatch> {
    let columns = columns
        .iter()
        .zip(aggregate.state_schema.fields())
        .map(|(column, field)| as_type(column, field.data_type()))
        .collect::<Result<Vec<_>>>()?;
    Ok(RecordBatch::try_new(Arc::clone(&aggregate.state_schema), columns)?)
}

fn accumulator(of: &Arc<AggregateFunctionExpr>) -> Result<Box<dyn GroupsAccumulator>> {
    if of.groups_accumulator_supported() {
        return of.create_groups_accumulator();
    }
    let of = Arc::clone(of);
    Ok(Box::new(GroupsAccumulatorAdapter::new(move || of.create_accumulator())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_are_kept_as_plain_strings_also_inside_lists() {
        let list = DataType::List(Arc::new(Field::new("item", DataType::Utf8View, true)));
        let wanted = DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)));
        assert_eq!(plain(&list), wanted);
        assert_eq!(plain(&DataType::Int64), DataType::Int64);
    }
}
