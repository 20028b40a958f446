//! Against a real Qdrant: the same batch twice, tombstones, tenants, filters, a wrong key, another model, outage and recovery.

use std::sync::Arc;

use kernel::{Embedder, FaultCode, RawRecord, Sink};
use schemas::Timestamp;
use schemas::records::{Memory, MemoryKind};

use super::*;
use crate::testing::{Plain, Relay, Words, env, memory, poison, raw, tombstone, unique};

fn config() -> Config {
    Config {
        url: env("SOMA_QDRANT_URL"),
        api_key: env("SOMA_QDRANT_API_KEY"),
        collection: unique("t"),
        timeout_ms: 5_000,
    }
}

fn words() -> Arc<dyn Embedder> {
    Arc::new(Words(256))
}

fn key(memory: &Memory) -> String {
    format!("{}:{}", memory.tenant, memory.memory_id)
}

fn batch(memories: &[Memory]) -> Vec<RawRecord> {
    memories
        .iter()
        .zip(0..)
        .map(|(m, n)| raw("soma.memories", 0, n, &key(m), m))
        .collect()
}

async fn found(reader: &Reader, tenant: &str, text: &str, filters: &Filters) -> Vec<String> {
    reader
        .search(tenant, text, 10, filters)
        .await
        .unwrap()
        .into_iter()
        .map(|hit| hit.memory.text)
        .collect()
}

async fn finish(config: &Config) {
    Server::new(config)
        .unwrap()
        .client
        .delete_collection(&config.collection)
        .await
        .unwrap();
}

#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn memories_are_found_by_their_tenant_and_nobody_else() {
    let config = config();
    let mut sink = QdrantSink::connect(&config, words()).await.unwrap();
    let reader = Reader::new(&config, words()).unwrap();
    let mut note = memory("acme", 2, "the database was restored from backup");
    (note.kind, note.expires_at) = (MemoryKind::Note, Some(Timestamp(1_000)));
    note.attributes = [("tool.kind".to_owned(), "x y".to_owned())].into();
    let memories = [
        memory("acme", 1, "terraform apply rolled out the service"),
        note.clone(),
        memory("other", 3, "terraform apply failed"),
    ];
    for _ in 0..2 {
        assert!(
            sink.write(&batch(&memories), &Plain::of::<Memory>())
                .await
                .unwrap()
                .is_empty()
        );
    }
    let hits = reader
        .search("acme", "terraform apply", 10, &Filters::default())
        .await
        .unwrap();
    assert_eq!(hits.iter().map(|h| h.memory.clone()).collect::<Vec<_>>(), memories[..2]);
    assert!(hits[0].score > 0.5 && hits[1].score < 0.1, "{hits:?}");
    assert_eq!(
        found(&reader, "other", "terraform", &Filters::default()).await,
        ["terraform apply failed"]
    );
    assert!(
        found(&reader, "nobody", "terraform", &Filters::default())
            .await
            .is_empty()
    );
    let kind = Filters {
        kind: Some(MemoryKind::Note),
        ..Filters::default()
    };
    assert_eq!(found(&reader, "acme", "x", &kind).await, [note.text.clone()]);
    let attributes = Filters {
        attributes: note.attributes.clone(),
        ..Filters::default()
    };
    assert_eq!(found(&reader, "acme", "x", &attributes).await, [note.text.clone()]);
    let run = Filters {
        run_id: Some(note.run_id.clone()),
        ..Filters::default()
    };
    assert_eq!(found(&reader, "acme", "x", &run).await, [note.text.clone()]);
    let now = Filters {
        now: Some(Timestamp(1_000)),
        ..Filters::default()
    };
    assert_eq!(found(&reader, "acme", "x", &now).await, [memories[0].text.clone()]);
    finish(&config).await;
}

#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn a_tombstone_forgets_ones_own_and_a_bad_record_blocks_nobody() {
    let config = config();
    let mut sink = QdrantSink::connect(&config, words()).await.unwrap();
    let reader = Reader::new(&config, words()).unwrap();
    let (mine, gone) = (memory("acme", 1, "mine"), memory("acme", 2, "gone"));
    sink.write(&batch(&[mine.clone(), gone.clone()]), &Plain::of::<Memory>())
        .await
        .unwrap();
    let records = [
        tombstone("soma.memories", 0, 5, &key(&gone)),
        poison("soma.memories", 0, 6),
        tombstone("soma.memories", 0, 7, &format!("other:{}", mine.memory_id)),
    ];
    let rejected = sink.write(&records, &Plain::of::<Memory>()).await.unwrap();
    assert_eq!(
        rejected.iter().map(|r| (r.index, r.fault.code)).collect::<Vec<_>>(),
        [(1, FaultCode::RecordNotFramed)]
    );
    assert_eq!(found(&reader, "acme", "mine gone", &Filters::default()).await, ["mine"]);
    finish(&config).await;
}

#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn a_wrong_key_and_another_model_are_refused() {
    let config = config();
    QdrantSink::connect(&config, words()).await.unwrap();
    let fault = QdrantSink::connect(&config, Arc::new(Words(32))).await.err().unwrap();
    assert_eq!(fault.code, FaultCode::StoreRefused);
    assert!(fault.detail.contains("another model"), "{}", fault.detail);
    let wrong = Config {
        api_key: "wrong".into(),
        ..config.clone()
    };
    let fault = QdrantSink::connect(&wrong, words()).await.err().unwrap();
    assert_eq!(fault.code, FaultCode::StoreRefused, "{}", fault.detail);
    finish(&config).await;
}

#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn an_outage_and_a_lost_collection_end_without_a_restart() {
    let mut config = config();
    let relay = Relay::new(&config.url).await;
    (config.url, config.timeout_ms) = (relay.url(), 2_000);
    let mut sink = QdrantSink::connect(&config, words()).await.unwrap();
    let (decoder, memories) = (Plain::of::<Memory>(), [memory("acme", 1, "after the outage")]);
    relay.cut();
    let began = std::time::Instant::now();
    let fault = sink.write(&batch(&memories), &decoder).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::StoreUnavailable, "{}", fault.detail);
    assert_eq!(sink.probe().await.unwrap_err().code, FaultCode::StoreUnavailable);
    assert!(began.elapsed().as_secs() < 8);
    relay.mend();
    sink.probe().await.unwrap();
    relay.mute();
    let fault = sink.write(&batch(&memories), &decoder).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::StoreUnavailable, "{}", fault.detail);
    relay.mend();
    assert!(sink.write(&batch(&memories), &decoder).await.unwrap().is_empty());
    finish(&config).await;
    let fault = sink.write(&batch(&memories), &decoder).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::StoreUnavailable, "{}", fault.detail);
    assert!(sink.write(&batch(&memories), &decoder).await.unwrap().is_empty());
    let reader = Reader::new(&config, words()).unwrap();
    assert_eq!(
        found(&reader, "acme", "outage", &Filters::default()).await,
        ["after the outage"]
    );
    finish(&config).await;
}
