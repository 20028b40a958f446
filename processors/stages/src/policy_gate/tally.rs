//! What policies count over the runs of a tenant: each allowed step that a rule or a constitution counts becomes a record, which every
//! gate is told of. How many within which time are too many is a matter of policy.

use kernel::{Effects, Fault};
use schemas::records::{Decision, Tally, Verdict};
use schemas::{digest, topics};

use super::answer::Tallied;

/// Counts the steps that the verdict lets go: those it signed, once under each name.
pub(super) fn count(verdict: &Verdict, actor: &str, tallied: &[Tallied], fx: &mut Effects<'_>) -> Result<(), Fault> {
    if tallied.is_empty() || verdict.decision != Decision::Allow {
        return Ok(());
    }
    for step in verdict.steps.iter().filter(|s| !s.signature.is_empty()) {
        let mine = tallied
            .iter()
            .filter(|t| t.step_id.as_ref().is_none_or(|id| *id == step.step_id));
        let names: std::collections::BTreeSet<_> = mine.map(|t| t.name.as_str()).collect();
        for name in names {
            let tally = Tally {
                tally_id: digest::id("tly", &["tally", name, &verdict.run_id, &step.step_id]),
                tenant: verdict.tenant.clone(),
                name: name.to_owned(),
                run_id: verdict.run_id.clone(),
                step_id: step.step_id.clone(),
                actor: actor.to_owned(),
                verdict_id: verdict.verdict_id.clone(),
                counted_at: verdict.decided_at,
            };
            fx.emit(topics::TALLIES, verdict.tenant.as_str(), &verdict.tenant, &tally)?;
        }
    }
    Ok(())
}
