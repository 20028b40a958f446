//! Plans one view with DataFusion and takes its plan apart: steps before the aggregate, the aggregate, steps behind it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::MemTable;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::optimizer::Optimizer;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast;

use super::enrich::table_of;
use super::groups::Aggregate;
use super::rewrite::PANE;
use super::steps::Steps;
use super::windows::Window;
use crate::udf::Udfs;

/// A view, ready to run.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// The sink table's name.
    pub(crate) name: String,
    pub(crate) topic: String,
    /// The source table's name.
    pub(crate) source: String,
    pub(crate) window: Window,
    /// Columns of the source it takes, the pane among them.
    pub(crate) takes: SchemaRef,
    pub(crate) before: Steps,
    pub(crate) aggregate: Aggregate,
    pub(crate) after: Steps,
    /// Columns of the answer but the window: index and name.
    pub(crate) gives: Vec<(usize, Field)>,
    /// Names of the group keys, in order of the aggregate's columns; the pane left out.
    pub(crate) keys: Vec<String>,
    /// Columns of kept rows whose hash says which partition a row belongs to: the group keys, of a join in the other side's order.
    pub(crate) home: Vec<usize>,
    /// Tells states of another text apart.
    pub(crate) mark: u64,
}

/// A source as DataFusion sees it.
pub(crate) fn with_pane(columns: &Schema) -> SchemaRef {
    let mut fields = columns.fields().to_vec();
    fields.push(Arc::new(Field::new(PANE, DataType::Int64, false)));
    Arc::new(Schema::new(fields))
}

/// A session that knows the tables, one partition wide, without rules that turn one aggregate into two.
fn session(tables: &[(String, SchemaRef)], udfs: &Udfs) -> Result<SessionState> {
    let rules = Optimizer::new()
        .rules
        .into_iter()
        .filter(|rule| rule.name() != "single_distinct_aggregation_to_group_by")
        .collect();
    let config = SessionConfig::new().with_target_partitions(1);
    let state = SessionStateBuilder::new_with_default_features()
        .with_config(config)
        .with_optimizer_rules(rules)
        // What follows runs on one batch, and two halves are what is wanted.
        .with_physical_optimizer_rules(Vec::new())
        .build();
    let context = SessionContext::new_with_state(state);
    udfs.register(&context);
    for (name, columns) in tables {
        let table = MemTable::try_new(Arc::clone(columns), vec![vec![]])?;
        context.register_table(datafusion::common::TableReference::bare(name.as_str()), Arc::new(table))?;
    }
    Ok(context.state())
}

/// Plans a rewritten query over tables with these columns.
pub(crate) fn physical(
    query: ast::Query,
    tables: &[(String, SchemaRef)],
    udfs: &Udfs,
) -> Result<Arc<dyn ExecutionPlan>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .map_err(|e| DataFusionError::External(Box::new(e)))?;
    let state = session(tables, udfs)?;
    let work = async {
        let statement = Statement::Statement(Box::new(ast::Statement::Query(Box::new(query))));
        let plan = state.statement_to_plan(statement).await?;
        state.create_physical_plan(&plan).await
    };
    let planned = if tokio::runtime::Handle::try_current().is_err() {
        runtime.block_on(work)
    } else {
        std::thread::scope(|scope| scope.spawn(|| runtime.block_on(work)).join())
            .unwrap_or_else(|_| Err(DataFusionError::Internal("the planner panicked".to_owned())))
    };
    runtime.shutdown_background();
    planned
}

/// The parts of a plan: before, aggregate, after, and what the source gives.
pub(crate) struct Parts {
    pub(crate) before: Steps,
    pub(crate) aggregate: Aggregate,
    pub(crate) after: Steps,
    pub(crate) takes: SchemaRef,
    pub(crate) answer: SchemaRef,
    pub(crate) keys: Vec<String>,
}

/// The local half of the aggregate that `node` is, and what the whole of it gives.
pub(crate) fn aggregate_of(node: &Arc<dyn ExecutionPlan>) -> std::result::Result<(&AggregateExec, SchemaRef), String> {
    let Some(last) = node.downcast_ref::<AggregateExec>() else {
        return Err(format!("{} is not something a stream can do", node.name()));
    };
    let inner = last.input().downcast_ref::<AggregateExec>();
    let first = match (last.mode(), inner) {
        (AggregateMode::Final | AggregateMode::FinalPartitioned, Some(inner)) => inner,
        (AggregateMode::Single | AggregateMode::SinglePartitioned, _) => last,
        _ => return Err("the aggregate has a shape that streams do not know".to_owned()),
    };
    if !first.group_expr().is_single() {
        return Err("GROUPING SETS, ROLLUP and CUBE are not supported; write one INSERT for each".to_owned());
    }
    Ok((first, last.schema()))
}

/// Takes a plan apart; says what it cannot do. `keys`: the primary key of each lookup.
pub(crate) fn parts(
    plan: &Arc<dyn ExecutionPlan>,
    window: Window,
    keys: &BTreeMap<String, Vec<String>>,
) -> std::result::Result<Parts, String> {
    let (after, node) = Steps::of(plan);
    let (first, result_schema) = aggregate_of(&node)?;
    let by = first.group_expr().expr();
    let is_pane = |name: &str| name == PANE || name.ends_with(&format!(".{PANE}"));
    let (before, leaf) = Steps::stream(first.input(), keys)?;
    let columns = leaf.schema();
    // Under the name that a view of rows with their window gave it.
    let renamed = |column: &Column| {
        before
            .same(column.index())
            .is_some_and(|i| columns.field(i).name() == PANE)
    };
    let found = by.iter().position(|(expr, name)| {
        is_pane(name)
            || expr
                .downcast_ref::<Column>()
                .is_some_and(|c| is_pane(c.name()) || renamed(c))
    });
    let Some(pane) = found else {
        return Err("the window is not in GROUP BY; add it there".to_owned());
    };
    if let Some(lookup) = table_of(&leaf.schema()) {
        return Err(format!(
            "lookup `{lookup}` stands where a stream is wanted: name the stream first, FROM stream JOIN lookup"
        ));
    }
    if !leaf.children().is_empty() || leaf.name() != "DataSourceExec" {
        let instead = if leaf.name().contains("Join") {
            "; join a lookup ON its primary key = a column of the stream"
        } else {
            ""
        };
        return Err(format!(
            "{} below an aggregate is not something a stream can do{instead}",
            leaf.name()
        ));
    }
    let aggregate = Aggregate::of(first, result_schema, pane, window.is_session()).map_err(|e| e.strip_backtrace())?;
    let keys = by
        .iter()
        .enumerate()
        .filter(|(i, _)| *i != pane)
        .map(|(_, (_, name))| name.clone())
        .collect();
    Ok(Parts {
        before,
        aggregate,
        after,
        takes: leaf.schema(),
        answer: plan.schema(),
        keys,
    })
}
