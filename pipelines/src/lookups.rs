//! Reads the lookup topics of streaming SQL for one stage: all of them from the beginning, then what is added. No group, no offsets of
//! its own: what stands is in the topics.

use std::sync::Arc;
use std::time::{Duration, Instant};

use analytics::streaming::{Follow, Looked, TakeIn};
use kafka::{Brokers, From, Tail};
use kernel::{Blame, Fault, FaultCode};

/// Records taken in at once.
const AT_ONCE: usize = 4_096;
/// A topic whose end does not come for this long has a broker that is gone.
const STALL: Duration = Duration::from_secs(30);

/// Some lookup topics.
pub(crate) struct Lookups {
    brokers: Brokers,
    topics: Vec<Topic>,
}

struct Topic {
    name: Arc<str>,
    /// Opened when it is first asked for: a cluster that has just started may not know the topic yet.
    tail: Option<Tail>,
}

impl Lookups {
    pub(crate) fn new(brokers: &Brokers, topics: Vec<String>) -> Self {
        let topic = |name: String| Topic {
            name: name.into(),
            tail: None,
        };
        Self {
            brokers: brokers.clone(),
            topics: topics.into_iter().map(topic).collect(),
        }
    }
}

impl Topic {
    fn tail(&mut self, brokers: &Brokers) -> Result<&mut Tail, Fault> {
        match &mut self.tail {
            Some(tail) => Ok(tail),
            none => {
                // Without the topic the stage waits, and says so.
                let waits = |fault| Fault {
                    blame: Blame::Dependency,
                    ..fault
                };
                Ok(none.insert(Tail::open(brokers, &self.name, From::Beginning).map_err(waits)?))
            }
        }
    }

    /// What there is, waiting for the first; what the client says of its connections it gets over by itself.
    fn some(&mut self, wait_ms: u64) -> Vec<Looked> {
        let mut found = Vec::new();
        let Some(tail) = &mut self.tail else { return found };
        while found.len() < AT_ONCE {
            match tail.next_plain(if found.is_empty() { wait_ms } else { 0 }) {
                Ok(Some(record)) => found.push(Looked {
                    topic: Arc::clone(&self.name),
                    partition: record.partition,
                    offset: record.offset,
                    at: record.at,
                    key: record.key,
                    value: record.value,
                }),
                Ok(None) => break,
                Err(fault) => {
                    tracing::debug!(topic = %self.name, detail = %fault.detail, "lookup not read");
                    break;
                }
            }
        }
        found
    }
}

impl Follow for Lookups {
    fn at_hand(&mut self) -> Result<Vec<Looked>, Fault> {
        Ok(self.topics.iter_mut().flat_map(|topic| topic.some(0)).collect())
    }

    fn to_the_ends(&mut self, take_in: &mut TakeIn<'_>) -> Result<(), Fault> {
        for topic in &mut self.topics {
            let began = Instant::now();
            let mut records = 0;
            topic.tail(&self.brokers)?.again()?;
            let mut heard = Instant::now();
            while !topic.tail(&self.brokers)?.is_at_end() {
                let some = topic.some(100);
                if !some.is_empty() {
                    heard = Instant::now();
                    records += some.len();
                    take_in(some)?;
                } else if heard.elapsed() > STALL {
                    let detail = format!("the end of lookup topic {} does not come", topic.name);
                    return Err(Fault::new(FaultCode::BrokerUnavailable, detail));
                }
            }
            let ms = began.elapsed().as_millis();
            tracing::info!(topic = %topic.name, records, ms, "lookup read to its end");
        }
        Ok(())
    }
}
