//! Topics and schemas as the catalogue wants them.

use std::collections::BTreeMap;
use std::time::Duration;

use kernel::{Fault, FaultCode};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use schemas::topics::{Cleanup, Entry};

use crate::Brokers;
use crate::faults::unavailable;

const REQUEST: Duration = Duration::from_secs(20);

/// What `apply` did with a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Made.
    Created,
    /// There already, as wanted.
    Unchanged,
}

/// A topic as the broker has it.
#[derive(Clone, Debug)]
pub struct TopicState {
    /// Name.
    pub name: String,
    /// Number of partitions.
    pub partitions: usize,
    /// Records between first and last offset, over all partitions (an upper bound on compacted topics).
    pub records: i64,
}

/// Makes and lists topics.
pub struct Admin {
    client: AdminClient<DefaultClientContext>,
    consumer: BaseConsumer,
}

impl Admin {
    /// Connects lazily.
    ///
    /// # Errors
    /// `BROKER_UNAVAILABLE` when the client cannot be made.
    pub fn open(brokers: &Brokers) -> Result<Self, Fault> {
        let client = brokers.client().create().map_err(|e| unavailable("admin", &e))?;
        let consumer = brokers
            .client()
            .set("group.id", "soma-admin")
            .create()
            .map_err(|e| unavailable("admin", &e))?;
        Ok(Self { client, consumer })
    }

    /// Number of partitions by topic.
    ///
    /// # Errors
    /// `BROKER_UNAVAILABLE`.
    pub fn partitions(&self) -> Result<BTreeMap<String, usize>, Fault> {
        let meta = self
            .consumer
            .fetch_metadata(None, REQUEST)
            .map_err(|e| unavailable("metadata", &e))?;
        Ok(meta
            .topics()
            .iter()
            .map(|t| (t.name().to_owned(), t.partitions().len()))
            .collect())
    }

    /// Every topic with its size.
    ///
    /// # Errors
    /// `BROKER_UNAVAILABLE`.
    pub fn list(&self) -> Result<Vec<TopicState>, Fault> {
        let mut all = Vec::new();
        for (name, partitions) in self.partitions()? {
            let mut records = 0;
            for p in 0..partitions {
                let p = i32::try_from(p).unwrap_or_default();
                let (low, high) = self
                    .consumer
                    .fetch_watermarks(&name, p, REQUEST)
                    .map_err(|e| unavailable(&name, &e))?;
                records += high - low;
            }
            all.push(TopicState {
                name,
                partitions,
                records,
            });
        }
        Ok(all)
    }

    /// Makes a topic that is missing; never changes the partitions of one that is there.
    ///
    /// # Errors
    /// `TOPICS_MISMATCHED` when it has another number of partitions; `BROKER_UNAVAILABLE`.
    pub async fn apply(&self, topic: &Entry, existing: &BTreeMap<String, usize>) -> Result<Applied, Fault> {
        let wanted = usize::try_from(topic.partitions).unwrap_or(1);
        if let Some(&have) = existing.get(&topic.name) {
            if have == wanted {
                return Ok(Applied::Unchanged);
            }
            let detail = format!(
                "{} has {have} partitions, topics.yaml wants {wanted}: keys would move; make a new topic and migrate",
                topic.name
            );
            return Err(Fault::new(FaultCode::TopicsMismatched, detail));
        }
        let retention = if topic.retention_hours == 0 {
            -1
        } else {
            topic.retention_hours * 3_600_000
        };
        let (retention, bytes) = (retention.to_string(), topic.bytes_max.to_string());
        let cleanup = if topic.cleanup == Cleanup::Compact {
            "compact"
        } else {
            "delete"
        };
        let new = NewTopic::new(
            &topic.name,
            topic.partitions,
            TopicReplication::Fixed(topic.replication),
        )
        .set("cleanup.policy", cleanup)
        .set("retention.ms", &retention)
        .set("max.message.bytes", &bytes);
        let made = self
            .client
            .create_topics([&new], &AdminOptions::new().operation_timeout(Some(REQUEST)))
            .await
            .map_err(|e| unavailable(&topic.name, &e))?;
        match made.into_iter().next() {
            Some(Err((_, rdkafka::types::RDKafkaErrorCode::TopicAlreadyExists))) => Ok(Applied::Unchanged),
            Some(Err((name, code))) => Err(Fault::new(
                FaultCode::BrokerUnavailable,
                format!("create {name}: {code}"),
            )),
            _ => Ok(Applied::Created),
        }
    }

    /// The broker's largest record, bytes.
    ///
    /// # Errors
    /// `BROKER_UNAVAILABLE`.
    pub async fn topic_bytes_max(&self, topic: &str) -> Result<Option<i64>, Fault> {
        let described = self
            .client
            .describe_configs([&ResourceSpecifier::Topic(topic)], &AdminOptions::new())
            .await
            .map_err(|e| unavailable(topic, &e))?;
        let config = described.into_iter().next().and_then(Result::ok);
        Ok(config.and_then(|c| c.get("max.message.bytes").and_then(|e| e.value.as_ref()?.parse().ok())))
    }

    /// Committed offsets and ends of a group over a topic: (partition, committed, end).
    ///
    /// # Errors
    /// `BROKER_UNAVAILABLE`.
    pub fn lag(brokers: &Brokers, group: &str, topic: &str) -> Result<Vec<(i32, Option<i64>, i64)>, Fault> {
        let consumer: BaseConsumer = brokers
            .client()
            .set("group.id", group)
            .create()
            .map_err(|e| unavailable("admin", &e))?;
        let meta = consumer
            .fetch_metadata(Some(topic), REQUEST)
            .map_err(|e| unavailable("metadata", &e))?;
        let mut wanted = rdkafka::TopicPartitionList::new();
        for p in meta.topics().iter().flat_map(|t| t.partitions()) {
            wanted.add_partition(topic, p.id());
        }
        let committed = consumer
            .committed_offsets(wanted, REQUEST)
            .map_err(|e| unavailable("committed", &e))?;
        committed
            .elements()
            .iter()
            .map(|e| {
                let (_, end) = consumer
                    .fetch_watermarks(topic, e.partition(), REQUEST)
                    .map_err(|x| unavailable(topic, &x))?;
                Ok((e.partition(), e.offset().to_raw().filter(|o| *o >= 0), end))
            })
            .collect()
    }
}
