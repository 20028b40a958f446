//! The write side: the last word on each memory, embedded and upserted under its own id, or deleted.

use std::sync::Arc;

use kernel::{Decoder, Embedder, Fault, FaultCode, Pending, RawRecord, Rejected, Sink};
use qdrant_client::qdrant::{
    Condition, CreateCollectionBuilder, CreateFieldIndexCollectionBuilder, DeletePointsBuilder, Distance, FieldType,
    Filter, PointId, UpsertPointsBuilder, VectorParamsBuilder, vectors_config,
};
use schemas::records::Memory;
use schemas::topics;

use super::{Config, Server, embed_aside, fault, payload};
use crate::memories::{self, Changes};

/// Texts embedded and upserted at a time.
const CHUNK: usize = 64;
/// Payload fields that searches filter by.
const INDEXED: [&str; 2] = ["tenant", "run_id"];

/// Keeps `soma.memories` as points.
pub struct QdrantSink {
    server: Server,
    embedder: Arc<dyn Embedder>,
    ready: bool,
}

impl QdrantSink {
    /// Makes the sink and sees whether Qdrant is there and knows us.
    ///
    /// # Errors
    /// `CONFIG_INVALID`; `STORE_UNAVAILABLE` when it does not answer; `STORE_REFUSED` when it does not know us or the
    /// collection was made for another model.
    pub async fn connect(config: &Config, embedder: Arc<dyn Embedder>) -> Result<Self, Fault> {
        let mut sink = Self {
            server: Server::new(config)?,
            embedder,
            ready: false,
        };
        sink.prepare().await?;
        Ok(sink)
    }

    /// Whether Qdrant answers and knows us.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`, `STORE_REFUSED`.
    pub async fn probe(&self) -> Result<(), Fault> {
        self.server.probe().await
    }

    /// Sees to it that the collection and its indexes are there, once.
    async fn prepare(&mut self) -> Result<(), Fault> {
        if self.ready {
            return Ok(());
        }
        let (client, name) = (&self.server.client, self.server.collection.as_str());
        let size = self.embedder.dimensions() as u64;
        if !self.server.run("look-up", client.collection_exists(name)).await? {
            let create =
                CreateCollectionBuilder::new(name).vectors_config(VectorParamsBuilder::new(size, Distance::Cosine));
            let made = self.server.run("creation", client.create_collection(create)).await;
            // Another instance may have been quicker; what counts is that it is there and fits, which is checked below.
            if let Err(fault) = made
                && !self.server.run("look-up", client.collection_exists(name)).await?
            {
                return Err(fault);
            }
        }
        self.fits(size).await?;
        for field in INDEXED {
            let index = CreateFieldIndexCollectionBuilder::new(name, field, FieldType::Keyword).wait(true);
            self.server.run("indexing", client.create_field_index(index)).await?;
        }
        self.ready = true;
        Ok(())
    }

    /// # Errors
    /// `STORE_REFUSED` when the collection holds vectors of another shape.
    async fn fits(&self, size: u64) -> Result<(), Fault> {
        let info = self
            .server
            .run("look-up", self.server.client.collection_info(&self.server.collection))
            .await?;
        let params = info
            .result
            .and_then(|i| i.config)
            .and_then(|c| c.params)
            .and_then(|p| p.vectors_config);
        let found = match params.and_then(|v| v.config) {
            Some(vectors_config::Config::Params(p)) => Some((p.size, p.distance)),
            _ => None,
        };
        if found == Some((size, Distance::Cosine as i32)) {
            return Ok(());
        }
        let detail = format!(
            "Qdrant: collection `{}` is not one unnamed vector of {size} dimensions by cosine: another model made it. \
             Name another collection and read soma.memories again from its beginning.",
            self.server.collection
        );
        Err(Fault::new(FaultCode::StoreRefused, detail))
    }

    async fn keep(&mut self, changes: Changes) -> Result<(), Fault> {
        if changes.is_empty() {
            return Ok(());
        }
        self.prepare().await?;
        let mut kept = Vec::new();
        for ((tenant, id), memory) in changes {
            match memory {
                Some(memory) => kept.push(memory),
                None => self.forget(&tenant, &id).await?,
            }
        }
        for chunk in kept.chunks(CHUNK) {
            self.upsert(chunk).await?;
        }
        Ok(())
    }

    async fn upsert(&mut self, memories: &[Memory]) -> Result<(), Fault> {
        let texts = memories.iter().map(|m| m.text.clone()).collect();
        let vectors = embed_aside(&self.embedder, texts).await?;
        let points: Vec<_> = memories
            .iter()
            .zip(vectors)
            .filter_map(|(m, v)| payload::point(m, v))
            .collect();
        let upsert = UpsertPointsBuilder::new(&self.server.collection, points).wait(true);
        self.written("upsert", self.server.client.upsert_points(upsert)).await
    }

    /// Deletes by id and tenant: a tenant's tombstone cannot reach another's memory.
    async fn forget(&mut self, tenant: &str, memory_id: &str) -> Result<(), Fault> {
        let Some(id) = payload::point_id(memory_id) else {
            return Ok(());
        };
        let mine = Filter::must([
            Condition::matches("tenant", tenant.to_owned()),
            Condition::has_id([id] as [PointId; 1]),
        ]);
        let delete = DeletePointsBuilder::new(&self.server.collection)
            .points(mine)
            .wait(true);
        self.written("deletion", self.server.client.delete_points(delete)).await
    }

    /// A collection that vanished is made again on the next try.
    async fn written<T>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T, qdrant_client::QdrantError>>,
    ) -> Result<(), Fault> {
        let mut missing = false;
        let watched = async { work.await.inspect_err(|e| missing = fault::is_missing(e)) };
        let done = self.server.run(what, watched).await;
        done.map(drop).map_err(|fault| match missing {
            true => Fault::new(FaultCode::StoreUnavailable, fault.detail),
            false => fault,
        })
    }
}

impl Sink for QdrantSink {
    fn name(&self) -> &'static str {
        "qdrant_sink"
    }

    fn topics(&self) -> Vec<&'static str> {
        vec![topics::MEMORIES.name]
    }

    fn write<'a>(
        &'a mut self,
        batch: &'a [RawRecord],
        decoder: &'a dyn Decoder,
    ) -> Pending<'a, Result<Vec<Rejected>, Fault>> {
        Box::pin(async move {
            let (changes, rejected) = memories::changes(batch, decoder)?;
            let kept = self.keep(changes).await;
            // After a fault nothing is taken for granted: the server may have come back with an empty disk.
            self.ready = kept.is_ok();
            kept.map(|()| rejected)
        })
    }

    fn reassigned(&mut self) {
        self.ready = false;
    }
}
