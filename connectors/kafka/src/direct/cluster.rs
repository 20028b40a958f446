//! The brokers: connections to them, who leads a partition, who coordinates.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, FindCoordinatorRequest, MetadataRequest, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::wire::{Request, Wire};

/// As long as librdkafka is told to believe what it knows of topics.
const KNOWN_FOR: Duration = Duration::from_secs(30);
/// The feature of a cluster whose level 2 are transactions that add partitions and offsets by themselves and change their epoch at each end.
const TRANSACTIONS: &str = "transaction.version";
/// Least version of each request (key, version) that is sent.
const NEEDED: [(ApiKey, i16); 5] = [
    (ApiKey::Produce, super::PRODUCE),
    (ApiKey::TxnOffsetCommit, super::OFFSETS),
    (ApiKey::EndTxn, super::END),
    (ApiKey::InitProducerId, super::INIT),
    (ApiKey::FindCoordinator, COORDINATOR),
];
const COORDINATOR: i16 = 4;
const METADATA: i16 = 12;
const VERSIONS: i16 = 3;

/// Of what a coordinator is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Of {
    Group = 0,
    Transaction = 1,
}

pub(super) struct Cluster {
    bootstrap: Vec<String>,
    client: StrBytes,
    /// By address.
    wires: BTreeMap<String, Wire>,
    /// Addresses by broker.
    brokers: BTreeMap<i32, String>,
    /// The leader of each partition.
    topics: BTreeMap<String, Vec<i32>>,
    known: Option<Instant>,
    coordinators: BTreeMap<(Of, String), String>,
}

impl Cluster {
    pub(super) fn new(bootstrap: &str, client: &str) -> Self {
        Self {
            bootstrap: bootstrap.split(',').map(|b| b.trim().to_owned()).collect(),
            client: StrBytes::from_string(client.to_owned()),
            wires: BTreeMap::new(),
            brokers: BTreeMap::new(),
            topics: BTreeMap::new(),
            known: None,
            coordinators: BTreeMap::new(),
        }
    }

    /// The connection to an address.
    fn wire(&mut self, address: &str) -> io::Result<&mut Wire> {
        if !self.wires.contains_key(address) {
            let wire = Wire::open(address, &self.client)?;
            self.wires.insert(address.to_owned(), wire);
        }
        self.wires
            .get_mut(address)
            .ok_or_else(|| io::Error::other("no connection"))
    }

    /// Sends to an address; a connection that fails is forgotten.
    pub(super) fn send<R: Request>(&mut self, address: &str, version: i16, request: &R) -> io::Result<()> {
        let sent = self.wire(address).and_then(|wire| wire.send(version, request));
        if sent.is_err() {
            self.wires.remove(address);
        }
        sent
    }

    /// The answer to what was sent last to an address.
    pub(super) fn receive<R: Request>(&mut self, address: &str, version: i16) -> io::Result<R::Response> {
        let told = self.wire(address).and_then(|wire| wire.receive::<R>(version));
        if told.is_err() {
            self.wires.remove(address);
        }
        told
    }

    pub(super) fn ask<R: Request>(&mut self, address: &str, version: i16, request: &R) -> io::Result<R::Response> {
        self.send(address, version, request)?;
        self.receive::<R>(address, version)
    }

    /// Asks the first that answers.
    fn anyone<R: Request>(&mut self, version: i16, request: &R) -> io::Result<R::Response> {
        let known: Vec<_> = self.brokers.values().chain(&self.bootstrap).cloned().collect();
        let mut failed = io::Error::new(io::ErrorKind::NotFound, "no broker is known");
        for address in known {
            match self.ask(&address, version, request) {
                Ok(told) => return Ok(told),
                Err(e) => failed = e,
            }
        }
        Err(failed)
    }

    /// Whether the brokers make transactions the way they are made here.
    pub(super) fn is_apt(&mut self) -> io::Result<bool> {
        let ask = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("soma"))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let told = self.anyone(VERSIONS, &ask)?;
        let speaks = |(key, least): &(ApiKey, i16)| {
            let found = told.api_keys.iter().find(|a| a.api_key == *key as i16);
            found.is_some_and(|a| a.min_version <= *least && *least <= a.max_version)
        };
        let mut features = told.finalized_features.iter();
        Ok(NEEDED.iter().all(speaks) && features.any(|f| &*f.name == TRANSACTIONS && f.max_version_level >= 2))
    }

    /// What was known of leaders and coordinators may not hold any more.
    pub(super) fn forget(&mut self) {
        self.known = None;
        self.coordinators.clear();
    }

    /// Asks who leads, where that is not known of all these topics.
    pub(super) fn learn<'a>(&mut self, topics: impl Iterator<Item = &'a str>) -> io::Result<()> {
        let old = self.known.is_none_or(|at| at.elapsed() > KNOWN_FOR);
        let mut wanted: Vec<String> = topics
            .filter(|t| old || !self.topics.contains_key(*t))
            .map(str::to_owned)
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        if old {
            wanted.extend(std::mem::take(&mut self.topics).into_keys());
        }
        wanted.sort_unstable();
        wanted.dedup();
        let named = |t: String| MetadataRequestTopic::default().with_name(Some(TopicName(StrBytes::from_string(t))));
        let ask = MetadataRequest::default()
            .with_topics(Some(wanted.into_iter().map(named).collect()))
            .with_allow_auto_topic_creation(false);
        let told = self.anyone(METADATA, &ask)?;
        let address = |host: &StrBytes, port: i32| format!("{}:{port}", host.as_str());
        self.brokers = told
            .brokers
            .iter()
            .map(|b| (b.node_id.0, address(&b.host, b.port)))
            .collect();
        for topic in told.topics.into_iter().filter(|t| t.error_code == 0) {
            let mut leaders = vec![-1; topic.partitions.len()];
            for partition in &topic.partitions {
                let slot = usize::try_from(partition.partition_index)
                    .ok()
                    .and_then(|i| leaders.get_mut(i));
                slot.into_iter().for_each(|slot| *slot = partition.leader_id.0);
            }
            if let Some(name) = topic.name {
                self.topics.insert(name.0.as_str().to_owned(), leaders);
            }
        }
        if old {
            self.known = Some(Instant::now());
        }
        Ok(())
    }

    /// How many partitions a topic has; none when it is not known.
    pub(super) fn partitions(&self, topic: &str) -> usize {
        self.topics.get(topic).map_or(0, Vec::len)
    }

    /// Where a partition's leader is.
    pub(super) fn leader(&self, topic: &str, partition: i32) -> Option<String> {
        let leaders = self.topics.get(topic)?;
        let leader = leaders.get(usize::try_from(partition).ok()?)?;
        self.brokers.get(leader).cloned()
    }

    /// Where the coordinator of a group or a transactional id is; the error's code where nobody can tell.
    pub(super) fn coordinator(&mut self, of: Of, key: &str) -> io::Result<Result<String, i16>> {
        let known = (of, key.to_owned());
        if let Some(address) = self.coordinators.get(&known) {
            return Ok(Ok(address.clone()));
        }
        let ask = FindCoordinatorRequest::default()
            .with_key_type(of as i8)
            .with_coordinator_keys(vec![StrBytes::from_string(key.to_owned())]);
        let told = self.anyone(COORDINATOR, &ask)?;
        let Some(found) = told.coordinators.first() else {
            return Err(io::Error::other("nobody was asked for"));
        };
        if found.error_code != 0 {
            return Ok(Err(found.error_code));
        }
        let address = format!("{}:{}", found.host.as_str(), found.port);
        self.coordinators.insert(known, address.clone());
        Ok(Ok(address))
    }
}
