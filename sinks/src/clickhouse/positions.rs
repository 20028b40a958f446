//! How far each partition has been kept. Pure bookkeeping; asking ClickHouse is the sink's part.
//!
//! A batch that comes again may have other boundaries. What recognises it: an insert is one block and therefore all or nothing, in
//! offset order, so everything up to the greatest offset kept has been kept. And two inserts that begin at the same record
//! have the same token, so that of two who ask at the same time only one can write.

use kernel::{Fault, FaultCode};
use schemas::Timestamp;

/// What ClickHouse holds of a partition: the greatest offset and the latest record time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Greatest offset.
    pub(crate) offset: i64,
    /// Latest time stamped on a record.
    pub(crate) at: Timestamp,
}

/// Number of leading rows, given as (offset, time) in offset order, that are kept already.
///
/// # Errors
/// `STORE_REFUSED` when the topic starts again: an offset we hold carries a record that is newer than all we hold. To
/// skip it would lose it silently.
pub(crate) fn kept_already(place: &str, rows: &[(i64, Timestamp)], kept: Option<Kept>) -> Result<usize, Fault> {
    let Some(kept) = kept else { return Ok(0) };
    let count = rows.iter().take_while(|(offset, _)| *offset <= kept.offset).count();
    if let Some((offset, at)) = rows[..count].iter().find(|(_, at)| *at > kept.at) {
        let detail = format!(
            "{place}: offset {offset} of {at} is newer than everything kept, and yet offsets to {} are kept: the topic \
             was created anew. Delete the old topic's rows of this partition, or give this platform a database of its own.",
            kept.offset
        );
        return Err(Fault::new(FaultCode::StoreRefused, detail));
    }
    Ok(count)
}

/// The token of an insert that begins with this record. ClickHouse takes one insert of a token: of two instances that go on from
/// the same place, one of them frozen in the middle of it and out of the group since, only the first is kept, whatever
/// the bounds of their batches. The other finds its rows missing when it asks, and goes on behind what is kept.
pub(crate) fn token(topic: &str, partition: i32, (offset, at): (i64, Timestamp)) -> String {
    format!("{topic}:{partition}:{offset}@{}", at.0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn rows(offsets: std::ops::Range<i64>) -> Vec<(i64, Timestamp)> {
        offsets.map(|o| (o, Timestamp(o * 10))).collect()
    }

    #[test]
    fn other_boundaries_are_recognised() {
        let kept = Some(Kept {
            offset: 6,
            at: Timestamp(60),
        });
        assert_eq!(kept_already("t/0", &rows(3..10), kept).unwrap(), 4);
        assert_eq!(kept_already("t/0", &rows(7..10), kept).unwrap(), 0);
        assert_eq!(kept_already("t/0", &rows(1..5), kept).unwrap(), 4);
        assert_eq!(kept_already("t/0", &rows(0..3), None).unwrap(), 0);
    }

    #[test]
    fn a_topic_created_anew_is_not_skipped() {
        let kept = Some(Kept {
            offset: 100,
            at: Timestamp(20),
        });
        let fault = kept_already("t/0", &rows(0..5), kept).unwrap_err();
        assert_eq!(fault.code, FaultCode::StoreRefused);
        assert!(fault.detail.contains("offset 3"), "{}", fault.detail);
    }
}
