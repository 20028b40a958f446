//! Partitions that were given to a stage and are read back, in pieces, while those it has go on.

use std::collections::BTreeSet;
use std::time::Duration;

use kernel::{Blame, Fault};

use crate::part::Member;
use crate::restore::Reading;
use crate::stage::{Backoff, StageContext};

type Parts = Vec<(String, i32)>;

/// How long a piece may take: about as long as a transaction, so that what is owned has half of the time. A rebalance may wait as long to be heard of.
const PIECE: Duration = Duration::from_millis(20);

/// Partitions on their way to being at work.
#[derive(Default)]
pub(crate) struct Coming {
    /// Given, not begun.
    given: Parts,
    reading: Option<(Parts, Reading)>,
    backoff: Backoff,
}

impl Coming {
    /// Partitions the group gave.
    pub(crate) fn give(&mut self, parts: Parts) {
        self.given.extend(parts);
    }

    /// Whether something is to be done for them now.
    pub(crate) fn is_under_way(&self, cx: &StageContext) -> bool {
        !self.is_empty() && self.backoff.over(cx.clock.as_ref())
    }

    /// Whether none is on its way.
    pub(crate) fn is_empty(&self) -> bool {
        self.given.is_empty() && self.reading.is_none()
    }

    /// These are another's. What was read of others beside them is read again: one reading is one answer.
    pub(crate) fn without(&mut self, cx: &mut StageContext, gone: &BTreeSet<i32>) {
        let hit = |parts: &Parts| parts.iter().any(|part| gone.contains(&part.1));
        if self.reading.as_ref().is_some_and(|(parts, _)| hit(parts)) {
            self.again(cx);
        }
        self.given.retain(|part| !gone.contains(&part.1));
    }

    /// What was read so far counts for nothing.
    pub(crate) fn again(&mut self, cx: &mut StageContext) {
        let Some((parts, _)) = self.reading.take() else {
            return;
        };
        self.given.extend(parts);
        if let Err(fault) = cx.log.restore_begin(&[]) {
            tracing::debug!(stage = %cx.stage, detail = %fault.detail, "changelogs are still read");
        }
    }

    /// Goes on for a while; those that are at work from here on. A dependency that is not there is waited for, beside the others' work.
    pub(crate) fn go_on(
        &mut self,
        members: &mut [Box<dyn Member>],
        cx: &mut StageContext,
        owned: usize,
    ) -> Result<Parts, Fault> {
        if !self.is_under_way(cx) {
            return Ok(Parts::new());
        }
        match self.piece(members, cx, owned) {
            Err(fault) if fault.blame == Blame::Dependency => {
                self.again(cx);
                cx.waiting(&fault, &mut self.backoff, owned);
                Ok(Parts::new())
            }
            Ok(came) => {
                self.backoff = Backoff::default();
                Ok(came)
            }
            failed => failed,
        }
    }

    fn piece(&mut self, members: &mut [Box<dyn Member>], cx: &mut StageContext, owned: usize) -> Result<Parts, Fault> {
        let (parts, mut reading) = match self.reading.take() {
            Some(begun) => begun,
            None => {
                let numbers = self.given.iter().map(|part| part.1).collect();
                tracing::info!(stage = %cx.stage, partitions = ?numbers, "partitions given");
                let reading = Reading::begin(members, cx, &numbers, owned)?;
                (std::mem::take(&mut self.given), reading)
            }
        };
        let read = match reading.more(members, cx, owned, PIECE) {
            Ok(true) => cx.log.start(&parts).map(|()| true),
            other => other,
        };
        match read {
            Ok(true) => reading.came(members, cx).map(|()| parts),
            other => {
                self.reading = Some((parts, reading));
                other.map(|_| Parts::new())
            }
        }
    }
}
