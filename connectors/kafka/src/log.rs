//! The log of one stage on Kafka: a member of its group, a consumer that reads, and transactional producers that commit for both.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kernel::{Changelog, Commit, Committed, Fault, FaultCode, Log, Polled, Position, RawRecord, Restoring, Slab};
use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer, DefaultConsumerContext};
use rdkafka::error::KafkaError;

use crate::Registry;
use crate::changelogs::Changelogs;
use crate::config::LogConfig;
use crate::faults::{is_fenced, is_of_topic, is_too_large, unavailable};
use crate::group::{Deferred, awake, close, gathers_until, given_up, member, reader};
use crate::send::{KafkaOrFault, offsets, partitions, places, raw};
use crate::slabs::Queues;
use crate::transaction::{Maker, Transactor, clients, new_producer};
use crate::watch::Member;

pub(crate) const REQUEST: Duration = Duration::from_secs(15);
const BATCH_BYTES_MAX: usize = 8 << 20;
/// A mistake of the loop's, which would be a hole in what is read.
const RELEASED: &str = "partitions given up while a transaction is under way";

/// A [`Log`] over Kafka.
pub struct KafkaLog {
    config: Arc<LogConfig>,
    member: Arc<BaseConsumer<Deferred>>,
    reader: Arc<BaseConsumer>,
    /// When the group was asked last for what it wants.
    polled: Instant,
    maker: Maker,
    /// Of a log that gives slabs.
    queues: Queues<DefaultConsumerContext>,
    /// They take turns: until a transaction's markers are written its producer may not begin another, and the client tries again
    /// only after 20 ms. Both carry the group's offsets, which fence them.
    producers: Vec<Option<Arc<Transactor>>>,
    turn: usize,
    /// When the last poll ended, and with how many records.
    last: (Instant, usize),
    /// A transaction that is made beside other work.
    under_way: Option<UnderWay>,
    owned: Vec<(String, i32)>,
    /// Next offset to read of every partition that is owned, as the group has it.
    committed: BTreeMap<(String, i32), i64>,
    /// Partitions of each topic.
    counts: BTreeMap<String, usize>,
    /// That number, when all have the same.
    partitions: Option<u32>,
    /// Topics records came from.
    topics: Vec<Arc<str>>,
    paused: bool,
    changelogs: Option<Changelogs>,
}

/// A transaction that is made by a thread of its own.
struct UnderWay {
    turn: usize,
    offsets: Vec<Position>,
    made: JoinHandle<Result<Committed, KafkaOrFault>>,
}

impl KafkaLog {
    /// Joins the group and fences whoever used this transactional id before.
    ///
    /// # Errors
    /// `BROKER_UNAVAILABLE` when no broker answers in time.
    pub fn open(config: LogConfig, registry: Arc<Registry>) -> Result<Self, Fault> {
        let config = Arc::new(config);
        let member = Arc::new(member(&config)?);
        let mut log = Self {
            maker: Maker {
                config: Arc::clone(&config),
                registry,
                member: Arc::clone(&member),
            },
            member,
            reader: Arc::new(reader(&config)?),
            polled: Instant::now(),
            queues: Queues::default(),
            config,
            producers: Vec::new(),
            turn: 0,
            last: (Instant::now(), 0),
            under_way: None,
            owned: Vec::new(),
            committed: BTreeMap::new(),
            counts: BTreeMap::new(),
            partitions: None,
            topics: Vec::new(),
            paused: false,
            changelogs: None,
        };
        // The group and the transactions' coordinator work side by side.
        let subscribed = log.config.topics.iter().take(log.config.subscribed());
        let topics: Vec<&str> = subscribed.map(String::as_str).collect();
        log.member
            .subscribe(&topics)
            .map_err(|e| unavailable("subscribe", &e))?;
        (log.producers, log.changelogs) = clients(&log.config)?;
        Ok(log)
    }

    /// Its membership in the group, to be watched.
    pub fn member(&self) -> Member {
        Member::new(&self.config, &self.member)
    }

    /// A new producer in place of one: whatever its predecessor left open is settled by its start.
    fn renew(&mut self, turn: usize) -> Result<(), Fault> {
        if let Some(slot) = self.producers.get_mut(turn) {
            *slot = None;
            *slot = Some(Arc::new(new_producer(&self.config, turn)?));
        }
        Ok(())
    }

    /// The same partitions of every topic that goes along, as far as it has them.
    fn along(&self, parts: &[(String, i32)]) -> Vec<(String, i32)> {
        if !self.config.copartitioned {
            return parts.to_vec();
        }
        let numbers: std::collections::BTreeSet<i32> = parts.iter().map(|p| p.1).collect();
        let there = |topic: &String, n: i32| {
            let count = self.counts.get(topic);
            count.is_none_or(|count| usize::try_from(n).is_ok_and(|n| n < *count))
        };
        let topics = self.config.topics.iter();
        let all = topics.flat_map(|t| numbers.iter().map(move |n| (t, *n)));
        all.filter(|(t, n)| there(t, *n)).map(|(t, n)| (t.clone(), n)).collect()
    }

    /// Where the group stands on these partitions.
    fn positions(&self, parts: &[(String, i32)]) -> Result<BTreeMap<(String, i32), Offset>, Fault> {
        let committed = self
            .member
            .committed_offsets(partitions(parts), REQUEST)
            .map_err(|e| unavailable("committed offsets", &e))?;
        let at = committed.elements().into_iter().map(|e| {
            let at = match e.offset() {
                Offset::Offset(at) => Offset::Offset(at),
                _ => Offset::Beginning,
            };
            ((e.topic().to_owned(), e.partition()), at)
        });
        Ok(at.collect())
    }

    /// What the group asks of us, if anything.
    fn rebalance(&mut self, wait_ms: u64) -> Result<Option<Polled>, Fault> {
        awake(&self.member, self.polled, self.config.session_timeout_ms)?;
        self.polled = Instant::now();
        // A member is sent no records: rebalances are taken down on the way.
        if let Some(Err(e)) = self.member.poll(Duration::from_millis(wait_ms)) {
            self.broken(&e, true)?;
        }
        Ok(self.member.context().next())
    }

    /// How long to wait for the group, and for records: of two clients one can be waited for, and who owns nothing is sent no records.
    fn waits(&self, wait_ms: u64) -> (u64, u64) {
        if self.owned.is_empty() {
            (wait_ms, 0)
        } else {
            (0, wait_ms)
        }
    }

    /// What an error of the client means to a poll: it reconnects by itself, and what it already fetched is still good.
    fn broken(&self, e: &KafkaError, has_nothing: bool) -> Result<(), Fault> {
        if is_fenced(e) {
            let (group, instance) = (&self.config.group, &self.config.instance);
            let detail = format!("another instance joined {group} as {instance}: {e}");
            return Err(Fault::new(FaultCode::Fenced, detail));
        }
        // We named a topic that is none.
        let ours = is_of_topic(e) && self.member.context().asked.load(Ordering::SeqCst);
        if has_nothing && !ours {
            Err(unavailable("poll", e))
        } else {
            Ok(())
        }
    }

    /// Whose turn it is.
    fn producer(&mut self) -> Result<(usize, Arc<Transactor>), Fault> {
        let turn = self.turn;
        self.turn = (turn + 1) % self.producers.len();
        if self.producers.get(turn).is_some_and(Option::is_none) {
            self.renew(turn)?;
        }
        let producer = self.producers.get(turn).and_then(Option::as_ref);
        let none = || Fault::new(FaultCode::Internal, "no producer");
        Ok((turn, Arc::clone(producer.ok_or_else(none)?)))
    }

    /// A partition that is owned, and where the group stands on it.
    fn standing(&self) -> Option<(String, i32, i64)> {
        let first = self.committed.iter().next();
        first.map(|((topic, partition), at)| (topic.clone(), *partition, *at))
    }

    /// What came of a transaction.
    fn made(
        &mut self,
        turn: usize,
        made: Result<Committed, KafkaOrFault>,
        offsets: &[Position],
    ) -> Result<Committed, Fault> {
        match made {
            Ok(places) => {
                self.read_up_to(offsets);
                Ok(places)
            }
            Err(why) => {
                let aborted = self.settle(turn, &why)?;
                let (too_large, detail) = match why {
                    KafkaOrFault::Fault(fault) => return Err(fault),
                    KafkaOrFault::Kafka(e) => (is_too_large(&e), e.to_string()),
                    KafkaOrFault::Direct(e) => (e.too_large, e.detail),
                };
                let code = match (too_large, aborted) {
                    (true, _) => FaultCode::RecordTooLarge,
                    (_, true) => FaultCode::TransactionAborted,
                    (_, false) => FaultCode::CommitFailed,
                };
                Err(Fault::new(code, detail))
            }
        }
    }

    fn changelogs(&mut self) -> Result<&mut Changelogs, Fault> {
        let kept = match self.changelogs.take() {
            Some(kept) => kept,
            None => Changelogs::open(&self.config.brokers)?,
        };
        Ok(self.changelogs.insert(kept))
    }

    fn read_up_to(&mut self, offsets: &[Position]) {
        let read = offsets.iter();
        self.committed
            .extend(read.map(|p| ((p.topic.to_string(), p.partition), p.offset)));
    }

    /// How many partitions each of the topics has.
    fn count(&self) -> Result<BTreeMap<String, usize>, Fault> {
        let known = self.reader.fetch_metadata(None, REQUEST);
        let known = known.map_err(|e| unavailable("metadata", &e))?;
        let topics = known.topics().iter();
        let ours = topics.filter(|t| self.config.topics.iter().any(|o| o == t.name()));
        Ok(ours.map(|t| (t.name().to_owned(), t.partitions().len())).collect())
    }

    fn alike(&self) -> Option<u32> {
        let mut counts = self.config.topics.iter().map(|t| self.counts.get(t).copied());
        let first = counts.next().flatten()?;
        counts
            .all(|n| n == Some(first))
            .then(|| u32::try_from(first).ok())
            .flatten()
    }

    /// Leaves no transaction open: aborts, or where that cannot be told, re-creates the producer, whose start resolves it (KIP-890).
    /// True when it is certain that it does not stand.
    fn settle(&mut self, turn: usize, why: &KafkaOrFault) -> Result<bool, Fault> {
        let producer = self.producers.get(turn).and_then(Option::as_ref);
        let (settled, certain) = producer.map_or((false, false), |p| p.abandon(why));
        if !settled {
            self.renew(turn)?;
        }
        Ok(certain)
    }
}

impl Log for KafkaLog {
    fn poll(&mut self, records_max: usize, wait_ms: u64) -> Result<Polled, Fault> {
        let (of_group, wait_ms) = self.waits(wait_ms);
        if let Some(event) = self.rebalance(of_group)? {
            return Ok(event);
        }
        let (mut records, mut bytes) = (Vec::new(), 0);
        let mut wait = Duration::from_millis(wait_ms);
        let mut gathered = Instant::now();
        while records.len() < records_max && bytes < BATCH_BYTES_MAX {
            match self.reader.poll(wait) {
                None => break,
                Some(Ok(message)) => {
                    if records.is_empty() {
                        gathered = gathers_until(Instant::now(), self.config.linger_ms, self.last);
                    }
                    bytes += message.payload_len();
                    records.push(raw(&message, &mut self.topics));
                    // Whole milliseconds: the client spins through a rest that is shorter.
                    let left = gathered.saturating_duration_since(Instant::now());
                    wait = Duration::from_millis(u64::try_from(left.as_millis()).unwrap_or(0));
                }
                Some(Err(e)) => {
                    self.broken(&e, records.is_empty())?;
                    break;
                }
            }
        }
        self.last = (Instant::now(), records.len());
        if !records.is_empty() {
            return Ok(Polled::Records(records));
        }
        Ok(self.rebalance(0)?.unwrap_or(Polled::Idle))
    }

    fn poll_slabs(&mut self, records_max: usize, wait_ms: u64) -> Result<Polled<Vec<Slab>>, Fault> {
        let (of_group, wait_ms) = self.waits(wait_ms);
        if let Some(event) = self.rebalance(of_group)? {
            return Ok(event.map(|_| Vec::new()));
        }
        let told = OnceCell::new();
        let asked = || {
            let failed = self.member.poll(Duration::ZERO).and_then(Result::err);
            failed.is_some_and(|e| told.set(e).is_ok()) || self.member.context().asks()
        };
        let most = (records_max, Duration::from_millis(wait_ms));
        let gathered = self.queues.gather(&self.reader, most, asked);
        if let Some(e) = told.get().or(gathered.failed.as_ref()) {
            self.broken(e, gathered.records == 0)?;
        }
        if gathered.records > 0 {
            return Ok(Polled::Records(gathered.slabs));
        }
        Ok(self
            .rebalance(0)?
            .map_or(Polled::Idle, |event| event.map(|_| Vec::new())))
    }

    fn unread(&self) -> Vec<(Arc<str>, i32)> {
        self.queues.unread()
    }

    fn fetch(&mut self, positions: &[Position]) -> Result<Vec<RawRecord>, Fault> {
        self.changelogs()?.fetch(positions)
    }

    fn commit(&mut self, commit: &Commit) -> Result<Committed, Fault> {
        self.answer(true)?;
        if commit.is_empty() {
            return Ok(Committed::new());
        }
        if commit.emits.is_empty() && commit.raw.is_empty() {
            let list = offsets(&commit.offsets).map_err(|e| unavailable("offsets", &e))?;
            self.member
                .commit(&list, rdkafka::consumer::CommitMode::Sync)
                .map_err(|e| Fault::new(FaultCode::CommitFailed, format!("offsets: {e}")))?;
            self.read_up_to(&commit.offsets);
            return Ok(Committed::new());
        }
        let (turn, producer) = self.producer()?;
        let made = self.maker.make(&producer, commit, self.standing());
        self.made(turn, made, &commit.offsets)
    }

    fn commit_later(&mut self, commit: Commit) -> Result<(), Fault> {
        self.answer(true)?;
        if commit.emits.is_empty() && commit.raw.is_empty() {
            return self.commit(&commit).map(drop);
        }
        let (turn, producer) = self.producer()?;
        let (maker, standing) = (self.maker.clone(), self.standing());
        let offsets = commit.offsets.clone();
        let made = std::thread::Builder::new()
            .name(format!("{} commits", self.config.stage))
            .spawn(move || maker.make(&producer, &commit, standing))
            .map_err(|e| Fault::new(FaultCode::Internal, format!("a thread for a transaction: {e}")))?;
        self.under_way = Some(UnderWay { turn, offsets, made });
        Ok(())
    }

    fn answer(&mut self, wait: bool) -> Result<bool, Fault> {
        let Some(under_way) = self.under_way.take_if(|u| wait || u.made.is_finished()) else {
            return Ok(self.under_way.is_none());
        };
        let panicked = |_| Err(Fault::new(FaultCode::Internal, "a transaction panicked").into());
        let made = under_way.made.join().unwrap_or_else(panicked);
        self.made(under_way.turn, made, &under_way.offsets)?;
        Ok(true)
    }

    fn restore_begin(&mut self, changelogs: &[Changelog]) -> Result<(), Fault> {
        self.changelogs().map(|kept| kept.begin(changelogs))
    }

    fn restore_more(&mut self, into: &mut dyn Restoring, at_most: Duration) -> Result<bool, Fault> {
        self.changelogs()?.more(into, at_most)
    }

    fn start(&mut self, parts: &[(String, i32)]) -> Result<(), Fault> {
        if parts.is_empty() {
            return Ok(());
        }
        self.counts = self.count()?;
        self.partitions = self.alike();
        let parts = &self.along(parts);
        let at = self.positions(parts)?;
        let fresh = |p: &(String, i32)| !self.owned.contains(p);
        let (new, known): (BTreeMap<_, _>, BTreeMap<_, _>) = at.clone().into_iter().partition(|(p, _)| fresh(p));
        if !known.is_empty() {
            self.queues.rewind(&self.reader, &known)?;
        }
        if !new.is_empty() {
            let list = places(&new)?;
            if self.config.bulk {
                self.queues.open(&self.reader, new.iter())?;
            }
            self.reader
                .incremental_assign(&list)
                .map_err(|e| unavailable("assign", &e))?;
            self.owned.extend(new.into_keys());
            // The client keeps a partition paused that was paused when it was lost, and tells nobody when it is given back.
            let set = if self.paused {
                self.reader.pause(&list)
            } else {
                self.reader.resume(&list)
            };
            set.map_err(|e| unavailable("pause", &e))?;
        }
        let at = at.into_iter().map(|(place, at)| match at {
            Offset::Offset(at) => (place, at),
            _ => (place, 0),
        });
        self.committed.extend(at);
        Ok(())
    }

    fn release(&mut self, parts: &[(String, i32)]) -> Result<(), Fault> {
        if self.under_way.is_some() {
            // Its offsets may go out under the next generation: what the next owner has read by then would be read again or not at all.
            return Err(Fault::new(FaultCode::Internal, RELEASED));
        }
        awake(&self.member, self.polled, self.config.session_timeout_ms)?;
        // What was given and is asked for again before it was begun is not read.
        let along = self.along(parts);
        let (parts, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.owned)
            .into_iter()
            .partition(|p| along.contains(p));
        self.owned = kept;
        self.committed.retain(|p, _| !parts.contains(p));
        self.queues
            .close(|topic, p| parts.iter().any(|part| part.0 == topic && part.1 == p));
        if let Err(e) = self.reader.incremental_unassign(&partitions(&parts)) {
            tracing::debug!(error = %e, "partitions were not read");
        }
        given_up(&self.member);
        Ok(())
    }

    fn home(&self, key: &str) -> Option<i32> {
        let partitions = self.partitions?;
        i32::try_from(schemas::digest::partition(key, partitions)).ok()
    }

    fn pause(&mut self, paused: bool) -> Result<(), Fault> {
        self.paused = paused;
        if self.owned.is_empty() {
            return Ok(());
        }
        let list = partitions(&self.owned);
        let done = if paused {
            self.reader.pause(&list)
        } else {
            self.reader.resume(&list)
        };
        done.map_err(|e| unavailable("pause", &e))?;
        if paused {
            Ok(())
        } else {
            self.queues.go_on(&self.reader)
        }
    }
}

impl Drop for KafkaLog {
    fn drop(&mut self) {
        // It holds the clients.
        if let Some(under_way) = self.under_way.take() {
            drop(under_way.made.join());
        }
        // Before the client they belong to.
        self.queues.close(|_, _| true);
        close(&self.member, self.config.leaving.load(Ordering::SeqCst));
    }
}
