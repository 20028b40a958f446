//! Minute tables as whole as their facts. Views feed them from the inserts of facts; what a kill kept from them, of the server or of
//! who would have made the insert again, is fed to them from the facts once the partition is taken up.

use kernel::{Fault, FaultCode};

use super::Server;
use super::insert::inserting;
use super::migrate::{AGAIN, feeds};
use super::sink::{GOES_MAX, Place};

/// Sees that the minute tables have counted the facts of a partition up to an offset.
///
/// One instance at a time inserts what is new of a partition, in the order of offsets: what is missing is at the end. An
/// insert of another one that is still under way is waited for.
///
/// # Errors
/// As every statement; `STORE_UNAVAILABLE` while an insert is under way, and when a table stays behind.
pub(super) async fn complete(server: &Server, facts: &str, place: &Place, kept: i64) -> Result<(), Fault> {
    for (table, query) in feeds(facts) {
        for go in 0..=GOES_MAX {
            let Some(next) = behind(server, &table, place, kept).await? else {
                break;
            };
            let shown = format!("{}/{} from offset {next} to {kept}", place.0, place.1);
            // The insert that feeds it may be about to: only when none is under way is a second look worth anything.
            if inserting(server, &format!("{}:{}:", place.0, place.1)).await? {
                let detail = format!("ClickHouse, an insert of {}/{} is still under way", place.0, place.1);
                return Err(Fault::new(FaultCode::StoreUnavailable, detail));
            }
            if behind(server, &table, place, kept).await? != Some(next) {
                continue;
            }
            if go == GOES_MAX {
                let detail = format!("ClickHouse, {table} was fed {shown} {GOES_MAX} times and shows nothing of it");
                return Err(Fault::new(FaultCode::StoreUnavailable, detail));
            }
            tracing::warn!(table, records = %shown, "a minute table was behind its facts: fed from them");
            let token = format!("{}:{}:{next} {table}+{go}", place.0, place.1);
            feed(server, &table, &query, place, (next, kept), &token).await?;
        }
    }
    Ok(())
}

/// Where to go on when the table has counted less of the partition than this; `None` also where it was counted before tables
/// said how far they are.
async fn behind(server: &Server, table: &str, place: &Place, kept: i64) -> Result<Option<i64>, Fault> {
    let sql = format!("SELECT count() > 0, max(_next) FROM {table} WHERE _partition = {{partition: Int32}}");
    let query = server.client.query_raw(&sql).param("partition", place.1);
    let (any, next) = server
        .run(
            &format!("SELECT max(_next) FROM {table}"),
            query.fetch_one::<(bool, i64)>(),
        )
        .await?;
    Ok(((next > 0 || !any) && next <= kept).then_some(next))
}

/// Counts the facts of a range of offsets, both ends included.
async fn feed(
    server: &Server,
    table: &str,
    query: &str,
    place: &Place,
    (from, to): (i64, i64),
    token: &str,
) -> Result<(), Fault> {
    let sql = "SELECT arrayStringConcat(groupArray(name), ', ') FROM (SELECT name FROM system.columns \
               WHERE database = currentDatabase() AND table = {table: String} ORDER BY position)";
    let asked = server.client.query_raw(sql).param("table", table);
    let columns = server
        .run("SELECT FROM system.columns", asked.fetch_one::<String>())
        .await?;
    let range = "WHERE _topic = {topic: String} AND _partition = {partition: Int32} AND _offset BETWEEN {from: Int64} AND {to: Int64}";
    let query = query.replace(AGAIN, range);
    let sql = format!("INSERT INTO {table} ({columns}) SELECT {columns} FROM ({query})");
    let insert = server
        .client
        .query_raw(&sql)
        .param("topic", place.0.as_str())
        .param("partition", place.1)
        .param("from", from)
        .param("to", to)
        .with_setting("insert_deduplicate", "1")
        .with_setting("max_threads", "1")
        .with_setting("insert_deduplication_token", token);
    server
        .run(&format!("INSERT INTO {table} ({token})"), insert.execute())
        .await
}
