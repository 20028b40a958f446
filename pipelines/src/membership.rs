//! Sees to it that every partition a stage reads has an owner: looks taken by the Kafka client, told in metrics and log.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::wire::Shared;

const TURN: Duration = Duration::from_secs(1);
const RUNBOOK: &str = "deploy/runbooks/alerts/SomaPartitionsUnowned.md";

/// Watches until the process stops.
pub(crate) fn keep(shared: &Shared) {
    while !shared.stop.load(Ordering::SeqCst) {
        std::thread::park_timeout(TURN);
        let looks = match shared.watch.turn() {
            Ok(looks) => looks,
            Err(fault) => {
                tracing::debug!(detail = %fault.detail, "no look at the groups");
                continue;
            }
        };
        for look in looks {
            shared.metrics.gauge(&look.stage, "unowned", look.unowned.len());
            if look.asked {
                tracing::warn!(stage = %look.stage, partitions = ?look.unowned, runbook = RUNBOOK, "partitions without an owner; asked the group to share out anew");
            }
        }
    }
}
