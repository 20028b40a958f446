//! Against a real Redis: idempotency, trimming, expiry, tombstones, tenants, outage and recovery.

use kernel::{FaultCode, RawRecord, Sink};
use schemas::Timestamp;
use schemas::records::Memory;

use super::history::{run_key, tenant_key};
use super::*;
use crate::testing::{Plain, Relay, env, memory, raw, tombstone, unique};

fn config() -> Config {
    let url = env("SOMA_REDIS_URL");
    Config {
        url,
        length_max: 5,
        run_ttl_s: 100,
        tenant_ttl_s: 200,
        timeout_ms: 3_000,
    }
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

#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn histories_are_newest_first_trimmed_and_the_same_after_a_redelivery() {
    let (config, tenant) = (config(), unique("a"));
    let mut sink = RedisSink::connect(&config).await.unwrap();
    let reader = Reader::new(&config).unwrap();
    let memories: Vec<_> = (0..8).map(|n| memory(&tenant, n, &format!("text {n}"))).collect();
    for _ in 0..2 {
        assert!(
            sink.write(&batch(&memories), &Plain::of::<Memory>())
                .await
                .unwrap()
                .is_empty()
        );
    }
    let all = reader.recent(Whose::Tenant(&tenant), 100, Timestamp(0)).await.unwrap();
    let wanted: Vec<_> = memories.iter().rev().take(5).cloned().collect();
    assert_eq!(all, wanted);
    assert_eq!(
        reader.recent(Whose::Tenant(&tenant), 2, Timestamp(0)).await.unwrap(),
        wanted[..2]
    );
    let run_id = memories[7].run_id.clone();
    let of_run = |tenant| Whose::Run {
        tenant,
        run_id: &run_id,
    };
    assert_eq!(
        reader.recent(of_run(&tenant), 9, Timestamp(0)).await.unwrap(),
        memories[7..]
    );
    assert!(
        reader
            .recent(of_run("other"), 9, Timestamp(0))
            .await
            .unwrap()
            .is_empty(),
        "another tenant's run"
    );
    let mut connection = sink_connection(&config).await;
    for (key, limit) in [(tenant_key(&tenant), 200), (run_key(&run_id), 100)] {
        let ttl: i64 = redis::cmd("TTL").arg(key).query_async(&mut connection).await.unwrap();
        assert!((limit - 20..=limit).contains(&ttl), "{ttl}");
    }
}

async fn sink_connection(config: &Config) -> redis::aio::MultiplexedConnection {
    redis::Client::open(config.url.as_str())
        .unwrap()
        .get_multiplexed_async_connection()
        .await
        .unwrap()
}

#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn a_changed_memory_replaces_itself_and_a_tombstone_forgets_it() {
    let (config, tenant) = (config(), unique("b"));
    let mut sink = RedisSink::connect(&config).await.unwrap();
    let reader = Reader::new(&config).unwrap();
    let (kept, mut changed) = (memory(&tenant, 1, "kept"), memory(&tenant, 2, "old"));
    sink.write(&batch(&[kept.clone(), changed.clone()]), &Plain::of::<Memory>())
        .await
        .unwrap();
    changed.text = "new".into();
    changed.created_at = changed.created_at.plus_ms(1000);
    sink.write(&batch(std::slice::from_ref(&changed)), &Plain::of::<Memory>())
        .await
        .unwrap();
    let all = reader.recent(Whose::Tenant(&tenant), 9, Timestamp(0)).await.unwrap();
    assert_eq!(all, [changed.clone(), kept.clone()]);
    for _ in 0..2 {
        sink.write(
            &[tombstone("soma.memories", 0, 9, &key(&changed))],
            &Plain::of::<Memory>(),
        )
        .await
        .unwrap();
    }
    assert_eq!(
        reader.recent(Whose::Tenant(&tenant), 9, Timestamp(0)).await.unwrap(),
        [kept]
    );
    let of_run = Whose::Run {
        tenant: &tenant,
        run_id: &changed.run_id,
    };
    assert!(reader.recent(of_run, 9, Timestamp(0)).await.unwrap().is_empty());
}

#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn what_has_expired_is_not_read() {
    let (config, tenant) = (config(), unique("c"));
    let mut sink = RedisSink::connect(&config).await.unwrap();
    let mut old = memory(&tenant, 1, "old");
    old.expires_at = Some(Timestamp(100));
    sink.write(&batch(std::slice::from_ref(&old)), &Plain::of::<Memory>())
        .await
        .unwrap();
    let reader = Reader::new(&config).unwrap();
    assert_eq!(
        reader.recent(Whose::Tenant(&tenant), 9, Timestamp(99)).await.unwrap(),
        [old]
    );
    assert!(
        reader
            .recent(Whose::Tenant(&tenant), 9, Timestamp(100))
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn an_outage_shows_quickly_and_ends_without_a_restart() {
    let (mut config, tenant) = (config(), unique("d"));
    let relay = Relay::new(&config.url).await;
    let (credentials, rest) = config.url.rsplit_once('@').unwrap();
    let database = rest.split_once('/').map_or("0", |(_, db)| db);
    config.url = format!("{credentials}@127.0.0.1:{}/{database}", relay.port());
    let mut sink = RedisSink::connect(&config).await.unwrap();
    let decoder = Plain::of::<Memory>();
    let memories = [memory(&tenant, 1, "x")];
    for breakage in [Relay::cut, Relay::mute] {
        breakage(&relay);
        let began = std::time::Instant::now();
        let fault = sink.write(&batch(&memories), &decoder).await.unwrap_err();
        assert_eq!(fault.code, FaultCode::StoreUnavailable, "{}", fault.detail);
        assert!(began.elapsed().as_secs() < 8, "{:?}", began.elapsed());
        relay.mend();
        let mut done = sink.write(&batch(&memories), &decoder).await;
        if done.is_err() {
            done = sink.write(&batch(&memories), &decoder).await;
        }
        assert!(done.unwrap().is_empty());
    }
    assert_eq!(
        Reader::new(&config)
            .unwrap()
            .recent(Whose::Tenant(&tenant), 9, Timestamp(0))
            .await
            .unwrap(),
        memories
    );
}

#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn a_wrong_password_is_refused() {
    let mut config = config();
    let host = config.url.rsplit('@').next().unwrap().to_owned();
    config.url = format!("redis://:wrong@{host}");
    let fault = RedisSink::connect(&config).await.err().unwrap();
    assert_eq!(fault.code, FaultCode::StoreRefused, "{}", fault.detail);
}
