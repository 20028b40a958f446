//! The UDFs of processors/udfs as plain Rust, through `__run` over the C interface, and in SQL: the same in all three. And what is
//! said of dylibs that do wrong. `make udfs` builds what is loaded here.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod batches;
mod faults;
mod groups;
mod plain;
mod rows;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Field, Schema};
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};

use super::called::Called;
use super::{Udfs, load};

/// Where `make udfs` puts what it builds.
fn cache() -> PathBuf {
    let var = |name| std::env::var_os(name).map(PathBuf::from);
    var("SOMA_CACHE").unwrap_or_else(|| {
        let cache = var("XDG_CACHE_HOME").unwrap_or_else(|| var("HOME").expect("a home").join(".cache"));
        cache.join("somaagenthub")
    })
}

/// Every UDF that is shipped.
fn shipped() -> &'static Udfs {
    static UDFS: OnceLock<Udfs> = OnceLock::new();
    UDFS.get_or_init(|| load(&cache().join("udfs")).unwrap_or_else(|faults| panic!("{faults:?}")))
}

/// A dylib of `folder` in the cache.
fn dylib(folder: &str, name: &str) -> PathBuf {
    let file = format!("{name}.{}", std::env::consts::DLL_EXTENSION);
    cache().join(folder).join(file)
}

fn called(name: &str) -> Called {
    Called::open(&dylib("udfs", name)).unwrap()
}

/// A context in which the UDFs are known, with so many partitions.
fn context(udfs: &Udfs, partitions: usize) -> SessionContext {
    let config = SessionConfig::new().with_target_partitions(partitions);
    let state = SessionStateBuilder::new_with_default_features().with_config(config);
    let context = SessionContext::new_with_state(state.build());
    udfs.register(&context);
    context
}

/// A batch of columns `a0`, `a1` and so on.
fn table(columns: &[ArrayRef]) -> RecordBatch {
    let fields: Vec<_> = (columns.iter().enumerate())
        .map(|(i, c)| Field::new(format!("a{i}"), c.data_type().clone(), true))
        .collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.to_vec()).unwrap()
}

/// What a query over a table `t` gives, in one batch. Each inner list is a partition of the table.
fn ask(context: &SessionContext, t: Vec<Vec<RecordBatch>>, sql: &str) -> Result<RecordBatch, DataFusionError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build()?;
    context.deregister_table("t")?;
    let schema = t[0][0].schema();
    context.register_table("t", Arc::new(MemTable::try_new(schema, t)?))?;
    runtime.block_on(async {
        let frame = context.sql(sql).await?;
        // Of the plan: no row may mean no batch.
        let schema = Arc::new(frame.schema().as_arrow().clone());
        let rows = frame.collect().await?;
        Ok(arrow::compute::concat_batches(&schema, &rows)?)
    })
}

/// The same numbers every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // Steele, Lea and Flood's SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }

    /// One of these, or one time in eight none.
    fn maybe<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        (self.below(8) > 0).then(|| of[self.below(of.len())].clone())
    }

    fn bits(&mut self) -> f64 {
        f64::from_bits(self.next())
    }

    /// A number of any size, mostly a small one.
    fn whole(&mut self) -> i64 {
        let wide = self.next() as i64;
        wide >> self.below(64)
    }
}
