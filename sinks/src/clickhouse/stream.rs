//! Much of a table, as bytes while they come: a query's answer in Arrow's stream format, for whoever reads columns. Reading only.

use std::io::{Error, Read};
use std::time::Duration;

use clickhouse::query::BytesCursor;
use kernel::Fault;
use tokio::runtime::Handle;

use super::{Config, Server};
use crate::checks;

/// How long the whole answer may take to come.
const ANSWER: Duration = Duration::from_secs(3_600);

/// The answer to one statement as a stream of Arrow batches. Read on a thread that runs no futures.
pub struct ArrowStream {
    cursor: BytesCursor,
    handle: Handle,
    limit: Duration,
    left: Vec<u8>,
    at: usize,
}

impl ArrowStream {
    /// Asks; the statement must not name a FORMAT.
    ///
    /// # Errors
    /// `CONFIG_INVALID`; `STORE_REFUSED` with ClickHouse's own words when the statement is wrong or writes; `STORE_UNAVAILABLE`.
    pub fn open(config: &Config, sql: &str, handle: Handle) -> Result<Self, Fault> {
        let server = Server::new(config)?;
        let client = server
            .client
            .clone()
            .with_setting("readonly", "2")
            .with_setting("max_execution_time", ANSWER.as_secs().to_string())
            .with_setting("output_format_arrow_string_as_string", "1")
            .with_setting("output_format_arrow_compression_method", "none");
        let work = async {
            let mut cursor = client.query_raw(sql).fetch_bytes("ArrowStream")?;
            // The first bytes tell whether the statement was taken.
            let first = cursor.next().await?.map(|bytes| bytes.to_vec()).unwrap_or_default();
            Ok((cursor, first))
        };
        let (cursor, left) = handle.block_on(server.run(sql, work))?;
        Ok(Self {
            cursor,
            handle,
            limit: server.limit,
            left,
            at: 0,
        })
    }
}

impl Read for ArrowStream {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        while self.at >= self.left.len() {
            let more = checks::within(self.limit, "ClickHouse, the rest of an answer", self.cursor.next());
            let more = self.handle.block_on(more).map_err(|f| Error::other(f.detail))?;
            match more.map_err(Error::other)? {
                Some(bytes) => (self.left, self.at) = (bytes.to_vec(), 0),
                None => return Ok(0),
            }
        }
        let most = into.len().min(self.left.len() - self.at);
        into[..most].copy_from_slice(&self.left[self.at..self.at + most]);
        self.at += most;
        Ok(most)
    }
}
