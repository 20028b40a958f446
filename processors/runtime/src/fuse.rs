//! Fusion: what one member of a task writes and another reads is stepped in the same transaction, and still written to its
//! topic: a record of the same key, or of one that belongs to the same partition. The record carries, in `soma-taken-by`, the
//! stages that have taken it so; when it comes back from the topic they pass it over, in whatever layout they run by then. A
//! record no member could take (a key of another partition, unreadable) is not marked and comes back the slow way, where it is
//! stepped or dead-lettered like any other.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use kernel::{Blame, Decoder, Emit, Fault, Headers, Position, RawRecord};
use schemas::Written;
use schemas::topics::Catalogue;

use crate::batch::Batch;
use crate::part::{Member, Moment};

/// Records one cause may set off within one transaction; more come back through their topics.
const CASCADE_MAX: usize = 10_000;

/// Which members read what.
pub(crate) struct Fuse {
    pipeline: String,
    /// Topics people write to. No member does, so nothing on them was taken by any, whatever a header says.
    users: BTreeSet<String>,
    /// `<pipeline>.<stage>` of each member.
    names: Vec<Arc<str>>,
    readers: BTreeMap<String, Vec<usize>>,
    schemas: HashMap<&'static str, Arc<Written>>,
}

/// Bytes written in this very transaction: their schema is the one they were written with.
struct Own(Arc<Written>);

impl Decoder for Own {
    fn unframe<'a>(&self, value: &'a [u8]) -> Result<(Arc<Written>, &'a [u8]), Fault> {
        Ok((self.0.clone(), value))
    }
}

/// Whether the header `soma-taken-by` names a stage of a pipeline.
fn is_taken(header: &str, pipeline: &str, stage: &str) -> bool {
    header
        .split(',')
        .any(|name| name.strip_prefix(pipeline).and_then(|n| n.strip_prefix('.')) == Some(stage))
}

impl Fuse {
    pub(crate) fn new(pipeline: &str, members: &[Box<dyn Member>]) -> Self {
        let mut readers: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (i, member) in members.iter().enumerate() {
            for topic in member.topics() {
                readers.entry(topic.to_owned()).or_default().push(i);
            }
        }
        let catalogue = Catalogue::load().map(|c| c.topics).unwrap_or_default();
        let users = catalogue.into_iter().filter(|t| t.owner == "users").map(|t| t.name);
        Self {
            pipeline: pipeline.to_owned(),
            users: users.collect(),
            names: members
                .iter()
                .map(|m| format!("{pipeline}.{}", m.name()).into())
                .collect(),
            readers,
            schemas: HashMap::new(),
        }
    }

    /// Whether a stage took this record in the transaction that wrote it.
    pub(crate) fn has_taken(&self, stage: &str, record: &RawRecord) -> bool {
        let header = record.headers.text(kernel::TAKEN_BY);
        let header = header.filter(|_| !self.users.contains(&*record.position.topic));
        header.is_some_and(|header| is_taken(header, &self.pipeline, stage))
    }

    pub(crate) fn readers(&self, topic: &str) -> &[usize] {
        self.readers.get(topic).map(Vec::as_slice).unwrap_or_default()
    }

    /// Hands on what was written from `cursor` on, and what that sets off, until it is quiet. The new cursor.
    pub(crate) fn hand_on(
        &mut self,
        at: &Moment<'_>,
        members: &mut [Box<dyn Member>],
        batch: &mut Batch,
        mut cursor: usize,
    ) -> Result<usize, Fault> {
        if members.len() < 2 {
            return Ok(cursor);
        }
        let until = cursor + CASCADE_MAX;
        while let Some((emit, trace, cause)) = batch.written(cursor).filter(|_| cursor < until) {
            let Some((cause, nth)) = cause else {
                cursor += 1;
                continue;
            };
            let readers = self.readers.get(emit.topic).map(Vec::as_slice).unwrap_or_default();
            let partition = cause.partition;
            // Another key may live in another partition, whose state may be elsewhere.
            if readers.is_empty() || (emit.key != cause.key && at.cx.log.home(&emit.key) != Some(partition)) {
                cursor += 1;
                continue;
            }
            let own = Own(self
                .schemas
                .entry(emit.record)
                .or_insert_with(|| Arc::new(Written::with((emit.schema)().clone())))
                .clone());
            let seed = format!("{}>{nth}", cause.seed);
            let record = record(emit, trace, partition, at);
            for &i in readers {
                let (Some(member), Some(name)) = (members.get_mut(i), self.names.get(i)) else {
                    continue;
                };
                match member.deliver(at, &record, &seed, &own, batch) {
                    Ok(()) => batch.taken_by(cursor, name, partition),
                    // Left unmarked: it comes back with a position, to be dead-lettered with its bytes.
                    Err(fault) if fault.blame == Blame::Input => {
                        tracing::debug!(stage = %name, code = %fault.code, "left to its topic");
                    }
                    Err(fault) => return Err(fault),
                }
            }
            cursor += 1;
        }
        Ok(cursor)
    }
}

fn record(emit: &Emit, trace: Option<&str>, partition: i32, at: &Moment<'_>) -> RawRecord {
    let headers = Headers::build(|put| {
        emit.headers.iter().for_each(|(name, value)| put(name, value));
        if let Some(trace) = trace {
            put("traceparent", trace.as_bytes());
        }
        if !emit.tenant.is_empty() {
            put("soma-tenant", emit.tenant.as_bytes());
        }
    });
    RawRecord {
        // Not known before the commit.
        position: Position {
            topic: emit.topic.into(),
            partition,
            offset: -1,
        },
        key: emit.key.clone(),
        value: Some(emit.avro.clone()),
        headers,
        at: at.now,
    }
}

#[cfg(test)]
mod tests {
    use super::{Fuse, is_taken};
    use kernel::{Headers, Position, RawRecord};

    #[test]
    fn a_header_forged_on_a_topic_people_write_to_says_nothing() {
        let fuse = Fuse::new("control-tower", &[]);
        let on = |topic: &str| RawRecord {
            position: Position {
                topic: topic.into(),
                partition: 0,
                offset: 0,
            },
            key: "k".into(),
            value: None,
            headers: Headers::build(|put| put(kernel::TAKEN_BY, b"control-tower.intake")),
            at: schemas::Timestamp(0),
        };
        assert!(fuse.has_taken("intake", &on("soma.plans")));
        assert!(!fuse.has_taken("orchestrator", &on("soma.plans")));
        for topic in ["soma.requests", "soma.approvals", "soma.delegations", "soma.controls"] {
            assert!(!fuse.has_taken("intake", &on(topic)), "{topic}");
        }
    }

    #[test]
    fn only_the_named_stage_of_the_named_pipeline_has_taken_it() {
        let header = "control-tower.policy_gate,control-tower.orchestrator";
        assert!(is_taken(header, "control-tower", "orchestrator"));
        assert!(!is_taken(header, "control-tower", "invoker"));
        assert!(!is_taken(header, "control", "tower.orchestrator"));
        assert!(!is_taken("", "control-tower", "orchestrator"));
        assert!(!is_taken(
            "control-tower.orchestrator2",
            "control-tower",
            "orchestrator"
        ));
    }
}
