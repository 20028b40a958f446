//! The stores' configurations, from a pipeline's connections or from the environment alone, and the reads the demo makes.

use std::sync::Arc;

use kernel::{Embedder, Fault, FaultCode};
use schemas::Timestamp;
use schemas::records::Memory;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::config::{Connections, Environment, ModelAt};

/// Most memories one run may have here: more means something is wrong.
const MEMORIES_MAX: usize = 1_000;

/// The stores fill their own defaults in; what is given here is what a connection says.
fn filled<T: DeserializeOwned>(what: &str, given: Value) -> Result<T, Fault> {
    serde_json::from_value(given).map_err(|e| Fault::new(FaultCode::ConfigInvalid, format!("{what}: {e}")))
}

/// ClickHouse.
///
/// # Errors
/// `CONFIG_INVALID`.
pub fn clickhouse(at: &Connections) -> Result<sinks::clickhouse::Config, Fault> {
    let c = &at.clickhouse;
    filled(
        "connections.clickhouse",
        json!({"url": c.url, "database": c.database, "user": c.user, "password": c.password}),
    )
}

/// Qdrant.
///
/// # Errors
/// `CONFIG_INVALID`.
pub fn qdrant(at: &Connections) -> Result<sinks::qdrant::Config, Fault> {
    filled(
        "connections.qdrant",
        json!({"url": at.qdrant.url, "api_key": at.qdrant.api_key}),
    )
}

/// Redis.
///
/// # Errors
/// `CONFIG_INVALID`.
pub fn redis(at: &Connections) -> Result<sinks::redis::Config, Fault> {
    filled("connections.redis", json!({"url": at.redis.url}))
}

/// Pushgateway.
///
/// # Errors
/// `CONFIG_INVALID`.
pub fn pushgateway(at: &Connections, pipeline: &str) -> Result<sinks::pushgateway::Config, Fault> {
    filled(
        "connections.pushgateway",
        json!({"url": at.pushgateway.url, "pipeline": pipeline}),
    )
}

impl Connections {
    /// Connections as the environment names them: what the command line works with.
    ///
    /// # Errors
    /// `CONFIG_INVALID` naming the variable that is missing.
    pub fn from_env(env: &Environment) -> Result<Self, Fault> {
        let var = |name: &str| {
            env.get(name).map(str::to_owned).ok_or_else(|| {
                let detail =
                    format!("variable {name} is not set; run `make up` (which writes .soma/dev.env) or set it");
                Fault::new(FaultCode::ConfigInvalid, detail)
            })
        };
        filled(
            "environment",
            json!({
                "kafka": {"bootstrap": var("SOMA_KAFKA_BROKERS")?},
                "registry": {"url": var("SOMA_REGISTRY_URL")?},
                "clickhouse": {
                    "url": var("SOMA_CLICKHOUSE_URL")?,
                    "database": env.get("SOMA_CLICKHOUSE_DATABASE").unwrap_or("soma"),
                    "user": var("SOMA_CLICKHOUSE_USER")?,
                    "password": var("SOMA_CLICKHOUSE_PASSWORD")?,
                },
                "qdrant": {"url": var("SOMA_QDRANT_URL")?, "api_key": env.get("SOMA_QDRANT_API_KEY").unwrap_or_default()},
                "redis": {"url": var("SOMA_REDIS_URL")?},
                "pushgateway": {"url": var("SOMA_PUSHGATEWAY_URL")?},
            }),
        )
    }
}

/// The embedding model the environment names.
///
/// # Errors
/// `CONFIG_INVALID` naming the variable; `MODEL_UNAVAILABLE`.
pub fn embedder_from_env(env: &Environment) -> Result<Arc<dyn Embedder>, Fault> {
    let var = |name: &str| {
        env.get(name)
            .map(std::path::PathBuf::from)
            .ok_or_else(|| Fault::new(FaultCode::ConfigInvalid, format!("variable {name} is not set")))
    };
    embedder(&ModelAt {
        runtime: var("ORT_DYLIB_PATH")?,
        model: var("SOMA_MODEL_PATH")?,
        tokenizer: var("SOMA_TOKENIZER_PATH")?,
    })
}

/// The model that embeds text, loaded once per process.
///
/// # Errors
/// `MODEL_UNAVAILABLE`.
pub fn embedder(at: &ModelAt) -> Result<Arc<dyn Embedder>, Fault> {
    static LOADED: std::sync::Mutex<Option<Arc<dyn Embedder>>> = std::sync::Mutex::new(None);
    let mut loaded = LOADED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(model) = loaded.as_ref() {
        return Ok(model.clone());
    }
    let model = runtime::aside(|| models::MiniLm::load(&at.runtime, &at.model, &at.tokenizer, 1))?;
    let model: Arc<dyn Embedder> = Arc::new(model);
    *loaded = Some(model.clone());
    Ok(model)
}

/// A run's memories as Redis has them.
///
/// # Errors
/// `STORE_UNAVAILABLE`.
pub async fn history_of_run(
    at: &Connections,
    tenant: &str,
    run_id: &str,
    now: Timestamp,
) -> Result<Vec<Memory>, Fault> {
    let reader = sinks::redis::Reader::new(&redis(at)?)?;
    reader
        .recent(sinks::redis::Whose::Run { tenant, run_id }, MEMORIES_MAX, now)
        .await
}

/// A run's memories as Qdrant has them.
///
/// # Errors
/// `STORE_UNAVAILABLE`, `MODEL_UNAVAILABLE`.
pub async fn memories_of_run(
    at: &Connections,
    model: Arc<dyn Embedder>,
    tenant: &str,
    run_id: &str,
) -> Result<Vec<Memory>, Fault> {
    let reader = sinks::qdrant::Reader::new(&qdrant(at)?, model)?;
    let filters = sinks::qdrant::Filters {
        run_id: Some(run_id.to_owned()),
        ..Default::default()
    };
    let hits = reader
        .search(tenant, "what was done", MEMORIES_MAX as u64, &filters)
        .await?;
    Ok(hits.into_iter().map(|hit| hit.memory).collect())
}
