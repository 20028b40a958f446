//! Rows into a table as one block that ClickHouse recognises by its token: row by row, or, from so many rows on that it pays, column by
//! column. Both are the same block, under the same token, to everything behind them.

use std::sync::Arc;

use clickhouse::{RowOwned, RowWrite};
use kernel::{Fault, FaultCode};
use serde::Serialize;

use super::Server;
use super::native::{Columns, Types, block};

/// Bytes of a block that are compressed and sent at once.
const PIECE: usize = 1 << 20;

/// What every insert says.
const SETTINGS: [(&str, &str); 3] = [
    ("insert_deduplicate", "1"),
    ("async_insert", "0"),
    // The minute tables' views recognise it by the same token: else a row made again would count twice there.
    ("deduplicate_blocks_in_dependent_materialized_views", "1"),
];

/// Inserts rows of facts.
///
/// # Errors
/// As [`insert`].
pub(super) async fn insert_facts<T>(server: &Server, table: &'static str, rows: &[T], token: &str) -> Result<(), Fault>
where
    T: RowOwned + RowWrite + Columns + Serialize + Sync,
{
    if rows.len() < server.bulk_rows_min.max(1) {
        return insert(server, table, rows, token).await;
    }
    let what = what(server, table, token);
    let types = server.types(table).await?;
    let bytes = block(rows, &types).map_err(|detail| {
        server.forget_types(table);
        Fault::new(FaultCode::StoreRefused, format!("ClickHouse, {what}: {detail}"))
    })?;
    let names = T::COLUMN_NAMES
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>();
    let sql = format!("INSERT INTO {table} ({}) FORMAT Native", names.join(", "));
    let work = async {
        let mut insert = server.client.insert_formatted_with(sql);
        for (name, value) in SETTINGS {
            insert = insert.with_setting(name, value);
        }
        let mut insert = insert.with_setting("insert_deduplication_token", token);
        for piece in bytes.chunks(PIECE) {
            insert.send(piece.to_vec().into()).await?;
        }
        insert.end().await
    };
    let done = server.run(&what, work).await;
    if done.is_err() {
        // A column may have another type by now.
        server.forget_types(table);
    }
    done
}

/// Inserts rows as one block that ClickHouse recognises by its token.
///
/// # Errors
/// `STORE_UNAVAILABLE`: it may or may not have happened. `STORE_REFUSED`: it did not.
pub(super) async fn insert<T>(server: &Server, table: &str, rows: &[T], token: &str) -> Result<(), Fault>
where
    T: RowOwned + RowWrite + Serialize + Sync,
{
    let work = async {
        let mut insert = server.client.insert::<T>(table).await?;
        for (name, value) in SETTINGS {
            insert = insert.with_setting(name, value);
        }
        let mut insert = insert.with_setting("insert_deduplication_token", token);
        for row in rows {
            insert.write(row).await?;
        }
        insert.end().await
    };
    server.run(&what(server, table, token), work).await
}

fn what(server: &Server, table: &str, token: &str) -> String {
    format!("INSERT INTO {}.{table} ({token})", server.database)
}

/// Whether an insert is under way whose token begins so.
///
/// # Errors
/// As every statement.
pub(super) async fn inserting(server: &Server, token: &str) -> Result<bool, Fault> {
    let sql = "SELECT count() > 0 FROM system.processes WHERE startsWith(Settings['insert_deduplication_token'], {token: String})";
    let query = server.client.query_raw(sql).param("token", token);
    server
        .run("SELECT FROM system.processes", query.fetch_one::<bool>())
        .await
}

impl Server {
    /// Types of a table's columns, asked for once.
    async fn types(&self, table: &'static str) -> Result<Arc<Types>, Fault> {
        if let Some(types) = self.lock().get(table) {
            return Ok(types.clone());
        }
        let sql =
            "SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = {table: String}";
        let query = self.client.query_raw(sql).param("table", table);
        let columns = self
            .run("SELECT FROM system.columns", query.fetch_all::<(String, String)>())
            .await?;
        if columns.is_empty() {
            let detail = format!(
                "ClickHouse, table {}.{table} is not there (apply the migrations: `soma deploy`)",
                self.database
            );
            return Err(Fault::new(FaultCode::StoreRefused, detail));
        }
        let types = Arc::new(Types::from_iter(columns));
        self.lock().insert(table, types.clone());
        Ok(types)
    }

    fn forget_types(&self, table: &'static str) {
        self.lock().remove(table);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, std::collections::HashMap<&'static str, Arc<Types>>> {
        self.types.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
