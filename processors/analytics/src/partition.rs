//! What is known of one partition: its counts, what of them was already told, and how far its event time came. It is the unit
//! that is written to the changelog, so everything here must survive a move to another instance. Decides nothing.

use std::collections::BTreeMap;

use kernel::{Fault, FaultCode};
use serde::{Deserialize, Serialize};

/// Width of a window, microseconds.
pub(crate) const MINUTE: i64 = 60_000_000;
const VERSION: u32 = 1;

/// Tenant and type of event.
pub(crate) type Series = (String, String);

/// A count, and the revision it was last told with; `None` when it never was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cell(pub(crate) i64, pub(crate) Option<i32>);

/// One window of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) total: Cell,
    pub(crate) series: BTreeMap<Series, Cell>,
}

/// Events outside every window since the beginning; and the wall-clock minute and revision they were last told with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tally {
    pub(crate) count: i64,
    pub(crate) minute: i64,
    pub(crate) revision: Option<i32>,
}

/// State of one partition. Times are microseconds since the epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Partition {
    /// Newest believable event, never ahead of the clock that saw it.
    pub(crate) newest: Option<i64>,
    /// When it last moved by `now`, or was first looked at. Not kept: a partition that is taken over deserves its full patience.
    pub(crate) quiet_since: Option<i64>,
    pub(crate) too_late: Tally,
    pub(crate) clock_wrong: Tally,
    /// By first instant.
    pub(crate) windows: BTreeMap<i64, Counts>,
}

/// The changelog's form. Names are kept once, because the same tenants and types come back in every window.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Snapshot {
    version: u32,
    newest: Option<i64>,
    too_late: Tally,
    clock_wrong: Tally,
    names: Vec<String>,
    windows: Vec<WindowLine>,
}

/// Start, total, and for each tenant and type (indexes into `names`) its count.
type WindowLine = (i64, Cell, Vec<(usize, usize, Cell)>);

impl Partition {
    /// End of the newest window that was told: the watermark was at least there.
    pub(crate) fn told_until(&self) -> Option<i64> {
        self.windows
            .iter()
            .rev()
            .find(|(_, w)| w.total.1.is_some())
            .map(|(start, _)| start + MINUTE)
    }

    /// Bytes for the changelog; `None` when there is nothing to keep.
    pub(crate) fn snapshot(&self) -> Result<Option<Vec<u8>>, Fault> {
        let empty = Self {
            quiet_since: self.quiet_since,
            ..Self::default()
        };
        if *self == empty {
            return Ok(None);
        }
        let mut ids: BTreeMap<&str, usize> = BTreeMap::new();
        let mut id = |name| {
            let next = ids.len();
            *ids.entry(name).or_insert(next)
        };
        let mut windows = Vec::with_capacity(self.windows.len());
        for (start, counts) in &self.windows {
            let cells = counts
                .series
                .iter()
                .map(|((t, k), cell)| (id(t), id(k), *cell))
                .collect();
            windows.push((*start, counts.total, cells));
        }
        let mut names = vec![String::new(); ids.len()];
        for (name, i) in ids {
            name.clone_into(&mut names[i]);
        }
        let snapshot = Snapshot {
            version: VERSION,
            newest: self.newest,
            too_late: self.too_late,
            clock_wrong: self.clock_wrong,
            names,
            windows,
        };
        let bytes = serde_json::to_vec(&snapshot)
            .map_err(|e| Fault::new(FaultCode::Internal, format!("a window snapshot cannot be written: {e}")))?;
        Ok(Some(bytes))
    }

    /// The state that [`Partition::snapshot`] wrote.
    pub(crate) fn restore(bytes: &[u8]) -> Result<Self, Fault> {
        let unreadable = |detail: String| {
            let fix = "deploy the version that wrote it, or delete the record to begin anew";
            Fault::new(
                FaultCode::StateUnreadable,
                format!("snapshot of events_per_minute: {detail}; {fix}"),
            )
        };
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let version = serde_json::from_slice::<Version>(bytes)
            .map_err(|e| unreadable(e.to_string()))?
            .version;
        if version != VERSION {
            return Err(unreadable(format!(
                "field `version` is {version}, this build reads {VERSION}"
            )));
        }
        let shot: Snapshot = serde_json::from_slice(bytes).map_err(|e| unreadable(e.to_string()))?;
        let name = |i: usize| {
            let known = shot.names.get(i).cloned();
            known.ok_or_else(|| {
                unreadable(format!(
                    "field `windows` names entry {i} of `names`, which is not there"
                ))
            })
        };
        let mut windows = BTreeMap::new();
        for (start, total, cells) in &shot.windows {
            if start.rem_euclid(MINUTE) != 0 {
                return Err(unreadable(format!(
                    "field `windows` has a start of {start} us, which is not a whole minute"
                )));
            }
            let mut series = BTreeMap::new();
            for (tenant, kind, cell) in cells {
                series.insert((name(*tenant)?, name(*kind)?), *cell);
            }
            windows.insert(*start, Counts { total: *total, series });
        }
        Ok(Self {
            newest: shot.newest,
            quiet_since: None,
            too_late: shot.too_late,
            clock_wrong: shot.clock_wrong,
            windows,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn filled() -> Partition {
        let series = |n, r| BTreeMap::from([(("acme".to_owned(), "run.ended".to_owned()), Cell(n, r))]);
        let window = |n, r| Counts {
            total: Cell(n, r),
            series: series(n, r),
        };
        Partition {
            newest: Some(7),
            too_late: Tally {
                count: 3,
                minute: MINUTE,
                revision: Some(1),
            },
            windows: BTreeMap::from([(0, window(5, Some(2))), (MINUTE, window(6, None))]),
            ..Partition::default()
        }
    }

    #[test]
    fn a_snapshot_comes_back_as_it_was_and_nothing_needs_none() {
        let bytes = filled().snapshot().unwrap().unwrap();
        assert_eq!(Partition::restore(&bytes).unwrap(), filled());
        assert_eq!(filled().told_until(), Some(MINUTE));
        assert_eq!(
            Partition {
                quiet_since: Some(1),
                ..Partition::default()
            }
            .snapshot(),
            Ok(None)
        );
    }

    #[test]
    fn a_snapshot_of_another_version_or_a_broken_one_is_refused_by_field() {
        let text = String::from_utf8(filled().snapshot().unwrap().unwrap()).unwrap();
        for (from, to, says) in [
            ("\"version\":1", "\"version\":2", "`version` is 2"),
            ("\"names\":[\"acme\",", "\"names\":[", "`names`"),
            ("[60000000,", "[60000001,", "not a whole minute"),
            ("\"newest\"", "\"newer\"", "newer"),
            ("{", "", "snapshot of events_per_minute"),
        ] {
            let broken = text.replacen(from, to, 1);
            assert_ne!(broken, text, "{from}");
            let fault = Partition::restore(broken.as_bytes()).unwrap_err();
            assert_eq!(fault.code, FaultCode::StateUnreadable);
            assert!(fault.detail.contains(says), "{from}: {}", fault.detail);
        }
    }
}
