//! Follows a changelog without a group: what a standby reads along.

use std::sync::Arc;
use std::time::Duration;

use kernel::{Fault, FaultCode, Follow, Followed};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use crate::Brokers;
use crate::faults::unavailable;
use crate::send::raw;
use crate::tail::{REQUEST, consumer};

/// A changelog to follow. It connects when it is first asked, and anew after a failure.
pub struct Follower {
    brokers: Brokers,
    topic: Arc<str>,
    client: Option<BaseConsumer>,
    topics: Vec<Arc<str>>,
}

impl Follower {
    /// Follows this topic.
    pub fn new(brokers: &Brokers, topic: &str) -> Self {
        Self {
            brokers: brokers.clone(),
            topic: topic.into(),
            client: None,
            topics: Vec::new(),
        }
    }

    /// Asks the client; one that failed is made anew: told once that there are no brokers, it does not find them again for minutes.
    fn ask<T>(&mut self, ask: impl FnOnce(&BaseConsumer, &str) -> Result<T, Fault>) -> Result<T, Fault> {
        let client = match self.client.take() {
            Some(client) => client,
            None => consumer(&self.brokers)?,
        };
        let answer = ask(&client, &self.topic);
        self.client = answer.is_ok().then_some(client);
        answer
    }
}

impl Follow for Follower {
    fn partitions(&mut self) -> Result<Vec<i32>, Fault> {
        self.ask(|client, topic| {
            let told = client.fetch_metadata(Some(topic), REQUEST);
            let told = told.map_err(|e| unavailable(&format!("metadata of {topic}"), &e))?;
            let ids = told.topics().iter().flat_map(|t| t.partitions()).map(|p| p.id());
            let ids: Vec<i32> = ids.collect();
            if ids.is_empty() {
                let detail = format!("there is no topic {topic}; run `soma topics apply`");
                return Err(Fault {
                    blame: kernel::Blame::Dependency,
                    ..Fault::new(FaultCode::TopicsMismatched, detail)
                });
            }
            Ok(ids)
        })
    }

    fn range(&mut self, partition: i32) -> Result<(i64, i64), Fault> {
        self.ask(|client, topic| {
            let range = client.fetch_watermarks(topic, partition, REQUEST);
            range.map_err(|e| unavailable(&format!("ends of {topic}/{partition}"), &e))
        })
    }

    fn follow(&mut self, from: &[(i32, i64)]) -> Result<(), Fault> {
        self.ask(|client, topic| {
            let mut places = TopicPartitionList::new();
            for (partition, offset) in from {
                let added = places.add_partition_offset(topic, *partition, Offset::Offset(*offset));
                added.map_err(|e| unavailable("follow", &e))?;
            }
            client.assign(&places).map_err(|e| unavailable("follow", &e))
        })
    }

    fn poll(&mut self, records_max: usize, wait_ms: u64) -> Result<Followed, Fault> {
        let mut topics = std::mem::take(&mut self.topics);
        let followed = self.ask(|client, topic| {
            let mut followed = Followed::default();
            let mut wait = Duration::from_millis(wait_ms);
            while followed.records.len() < records_max {
                match client.poll(wait) {
                    Some(Ok(message)) => followed.records.push(raw(&message, &mut topics)),
                    Some(Err(KafkaError::PartitionEOF(partition))) => followed.ended.push(partition),
                    Some(Err(e)) => return Err(unavailable(&format!("follow {topic}"), &e)),
                    None => break,
                }
                wait = Duration::ZERO;
            }
            Ok(followed)
        });
        self.topics = topics;
        followed
    }
}
