//! Values that are to be unique, as 128-bit hashes with the event time of the record that had them. Kept as a log: what a commit
//! adds is one record of the changelog per stretch of event time, and a stretch is dropped whole.

use std::collections::{BTreeMap, HashMap};

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use kernel::{Fault, FaultCode};
use xxhash_rust::xxh3::xxh3_128;

use super::windows::floor;

/// Width of a stretch, microseconds.
const STRETCH: i64 = 3_600_000_000;
const ENTRY: usize = 24;

/// The values of one source partition.
#[derive(Default)]
pub(crate) struct Seen {
    known: HashMap<u128, i64>,
    /// By start of a stretch: hashes that are in the changelog under its name, and numbers of those records.
    stretches: BTreeMap<i64, (Vec<u128>, Vec<u64>)>,
    fresh: BTreeMap<i64, Vec<u8>>,
    next: u64,
}

/// A value's hash; `None` for null, which is never a duplicate.
pub(crate) fn hashes(column: &ArrayRef) -> Result<Vec<Option<u128>>, Fault> {
    let text = cast(column, &DataType::Utf8View).map_err(|e| {
        Fault::new(
            FaultCode::Internal,
            format!("unique values cannot be read as text: {e}"),
        )
    })?;
    let text = text.as_string_view();
    Ok((0..text.len())
        .map(|row| text.is_valid(row).then(|| xxh3_128(text.value(row).as_bytes())))
        .collect())
}

impl Seen {
    /// Whether no record since `horizon` had it. One that is older than the horizon itself is not remembered.
    pub(crate) fn first(&mut self, hash: u128, ts: i64, horizon: i64) -> bool {
        if self.known.get(&hash).is_some_and(|at| *at >= horizon) {
            return false;
        }
        if ts >= horizon {
            self.put(hash, ts);
            let fresh = self.fresh.entry(floor(ts, STRETCH)).or_default();
            fresh.extend(hash.to_le_bytes());
            fresh.extend(ts.to_le_bytes());
        }
        true
    }

    fn put(&mut self, hash: u128, ts: i64) {
        self.known.insert(hash, ts);
        self.stretches.entry(floor(ts, STRETCH)).or_default().0.push(hash);
    }

    /// Bytes it takes, about.
    pub(crate) fn size(&self) -> usize {
        self.known.capacity() * 32 + self.stretches.values().map(|(h, _)| h.capacity() * 16).sum::<usize>()
    }

    /// Changes since the last call, and what lies before the horizon taken away: `stretch|number` and value.
    pub(crate) fn changes(&mut self, horizon: i64) -> Vec<(String, Option<Vec<u8>>)> {
        let mut out = Vec::new();
        for (stretch, bytes) in std::mem::take(&mut self.fresh) {
            // A stretch may hold more than a record takes.
            for piece in bytes.chunks(ENTRY * 16_384) {
                self.stretches.entry(stretch).or_default().1.push(self.next);
                out.push((format!("{stretch}|{}", self.next), Some(piece.to_vec())));
                self.next += 1;
            }
        }
        while let Some(first) = self
            .stretches
            .first_entry()
            .filter(|e| e.key().saturating_add(STRETCH) <= horizon)
        {
            let stretch = *first.key();
            let (hashes, numbers) = first.remove();
            for hash in hashes {
                // The same value may have come again later.
                if self.known.get(&hash).is_some_and(|ts| floor(*ts, STRETCH) == stretch) {
                    self.known.remove(&hash);
                }
            }
            out.extend(numbers.into_iter().map(|number| (format!("{stretch}|{number}"), None)));
        }
        out
    }

    /// Takes back what [`Seen::changes`] gave.
    pub(crate) fn restore(&mut self, key: &str, value: Option<&[u8]>) -> Result<(), Fault> {
        let wrong = || {
            Fault::new(
                FaultCode::StateUnreadable,
                format!("unique values under `{key}` cannot be read"),
            )
        };
        let (stretch, number) = key.split_once('|').ok_or_else(wrong)?;
        let stretch: i64 = stretch.parse().map_err(|_| wrong())?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        self.next = self.next.max(number + 1);
        let Some(value) = value else { return Ok(()) };
        self.stretches.entry(stretch).or_default().1.push(number);
        for entry in value.chunks(ENTRY) {
            let (hash, ts) = entry.split_first_chunk::<16>().ok_or_else(wrong)?;
            let ts = ts.first_chunk::<8>().ok_or_else(wrong)?;
            self.put(u128::from_le_bytes(*hash), i64::from_le_bytes(*ts));
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn values_are_known_until_the_horizon_also_after_a_restore() {
        let mut seen = Seen::default();
        assert!(seen.first(1, 10, 0) && seen.first(2, STRETCH + 5, 0));
        assert!(!seen.first(1, 10, 0));
        let changes = seen.changes(0);
        assert_eq!(changes.len(), 2);
        let mut restored = Seen::default();
        for (key, value) in &changes {
            restored.restore(key, value.as_deref()).unwrap();
        }
        assert!(!restored.first(1, 10, 0) && !restored.first(2, 7, 0));
        assert!(restored.first(1, 10, 11), "older than the horizon");
        let gone = restored.changes(STRETCH);
        assert_eq!(
            gone.iter().map(|(k, v)| (k.as_str(), v.is_none())).collect::<Vec<_>>(),
            [("0|0", true)]
        );
        assert_eq!(restored.known.len(), 1);
        assert!(restored.changes(STRETCH).is_empty());
    }
}
