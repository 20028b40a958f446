//! The read side: SQL in, columns and rows out. For `soma sql`, dashboards and the checks that compare stores with topics.

use clickhouse::Client;
use kernel::{Fault, FaultCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Config, Server};

/// Most rows one query may give; more is refused, not cut off.
pub const ROWS_MAX: usize = 100_000;

/// One column of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Name.
    pub name: String,
    /// ClickHouse type.
    #[serde(rename = "type")]
    pub kind: String,
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Columns.
    #[serde(rename = "meta")]
    pub columns: Vec<Column>,
    /// Rows, in the order of the columns.
    #[serde(rename = "data")]
    pub rows: Vec<Vec<Value>>,
}

/// Asks ClickHouse. Cannot change anything.
#[derive(Clone)]
pub struct Reader {
    server: Server,
    client: Client,
}

impl Reader {
    /// A reader; connects when asked.
    ///
    /// # Errors
    /// `CONFIG_INVALID`.
    pub fn new(config: &Config) -> Result<Self, Fault> {
        let server = Server::new(config)?;
        let client = server
            .client
            .clone()
            .with_setting("readonly", "2")
            .with_setting("max_result_rows", ROWS_MAX.to_string())
            .with_setting("result_overflow_mode", "throw")
            .with_setting("output_format_json_quote_64bit_integers", "0")
            .with_setting("output_format_json_quote_denormals", "1");
        Ok(Self { server, client })
    }

    /// Whether ClickHouse answers.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`, `STORE_REFUSED`.
    pub async fn probe(&self) -> Result<(), Fault> {
        self.server.probe().await
    }

    /// The answer to one statement. It must not name a FORMAT.
    ///
    /// # Errors
    /// `STORE_REFUSED` with ClickHouse's own words when the statement is wrong, writes, or gives more than [`ROWS_MAX`]
    /// rows; `STORE_UNAVAILABLE`.
    pub async fn query_json(&self, sql: &str) -> Result<Table, Fault> {
        let sql = sql.trim().trim_end_matches(';');
        let what = shown(sql);
        let work = async { self.client.query_raw(sql).fetch_bytes("JSONCompact")?.collect().await };
        let bytes = self.server.run(&what, work).await?;
        if bytes.is_empty() {
            return Ok(Table::default());
        }
        serde_json::from_slice(&bytes).map_err(|e| {
            Fault::new(
                FaultCode::StoreRefused,
                format!("ClickHouse, {what}: the answer is not JSONCompact ({e}); leave out FORMAT"),
            )
        })
    }
}

/// The beginning of a statement, for messages.
fn shown(sql: &str) -> String {
    let words: String = sql.split_whitespace().collect::<Vec<_>>().join(" ");
    if words.chars().count() > 120 {
        words.chars().take(120).chain(['…']).collect()
    } else {
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_statements_are_shown_short() {
        assert_eq!(shown("SELECT\n  1"), "SELECT 1");
        assert_eq!(shown(&"ä".repeat(500)).chars().count(), 121);
    }
}
