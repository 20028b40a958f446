//! Consumer groups from the outside: who they are, where they stand, and moving a position from one group to another.

use std::collections::BTreeMap;
use std::time::Duration;

use kernel::Fault;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};

use crate::Brokers;
use crate::faults::unavailable;
use crate::watch::assignment;

const REQUEST: Duration = Duration::from_secs(20);

/// Committed offsets by topic and partition.
pub type Offsets = BTreeMap<(String, i32), i64>;

/// Consumer groups of a cluster.
pub struct Groups {
    brokers: Brokers,
    consumer: BaseConsumer,
}

impl Groups {
    /// Connects lazily.
    ///
    /// # Errors
    /// `BROKER_UNAVAILABLE` when the client cannot be made.
    pub fn open(brokers: &Brokers) -> Result<Self, Fault> {
        let consumer = of_group(brokers, "soma-admin")?;
        Ok(Self {
            brokers: brokers.clone(),
            consumer,
        })
    }

    /// Groups whose name begins so, with the number of their living members.
    ///
    /// # Errors
    /// `BROKER_UNAVAILABLE`.
    pub fn list(&self, prefix: &str) -> Result<BTreeMap<String, usize>, Fault> {
        // The client asks the brokers it knows: before the first metadata that is none, and the answer an empty list.
        self.consumer
            .fetch_metadata(None, REQUEST)
            .map_err(|e| unavailable("metadata", &e))?;
        let all = self
            .consumer
            .fetch_group_list(None, REQUEST)
            .map_err(|e| unavailable("groups", &e))?;
        let groups = all.groups().iter().filter(|g| g.name().starts_with(prefix));
        Ok(groups.map(|g| (g.name().to_owned(), g.members().len())).collect())
    }

    /// Which instance works on which partition of a topic, as the group's last finished rebalance has it. A member's client id is its group's
    /// name, a dot, and the instance's.
    ///
    /// # Errors
    /// `BROKER_UNAVAILABLE`.
    pub fn owners(&self, group: &str, topic: &str) -> Result<BTreeMap<i32, String>, Fault> {
        let listed = self
            .consumer
            .fetch_group_list(Some(group), REQUEST)
            .map_err(|e| unavailable("groups", &e))?;
        let mut owners = BTreeMap::new();
        for member in listed.groups().iter().flat_map(|g| g.members()) {
            let client = member.client_id();
            let instance = client.strip_prefix(group).and_then(|rest| rest.strip_prefix('.'));
            let parts = assignment(member.assignment().unwrap_or_default()).unwrap_or_default();
            let ours = parts.into_iter().filter(|(t, _)| t == topic);
            owners.extend(ours.map(|(_, partition)| (partition, instance.unwrap_or(client).to_owned())));
        }
        Ok(owners)
    }

    /// Where a group stands on these topics; partitions it never committed are left out.
    ///
    /// # Errors
    /// `BROKER_UNAVAILABLE`.
    pub fn committed(&self, group: &str, topics: &[String]) -> Result<Offsets, Fault> {
        let consumer = of_group(&self.brokers, group)?;
        let mut wanted = TopicPartitionList::new();
        for topic in topics {
            let meta = consumer
                .fetch_metadata(Some(topic), REQUEST)
                .map_err(|e| unavailable(topic, &e))?;
            for p in meta.topics().iter().flat_map(|t| t.partitions()) {
                wanted.add_partition(topic, p.id());
            }
        }
        let committed = consumer
            .committed_offsets(wanted, REQUEST)
            .map_err(|e| unavailable(group, &e))?;
        let known = committed.elements().into_iter().filter_map(|e| match e.offset() {
            Offset::Offset(at) => Some(((e.topic().to_owned(), e.partition()), at)),
            _ => None,
        });
        Ok(known.collect())
    }

    /// Sets where a group without members stands.
    ///
    /// # Errors
    /// `BROKER_UNAVAILABLE`; also when the group has members.
    pub fn set(&self, group: &str, offsets: &Offsets) -> Result<(), Fault> {
        let mut list = TopicPartitionList::new();
        for ((topic, partition), at) in offsets {
            list.add_partition_offset(topic, *partition, Offset::Offset(*at))
                .map_err(|e| unavailable(topic, &e))?;
        }
        of_group(&self.brokers, group)?
            .commit(&list, CommitMode::Sync)
            .map_err(|e| unavailable(group, &e))
    }

    /// Forgets groups without members.
    ///
    /// # Errors
    /// `BROKER_UNAVAILABLE`; also when a group has members.
    pub async fn delete(&self, groups: &[&str]) -> Result<(), Fault> {
        let admin: AdminClient<DefaultClientContext> =
            self.brokers.client().create().map_err(|e| unavailable("admin", &e))?;
        let done = admin
            .delete_groups(groups, &AdminOptions::new())
            .await
            .map_err(|e| unavailable("delete groups", &e))?;
        for one in done {
            if let Err((group, code)) = one {
                return Err(Fault::new(
                    kernel::FaultCode::BrokerUnavailable,
                    format!("delete group {group}: {code}"),
                ));
            }
        }
        Ok(())
    }
}

/// Asks again and again where a group stands on a topic, without being a member.
pub struct Standing {
    consumer: BaseConsumer,
    wanted: TopicPartitionList,
    group: String,
}

impl Standing {
    /// Connects, and learns the topic's partitions.
    ///
    /// # Errors
    /// `BROKER_UNAVAILABLE`.
    pub fn open(brokers: &Brokers, group: &str, topic: &str) -> Result<Self, Fault> {
        let mut client = brokers.client();
        // Else an answer waits for transactions that are open.
        client
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_uncommitted");
        let consumer: BaseConsumer = client.create().map_err(|e| unavailable(group, &e))?;
        let meta = consumer
            .fetch_metadata(Some(topic), REQUEST)
            .map_err(|e| unavailable(topic, &e))?;
        let mut wanted = TopicPartitionList::new();
        for p in meta.topics().iter().flat_map(|t| t.partitions()) {
            wanted.add_partition(topic, p.id());
        }
        Ok(Self {
            consumer,
            wanted,
            group: group.to_owned(),
        })
    }

    /// Next offset to read of each partition; 0 where nothing was ever committed.
    ///
    /// # Errors
    /// `BROKER_UNAVAILABLE`.
    pub fn read(&self) -> Result<BTreeMap<i32, i64>, Fault> {
        let told = self
            .consumer
            .committed_offsets(self.wanted.clone(), REQUEST)
            .map_err(|e| unavailable(&self.group, &e))?;
        let each = told.elements().into_iter();
        Ok(each
            .map(|e| (e.partition(), e.offset().to_raw().unwrap_or(0).max(0)))
            .collect())
    }
}

fn of_group(brokers: &Brokers, group: &str) -> Result<BaseConsumer, Fault> {
    let mut client = brokers.client();
    client.set("group.id", group).set("enable.auto.commit", "false");
    client.create().map_err(|e| unavailable(group, &e))
}
