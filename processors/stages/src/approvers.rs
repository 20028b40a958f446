//! Who may approve what. The orchestrator counts by this when an answer comes; the gate counts again when what was approved is
//! about to be called, with what is true then.

use kernel::members::Members;
use schemas::Timestamp;
use schemas::records::{ApprovalRef, Ask, HandedOn};

/// What approvals are held against.
pub(crate) struct Question<'a> {
    pub(crate) tenant: &'a str,
    /// Who asked for the run: never an approver of it.
    pub(crate) actor: &'a str,
    pub(crate) run_id: &'a str,
    /// Digest of exactly what is to be approved.
    pub(crate) digest: &'a str,
    pub(crate) revision: &'a str,
    pub(crate) asked_at: Option<Timestamp>,
    pub(crate) now: Timestamp,
    pub(crate) members: &'a Members,
}

/// A code, and the same in a sentence.
pub(crate) type Refusal = (&'static str, String);

impl Question<'_> {
    /// Why an approval counts for nothing here, whatever is asked.
    pub(crate) fn void(&self, approval: &ApprovalRef) -> Option<Refusal> {
        if approval.approval_id.is_empty() || approval.approver.trim().is_empty() {
            return Some(("approval.incomplete", "the approval names no id or no approver".into()));
        }
        if !approval.run_id.is_empty() && approval.run_id != self.run_id {
            let detail = format!(
                "the approval was given for run {}, this is {}",
                approval.run_id, self.run_id
            );
            return Some(("approval.other_run", detail));
        }
        if approval.approver == self.actor || approval.on_behalf_of.as_deref() == Some(self.actor) {
            let detail = format!(
                "{} asked for this and cannot approve it: somebody else must",
                self.actor
            );
            return Some(("approval.self", detail));
        }
        if approval.digest != self.digest {
            let detail = format!(
                "the approval is for digest {}, this is {}: approve what is shown now",
                approval.digest, self.digest
            );
            return Some(("approval.digest", detail));
        }
        if approval.policy_revision != self.revision {
            let detail = format!(
                "the policy changed since revision {} was approved under, this is {}: approve again",
                approval.policy_revision, self.revision
            );
            return Some(("approval.policy_revision", detail));
        }
        let end = approval.expires_at.filter(|end| *end <= self.now)?;
        Some((
            "approval.expired",
            format!("the approval ended at {end}: approve again"),
        ))
    }

    /// Whether somebody may approve what is asked. Nobody named means anyone but the actor.
    pub(crate) fn may(&self, ask: &Ask, person: &str) -> bool {
        let among = |names: &[String], roles: &[String]| {
            names.iter().any(|n| n == person) || self.members.holds(self.tenant, person, roles)
        };
        let waited_s = self
            .asked_at
            .map_or(0, |since| self.now.micros_since(since) / 1_000_000);
        let deputy = || {
            let due = ask.deputies.iter().filter(|d| d.after_s <= waited_s);
            due.into_iter().any(|d| among(&d.approvers, &d.roles))
        };
        person != self.actor && (is_open(ask) || among(&ask.approvers, &ask.roles) || deputy())
    }

    /// Whether an approval counts for what is asked: the rule was among those shown, and the approver, or who handed the
    /// decision on, may approve.
    fn carries(&self, ask: &Ask, approval: &ApprovalRef) -> bool {
        let person = approval.on_behalf_of.as_ref().unwrap_or(&approval.approver);
        shown(ask, approval) && self.may(ask, person)
    }

    /// How many of these approvals count for what is asked. Nobody counts twice, in person or through somebody else.
    pub(crate) fn count(&self, ask: &Ask, approvals: &[&ApprovalRef]) -> usize {
        let mut spoken: Vec<&str> = Vec::new();
        let mut counted = 0;
        for approval in approvals.iter().filter(|a| self.carries(ask, a)) {
            let people = [Some(approval.approver.as_str()), approval.on_behalf_of.as_deref()];
            if people.iter().flatten().any(|p| spoken.contains(p)) {
                continue;
            }
            spoken.extend(people.iter().flatten());
            counted += 1;
        }
        counted
    }

    /// Whether an ask is answered; why not where somebody approved who does not count, or too few did.
    pub(crate) fn unmet(&self, ask: &Ask, approvals: &[&ApprovalRef]) -> Option<Refusal> {
        let (have, want) = (self.count(ask, approvals), wanted(ask));
        if have >= want {
            return None;
        }
        if let Some(blind) = approvals.iter().find(|a| !shown(ask, a)) {
            let detail = format!(
                "{} was not among the reasons {} was shown: approve again",
                ask.rule, blind.approver
            );
            return Some(("approval.not_shown", detail));
        }
        if let Some(unfit) = approvals.iter().find(|a| !self.carries(ask, a)) {
            return Some(unfit_for(ask, unfit));
        }
        let detail = format!("{} needs {want} approvals, {have} count", ask.rule);
        Some(("approval.quorum", detail))
    }
}

fn shown(ask: &Ask, approval: &ApprovalRef) -> bool {
    approval.rules.is_empty() || approval.rules.contains(&ask.rule)
}

/// Anyone but the actor may answer.
fn is_open(ask: &Ask) -> bool {
    ask.approvers.is_empty() && ask.roles.is_empty()
}

/// At least one, whatever a record says.
fn wanted(ask: &Ask) -> usize {
    usize::try_from(ask.quorum).unwrap_or(1).max(1)
}

/// That somebody may not answer an ask.
pub(crate) fn unfit_for(ask: &Ask, approval: &ApprovalRef) -> Refusal {
    let who = approval.on_behalf_of.as_ref().unwrap_or(&approval.approver);
    let code = if ask.roles.is_empty() {
        "approval.approver"
    } else {
        "approval.role"
    };
    (code, format!("{} needs {}, not {who}", ask.rule, who_may(ask)))
}

/// Who may answer, in words.
pub(crate) fn who_may(ask: &Ask) -> String {
    if is_open(ask) {
        return "anyone but who asked".to_owned();
    }
    let mut parts = Vec::new();
    if !ask.approvers.is_empty() {
        parts.push(format!("one of {}", ask.approvers.join(", ")));
    }
    if !ask.roles.is_empty() {
        parts.push(format!("somebody with role {}", ask.roles.join(" or ")));
    }
    parts.join(" or ")
}

/// On whose behalf somebody decides who may not decide in person: the first of those who handed it on, or had it handed on to
/// them, who may.
pub(crate) fn principal<'a>(handed_on: &'a [HandedOn], person: &str, may: impl Fn(&str) -> bool) -> Option<&'a str> {
    let mut reached = vec![person];
    let mut next = 0;
    while let Some(to) = reached.get(next).copied() {
        next += 1;
        for step in handed_on.iter().filter(|h| h.to == to) {
            if may(&step.from) {
                return Some(&step.from);
            }
            if !reached.contains(&step.from.as_str()) {
                reached.push(&step.from);
            }
        }
    }
    None
}
