//! Qdrant: memories found by meaning. The model that embeds is not here; it is handed in as a [`kernel::Embedder`].

mod fault;
mod payload;
mod search;
mod sink;

use std::sync::Arc;
use std::time::Duration;

use kernel::{ConfigFault, Embedder, Fault, FaultCode};
use qdrant_client::{Qdrant, QdrantError};
use serde::Deserialize;

use crate::checks;

pub use search::{Filters, HITS_MAX, Hit, Reader};
pub use sink::QdrantSink;

/// Where Qdrant is and who we are there.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// gRPC interface, `http://HOST:PORT` or `https://HOST:PORT`.
    pub url: String,
    /// API key; empty when the server asks for none.
    #[serde(default)]
    pub api_key: String,
    /// Collection; created when missing.
    #[serde(default = "collection")]
    pub collection: String,
    /// Time limit of one try, milliseconds; a call is tried at most twice.
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
}

fn collection() -> String {
    "memories".to_owned()
}

fn timeout_ms() -> u64 {
    4_000
}

/// Everything wrong with a configuration; paths are relative to it.
pub fn check(config: &Config) -> Vec<ConfigFault> {
    let mut faults = Vec::new();
    checks::url("url", &config.url, &["http", "https"], &mut faults);
    checks::name("collection", &config.collection, &mut faults);
    checks::timeout("timeout_ms", config.timeout_ms, &mut faults);
    faults
}

/// A client, its collection and its time limit. Cheap to clone.
#[derive(Clone)]
struct Server {
    client: Qdrant,
    collection: String,
    limit: Duration,
}

impl Server {
    /// # Errors
    /// `CONFIG_INVALID` with everything that is wrong.
    fn new(config: &Config) -> Result<Self, Fault> {
        checks::refuse("qdrant", &check(config))?;
        let limit = Duration::from_millis(config.timeout_ms);
        let key = Some(config.api_key.clone()).filter(|key| !key.is_empty());
        let client = Qdrant::from_url(&config.url)
            .api_key(key)
            .timeout(limit)
            .connect_timeout(limit)
            .skip_compatibility_check()
            .build()
            .map_err(|e| Fault::new(FaultCode::ConfigInvalid, format!("qdrant: {e}")))?;
        Ok(Self {
            client,
            collection: config.collection.clone(),
            limit,
        })
    }

    /// # Errors
    /// `STORE_UNAVAILABLE` or `STORE_REFUSED`, naming `what`.
    async fn run<T>(&self, what: &str, work: impl Future<Output = Result<T, QdrantError>>) -> Result<T, Fault> {
        let what = format!("Qdrant, {what} of `{}`", self.collection);
        // The client has the same limit and tries reads twice; it must see its own timeouts, or it would keep using a
        // connection that has fallen silent. This one is the backstop.
        checks::within(self.limit * 2 + Duration::from_millis(500), &what, work)
            .await?
            .map_err(|e| fault::of(&what, &e))
    }

    /// Asks something that needs the key, so that a wrong one is noticed before the first write.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE` when it does not answer, `STORE_REFUSED` when it does not know us.
    async fn probe(&self) -> Result<(), Fault> {
        self.run("look-up", self.client.collection_exists(&self.collection))
            .await
            .map(drop)
    }
}

/// Of a niceness of 0 to 19: an embedding takes milliseconds of the processor, and whoever governs and acts comes first.
const NICENESS: i32 = 10;

/// Embeds a text somebody waits for, off the async threads: it is work of the processor, not waiting.
///
/// # Errors
/// As [`Embedder::embed`]; `INTERNAL` when the model gives something else than it promised.
async fn embed(embedder: &Arc<dyn Embedder>, texts: Vec<String>) -> Result<Vec<Vec<f32>>, Fault> {
    let (model, wanted) = (embedder.clone(), texts.len());
    let vectors = tokio::task::spawn_blocking(move || model.embed(&texts)).await;
    promised(embedder, wanted, vectors.map_err(|e| lost(&e))??)
}

/// Embeds texts nobody waits for, on a thread of its own: one that is nicer stays so, and those of the pool are others' next.
///
/// # Errors
/// As [`embed`].
async fn embed_aside(embedder: &Arc<dyn Embedder>, texts: Vec<String>) -> Result<Vec<Vec<f32>>, Fault> {
    let (model, wanted) = (embedder.clone(), texts.len());
    let (tell, told) = tokio::sync::oneshot::channel();
    let work = move || {
        // On Linux this is the thread's.
        if let Err(e) = rustix::process::setpriority_process(None, NICENESS) {
            tracing::debug!(error = %e, "embeds at the priority of the rest");
        }
        drop(tell.send(model.embed(&texts)));
    };
    let thread = std::thread::Builder::new().name("embeds".into()).spawn(work);
    thread.map_err(|e| Fault::new(FaultCode::Internal, format!("a thread that embeds: {e}")))?;
    promised(embedder, wanted, told.await.map_err(|e| lost(&e))??)
}

fn lost(e: &dyn std::fmt::Display) -> Fault {
    Fault::new(FaultCode::Internal, format!("the embedder did not come back: {e}"))
}

/// As many vectors as texts, each as long as the model says.
fn promised(embedder: &Arc<dyn Embedder>, wanted: usize, vectors: Vec<Vec<f32>>) -> Result<Vec<Vec<f32>>, Fault> {
    let length = embedder.dimensions();
    if vectors.len() != wanted || vectors.iter().any(|v| v.len() != length) {
        let detail = format!(
            "the embedder gave {} vectors for {wanted} texts, or not of length {length}",
            vectors.len()
        );
        return Err(Fault::new(FaultCode::Internal, detail));
    }
    Ok(vectors)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod live_tests;
