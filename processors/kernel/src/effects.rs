//! What a step asks for. It is data: the step decides, the loop performs, in one transaction.

use std::sync::Arc;

use schemas::records::{Call, Event};
use schemas::topics::{self, Topic};
use schemas::{Record, Timestamp, digest};

use crate::controls::Controls;
use crate::delivery::Headers;
use crate::fault::{Fault, FaultCode};

/// Event time: the loop's clock as a step sees it.
pub type EventTime = Timestamp;

/// A record to be written, encoded but not yet framed.
#[derive(Clone, Debug)]
pub struct Emit {
    /// Topic.
    pub topic: &'static str,
    /// Partition; `None` lets the key decide.
    pub partition: Option<i32>,
    /// Key.
    pub key: String,
    /// Record name, which is the CloudEvents type.
    pub record: &'static str,
    /// Text of the schema it was written with.
    pub schema_text: &'static str,
    /// That schema, parsed.
    pub schema: fn() -> &'static schemas::Schema,
    /// Avro bytes.
    pub avro: Vec<u8>,
    /// Tenant, for the `soma-tenant` header; empty when it has none.
    pub tenant: String,
    /// Extra headers.
    pub headers: Headers,
    /// Stage that wrote it; the loop fills it in.
    pub stage: Arc<str>,
    /// Stages, as `<pipeline>.<stage>`, that took it in the transaction that writes it; the loop fills it in.
    pub taken_by: Vec<Arc<str>>,
}

/// Header of a record that names, separated by commas, the stages that took it in the transaction that wrote it.
pub const TAKEN_BY: &str = "soma-taken-by";

impl Emit {
    /// Encodes a record for its topic.
    ///
    /// # Errors
    /// The record does not fit its schema.
    pub fn of<R: Record>(topic: Topic<R>, key: impl Into<String>, tenant: &str, record: &R) -> Result<Self, Fault> {
        Ok(Self {
            topic: topic.name,
            partition: None,
            key: key.into(),
            record: R::NAME,
            schema_text: R::schema_text(),
            schema: R::schema,
            avro: record.to_avro().map_err(|e| Fault::new(FaultCode::Internal, e.0))?,
            tenant: tenant.to_owned(),
            headers: Headers::default(),
            stage: Arc::default(),
            taken_by: Vec::new(),
        })
    }
}

/// A timer of one key.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Timer {
    /// Name, unique per key: asking again moves it.
    pub name: String,
    /// When it is due.
    pub due: EventTime,
}

/// How an outside action is to be approached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Approach {
    /// First time: call it.
    Fresh,
    /// The intent was written, the outcome was not: ask the tool's replay rule first.
    Recover,
    /// As [`Approach::Recover`], and a kill or cancel has come since: ask what became of it, send nothing.
    Inquire,
}

/// An outside action to be started once the transaction that records its intent has committed.
#[derive(Clone, Debug)]
pub struct Perform {
    /// The call.
    pub call: Call,
    /// Fresh, or after a crash.
    pub approach: Approach,
}

/// What one step asks for.
pub struct Effects<'a> {
    now: EventTime,
    key: &'a str,
    controls: &'a Controls,
    /// Names the cause: part of derived event ids.
    seed: &'a str,
    /// Records to be written.
    pub emits: Vec<Emit>,
    /// Timers to be set, by name.
    pub timers: Vec<Timer>,
    /// Timers to be dropped, by name.
    pub timers_dropped: Vec<String>,
    /// Outside actions to be started after the commit.
    pub performs: Vec<Perform>,
}

impl<'a> Effects<'a> {
    /// Empty effects. `seed` names the cause (position or timer), so that derived ids are the same on every delivery.
    pub fn new(now: EventTime, key: &'a str, seed: &'a str, controls: &'a Controls) -> Self {
        Self {
            now,
            key,
            controls,
            seed,
            emits: Vec::new(),
            timers: Vec::new(),
            timers_dropped: Vec::new(),
            performs: Vec::new(),
        }
    }

    /// The loop's clock when the step began.
    pub fn now(&self) -> EventTime {
        self.now
    }

    /// Key of the delivery, timer or signal in hand.
    pub fn key(&self) -> &str {
        self.key
    }

    /// Kill switches and pauses as they stand.
    pub fn controls(&self) -> &Controls {
        self.controls
    }

    /// Writes a record.
    ///
    /// # Errors
    /// The record does not fit its schema.
    pub fn emit<R: Record>(
        &mut self,
        topic: Topic<R>,
        key: impl Into<String>,
        tenant: &str,
        record: &R,
    ) -> Result<(), Fault> {
        self.emits.push(Emit::of(topic, key, tenant, record)?);
        Ok(())
    }

    /// Writes an analytics event of this key's run. Its id derives from the cause, so a redelivery writes the same one.
    ///
    /// # Errors
    /// The event does not fit its schema.
    pub fn event(&mut self, tenant: &str, run_id: &str, kind: &str, payload: &[(&str, &str)]) -> Result<(), Fault> {
        let nth = self.emits.len().to_string();
        let event = Event {
            event_id: digest::id("evt", &["event", self.seed, self.key, kind, &nth]),
            ts: self.now,
            tenant: tenant.to_owned(),
            run_id: run_id.to_owned(),
            kind: kind.to_owned(),
            payload: payload
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        };
        let key = if run_id.is_empty() { tenant } else { run_id };
        self.emit(topics::EVENTS, key, tenant, &event)
    }

    /// Wakes this key at `due`; asking again under the same name moves the timer.
    pub fn wake_at(&mut self, timer: impl Into<String>, due: EventTime) {
        let name = timer.into();
        self.timers.retain(|t| t.name != name);
        self.timers_dropped.retain(|t| *t != name);
        self.timers.push(Timer { name, due });
    }

    /// Drops a timer of this key; no harm when there is none.
    pub fn drop_timer(&mut self, timer: impl Into<String>) {
        let name = timer.into();
        self.timers.retain(|t| t.name != name);
        self.timers_dropped.push(name);
    }

    /// Starts an outside action once this step is committed. Its answer comes back as [`Signal::Done`](crate::Signal).
    pub fn perform(&mut self, call: Call, approach: Approach) {
        self.performs.push(Perform { call, approach });
    }
}
