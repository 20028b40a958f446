//! Redis: the recent memories of a run and of a tenant, newest first, forgotten by time and by number. Not here: search,
//! which is Qdrant's, and TLS (not compiled in; use a private network or a TLS-terminating proxy).
//!
//! Keys `soma:history:run:<run_id>` and `soma:history:tenant:<tenant>` are sorted sets: score = created_at in microseconds,
//! member = the memory as JSON with `memory_id` first.

mod history;
mod sink;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kernel::{ConfigFault, Fault, FaultCode};
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{ErrorKind, RedisError};
use serde::Deserialize;

use crate::checks;

pub use history::{Reader, Whose};
pub use sink::RedisSink;

/// Where Redis is and how much it remembers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `redis://[USER][:PASSWORD@]HOST:PORT[/DB]`.
    pub url: String,
    /// Memories kept per run and per tenant; older ones go first.
    #[serde(default = "length_max")]
    pub length_max: u64,
    /// A run's history is forgotten this long after its last memory, seconds.
    #[serde(default = "run_ttl_s")]
    pub run_ttl_s: u64,
    /// A tenant's history is forgotten this long after its last memory, seconds.
    #[serde(default = "tenant_ttl_s")]
    pub tenant_ttl_s: u64,
    /// Time limit of one batch, milliseconds.
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
}

const DAY_S: u64 = 24 * 60 * 60;

fn length_max() -> u64 {
    200
}

fn run_ttl_s() -> u64 {
    7 * DAY_S
}

fn tenant_ttl_s() -> u64 {
    30 * DAY_S
}

fn timeout_ms() -> u64 {
    checks::TIMEOUT_MS
}

/// Everything wrong with a configuration; paths are relative to it.
pub fn check(config: &Config) -> Vec<ConfigFault> {
    let mut faults = Vec::new();
    checks::url("url", &config.url, &["redis"], &mut faults);
    if faults.is_empty()
        && let Err(error) = redis::Client::open(config.url.as_str())
    {
        faults.push(ConfigFault::new("url", error.to_string()));
    }
    checks::range("length_max", config.length_max, 1, 1_000, &mut faults);
    checks::range("run_ttl_s", config.run_ttl_s, 60, 365 * DAY_S, &mut faults);
    checks::range("tenant_ttl_s", config.tenant_ttl_s, 60, 365 * DAY_S, &mut faults);
    checks::timeout("timeout_ms", config.timeout_ms, &mut faults);
    faults
}

/// A connection that is made when first used and made again when it breaks or falls silent. Cheap to clone.
#[derive(Clone)]
struct Server {
    client: redis::Client,
    connection: Arc<Mutex<ConnectionManager>>,
    limit: Duration,
}

impl Server {
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// `CONFIG_INVALID` with everything that is wrong.
    fn new(config: &Config) -> Result<Self, Fault> {
        checks::refuse("redis", &check(config))?;
        let limit = Duration::from_millis(config.timeout_ms);
        let client = redis::Client::open(config.url.as_str()).map_err(|e| unusable(&e))?;
        let connection = Arc::new(Mutex::new(manager(&client, limit)?));
        Ok(Self {
            client,
            connection,
            limit,
        })
    }

    fn connection(&self) -> ConnectionManager {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// # Errors
    /// `STORE_UNAVAILABLE` or `STORE_REFUSED`, naming `what`.
    async fn run<T>(&self, what: &str, work: impl Future<Output = Result<T, RedisError>>) -> Result<T, Fault> {
        let what = format!("Redis, {what}");
        let done = checks::within(self.limit, &what, work).await;
        let silent = match &done {
            Ok(Ok(_)) => false,
            Ok(Err(error)) => error.is_timeout(),
            Err(_) => true,
        };
        if silent {
            // The manager notices a connection that breaks, not one that falls silent: the host behind it may be gone.
            let fresh = manager(&self.client, self.limit)?;
            *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        }
        done?.map_err(|e| fault(&what, &e))
    }

    /// # Errors
    /// `STORE_UNAVAILABLE` when it does not answer, `STORE_REFUSED` when it does not know us.
    async fn probe(&self) -> Result<(), Fault> {
        let mut connection = self.connection();
        self.run("PING", async {
            redis::cmd("PING").query_async::<String>(&mut connection).await
        })
        .await
        .map(drop)
    }
}

fn manager(client: &redis::Client, limit: Duration) -> Result<ConnectionManager, Fault> {
    // The loop backs off by itself; the manager only has to try again when it is asked again.
    let settings = ConnectionManagerConfig::new()
        .set_number_of_retries(1)
        .set_max_delay(Duration::from_millis(100))
        .set_connection_timeout(Some(limit))
        .set_response_timeout(Some(limit));
    ConnectionManager::new_lazy_with_config(client.clone(), settings).map_err(|e| unusable(&e))
}

fn unusable(error: &RedisError) -> Fault {
    Fault::new(FaultCode::ConfigInvalid, format!("redis: url: {error}"))
}

/// What passes with time: broken connections, loading, failing over, out of memory.
fn fault(what: &str, error: &RedisError) -> Fault {
    let passing = [
        "LOADING",
        "BUSY",
        "TRYAGAIN",
        "CLUSTERDOWN",
        "MASTERDOWN",
        "READONLY",
        "OOM",
        "MISCONF",
        "NOREPLICAS",
    ];
    let answered = error.code();
    let refused = match error.kind() {
        ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig | ErrorKind::UnexpectedReturnType => true,
        _ => answered.is_some_and(|code| !passing.contains(&code)),
    };
    let code = if refused {
        FaultCode::StoreRefused
    } else {
        FaultCode::StoreUnavailable
    };
    // A pipeline's error lists what came of every command in it; one says what is wrong.
    let said: String = error.to_string().chars().take(SAID).collect();
    Fault::new(code, format!("{what}: {said}"))
}

/// Characters of an error of Redis that are told.
const SAID: usize = 300;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_of_a_configuration_is_named() {
        let good: Config = serde_json::from_value(serde_json::json!({"url": "redis://:secret@h:1/0"})).unwrap();
        assert_eq!(check(&good), []);
        let bad = Config {
            url: "rediss://h".into(),
            length_max: 0,
            run_ttl_s: 1,
            timeout_ms: 1,
            ..good
        };
        let paths: Vec<_> = check(&bad).into_iter().map(|f| f.path).collect();
        assert_eq!(paths, ["url", "length_max", "run_ttl_s", "timeout_ms"]);
    }

    #[test]
    fn an_outage_passes_and_a_refusal_does_not() {
        let io = RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
        assert_eq!(fault("x", &io).code, FaultCode::StoreUnavailable);
        let auth = RedisError::from((ErrorKind::AuthenticationFailed, "wrong password"));
        assert_eq!(fault("x", &auth).code, FaultCode::StoreRefused);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod live_tests;
