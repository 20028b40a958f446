//! Membership in a stage's group: the consumer's settings, and rebalances taken down for the loop to perform.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use kernel::Fault;
use rdkafka::client::ClientContext;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientConfig, TopicPartitionList};

use crate::config::LogConfig;
use crate::faults::unavailable;

/// A linger of at least this long is left to the broker.
pub(crate) const LINGERS_MS: u64 = 50;

/// What the group asks of us.
pub(crate) enum Rebalance {
    Assigned(Vec<(String, i32)>),
    Revoked(Vec<(String, i32)>),
    /// The group has gone on without us.
    Lost(Vec<(String, i32)>),
}

/// Takes rebalances down instead of performing them, so that the loop can drain first. The group waits for us meanwhile.
#[derive(Default)]
pub(crate) struct Deferred {
    pub(crate) queue: Mutex<Vec<Rebalance>>,
    pub(crate) closing: AtomicBool,
    /// How many were heard of.
    pub(crate) heard: AtomicU64,
    /// Partitions are to be given up, and are not yet.
    pub(crate) owing: AtomicBool,
    /// The group was asked to share out anew (`watch.rs`): a topic that is none is complained of.
    pub(crate) asked: AtomicBool,
}

impl ClientContext for Deferred {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = false;
}

impl ConsumerContext for Deferred {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, err: RDKafkaRespErr, tpl: &mut TopicPartitionList) {
        let parts: Vec<_> = tpl
            .elements()
            .iter()
            .map(|e| (e.topic().to_owned(), e.partition()))
            .collect();
        let assign = err == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.closing.load(Ordering::SeqCst) {
            if !assign && consumer.incremental_unassign(tpl).is_err() {
                tracing::debug!("partitions were already given up");
            }
            return;
        }
        self.heard.fetch_add(1, Ordering::SeqCst);
        self.owing.fetch_or(!assign, Ordering::SeqCst);
        let event = if assign {
            Rebalance::Assigned(parts)
        } else if consumer.assignment_lost() {
            Rebalance::Lost(parts)
        } else {
            Rebalance::Revoked(parts)
        };
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}

/// A consumer of the stage's group.
pub(crate) fn consumer(config: &LogConfig) -> Result<BaseConsumer<Deferred>, Fault> {
    let lingers = config.linger_ms >= LINGERS_MS;
    let mut client: ClientConfig = config.brokers.client();
    client
        .set("group.id", &config.group)
        .set("client.id", config.client_id())
        // A static member: who is restarted within the session gets its partitions back at once, and the others never stop. The
        // price is that one that leaves for good is missed only when its session runs out.
        .set("group.instance.id", &config.instance)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", "read_committed")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", config.session_timeout_ms.to_string())
        .set(
            "heartbeat.interval.ms",
            (config.session_timeout_ms / 4).max(300).to_string(),
        )
        // A stage that lingers lets the broker gather: an answer per linger instead of one per commit of those before it.
        .set(
            "fetch.wait.max.ms",
            if config.bulk {
                "10".to_owned()
            } else if lingers {
                config.linger_ms.to_string()
            } else {
                "500".to_owned()
            },
        )
        .set("fetch.min.bytes", if lingers { "1048576" } else { "1" })
        .set(
            "fetch.message.max.bytes",
            if config.bulk { "4194304" } else { "1048576" },
        )
        // What a stage may hold ahead of its step; many stages share one process.
        .set("queued.max.messages.kbytes", if config.bulk { "8192" } else { "2048" })
        .set("queued.min.messages", if config.bulk { "100000" } else { "1000" })
        // Where a partition ends tells one that is idle from one that is not read yet.
        .set("enable.partition.eof", if config.bulk { "true" } else { "false" })
        // With a queue this short the client's default of a second would be a stop after every fetch.
        .set("fetch.queue.backoff.ms", "5");
    BaseConsumer::from_config_and_context(&client, Deferred::default()).map_err(|e| unavailable("consumer", &e))
}
