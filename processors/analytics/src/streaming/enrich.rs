//! A lookup within a plan: rows of a stream go in, the same rows beside what the lookup has for them come out. Read out of the hash
//! join that DataFusion plans; what a lookup cannot do is said.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{cast, filter_record_batch, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{JoinType, Result};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::joins::HashJoinExec;

use super::groups::plain;
use super::lookups::Tables;
use super::steps::{On, Steps, column, evaluate};

/// Which table a leaf of a plan is: what is told apart by name only would be lost under an alias.
const TABLE: &str = "soma.table";

/// Columns of a table that is found again in a plan by its name.
pub(crate) fn tagged(columns: &Schema, name: &str) -> SchemaRef {
    let tag = |field: &Arc<Field>| {
        let metadata = [(TABLE.to_owned(), name.to_owned())].into();
        field.as_ref().clone().with_metadata(metadata)
    };
    Arc::new(Schema::new(columns.fields().iter().map(tag).collect::<Vec<_>>()))
}

/// The name a leaf was tagged with.
pub(crate) fn table_of(leaf: &Schema) -> Option<&String> {
    leaf.fields().first()?.metadata().get(TABLE)
}

/// One lookup of a plan.
#[derive(Clone, Debug)]
pub(crate) struct Enrich {
    pub(crate) table: String,
    /// What the lookup's key is compared with, in the key's order, and the key's types.
    keys: Vec<(Arc<dyn PhysicalExpr>, DataType)>,
    /// How many columns the stream has that goes in.
    width: usize,
    /// Columns of the lookup that are taken.
    pub(crate) leaf: SchemaRef,
    /// Filters and projections of its rows.
    steps: Steps,
    /// Rows for which it has nothing stay.
    pub(crate) outer: bool,
    on: Option<On>,
    schema: SchemaRef,
    projection: Option<Vec<usize>>,
}

/// Whether values of two types are equal exactly when one is cast to the other.
pub(crate) fn comparable(a: &DataType, b: &DataType) -> bool {
    a.is_integer() && b.is_integer() || plain(a) == plain(b) && !a.is_floating()
}

impl Enrich {
    /// Reads a join; `keys`: the primary key of each lookup.
    pub(crate) fn of(join: &HashJoinExec, keys: &BTreeMap<String, Vec<String>>) -> std::result::Result<Self, String> {
        let (steps, leaf) = Steps::of(join.right());
        let columns = leaf.schema();
        let Some((table, key)) = table_of(&columns).and_then(|name| keys.get_key_value(name)) else {
            return Err("a stream is joined with a lookup's rows as they are; what is joined here is not".to_owned());
        };
        let outer = match join.join_type() {
            JoinType::Inner => false,
            JoinType::Left => true,
            other => {
                return Err(format!(
                    "a {other} join with lookup `{table}` is not something a stream can do"
                ));
            }
        };
        let wants = format!("join lookup `{table}` ON its primary key alone ({})", key.join(", "));
        let on = On::of(join).map_err(|detail| format!("{wants}; {detail}"))?;
        let mut given: BTreeMap<&str, Arc<dyn PhysicalExpr>> = BTreeMap::new();
        for (stream, lookup) in join.on() {
            let index = column(lookup, &join.right().schema()).and_then(|i| steps.trace(i));
            let Some(name) = index.map(|i| columns.field(i).name()).filter(|n| key.contains(n)) else {
                return Err(format!("{wants}; `{lookup}` is not of it"));
            };
            if given.insert(name, Arc::clone(stream)).is_some() {
                return Err(format!("{wants}; `{name}` is compared twice"));
            }
        }
        let mut ordered = Vec::new();
        for name in key {
            let Some(expr) = given.remove(name.as_str()) else {
                return Err(format!("{wants}; `{name}` is missing"));
            };
            let kind = columns.field_with_name(name).map_err(|e| e.to_string())?.data_type();
            let found = expr.data_type(&join.left().schema()).map_err(|e| e.strip_backtrace())?;
            if !comparable(&found, kind) {
                return Err(format!(
                    "`{expr}` is {found}, and `{name}` of lookup `{table}` {kind}: cast the first"
                ));
            }
            ordered.push((expr, kind.clone()));
        }
        Ok(Self {
            table: table.clone(),
            keys: ordered,
            width: join.left().schema().fields().len(),
            leaf: columns,
            steps,
            outer,
            on,
            schema: Arc::clone(join.join_schema()),
            projection: join.projection.as_ref().map(|p| p.to_vec()),
        })
    }

    /// The column of the stream that a column which comes out is.
    pub(crate) fn stream_column(&self, index: usize) -> Option<usize> {
        let index = match &self.projection {
            Some(projection) => *projection.get(index)?,
            None => index,
        };
        Some(index).filter(|index| *index < self.width)
    }

    /// Rows beside what the lookup has for them.
    pub(crate) fn run(&self, batch: &RecordBatch, tables: &Tables) -> Result<RecordBatch> {
        let exprs: Vec<_> = self.keys.iter().map(|(expr, _)| Arc::clone(expr)).collect();
        let given = evaluate(&exprs, batch)?;
        let keys: Vec<ArrayRef> = given
            .iter()
            .zip(&self.keys)
            .map(|(array, (_, kind))| {
                if array.data_type() == kind {
                    Ok(Arc::clone(array))
                } else {
                    cast(array, kind)
                }
            })
            .collect::<std::result::Result<_, _>>()?;
        let (found, rows) = tables.find(&self.table, &keys, &self.leaf)?;
        let (rows, passes) = self.steps.run_masked(rows)?;
        let mut nth = 0u32;
        let beside: Vec<Option<u32>> = found
            .iter()
            .map(|found| {
                let row = found.then_some(nth)?;
                nth += 1;
                passes.as_ref().is_none_or(|p| p.value(row as usize)).then_some(row)
            })
            .collect();
        tables.unmatched(&self.table, beside.iter().filter(|b| b.is_none()).count());
        let stream: Vec<u32> = (0u32..)
            .zip(&beside)
            .filter(|(_, found)| self.outer || found.is_some())
            .map(|(row, _)| row)
            .collect();
        let beside: UInt32Array = beside
            .into_iter()
            .filter(|found| self.outer || found.is_some())
            .collect();
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        if stream.len() == batch.num_rows() {
            columns.extend(batch.columns().iter().cloned());
        } else {
            let stream = UInt32Array::from(stream);
            for array in batch.columns() {
                columns.push(take(array, &stream, None)?);
            }
        }
        for array in rows.columns() {
            columns.push(take(array, &beside, None)?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(beside.len()));
        let mut joined = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        if let Some(on) = &self.on {
            joined = filter_record_batch(&joined, &on.mask(&joined)?)?;
        }
        Ok(match &self.projection {
            Some(columns) => joined.project(columns)?,
            None => joined,
        })
    }
}
