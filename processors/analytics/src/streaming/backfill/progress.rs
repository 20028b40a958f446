//! How far the running stage has come with a view, as its changelog says: which windows it will never tell again.

use std::collections::BTreeMap;

use kernel::{EventTime, Fault, FaultCode};
use schemas::Timestamp;

use super::super::windows::Window;
use super::Backfill;

/// What a stage's changelog says of one view.
pub struct Progress {
    view: String,
    mark: u64,
    /// How long after its end the stage may still tell a window again.
    open: i64,
    /// By partition: windows that end until then were told.
    until: BTreeMap<i32, Option<i64>>,
}

impl Backfill {
    /// What is to be read from the changelog of its stage, which has these partitions.
    pub fn progress(&self, partitions: impl Iterator<Item = i32>) -> Progress {
        let view = &self.finish.view;
        // Of a hop the last window that holds a record decides whether it is late, and a session may grow by a gap.
        let more = match view.window {
            Window::Tumble { .. } => 0,
            Window::Hop { width, .. } => width,
            Window::Session { gap } => gap,
        };
        Progress {
            view: view.name.clone(),
            mark: view.mark,
            open: self.lateness.saturating_add(more),
            until: partitions.map(|p| (p, None)).collect(),
        }
    }
}

impl Progress {
    /// Takes a record of the changelog.
    ///
    /// # Errors
    /// `STATE_UNREADABLE` when the stage runs another text of the view.
    pub fn take(&mut self, partition: i32, key: &str, value: Option<&[u8]>) -> Result<(), Fault> {
        let mine = key.strip_prefix("f|").and_then(|rest| rest.split_once('|'));
        let number = value.and_then(|v| v.first_chunk::<8>());
        match (mine, number) {
            (Some((view, "u")), Some(until)) if view == self.view => {
                self.until.insert(partition, Some(i64::from_le_bytes(*until)));
            }
            (Some((view, "m")), Some(mark)) if view == self.view && u64::from_le_bytes(*mark) != self.mark => {
                let detail = format!(
                    "the stage runs another text of view `{view}`: what it tells and what is computed here are not the same thing"
                );
                return Err(Fault::new(FaultCode::StateUnreadable, detail));
            }
            _ => {}
        }
        Ok(())
    }

    /// Windows that end until then the stage will never tell again; `None` when it has not told any yet.
    pub fn settled(&self) -> Option<EventTime> {
        let least = self.until.values().copied().min().flatten()?;
        Some(Timestamp(least.saturating_sub(self.open)))
    }
}
