//! Membership in a stage's group, and reading beside it: settings, and rebalances taken down for the loop to perform.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use kernel::{Fault, FaultCode, Polled};
use rdkafka::client::ClientContext;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientConfig, TopicPartitionList};

use crate::config::LogConfig;
use crate::faults::unavailable;

/// A linger of at least this long is left to the broker.
pub(crate) const LINGERS_MS: u64 = 50;
/// For so many records of a poll the next is a millisecond later than it would be, ...
const WORTH: usize = 20;
/// ... and at most this much later.
const LATER_MS: u64 = 20;

/// Until when a poll gathers whose first record comes `now`; a long linger has passed at the broker already. `last` is when the poll before ended, and
/// with how many records. Where much comes, transactions are fewer and larger: each costs the broker the same, and on a machine that does everything
/// what it costs is missing elsewhere (`make bench-e2e`). Who takes that long for a transaction anyway waits for nothing.
pub(crate) fn gathers_until(now: Instant, linger_ms: u64, last: (Instant, usize)) -> Instant {
    if linger_ms >= LINGERS_MS {
        return now;
    }
    let later = u64::try_from(last.1 / WORTH).unwrap_or(LATER_MS).min(LATER_MS);
    now.max(last.0 + Duration::from_millis(later)) + Duration::from_millis(linger_ms)
}

/// Takes rebalances down instead of performing them, so that the loop can drain first. The group waits for us meanwhile.
#[derive(Default)]
pub(crate) struct Deferred {
    queue: Mutex<Vec<Polled>>,
    closing: AtomicBool,
    /// Partitions given and not asked for again, as far as was heard.
    given: AtomicUsize,
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
    fn rebalance(&self, member: &BaseConsumer<Self>, err: RDKafkaRespErr, tpl: &mut TopicPartitionList) {
        let parts: Vec<_> = tpl
            .elements()
            .iter()
            .map(|e| (e.topic().to_owned(), e.partition()))
            .collect();
        let assign = err == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        let lost = !assign && member.assignment_lost();
        let given = self.count(assign, parts.len());
        if self.closing.load(Ordering::SeqCst) {
            answer_closing(member, assign, given);
            return;
        }
        // What is given is taken at once, whenever the loop begins it: rounds of others need not wait for state to be read back, and in
        // a round that waits for us the client would not tell that the group has gone on without us.
        if assign {
            taken_over(member);
        }
        self.heard.fetch_add(1, Ordering::SeqCst);
        self.owing.fetch_or(!assign, Ordering::SeqCst);
        let event = match (assign, lost) {
            (true, _) => Polled::Assigned(parts),
            (false, true) => Polled::Lost(parts),
            (false, false) => Polled::Revoked(parts),
        };
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}

impl Deferred {
    /// How many partitions the group has given us once so many more are given, or asked for.
    fn count(&self, assign: bool, parts: usize) -> usize {
        let before = self.given.load(Ordering::SeqCst);
        let given = if assign {
            before + parts
        } else {
            before.saturating_sub(parts)
        };
        self.given.store(given, Ordering::SeqCst);
        given
    }

    /// What the group asks of us next, if anything.
    pub(crate) fn next(&self) -> Option<Polled> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        (!queue.is_empty()).then(|| queue.remove(0))
    }

    /// Whether the group asks anything of us.
    pub(crate) fn asks(&self) -> bool {
        !self.queue.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// Tells the group that what it gave is taken. A member is assigned nothing itself.
fn taken_over(member: &BaseConsumer<Deferred>) {
    if let Err(e) = member.incremental_assign(&TopicPartitionList::new()) {
        tracing::warn!(error = %e, "the group was not told that partitions are taken over");
    }
}

/// Tells the group that what it asked for is given up.
pub(crate) fn given_up(member: &BaseConsumer<Deferred>) {
    member.context().owing.store(false, Ordering::SeqCst);
    if let Err(e) = member.incremental_unassign(&TopicPartitionList::new()) {
        tracing::warn!(error = %e, "the group was not told that partitions are given up");
    }
}

/// Answers a member that is being closed. Every answer then counts as the one to what is asked for last, ends the group, and whoever answers
/// again waits for ever (librdkafka 2.12.1, `rd_kafka_cgrp_handle_assign_op`). Who was given anything is asked for it, so that is what is answered;
/// who was not is asked for nothing, and the close waits for this.
fn answer_closing(member: &BaseConsumer<Deferred>, assign: bool, given: usize) {
    match (assign, given) {
        (false, _) => given_up(member),
        (true, 0) => taken_over(member),
        (true, _) => {}
    }
}

/// From when partitions are asked for until they are given up the client tells of no loss: it takes what the group says for the rebalance it is
/// in. Who polled nothing for a whole session meanwhile may have been thrown out, and what it holds be others'.
pub(crate) fn awake(member: &BaseConsumer<Deferred>, polled: Instant, session_ms: u32) -> Result<(), Fault> {
    let owing = member.context().owing.load(Ordering::SeqCst);
    if owing && polled.elapsed() >= Duration::from_millis(session_ms.into()) {
        let detail = "silent for longer than a session while partitions were asked for: the group may have gone on without this instance";
        return Err(Fault::new(FaultCode::Fenced, detail));
    }
    Ok(())
}

/// How long leaving the group takes at most: nothing says when it is done.
const LEAVE: Duration = Duration::from_millis(300);

/// Answers rebalances at once from here on: those nobody will answer would keep the close waiting. A member that `leaves` tells the group; another is
/// waited for until its session runs out.
pub(crate) fn close(member: &BaseConsumer<Deferred>, leaves: bool) {
    member.context().closing.store(true, Ordering::SeqCst);
    // What we have not heard of yet is answered when we do: twice is once too often.
    if member.context().owing.load(Ordering::SeqCst) {
        given_up(member);
    }
    if !leaves {
        return;
    }
    // A static member that is closed does not leave; one that unsubscribes does, once its partitions are given up in the rebalance that brings.
    member.unsubscribe();
    let began = Instant::now();
    // The client's own thread tells the coordinator then. Closed before that, it would stay a member until its session runs out.
    while began.elapsed() < LEAVE {
        drop(member.poll(Duration::from_millis(10)));
    }
}

/// What member and reader are told alike.
fn client(config: &LogConfig) -> ClientConfig {
    let mut client = config.brokers.client();
    client
        .set("group.id", &config.group)
        .set("client.id", config.client_id())
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("isolation.level", "read_committed");
    client
}

/// A member of the stage's group, which is given partitions and reads none: from the beginning of a rebalance until it is answered the client
/// stops all that a consumer reads, and an answer may wait for calls under way.
pub(crate) fn member(config: &LogConfig) -> Result<BaseConsumer<Deferred>, Fault> {
    let mut client = client(config);
    client
        // A static member: who is restarted within the session gets its partitions back at once, and the others never stop. The
        // price is that one that leaves for good is missed only when its session runs out.
        .set("group.instance.id", &config.instance)
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", config.session_timeout_ms.to_string())
        .set(
            "heartbeat.interval.ms",
            (config.session_timeout_ms / 4).max(300).to_string(),
        );
    BaseConsumer::from_config_and_context(&client, Deferred::default()).map_err(|e| unavailable("member", &e))
}

/// Reads the partitions its member was given.
pub(crate) fn reader(config: &LogConfig) -> Result<BaseConsumer, Fault> {
    let mut client = client(config);
    client
        .set("auto.offset.reset", "earliest")
        // Where a partition ends tells one that is idle from one that is not read yet.
        .set("enable.partition.eof", if config.bulk { "true" } else { "false" });
    for (name, value) in fetching(config) {
        client.set(name, value);
    }
    client.create().map_err(|e| unavailable("reader", &e))
}

/// How much is fetched at once and held ahead of the step; many stages share one process.
fn fetching(config: &LogConfig) -> [(&'static str, String); 7] {
    let lingers = config.linger_ms >= LINGERS_MS;
    let least = match (lingers, config.bulk) {
        (false, _) => 1,
        // A stage that lingers lets the broker gather: an answer per linger instead of one per commit of those before it.
        (true, false) => 1 << 20,
        // Never more than is asked for of one partition: the broker would wait for it to the end.
        (true, true) => 1 << 16,
    };
    let wait = match (lingers, config.bulk) {
        (_, true) => 10,
        (true, _) => config.linger_ms,
        (false, _) => 500,
    };
    // Of each record the client makes an object of a kibibyte (`rd_kafka_op_t`), and it unpacks a whole fetch at once: how many records those
    // bytes are, packed, and how many are held, is what a stage of many records a second needs of memory (`make bench-analytics`).
    let (each, all, ahead_kib, ahead, rest) = if config.bulk {
        (1 << 18, 1 << 20, 8192, 20_000, 1)
    } else {
        (1 << 20, 50 << 20, 2048, 1000, 5)
    };
    [
        ("fetch.wait.max.ms", wait.to_string()),
        ("fetch.min.bytes", least.to_string()),
        ("fetch.message.max.bytes", each.to_string()),
        ("fetch.max.bytes", all.to_string()),
        ("queued.max.messages.kbytes", ahead_kib.to_string()),
        ("queued.min.messages", ahead.to_string()),
        // With a queue this short the client's default of a second would be a stop after every fetch.
        ("fetch.queue.backoff.ms", rest.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits_ms(linger_ms: u64, since_ms: u64, records: usize) -> u128 {
        let ended = Instant::now();
        let now = ended + Duration::from_millis(since_ms);
        let until = gathers_until(now, linger_ms, (ended, records));
        until.duration_since(now).as_millis()
    }

    #[test]
    fn polls_of_much_are_further_apart_and_nobody_waits_beyond_that() {
        assert_eq!(waits_ms(2, 5, 10), 2, "few records");
        assert_eq!(
            waits_ms(2, 5, 200),
            5 + 2,
            "ten milliseconds after the last, and the linger"
        );
        assert_eq!(waits_ms(2, 5, 100_000), 15 + 2, "never more than twenty");
        assert_eq!(waits_ms(2, 50, 100_000), 2, "a transaction took longer than that");
        assert_eq!(waits_ms(LINGERS_MS, 0, 100_000), 0, "the broker gathers");
    }
}
