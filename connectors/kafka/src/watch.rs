//! Partitions that nobody owns, and the mend.
//!
//! An instance that is killed between the two rounds of a cooperative rebalance and comes back under its static name is handed its assignment
//! of the first round. What it was to give up has no owner, and the group is content: nobody joined or left. So each member
//! looks now and then whether every partition of its topics has an owner, and where one has none for several looks, asks for a new
//! round. Members ask one after the other, by name, so that one of them is enough.
//!
//! How a member asks: the client has no call for it, and subscribing to the same topics again does nothing. A subscription that names a topic
//! the client does not know makes it ask for metadata and join again, whatever the answer. The topic's name is none a topic can have.
//! Nobody stops for it: what a member keeps in the new round it goes on with.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use kernel::Fault;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::groups::GroupInfo;
use rdkafka::metadata::Metadata;

use crate::Brokers;
use crate::config::LogConfig;
use crate::faults::unavailable;
use crate::group::Deferred;

/// A look is taken when a member has heard of no rebalance for this long.
const SETTLED: Duration = Duration::from_secs(1);
/// And again, while something is amiss.
const AGAIN: Duration = Duration::from_secs(1);
/// And again, where nothing is.
const SELDOM: Duration = Duration::from_secs(60);
/// Looks that must agree before the first member asks. Each further one waits for as many more.
const LOOKS: usize = 2;
const REQUEST: Duration = Duration::from_secs(5);

type Place = (String, i32);

/// Who has what, by the client's id, in its order.
type Shares = Vec<(String, Vec<Place>)>;

/// What a member saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Stage.
    pub stage: String,
    /// Partitions of its topics that nobody owns.
    pub unowned: Vec<(String, i32)>,
    /// The group was asked to share out anew.
    pub asked: bool,
}

/// A stage's membership in its group, to be watched.
pub struct Member {
    config: Arc<LogConfig>,
    /// Held for a moment only: a log that is gone must leave the group before its successor joins.
    consumer: Weak<BaseConsumer<Deferred>>,
    context: Arc<Deferred>,
    /// Rebalances it had heard of when its next look was set.
    heard: u64,
    due: Instant,
    /// What it saw last, and how often.
    seen: Option<(Shares, usize)>,
    asked: bool,
}

impl Member {
    pub(crate) fn new(config: &Arc<LogConfig>, consumer: &Arc<BaseConsumer<Deferred>>) -> Self {
        Self {
            config: Arc::clone(config),
            consumer: Arc::downgrade(consumer),
            context: Arc::clone(consumer.context()),
            heard: 0,
            due: Instant::now(),
            seen: None,
            asked: false,
        }
    }

    /// Topics it subscribes to; the others go along.
    fn subscribed(&self) -> Vec<&str> {
        let topics = self.config.topics.iter().map(String::as_str);
        topics.take(self.config.subscribed()).collect()
    }

    /// Whether it is time for a look: something changed and has settled, or nothing did for long.
    fn is_due(&mut self, now: Instant) -> bool {
        let context = &self.context;
        let heard = context.heard.load(Ordering::SeqCst);
        // One that is about to give partitions up will join again by itself.
        if heard != self.heard || context.owing.load(Ordering::SeqCst) {
            (self.heard, self.due, self.seen) = (heard, now + SETTLED, None);
        }
        heard > 0 && now >= self.due
    }

    /// Looks at the group as the broker tells it; `None` when there is nothing to be said of it now.
    fn look(&mut self, shares: Option<Shares>, all: &[Place]) -> Option<Look> {
        self.due = Instant::now() + AGAIN;
        let Some(shares) = shares else {
            self.seen = None;
            return None;
        };
        let owned: BTreeSet<&Place> = shares.iter().flat_map(|(_, parts)| parts).collect();
        let unowned: Vec<Place> = all.iter().filter(|p| !owned.contains(p)).cloned().collect();
        if unowned.is_empty() {
            self.due = Instant::now() + SELDOM;
            self.seen = None;
            self.context.asked.store(false, Ordering::SeqCst);
        }
        let times = match self.seen.take() {
            Some((before, times)) if before == shares => times + 1,
            _ => 1,
        };
        let rank = shares.iter().position(|(client, _)| *client == self.config.client_id());
        let asked = !unowned.is_empty() && times >= LOOKS * (rank? + 1) && self.ask();
        self.seen = (!asked && !unowned.is_empty()).then_some((shares, times));
        let stage = self.config.stage.clone();
        Some(Look { stage, unowned, asked })
    }

    /// Asks the group to share out anew.
    fn ask(&mut self) -> bool {
        let Some(consumer) = self.consumer.upgrade() else {
            return false;
        };
        let none = format!("{}:anew", self.config.group);
        let mut topics = self.subscribed();
        topics.push(&none);
        self.context.asked.store(true, Ordering::SeqCst);
        let done = consumer.subscribe(&topics);
        self.asked = done.is_ok();
        self.asked
    }

    /// Takes the topic that is none out again: that alone makes nobody join.
    fn go_back(&mut self) {
        let consumer = self.asked.then(|| self.consumer.upgrade()).flatten();
        if consumer.is_some_and(|c| c.subscribe(&self.subscribed()).is_ok()) {
            self.asked = false;
        }
    }
}

/// Watches the groups of a process's stages.
pub struct Watch {
    brokers: Brokers,
    members: Mutex<Vec<Member>>,
    /// Of its own, so that a look keeps no stage's fetches waiting.
    client: Mutex<Option<BaseConsumer>>,
}

impl Watch {
    /// Nothing to watch yet. Does not connect.
    pub fn new(brokers: &Brokers) -> Self {
        Self {
            brokers: brokers.clone(),
            members: Mutex::default(),
            client: Mutex::default(),
        }
    }

    /// Watches one more, until its log is gone.
    pub fn add(&self, member: Member) {
        self.members.lock().unwrap_or_else(PoisonError::into_inner).push(member);
    }

    /// Takes the looks that are due. To be called about once a second, by one thread.
    ///
    /// # Errors
    /// `BROKER_UNAVAILABLE`: what is due stays so.
    pub fn turn(&self) -> Result<Vec<Look>, Fault> {
        let mut members = std::mem::take(&mut *self.members.lock().unwrap_or_else(PoisonError::into_inner));
        members.retain(|m| m.consumer.strong_count() > 0);
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        let looks = self.looks(&mut members, &mut client);
        if looks.is_err() {
            // A client that was told once that there are no brokers asks nobody for minutes.
            *client = None;
        }
        drop(client);
        // Some may have come meanwhile.
        self.members
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .append(&mut members);
        looks
    }

    fn looks(&self, members: &mut [Member], kept: &mut Option<BaseConsumer>) -> Result<Vec<Look>, Fault> {
        let now = Instant::now();
        let mut metadata: Option<Metadata> = None;
        let mut looks = Vec::new();
        for member in members {
            member.go_back();
            if !member.is_due(now) {
                continue;
            }
            let client = match kept.take() {
                Some(client) => client,
                None => crate::tail::consumer(&self.brokers)?,
            };
            let client = kept.insert(client);
            if metadata.is_none() {
                let told = client.fetch_metadata(None, REQUEST);
                metadata = Some(told.map_err(|e| unavailable("metadata", &e))?);
            }
            let all = metadata.as_ref().map(|m| places(m, &member.subscribed()));
            let told = client
                .fetch_group_list(Some(&member.config.group), REQUEST)
                .map_err(|e| unavailable("group", &e))?;
            let shares = told.groups().first().and_then(shares);
            looks.extend(member.look(shares, &all.unwrap_or_default()));
        }
        Ok(looks)
    }
}

/// Every partition of these topics.
fn places(metadata: &Metadata, topics: &[&str]) -> Vec<Place> {
    let ours = metadata.topics().iter().filter(|t| topics.contains(&t.name()));
    ours.flat_map(|t| t.partitions().iter().map(|p| (t.name().to_owned(), p.id())))
        .collect()
}

/// Who has what, of a group that has settled.
fn shares(group: &GroupInfo) -> Option<Shares> {
    let members = group.members().iter();
    let mut all: Shares = members
        .map(|m| {
            Some((
                m.client_id().to_owned(),
                assignment(m.assignment().unwrap_or_default())?,
            ))
        })
        .collect::<Option<_>>()?;
    all.sort();
    (group.state() == "Stable").then_some(all)
}

/// The partitions of an assignment as members send it: version, topics with their partitions, user data.
pub(crate) fn assignment(bytes: &[u8]) -> Option<Vec<Place>> {
    // One that has been given nothing may have been given no bytes.
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let mut rest = bytes.get(2..)?;
    let mut parts = Vec::new();
    for _ in 0..number(&mut rest)? {
        let (len, after) = rest.split_first_chunk::<2>()?;
        let (name, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
        let name = std::str::from_utf8(name).ok()?;
        rest = after;
        for _ in 0..number(&mut rest)? {
            parts.push((name.to_owned(), number(&mut rest)?));
        }
    }
    Some(parts)
}

fn number(rest: &mut &[u8]) -> Option<i32> {
    let (head, after) = rest.split_first_chunk::<4>()?;
    *rest = after;
    Some(i32::from_be_bytes(*head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_is_read_as_members_send_it() {
        let mut bytes = vec![0, 1, 0, 0, 0, 2, 0, 1, b'a', 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4];
        bytes.extend([0, 2, b'b', b'c', 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        let wanted = [("a", 3), ("a", 4), ("bc", 0)].map(|(t, p)| (t.to_owned(), p));
        assert_eq!(assignment(&bytes), Some(wanted.to_vec()));
        assert_eq!(assignment(&[]), Some(Vec::new()));
        // Cut off anywhere before the user data it is none.
        assert!((1..bytes.len() - 4).all(|n| assignment(&bytes[..n]).is_none()));
    }
}
