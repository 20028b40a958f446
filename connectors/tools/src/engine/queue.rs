//! Who may call now: a bound per tool and a bound per tenant of a tool, first come first served within each.
//!
//! A call first waits for its tenant's turn, then for the tool's. So a tenant never has more than its own bound in the tool's queue,
//! and a tenant that asks for a thousand calls delays another's by at most that bound.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many calls may be under way at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Concurrency {
    /// Of one tool, all tenants together.
    pub calls_max: usize,
    /// Of one tenant at one tool.
    pub calls_per_tenant_max: usize,
}

impl Default for Concurrency {
    fn default() -> Self {
        Self {
            calls_max: 64,
            calls_per_tenant_max: 16,
        }
    }
}

/// The queues of one engine.
pub(super) struct Queues {
    default: Concurrency,
    by_tool: BTreeMap<String, Concurrency>,
    tools: Mutex<HashMap<String, Arc<Semaphore>>>,
    tenants: Mutex<HashMap<(String, String), Arc<Semaphore>>>,
}

/// A place among the calls under way; given back when dropped.
pub(super) struct Turn {
    _tenant: Option<OwnedSemaphorePermit>,
    _tool: Option<OwnedSemaphorePermit>,
}

impl Queues {
    pub(super) fn new(default: Concurrency, by_tool: BTreeMap<String, Concurrency>) -> Self {
        Self {
            default,
            by_tool,
            tools: Mutex::default(),
            tenants: Mutex::default(),
        }
    }

    /// Waits for a place.
    pub(super) async fn turn(&self, tool: &str, tenant: &str) -> Turn {
        let bound = self.by_tool.get(tool).unwrap_or(&self.default);
        let of_tenant = take(
            &self.tenants,
            (tool.to_owned(), tenant.to_owned()),
            bound.calls_per_tenant_max,
        );
        let of_tool = take(&self.tools, tool.to_owned(), bound.calls_max);
        // The semaphores are never closed, so both are always given.
        let tenant = of_tenant.acquire_owned().await.ok();
        let tool = of_tool.acquire_owned().await.ok();
        Turn {
            _tenant: tenant,
            _tool: tool,
        }
    }
}

fn take<K: std::hash::Hash + Eq>(map: &Mutex<HashMap<K, Arc<Semaphore>>>, key: K, permits: usize) -> Arc<Semaphore> {
    let mut map = map.lock().unwrap_or_else(PoisonError::into_inner);
    if map.len() >= 1024 {
        // Only we hold it: nobody waits there and nobody is under way.
        map.retain(|_, s| Arc::strong_count(s) > 1);
    }
    Arc::clone(
        map.entry(key)
            .or_insert_with(|| Arc::new(Semaphore::new(permits.max(1)))),
    )
}

const WAITS: u8 = 0;
const BEGUN: u8 = 1;
const WITHDRAWN: u8 = 2;

/// Calls that wait for their turn, by call id.
#[derive(Default)]
pub(super) struct Line(Mutex<HashMap<String, Arc<AtomicU8>>>);

/// A call's place in the line; left when dropped.
pub(super) struct Place<'a> {
    line: &'a Line,
    call_id: String,
    stands: Arc<AtomicU8>,
}

impl Line {
    pub(super) fn enter(&self, call_id: &str) -> Place<'_> {
        let stands = Arc::new(AtomicU8::new(WAITS));
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.insert(call_id.to_owned(), Arc::clone(&stands));
        Place {
            line: self,
            call_id: call_id.to_owned(),
            stands,
        }
    }

    /// Takes a call out of the line. False when it is not in it: it has begun, or is nobody's.
    pub(super) fn withdraw(&self, call_id: &str) -> bool {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.get(call_id).is_some_and(|stands| step(stands, WITHDRAWN))
    }
}

impl Place<'_> {
    /// Whether the call may begin: nobody has taken it back, and from now on nobody can.
    pub(super) fn begin(&self) -> bool {
        step(&self.stands, BEGUN)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.line.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.get(&self.call_id).is_some_and(|s| Arc::ptr_eq(s, &self.stands)) {
            waiting.remove(&self.call_id);
        }
    }
}

fn step(stands: &AtomicU8, to: u8) -> bool {
    stands
        .compare_exchange(WAITS, to, Ordering::AcqRel, Ordering::Acquire)
        .is_ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn now(queues: &Queues, tool: &str, tenant: &str) -> Option<Turn> {
        tokio::time::timeout(Duration::from_millis(20), queues.turn(tool, tenant))
            .await
            .ok()
    }

    #[tokio::test]
    async fn a_tenant_at_its_bound_leaves_room_for_another() {
        let queues = Queues::new(
            Concurrency {
                calls_max: 3,
                calls_per_tenant_max: 2,
            },
            BTreeMap::new(),
        );
        let first = now(&queues, "http", "a").await.unwrap();
        let _second = now(&queues, "http", "a").await.unwrap();
        assert!(now(&queues, "http", "a").await.is_none());
        let _third = now(&queues, "http", "b").await.unwrap();
        assert!(now(&queues, "http", "c").await.is_none(), "the tool is full");
        let _other = now(&queues, "notify", "a").await.unwrap();
        drop(first);
        assert!(now(&queues, "http", "c").await.is_some());
    }

    #[test]
    fn a_call_is_taken_back_or_begins_but_never_both() {
        let line = Line::default();
        let place = line.enter("call_1");
        assert!(line.withdraw("call_1") && !line.withdraw("call_1"));
        assert!(!place.begin(), "taken back, it does not begin");
        // Asked for again here before the first has gone: that one goes without this one.
        let again = line.enter("call_1");
        drop(place);
        assert!(again.begin() && !line.withdraw("call_1"), "begun, it is not taken back");
        drop(again);
        assert!(!line.withdraw("call_1") && line.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_tool_may_have_a_bound_of_its_own() {
        let one = Concurrency {
            calls_max: 1,
            calls_per_tenant_max: 1,
        };
        let queues = Queues::new(Concurrency::default(), BTreeMap::from([("terraform".to_owned(), one)]));
        let _first = now(&queues, "terraform", "a").await.unwrap();
        assert!(now(&queues, "terraform", "b").await.is_none());
    }
}
