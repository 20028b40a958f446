//! Whether a human's approval lifts an escalation: for exactly this digest, under this policy, by somebody else, in time.

use schemas::Timestamp;
use schemas::records::{ApprovalRef, Decision};

use super::judge::Finding;

/// What an approval is held against.
pub(super) struct Facts<'a> {
    pub(super) actor: &'a str,
    /// Digest of the subject as recomputed; the proposal's own where a plan cannot be recomputed from its steps.
    pub(super) digest: &'a str,
    pub(super) revision: &'a str,
    pub(super) now: Timestamp,
}

/// Takes escalations away when the approval holds; else adds why it does not. A deny always stays.
/// Returns the approval's id when it was needed and holds.
pub(super) fn apply(findings: &mut Vec<Finding>, approval: Option<&ApprovalRef>, facts: &Facts<'_>) -> Option<String> {
    let approval = approval?;
    let asked = |f: &Finding| f.decision == Decision::Escalate;
    if !findings.iter().any(asked) {
        return None;
    }
    if let Some((rule, why)) = refused(findings, approval, facts) {
        findings.push(Finding::own(Decision::Escalate, rule, why, None));
        return None;
    }
    findings.retain(|f| !asked(f));
    let denied = findings.iter().any(|f| f.decision == Decision::Deny);
    (!denied).then(|| approval.approval_id.clone())
}

fn refused(findings: &[Finding], approval: &ApprovalRef, facts: &Facts<'_>) -> Option<(&'static str, String)> {
    if approval.approval_id.is_empty() || approval.approver.trim().is_empty() {
        return Some(("approval.incomplete", "the approval names no id or no approver".into()));
    }
    if approval.approver == facts.actor {
        return Some((
            "approval.self",
            format!(
                "{} asked for this and cannot approve it: somebody else must",
                facts.actor
            ),
        ));
    }
    if approval.digest != facts.digest {
        let detail = format!(
            "the approval is for digest {}, this is {}: approve what is shown now",
            approval.digest, facts.digest
        );
        return Some(("approval.digest", detail));
    }
    if approval.policy_revision != facts.revision {
        let detail = format!(
            "the policy changed since revision {} was approved under: approve again",
            approval.policy_revision
        );
        return Some(("approval.policy_revision", detail));
    }
    if let Some(end) = approval.expires_at.filter(|end| *end <= facts.now) {
        return Some((
            "approval.expired",
            format!("the approval ended at {end}: approve again"),
        ));
    }
    let mut lists = findings.iter().filter(|f| !f.approvers.is_empty());
    let unfit = lists.find(|f| !f.approvers.contains(&approval.approver))?;
    let detail = format!(
        "{} needs one of {}, not {}",
        unfit.violation.rule,
        unfit.approvers.join(", "),
        approval.approver
    );
    Some(("approval.approver", detail))
}
