//! The SQL of a window: checked once, planned once, run on each micro-batch by DataFusion. Holds no state between batches.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionStateBuilder;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::collect;
use datafusion::prelude::{SQLOptions, SessionConfig, SessionContext};
use kernel::{ConfigFault, Delivery, Fault, FaultCode};
use schemas::Timestamp;

use crate::Input;

const TABLE: &str = "events";

/// What a query must give, in any order: name, and the type it is cast to.
fn wanted() -> [(&'static str, DataType); 5] {
    [
        ("partition", DataType::Int32),
        ("window_start", DataType::Timestamp(TimeUnit::Microsecond, None)),
        ("tenant", DataType::Utf8),
        ("type", DataType::Utf8),
        ("events", DataType::Int64),
    ]
}

/// A row of the answer: so many events of a series in a window of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) partition: i32,
    pub(crate) window_start: Timestamp,
    pub(crate) tenant: String,
    pub(crate) kind: String,
    pub(crate) events: i64,
}

/// A checked query over `events(partition, ts, tenant, type, run_id)`.
pub struct Query {
    context: SessionContext,
    table: Arc<MemTable>,
    plan: LogicalPlan,
    // Taken in `drop`: a runtime must not be dropped where an async caller forbids blocking.
    runtime: Option<tokio::runtime::Runtime>,
}

/// What is wrong with the text of a query; empty when nothing is. The same check that [`Query::new`] makes.
pub fn check_sql(sql: &str) -> Vec<ConfigFault> {
    match Query::new(sql) {
        Ok(_) => Vec::new(),
        Err(fault) => vec![ConfigFault::new("sql", fault.detail)],
    }
}

impl Query {
    /// Parses, checks and plans a query.
    ///
    /// # Errors
    /// `CONFIG_INVALID` with what DataFusion says of the text, or the columns it does not give.
    pub fn new(sql: &str) -> Result<Self, Fault> {
        // One partition: a micro-batch is small, and repartitioning would cost more than it saves.
        let config = SessionConfig::new().with_target_partitions(1).with_batch_size(16_384);
        let state = SessionStateBuilder::new_with_default_features()
            .with_config(config)
            .build();
        let context = SessionContext::new_with_state(state);
        let table = MemTable::try_new(columns(), vec![vec![]])
            .map(Arc::new)
            .map_err(engine)?;
        context.register_table(TABLE, table.clone()).map_err(engine)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .map_err(|e| Fault::new(FaultCode::Internal, format!("no runtime for the query engine: {e}")))?;
        let planned = block_on(&runtime, async {
            // Reading only: no CREATE, INSERT, COPY or SET can reach the engine.
            let only = SQLOptions::new()
                .with_allow_ddl(false)
                .with_allow_dml(false)
                .with_allow_statements(false);
            let frame = context.sql_with_options(sql, only).await?;
            frame.into_optimized_plan()
        })?;
        let plan = planned.map_err(|e| invalid(format!("the SQL is refused: {}", e.strip_backtrace())))?;
        check_columns(&plan)?;
        let query = Self {
            context,
            table,
            plan,
            runtime: Some(runtime),
        };
        // What has no physical plan shows here and not at the first record.
        query.run(&[])?;
        Ok(query)
    }

    /// Runs the query on the events of a batch.
    ///
    /// # Errors
    /// `INTERNAL` when the engine fails, `CONFIG_INVALID` when the answer has holes: both halt, neither is the record's fault.
    pub(crate) fn run(&self, batch: &[&Delivery<Input>]) -> Result<Vec<Row>, Fault> {
        let runtime = self
            .runtime
            .as_ref()
            .ok_or_else(|| Fault::new(FaultCode::Internal, "the query was closed"))?;
        let events = record_batch(batch).map_err(|e| engine(e.into()))?;
        let answer = block_on(runtime, async {
            *self.table.batches[0].write().await = vec![events];
            let state = self.context.state();
            let plan = state.create_physical_plan(&self.plan).await?;
            let answer = collect(plan, self.context.task_ctx()).await;
            self.table.batches[0].write().await.clear();
            answer
        })?;
        let mut rows = Vec::new();
        for part in answer.map_err(engine)? {
            read(&part, &mut rows)?;
        }
        Ok(rows)
    }
}

impl Drop for Query {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Drives a future to its end, also for a caller who is inside an async runtime, where blocking on another one would panic.
fn block_on<F>(runtime: &tokio::runtime::Runtime, future: F) -> Result<F::Output, Fault>
where
    F: Future + Send,
    F::Output: Send,
{
    if tokio::runtime::Handle::try_current().is_err() {
        return Ok(runtime.block_on(future));
    }
    std::thread::scope(|scope| scope.spawn(|| runtime.block_on(future)).join())
        .map_err(|_| Fault::new(FaultCode::Internal, "the query engine panicked"))
}

fn columns() -> SchemaRef {
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()));
    Arc::new(Schema::new(vec![
        Field::new("partition", DataType::Int32, false),
        Field::new("ts", utc, false),
        Field::new("tenant", DataType::Utf8, false),
        Field::new("type", DataType::Utf8, false),
        Field::new("run_id", DataType::Utf8, false),
    ]))
}

fn record_batch(batch: &[&Delivery<Input>]) -> Result<RecordBatch, arrow::error::ArrowError> {
    let events = || batch.iter().map(|d| d.input.event());
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from_iter_values(batch.iter().map(|d| d.position.partition))),
        Arc::new(TimestampMicrosecondArray::from_iter_values(events().map(|e| e.ts.0)).with_timezone("+00:00")),
        Arc::new(StringArray::from_iter_values(events().map(|e| &e.tenant))),
        Arc::new(StringArray::from_iter_values(events().map(|e| &e.kind))),
        Arc::new(StringArray::from_iter_values(events().map(|e| &e.run_id))),
    ];
    RecordBatch::try_new(columns(), arrays)
}

fn check_columns(plan: &LogicalPlan) -> Result<(), Fault> {
    let mut wrong = Vec::new();
    for (name, wanted) in wanted() {
        match plan
            .schema()
            .field_with_unqualified_name(name)
            .map(|field| field.data_type())
        {
            Err(_) => wrong.push(format!("column `{name}` is missing")),
            Ok(given) if !fits(given, &wanted) => wrong.push(format!("column `{name}` is {given}, not {wanted}")),
            Ok(_) => {}
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(invalid(format!(
        "the SQL must give partition, window_start, tenant, type and events: {}",
        wrong.join("; ")
    )))
}

fn fits(given: &DataType, wanted: &DataType) -> bool {
    match wanted {
        DataType::Utf8 => matches!(given, DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8),
        DataType::Timestamp(..) => matches!(given, DataType::Timestamp(..)),
        _ => given.is_integer(),
    }
}

fn read(batch: &RecordBatch, rows: &mut Vec<Row>) -> Result<(), Fault> {
    let mut arrays = Vec::with_capacity(5);
    for (name, kind) in wanted() {
        let column = batch
            .column_by_name(name)
            .ok_or_else(|| invalid(format!("column `{name}` is missing")))?;
        if column.null_count() > 0 {
            return Err(invalid(format!(
                "the SQL gave NULL in column `{name}`; write it so that it cannot"
            )));
        }
        arrays.push(cast(column, &kind).map_err(|e| engine(e.into()))?);
    }
    let (partition, start) = (
        arrays[0].as_primitive::<Int32Type>(),
        arrays[1].as_primitive::<TimestampMicrosecondType>(),
    );
    let (tenant, kind) = (arrays[2].as_string::<i32>(), arrays[3].as_string::<i32>());
    let events = arrays[4].as_primitive::<Int64Type>();
    rows.extend((0..batch.num_rows()).map(|i| Row {
        partition: partition.value(i),
        window_start: Timestamp(start.value(i)),
        tenant: tenant.value(i).to_owned(),
        kind: kind.value(i).to_owned(),
        events: events.value(i),
    }));
    Ok(())
}

fn invalid(detail: String) -> Fault {
    Fault::new(FaultCode::ConfigInvalid, detail)
}

fn engine(error: DataFusionError) -> Fault {
    Fault::new(
        FaultCode::Internal,
        format!("the query engine failed: {}", error.strip_backtrace()),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::EVENTS_PER_MINUTE_SQL;

    #[test]
    fn the_shipped_query_is_valid() {
        assert_eq!(check_sql(EVENTS_PER_MINUTE_SQL), vec![]);
    }

    #[test]
    fn bad_queries_are_refused_with_what_is_wrong() {
        for (sql, says) in [
            ("SELEKT 1", "SELEKT"),
            ("SELECT colour FROM events", "colour"),
            ("SELECT * FROM orders", "orders"),
            (
                "SELECT partition, tenant, type FROM events",
                "column `window_start` is missing; column `events`",
            ),
            (
                "SELECT partition, ts AS window_start, tenant, type, run_id AS events FROM events",
                "column `events` is Utf8",
            ),
            ("CREATE TABLE t AS SELECT 1", "DDL"),
            ("DROP TABLE events", "DDL"),
            ("", ""),
        ] {
            let faults = check_sql(sql);
            assert_eq!(faults.len(), 1, "{sql}");
            assert!(faults[0].detail.contains(says), "{sql}: {}", faults[0].detail);
        }
    }

    #[test]
    fn it_runs_inside_an_async_runtime_too() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let query = Query::new(EVENTS_PER_MINUTE_SQL).unwrap();
            assert_eq!(query.run(&[]).unwrap(), vec![]);
        });
    }
}
