//! Dead letters: the original bytes, untouched, with headers that say where they came from and why.

use kernel::{Fault, RawEmit, RawRecord};
use schemas::Timestamp;
use schemas::topics::dlq_of;

const DETAIL_BYTES_MAX: usize = 2000;

/// The dead letter of a record.
pub(crate) fn letter(record: &RawRecord, stage: &str, fault: &Fault, attempts: u32, now: Timestamp) -> RawEmit {
    let mut headers = record.headers.clone();
    let replays = headers.text("soma-dlq-replays").unwrap_or("0").to_owned();
    let mut detail = fault.detail.clone();
    while detail.len() > DETAIL_BYTES_MAX {
        detail.pop();
    }
    for (name, value) in [
        ("soma-dlq-topic", record.position.topic.to_string()),
        ("soma-dlq-partition", record.position.partition.to_string()),
        ("soma-dlq-offset", record.position.offset.to_string()),
        ("soma-dlq-stage", stage.to_owned()),
        ("soma-dlq-code", fault.code.to_string()),
        ("soma-dlq-detail", detail),
        ("soma-dlq-attempts", attempts.to_string()),
        ("soma-dlq-at", now.to_string()),
        ("soma-dlq-replays", replays),
    ] {
        headers.set(name, value);
    }
    RawEmit {
        topic: dlq_of(&record.position.topic).into(),
        partition: None,
        key: record.key.clone(),
        value: record.value.as_deref().map(Into::into),
        headers,
    }
}
