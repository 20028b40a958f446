//! Another policy over recorded history: every plan and proposal that was judged, judged again with it, at the time it was judged.

use std::collections::{BTreeMap, BTreeSet};

use kernel::Fault;
use kernel::members::Members;
use schemas::records::{Decision, Plan, Proposal, Subject, Verdict};
use serde::Serialize;
use stages::policy_gate::{Input, PolicyGate, verdict_id};

/// What was put before the gate.
pub(crate) enum Put {
    /// A plan.
    Plan(Box<Plan>),
    /// A proposal.
    Proposal(Box<Proposal>),
}

/// A verdict that would come out otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Change {
    /// Verdict as recorded.
    pub(crate) verdict_id: String,
    /// Run.
    pub(crate) run_id: String,
    /// Tenant.
    pub(crate) tenant: String,
    /// `PLAN` or `STEP`.
    pub(crate) subject: &'static str,
    /// Plan or step.
    pub(crate) subject_id: String,
    /// Tools of its steps.
    pub(crate) tools: String,
    /// Decision as recorded.
    pub(crate) before: &'static str,
    /// Decision the other policy gives.
    pub(crate) after: &'static str,
    /// Rules that speak against it now and did not.
    pub(crate) rules_new: Vec<String>,
    /// Rules that spoke against it and do not now.
    pub(crate) rules_gone: Vec<String>,
    /// Why, as the other policy says it.
    pub(crate) reason: String,
}

/// What came of a backtest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Backtest {
    /// Verdicts given again.
    pub(crate) judged: usize,
    /// Of these, with another decision.
    pub(crate) changes: Vec<Change>,
    /// Same decision, other rules.
    pub(crate) reworded: usize,
    /// Plans and proposals whose verdict is not among those read.
    pub(crate) unmatched: usize,
}

impl Put {
    /// Run, kind, subject, cause and digest: what a verdict's id is made of.
    fn parts(&self) -> (&str, &'static str, &str, &str, String) {
        match self {
            Put::Plan(p) => {
                let digest = schemas::digest::plan(&p.run_id, &p.steps).unwrap_or_default();
                (&p.run_id, "PLAN", &p.plan_id, "plan", digest)
            }
            Put::Proposal(p) => {
                let (kind, digest) = match (p.subject, p.steps.as_slice()) {
                    (Subject::Step, [s]) => {
                        let own = schemas::digest::action(&s.tool, &s.operation, &s.arguments);
                        ("STEP", own.unwrap_or_default())
                    }
                    (Subject::Step, _) => ("STEP", p.subject_digest.clone()),
                    (Subject::Plan, _) => ("PLAN", p.subject_digest.clone()),
                };
                (&p.run_id, kind, &p.subject_id, &p.proposal_id, digest)
            }
        }
    }

    /// Whether a verdict is about this.
    pub(crate) fn was_judged(&self, verdict: &Verdict) -> bool {
        let (run, kind, subject, cause, digest) = self.parts();
        verdict_id(run, kind, subject, &digest, &verdict.policy_revision, cause) == verdict.verdict_id
    }

    fn tools(&self) -> String {
        let tools: BTreeSet<&str> = match self {
            Put::Plan(p) => p.steps.iter().map(|s| s.tool.as_str()).collect(),
            Put::Proposal(p) => p.steps.iter().map(|s| s.tool.as_str()).collect(),
        };
        tools.into_iter().collect::<Vec<_>>().join(",")
    }

    pub(crate) fn input(&self) -> Input {
        match self {
            Put::Plan(p) => Input::Plan(p.clone()),
            Put::Proposal(p) => Input::Proposal(p.clone()),
        }
    }
}

fn upper(decision: Decision) -> &'static str {
    match decision {
        Decision::Allow => "ALLOW",
        Decision::Deny => "DENY",
        Decision::Escalate => "ESCALATE",
    }
}

fn rules(verdict: &Verdict) -> BTreeSet<String> {
    verdict.violations.iter().map(|v| v.rule.clone()).collect()
}

fn decisions(verdict: &Verdict) -> Vec<(&str, Decision)> {
    let steps = verdict.steps.iter().map(|s| (s.step_id.as_str(), s.decision));
    std::iter::once(("", verdict.decision)).chain(steps).collect()
}

/// Judges what was put once more, at the time it was judged; the verdict that gives.
pub(crate) fn judge(
    gate: &PolicyGate,
    members: &Members,
    put: &Put,
    then: &Verdict,
    into: &mut Backtest,
) -> Result<Verdict, Fault> {
    let now = gate.judge(&put.input(), then.decided_at, members)?;
    into.judged += 1;
    let (before, after) = (rules(then), rules(&now));
    if decisions(then) == decisions(&now) {
        into.reworded += usize::from(before != after);
        return Ok(now);
    }
    let (run_id, subject, subject_id, ..) = put.parts();
    into.changes.push(Change {
        verdict_id: then.verdict_id.clone(),
        run_id: run_id.to_owned(),
        tenant: then.tenant.clone(),
        subject,
        subject_id: subject_id.to_owned(),
        tools: put.tools(),
        before: upper(then.decision),
        after: upper(now.decision),
        rules_new: after.difference(&before).cloned().collect(),
        rules_gone: before.difference(&after).cloned().collect(),
        reason: now.reason.clone(),
    });
    Ok(now)
}

/// Judges history with other gates of the same policies, one for each core, while these people hold these roles.
///
/// # Errors
/// A record that cannot be judged.
pub(crate) fn run(
    gates: Vec<PolicyGate>,
    members: &Members,
    puts: &[Put],
    verdicts: &[Verdict],
) -> Result<Backtest, Fault> {
    let by_id: BTreeMap<&str, &Verdict> = verdicts.iter().map(|v| (v.verdict_id.as_str(), v)).collect();
    let revisions: BTreeSet<&str> = verdicts.iter().map(|v| v.policy_revision.as_str()).collect();
    let share = puts.len().div_ceil(gates.len().max(1)).max(1);
    let parts = std::thread::scope(|scope| {
        let working: Vec<_> = gates
            .into_iter()
            .zip(puts.chunks(share))
            .map(|(gate, puts)| {
                let (by_id, revisions) = (&by_id, &revisions);
                scope.spawn(move || {
                    let mut found = Backtest::default();
                    for put in puts {
                        let (run, kind, subject, cause, digest) = put.parts();
                        let id = |revision: &&str| verdict_id(run, kind, subject, &digest, revision, cause);
                        let then: Vec<_> = revisions.iter().filter_map(|r| by_id.get(id(r).as_str())).collect();
                        found.unmatched += usize::from(then.is_empty());
                        for verdict in then {
                            judge(&gate, members, put, verdict, &mut found)?;
                        }
                    }
                    Ok::<_, Fault>(found)
                })
            })
            .collect();
        let panicked = |_| Fault::new(kernel::FaultCode::Internal, "a judge panicked");
        let done = working.into_iter().map(|w| w.join().map_err(panicked)?);
        done.collect::<Result<Vec<_>, _>>()
    })?;
    Ok(parts.into_iter().fold(Backtest::default(), |mut all, part| {
        all.judged += part.judged;
        all.reworded += part.reworded;
        all.unmatched += part.unmatched;
        all.changes.extend(part.changes);
        all
    }))
}

/// Changes that are alike, with one of them to look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Group<'a> {
    /// How many.
    pub(crate) count: usize,
    /// The first.
    pub(crate) example: &'a Change,
}

/// Changes by tenant, decisions, rules and tools, the most frequent first.
pub(crate) fn groups(changes: &[Change]) -> Vec<Group<'_>> {
    let mut by: BTreeMap<_, Group<'_>> = BTreeMap::new();
    for c in changes {
        let alike = (&c.tenant, c.before, c.after, &c.rules_new, &c.rules_gone, &c.tools);
        by.entry(alike).or_insert(Group { count: 0, example: c }).count += 1;
    }
    let mut all: Vec<_> = by.into_values().collect();
    all.sort_by_key(|g| std::cmp::Reverse(g.count));
    all
}
