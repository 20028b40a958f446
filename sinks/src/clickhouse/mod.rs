//! ClickHouse: events, runs, verdicts, outcomes, metrics and the audit as tables, each record once, and SQL over them.
//!
//! Not here: TLS (the crate's connector cannot be given a private authority without panicking on hosts that have no
//! certificates; put a TLS-terminating proxy beside the platform).

mod fault;
mod insert;
mod migrate;
mod minutes;
mod native;
mod positions;
mod read;
mod rows;
mod sink;
mod stream;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kernel::{ConfigFault, Fault};
use serde::Deserialize;

use crate::checks;

pub use migrate::{Migrated, migrate};
pub use read::{Column, ROWS_MAX, Reader, Table};
pub use sink::ClickHouseSink;
pub use stream::ArrowStream;

/// From so many rows on columns cost less than rows: `make bench-clickhouse`.
const BULK_ROWS_MIN: usize = 1_000;

/// Where ClickHouse is and who we are there.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// HTTP interface, `http://HOST:PORT`.
    pub url: String,
    /// Database; created by [`migrate`].
    #[serde(default = "database")]
    pub database: String,
    /// User; empty for the server's default user.
    #[serde(default)]
    pub user: String,
    /// Its password.
    #[serde(default)]
    pub password: String,
    /// Time limit of one statement, milliseconds.
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
    /// Rows of one insert from which on they go column by column (Native) rather than row by row (RowBinary).
    #[serde(default = "bulk_rows_min")]
    pub bulk_rows_min: usize,
}

fn database() -> String {
    "soma".to_owned()
}

fn timeout_ms() -> u64 {
    checks::TIMEOUT_MS
}

fn bulk_rows_min() -> usize {
    BULK_ROWS_MIN
}

/// Everything wrong with a configuration; paths are relative to it.
pub fn check(config: &Config) -> Vec<ConfigFault> {
    let mut faults = Vec::new();
    checks::url("url", &config.url, &["http"], &mut faults);
    checks::name("database", &config.database, &mut faults);
    checks::timeout("timeout_ms", config.timeout_ms, &mut faults);
    if config.user.is_empty() && !config.password.is_empty() {
        faults.push(ConfigFault::new(
            "user",
            "is empty although a password is given; name the user",
        ));
    }
    faults
}

/// A client, its database and its time limit. Cheap to clone; connects when used.
#[derive(Clone)]
struct Server {
    client: ::clickhouse::Client,
    database: String,
    limit: Duration,
    bulk_rows_min: usize,
    /// Of the tables that were written column by column.
    types: Arc<Mutex<HashMap<&'static str, Arc<native::Types>>>>,
}

impl Server {
    /// # Errors
    /// `CONFIG_INVALID` with everything that is wrong.
    fn new(config: &Config) -> Result<Self, Fault> {
        checks::refuse("clickhouse", &check(config))?;
        let seconds = config.timeout_ms.div_ceil(1000).to_string();
        let mut client = ::clickhouse::Client::default()
            .with_url(&config.url)
            .with_database(&config.database)
            // The server gives up when we do: a statement must not succeed long after we were told nothing.
            .with_setting("max_execution_time", seconds);
        if !config.user.is_empty() {
            client = client.with_user(&config.user).with_password(&config.password);
        }
        let limit = Duration::from_millis(config.timeout_ms);
        Ok(Self {
            client,
            database: config.database.clone(),
            limit,
            bulk_rows_min: config.bulk_rows_min,
            types: Arc::default(),
        })
    }

    /// Runs work of the client within the time limit.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE` or `STORE_REFUSED`, naming `what`.
    async fn run<T>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T, ::clickhouse::error::Error>>,
    ) -> Result<T, Fault> {
        checks::within(self.limit, &format!("ClickHouse, {what}"), work)
            .await?
            .map_err(|e| fault::of(what, &e))
    }

    /// # Errors
    /// `STORE_UNAVAILABLE` when it does not answer, `STORE_REFUSED` when it does not know us.
    async fn probe(&self) -> Result<(), Fault> {
        self.run("SELECT 1", self.client.query_raw("SELECT 1").fetch_one::<u8>())
            .await
            .map(drop)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_of_a_configuration_is_named() {
        let config: Config = serde_json::from_value(serde_json::json!({"url": "https://x:1"})).unwrap();
        assert_eq!(
            check(&config).iter().map(|f| f.path.as_str()).collect::<Vec<_>>(),
            ["url"]
        );
        let config = Config {
            url: String::new(),
            database: "a b".into(),
            timeout_ms: 1,
            password: "x".into(),
            ..config
        };
        let paths: Vec<_> = check(&config).into_iter().map(|f| f.path).collect();
        assert_eq!(paths, ["url", "database", "timeout_ms", "user"]);
        assert!(serde_json::from_value::<Config>(serde_json::json!({"url": "http://x", "usr": ""})).is_err());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod bulk_live_tests;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod live_tests;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod minutes_live_tests;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod projections_live_tests;
