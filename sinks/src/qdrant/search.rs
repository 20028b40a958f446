//! The read side: memories of one tenant by meaning. There is no search across tenants.

use std::collections::BTreeMap;
use std::sync::Arc;

use kernel::{Embedder, Fault, FaultCode};
use qdrant_client::qdrant::{Condition, Filter, QueryPointsBuilder, Range};
use schemas::Timestamp;
use schemas::records::{Memory, MemoryKind};
use serde::Serialize;

use super::{Config, Server, embed, payload};

/// Most hits one search gives.
pub const HITS_MAX: u64 = 1_000;

/// What narrows a search, beside the tenant. The default narrows nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filters {
    /// Of this run.
    pub run_id: Option<String>,
    /// Of this kind.
    pub kind: Option<MemoryKind>,
    /// With exactly these attributes.
    pub attributes: BTreeMap<String, String>,
    /// Leaves out what has expired at this instant.
    pub now: Option<Timestamp>,
}

/// A memory that was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hit {
    /// Cosine of the angle between question and memory, -1 to 1.
    pub score: f32,
    /// The memory.
    pub memory: Memory,
}

/// Finds memories.
#[derive(Clone)]
pub struct Reader {
    server: Server,
    embedder: Arc<dyn Embedder>,
}

impl Reader {
    /// A reader; connects when asked. The embedder must be the one the sink writes with.
    ///
    /// # Errors
    /// `CONFIG_INVALID`.
    pub fn new(config: &Config, embedder: Arc<dyn Embedder>) -> Result<Self, Fault> {
        Ok(Self {
            server: Server::new(config)?,
            embedder,
        })
    }

    /// Whether Qdrant answers and knows us.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`, `STORE_REFUSED`.
    pub async fn probe(&self) -> Result<(), Fault> {
        self.server.probe().await
    }

    /// The memories of a tenant that are nearest in meaning, best first; at most [`HITS_MAX`].
    ///
    /// # Errors
    /// `TENANT_INVALID` for an empty tenant; `MODEL_UNAVAILABLE`; `STORE_UNAVAILABLE`, `STORE_REFUSED` (which a
    /// collection that is not there yet gives too).
    pub async fn search(&self, tenant: &str, text: &str, limit: u64, filters: &Filters) -> Result<Vec<Hit>, Fault> {
        let filter = filter(tenant, filters)?;
        let vector = embed(&self.embedder, vec![text.to_owned()])
            .await?
            .pop()
            .unwrap_or_default();
        let query = QueryPointsBuilder::new(&self.server.collection)
            .query(vector)
            .filter(filter)
            .limit(limit.clamp(1, HITS_MAX))
            .with_payload(true);
        let found = self.server.run("search", self.server.client.query(query)).await?;
        let hit = |p: qdrant_client::qdrant::ScoredPoint| {
            payload::memory(&p.payload).map(|m| Hit {
                score: p.score,
                memory: m,
            })
        };
        let hits: Vec<_> = found.result.into_iter().map(hit).collect::<Result<_, _>>()?;
        // The filter is the server's to keep; that no other tenant's memory leaves this function is ours.
        Ok(hits.into_iter().filter(|hit| hit.memory.tenant == tenant).collect())
    }
}

fn filter(tenant: &str, filters: &Filters) -> Result<Filter, Fault> {
    if tenant.is_empty() {
        return Err(Fault::new(FaultCode::TenantInvalid, "a search needs a tenant"));
    }
    let mut must = vec![Condition::matches("tenant", tenant.to_owned())];
    must.extend(
        filters
            .run_id
            .iter()
            .map(|run| Condition::matches("run_id", run.clone())),
    );
    must.extend(
        filters
            .kind
            .map(|kind| Condition::matches("kind", payload::word(kind).to_owned())),
    );
    for (name, value) in &filters.attributes {
        // Quoted, because a dot in a name would otherwise mean a field of a field.
        must.push(Condition::matches(format!("attributes.\"{name}\""), value.clone()));
    }
    let mut filter = Filter::must(must);
    if let Some(now) = filters.now {
        let gone = Range {
            lte: Some(now.0 as f64),
            ..Range::default()
        };
        filter.must_not.push(Condition::range("expires_at", gone));
    }
    Ok(filter)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn every_search_is_filtered_by_tenant() {
        assert_eq!(
            filter("", &Filters::default()).unwrap_err().code,
            FaultCode::TenantInvalid
        );
        let narrow = Filters {
            run_id: Some("run_1".into()),
            attributes: [("tool".to_owned(), "http".to_owned())].into(),
            now: Some(Timestamp(1)),
            ..Filters::default()
        };
        let filter = filter("acme", &narrow).unwrap();
        assert_eq!(filter.must[0], Condition::matches("tenant", "acme".to_owned()));
        assert_eq!((filter.must.len(), filter.must_not.len()), (3, 1));
    }
}
