//! Whether humans' approvals lift an escalation: for exactly this digest, under this policy, by enough of those who may, in time.

use schemas::records::{ApprovalRef, Decision};

use super::answer::Finding;
use crate::approvers::Question;

/// Takes escalations away when the approvals answer every one of them; else adds why they do not. A deny always stays.
/// Returns the ids of the approvals when they were needed and hold.
pub(super) fn apply(findings: &mut Vec<Finding>, approvals: &[ApprovalRef], question: &Question<'_>) -> Vec<String> {
    if approvals.is_empty() || !findings.iter().any(|f| f.ask.is_some()) {
        return Vec::new();
    }
    let (void, good): (Vec<_>, Vec<_>) = approvals.iter().partition(|a| question.void(a).is_some());
    let unmet = |f: &Finding| f.ask.as_ref().and_then(|ask| question.unmet(ask, &good));
    let open: Vec<_> = findings.iter().filter_map(unmet).collect();
    if open.is_empty() {
        findings.retain(|f| f.ask.is_none());
        let denied = findings.iter().any(|f| f.decision == Decision::Deny);
        let ids = good.iter().map(|a| a.approval_id.clone());
        return if denied { Vec::new() } else { ids.collect() };
    }
    let mut why: Vec<_> = void.into_iter().filter_map(|a| question.void(a)).collect();
    // With none left, what is wrong with those there are says it all.
    if !good.is_empty() {
        why.extend(open);
    }
    why.sort();
    why.dedup();
    for (rule, detail) in why {
        findings.push(Finding::own(Decision::Escalate, rule, detail, None));
    }
    Vec::new()
}
