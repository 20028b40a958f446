//! Transactions in three requests: what a stage writes to all partitions of a broker, its offsets, the end. Each is asked again until it is
//! answered; all of them may be, since records are numbered, offsets are the same again, and an end that came twice is known by its epoch.
//!
//! librdkafka sends a request for every partition, and the broker works a connection's requests off one after the other: a dozen
//! partitions are most of a small transaction's time (ARCHITECTURE.md, "Where a run's milliseconds go"). It reads for a stage all the same,
//! is its member of the group, and makes its transactions where this cannot: `transaction.rs` says where.
//!
//! Kafka's transactions of the second kind (KIP-890) only: partitions and offsets add themselves, and the producer's epoch grows with each
//! transaction, so that nothing sent for an earlier one can end up in a later one.

mod batch;
mod cluster;
mod who;
mod wire;

use std::io;
use std::time::{Duration, Instant};

use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::{
    EndTxnRequest, GroupId, InitProducerIdRequest, ProduceRequest, ProduceResponse, ProducerId, TopicName,
    TransactionalId, TxnOffsetCommitRequest,
};
use kafka_protocol::protocol::StrBytes;
use kernel::{Committed, Position};

use batch::{Outgoing, Part, Producer};
use cluster::{Cluster, Of};
use wire::Request;

pub(crate) use batch::Line;
pub(crate) use who::{Who, who};

use crate::log::REQUEST;

// The versions of requests that are sent: the first with transactions of the second kind, and names in place of ids.
const PRODUCE: i16 = 12;
const OFFSETS: i16 = 5;
const END: i16 = 5;
const INIT: i16 = 5;
/// Most that a broker waits for its replicas.
const ACKS_MS: i32 = 8_000;
/// How long a transaction that came to nothing may take to be ended: a new producer's start does it as well.
const ABANDON: Duration = Duration::from_secs(2);
/// What was asked again for longer than this is told of, though it was answered in the end.
const LATE: Duration = Duration::from_secs(1);
/// Between two tries of a request that nobody could answer yet.
const PAUSE: Duration = Duration::from_millis(5);

/// Codes of Kafka that mean something here.
mod code {
    pub(super) const UNKNOWN_TOPIC: i16 = 3;
    pub(super) const NOT_LEADER: i16 = 6;
    pub(super) const TOO_LARGE: [i16; 2] = [10, 18];
    pub(super) const COORDINATOR_MOVED: [i16; 2] = [15, 16];
    /// The broker has these records already.
    pub(super) const DUPLICATE: i16 = 46;
    /// To be asked again: the coordinator is loading, replicas are missing, the last transaction's end is still being written.
    pub(super) const LATER: [i16; 10] = [5, 7, 9, 13, 14, 19, 20, 51, 56, 88];
}

/// Why a transaction, or a producer, was not made.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) detail: String,
    /// A record is larger than its topic takes.
    pub(crate) too_large: bool,
}

/// What came of one try.
enum Tried {
    /// It is worth another one.
    Again(String),
    Failed(Failure),
}

impl From<io::Error> for Tried {
    fn from(e: io::Error) -> Self {
        Self::Again(e.to_string())
    }
}

fn failed(what: &str, code: i16) -> Tried {
    let named = kafka_protocol::ResponseError::try_from_code(code);
    let named = named.map_or_else(|| format!("code {code}"), |e| e.to_string());
    Tried::Failed(Failure {
        detail: format!("{what}: {named}"),
        too_large: code::TOO_LARGE.contains(&code),
    })
}

/// A producer of transactions, one after the other.
pub(crate) struct Direct {
    id: String,
    timeout_ms: i32,
    cluster: Cluster,
    producer: Producer,
    outgoing: Outgoing,
    /// Whether the coordinator was told that the transaction is to stand, and has not answered.
    told: bool,
    /// Spreads records without a key.
    turn: usize,
}

impl Direct {
    /// Fences whoever used this transactional id before and settles what they left open. `None` where the brokers do not make
    /// transactions this way.
    pub(crate) fn open(bootstrap: &str, id: &str, timeout_ms: u32) -> Result<Option<Self>, Failure> {
        let mut made = Self {
            id: id.to_owned(),
            timeout_ms: i32::try_from(timeout_ms).unwrap_or(i32::MAX),
            cluster: Cluster::new(bootstrap, id),
            producer: (-1, -1),
            outgoing: Outgoing::default(),
            told: false,
            turn: 0,
        };
        if !made.until("versions", |direct| Ok(direct.cluster.is_apt()?))? {
            return Ok(None);
        }
        made.begin()?;
        Ok(Some(made))
    }

    /// Asks for an id and an epoch: ends what is open under this transactional id, and fences whoever used it.
    fn begin(&mut self) -> Result<(), Failure> {
        let ask = InitProducerIdRequest::default()
            .with_transactional_id(Some(self.transactional_id()))
            .with_transaction_timeout_ms(self.timeout_ms)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        self.producer = self.until("a producer's id", |direct| {
            let told = direct.coordinated(Of::Transaction, &direct.id.clone(), INIT, &ask, |told| told.error_code)?;
            Ok((told.producer_id.0, told.producer_epoch))
        })?;
        Ok(())
    }

    fn transactional_id(&self) -> TransactionalId {
        TransactionalId(StrBytes::from_string(self.id.clone()))
    }

    /// Tries until it is done, or [`REQUEST`] is over.
    fn until<T>(&mut self, what: &str, one: impl FnMut(&mut Self) -> Result<T, Tried>) -> Result<T, Failure> {
        self.within(REQUEST, what, one)
    }

    fn within<T>(
        &mut self,
        most: Duration,
        what: &str,
        mut one: impl FnMut(&mut Self) -> Result<T, Tried>,
    ) -> Result<T, Failure> {
        let began = Instant::now();
        let mut said = None;
        loop {
            match one(self) {
                Ok(done) => {
                    if let (Some(why), true) = (said, began.elapsed() > LATE) {
                        let ms = began.elapsed().as_millis();
                        tracing::warn!(
                            id = self.id,
                            what,
                            ms,
                            why,
                            "asked again and again until it was answered"
                        );
                    }
                    return Ok(done);
                }
                Err(Tried::Failed(failure)) => return Err(failure),
                Err(Tried::Again(why)) if began.elapsed() > most => {
                    let detail = format!("{what} of {}: {why}", self.id);
                    return Err(Failure {
                        detail,
                        too_large: false,
                    });
                }
                Err(Tried::Again(why)) => {
                    said = Some(why);
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    /// Asks a coordinator once. `code` is where its answer says what became of it.
    fn coordinated<R: Request>(
        &mut self,
        of: Of,
        key: &str,
        version: i16,
        ask: &R,
        code: impl Fn(&R::Response) -> i16,
    ) -> Result<R::Response, Tried> {
        let what = std::any::type_name::<R>().rsplit("::").next().unwrap_or_default();
        let found = self.cluster.coordinator(of, key).and_then(|found| match found {
            Ok(address) => self.cluster.ask(&address, version, ask).map(Ok),
            Err(code) => Ok(Err(code)),
        });
        // Wherever it was, it may be elsewhere now.
        let found = found.inspect_err(|_| self.cluster.forget())?;
        let (code, told) = match found {
            Ok(told) => (code(&told), Some(told)),
            Err(code) => (code, None),
        };
        match (code, told) {
            (0, Some(told)) => Ok(told),
            (code, _) if code::COORDINATOR_MOVED.contains(&code) => {
                self.cluster.forget();
                Err(Tried::Again(format!("{what}: the coordinator moves")))
            }
            (code, _) if code::LATER.contains(&code) => Err(Tried::Again(format!("{what}: code {code}"))),
            (code, _) => Err(failed(what, code)),
        }
    }

    /// Takes a record into the transaction. Without a partition its key decides, as `schemas::digest::partition` computes it.
    pub(crate) fn put(
        &mut self,
        topic: &str,
        partition: Option<i32>,
        place: bool,
        line: &Line<'_>,
    ) -> Result<(), Failure> {
        let partition = match partition {
            Some(partition) => partition,
            None => {
                self.until("metadata", |direct| Ok(direct.cluster.learn(std::iter::once(topic))?))?;
                let count = self.cluster.partitions(topic);
                let known = u32::try_from(count).ok().filter(|n| *n > 0).ok_or_else(|| Failure {
                    detail: format!("topic {topic} is not there"),
                    too_large: false,
                })?;
                self.turn = self.turn.wrapping_add(1);
                let chosen = match line.key {
                    "" => self.turn % count,
                    key => schemas::digest::partition(key, known) as usize,
                };
                i32::try_from(chosen).unwrap_or(0)
            }
        };
        self.outgoing.put(topic, partition, place, line);
        Ok(())
    }

    /// Begins with nothing.
    pub(crate) fn clear(&mut self) {
        self.outgoing.parts.clear();
        self.told = false;
    }

    /// Sends all that was put; once this returns the brokers have it. Where each changelog goes on behind it.
    pub(crate) fn produce(&mut self, now_ms: i64) -> Result<Committed, Failure> {
        let parts = std::mem::take(&mut self.outgoing.parts);
        let mut left: Vec<Sending<'_>> = parts.iter().map(Sending::of).collect();
        let mut places = Committed::new();
        while !left.is_empty() {
            self.until("records", |direct| direct.round(&mut left, now_ms, &mut places))?;
            left.retain_mut(Sending::goes_on);
        }
        Ok(places)
    }

    /// Sends the next batch of each partition, one request a broker, and takes down what was answered; fails while one is left.
    fn round(&mut self, left: &mut [Sending<'_>], now_ms: i64, places: &mut Committed) -> Result<(), Tried> {
        let learnt = self.cluster.learn(left.iter().map(|s| s.part.topic.as_str()));
        learnt.inspect_err(|_| self.cluster.forget())?;
        let mut requests: Vec<(String, ProduceRequest)> = Vec::new();
        let mut homeless = false;
        for sending in left.iter().filter(|s| !s.done) {
            let part = sending.part;
            let Some(leader) = self.cluster.leader(&part.topic, part.partition) else {
                homeless = true;
                continue;
            };
            let at = requests
                .iter()
                .position(|(address, _)| *address == leader)
                .unwrap_or_else(|| {
                    requests.push((leader, self.request()));
                    requests.len() - 1
                });
            if let (Some((_, request)), Some(batch)) = (requests.get_mut(at), part.batches.get(sending.next)) {
                let bytes = batch.bytes(self.producer, sending.sequence, now_ms);
                let data = PartitionProduceData::default()
                    .with_index(part.partition)
                    .with_records(Some(bytes));
                let name = TopicName(StrBytes::from_string(part.topic.clone()));
                match request.topic_data.iter_mut().find(|t| t.name == name) {
                    Some(topic) => topic.partition_data.push(data),
                    None => request.topic_data.push(
                        TopicProduceData::default()
                            .with_name(name)
                            .with_partition_data(vec![data]),
                    ),
                }
            }
        }
        // All at once, then all answers.
        let sent: Vec<_> = requests
            .iter()
            .map(|(address, request)| self.cluster.send(address, PRODUCE, request))
            .collect();
        let asked = requests.iter().zip(sent);
        let told: Vec<_> = asked
            .map(|((address, _), sent)| sent.and_then(|()| self.cluster.receive::<ProduceRequest>(address, PRODUCE)))
            .collect();
        let mut again = homeless.then(|| "a partition has no leader".to_owned());
        for told in told {
            match told {
                Ok(told) => again = take_down(left, &told, places)?.or(again),
                Err(e) => again = Some(e.to_string()),
            }
        }
        match again {
            None => Ok(()),
            Some(why) => {
                self.cluster.forget();
                Err(Tried::Again(why))
            }
        }
    }

    fn request(&self) -> ProduceRequest {
        ProduceRequest::default()
            .with_transactional_id(Some(self.transactional_id()))
            .with_acks(-1)
            .with_timeout_ms(ACKS_MS)
    }

    /// Makes offsets part of the transaction. The group's coordinator refuses those of a member it has thrown out.
    pub(crate) fn offsets(&mut self, group: &str, instance: &str, who: &Who, at: &[Position]) -> Result<(), Failure> {
        let mut topics: Vec<TxnOffsetCommitRequestTopic> = Vec::new();
        for position in at {
            let offset = TxnOffsetCommitRequestPartition::default()
                .with_partition_index(position.partition)
                .with_committed_offset(position.offset)
                .with_committed_leader_epoch(-1)
                .with_committed_metadata(Some(StrBytes::default()));
            let name = TopicName(StrBytes::from_string(position.topic.to_string()));
            match topics.iter_mut().find(|t| t.name == name) {
                Some(topic) => topic.partitions.push(offset),
                None => topics.push(
                    TxnOffsetCommitRequestTopic::default()
                        .with_name(name)
                        .with_partitions(vec![offset]),
                ),
            }
        }
        let ask = TxnOffsetCommitRequest::default()
            .with_transactional_id(self.transactional_id())
            .with_group_id(GroupId(StrBytes::from_string(group.to_owned())))
            .with_producer_id(ProducerId(self.producer.0))
            .with_producer_epoch(self.producer.1)
            .with_generation_id(who.generation)
            .with_member_id(StrBytes::from_string(who.member.clone()))
            .with_group_instance_id(Some(StrBytes::from_string(instance.to_owned())))
            .with_topics(topics);
        self.until("offsets", |direct| {
            let first = |told: &kafka_protocol::messages::TxnOffsetCommitResponse| {
                let mut all = told.topics.iter().flat_map(|t| &t.partitions);
                all.find(|p| p.error_code != 0).map_or(0, |p| p.error_code)
            };
            direct.coordinated(Of::Group, group, OFFSETS, &ask, first).map(drop)
        })
    }

    /// Has the transaction stand.
    pub(crate) fn commit(&mut self) -> Result<(), Failure> {
        self.told = true;
        self.end(true, REQUEST)?;
        self.told = false;
        Ok(())
    }

    fn end(&mut self, committed: bool, within: Duration) -> Result<(), Failure> {
        let ask = EndTxnRequest::default()
            .with_transactional_id(self.transactional_id())
            .with_producer_id(ProducerId(self.producer.0))
            .with_producer_epoch(self.producer.1)
            .with_committed(committed);
        let told = self.within(within, "the end", |direct| {
            direct.coordinated(Of::Transaction, &direct.id.clone(), END, &ask, |told| told.error_code)
        })?;
        // Under the old epoch nothing more would be taken.
        self.producer = (told.producer_id.0, told.producer_epoch);
        Ok(())
    }

    /// Leaves no transaction open: (whether that was told, whether it is certain that the last one does not stand). What was never told to
    /// stand never will, whoever ends it; where nobody answers soon, that is the start of a new producer.
    pub(crate) fn abandon(&mut self) -> (bool, bool) {
        let certain = !self.told;
        (certain && self.end(false, ABANDON).is_ok(), certain)
    }
}

/// A partition's batches on their way.
struct Sending<'a> {
    part: &'a Part,
    /// The batch that is sent, and the number of its first record.
    next: usize,
    sequence: i32,
    /// It has been taken.
    done: bool,
}

impl<'a> Sending<'a> {
    fn of(part: &'a Part) -> Self {
        Self {
            part,
            next: 0,
            sequence: 0,
            done: false,
        }
    }

    /// To the next batch; false when there is none.
    fn goes_on(&mut self) -> bool {
        let sent = self.part.batches.get(self.next).map_or(0, |b| b.count);
        self.sequence = self.sequence.wrapping_add(sent);
        self.next += 1;
        self.done = false;
        self.next < self.part.batches.len()
    }
}

/// What a broker says of the batches it was sent; why they are to be sent again, where some are.
fn take_down(
    left: &mut [Sending<'_>],
    told: &ProduceResponse,
    places: &mut Committed,
) -> Result<Option<String>, Tried> {
    let mut again = None;
    for topic in &told.responses {
        for answer in &topic.partition_responses {
            let of = |s: &&mut Sending<'_>| s.part.partition == answer.index && s.part.topic == topic.name.0.as_str();
            let Some(sending) = left.iter_mut().find(of) else {
                continue;
            };
            match answer.error_code {
                0 | code::DUPLICATE => {
                    sending.done = true;
                    let count = sending.part.batches.get(sending.next).map_or(0, |b| b.count);
                    // Of a batch it had already the place may be missing; the one known is then an earlier one, which does no harm.
                    if sending.part.place && answer.base_offset >= 0 {
                        let place = (sending.part.topic.as_str().into(), answer.index);
                        places.insert(place, answer.base_offset + i64::from(count));
                    }
                }
                c if code::LATER.contains(&c) || [code::UNKNOWN_TOPIC, code::NOT_LEADER].contains(&c) => {
                    again = Some(format!("{}/{}: code {c}", sending.part.topic, answer.index));
                }
                c => return Err(failed(&format!("{}/{}", sending.part.topic, answer.index), c)),
            }
        }
    }
    Ok(again)
}
