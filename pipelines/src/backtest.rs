//! Another policy over recorded history: every plan and proposal that was judged, judged again with it, at the time it was judged.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};

use kernel::Fault;
use kernel::members::Members;
use schemas::records::{Decision, Plan, Proposal, Subject, Verdict};
use serde::Serialize;
use stages::policy_gate::{Input, PolicyGate, digest_of, verdict_id};

/// What was put before the gate.
pub(crate) struct Put(pub(crate) Input);

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
    pub(crate) fn plan(plan: Plan) -> Self {
        Self(Input::Plan(Box::new(plan)))
    }

    pub(crate) fn proposal(proposal: Proposal) -> Self {
        Self(Input::Proposal(Box::new(proposal)))
    }

    /// Run, kind, subject and cause: what a verdict's id is made of, beside the digest.
    fn parts(&self) -> (&str, &'static str, &str, &str) {
        match &self.0 {
            Input::Plan(p) => (&p.run_id, "PLAN", &p.plan_id, "plan"),
            Input::Proposal(p) => {
                let kind = if p.subject == Subject::Step { "STEP" } else { "PLAN" };
                (&p.run_id, kind, &p.subject_id, &p.proposal_id)
            }
        }
    }

    /// The id of the verdict on it that policies of a revision gave.
    fn verdict_id(&self, digest: &str, revision: &str) -> String {
        let (run, kind, subject, cause) = self.parts();
        verdict_id(run, kind, subject, digest, revision, cause)
    }

    /// Whether a verdict is about this.
    pub(crate) fn was_judged(&self, verdict: &Verdict) -> bool {
        let id = |digest: String| self.verdict_id(&digest, &verdict.policy_revision);
        digest_of(&self.0).is_ok_and(|digest| id(digest) == verdict.verdict_id)
    }

    fn tools(&self) -> String {
        let tools: BTreeSet<&str> = match &self.0 {
            Input::Plan(p) => p.steps.iter().map(|s| s.tool.as_str()).collect(),
            Input::Proposal(p) => p.steps.iter().map(|s| s.tool.as_str()).collect(),
        };
        tools.into_iter().collect::<Vec<_>>().join(",")
    }
}

fn upper(decision: Decision) -> &'static str {
    match decision {
        Decision::Allow => "ALLOW",
        Decision::Deny => "DENY",
        Decision::Escalate => "ESCALATE",
    }
}

fn rules(verdict: &Verdict) -> BTreeSet<&str> {
    verdict.violations.iter().map(|v| v.rule.as_str()).collect()
}

fn decisions(verdict: &Verdict) -> Vec<(&str, Decision)> {
    let steps = verdict.steps.iter().map(|s| (s.step_id.as_str(), s.decision));
    std::iter::once(("", verdict.decision)).chain(steps).collect()
}

/// Judges what was put once more, at the time it was judged; the verdict that gives.
///
/// # Errors
/// It cannot be digested.
pub(crate) fn judge(
    gate: &PolicyGate,
    members: &Members,
    put: &Put,
    then: &Verdict,
    into: &mut Backtest,
) -> Result<Verdict, Fault> {
    Ok(judge_digested(gate, members, (put, digest_of(&put.0)?), then, into))
}

fn judge_digested(
    gate: &PolicyGate,
    members: &Members,
    (put, digest): (&Put, String),
    then: &Verdict,
    into: &mut Backtest,
) -> Verdict {
    let now = gate.judge_digested(&put.0, digest, then.decided_at, members);
    into.judged += 1;
    let (before, after) = (rules(then), rules(&now));
    if decisions(then) == decisions(&now) {
        into.reworded += usize::from(before != after);
        return now;
    }
    let of = |rules: Vec<&&str>| rules.into_iter().map(|r| (*r).to_owned()).collect();
    let (run_id, subject, subject_id, _) = put.parts();
    into.changes.push(Change {
        verdict_id: then.verdict_id.clone(),
        run_id: run_id.to_owned(),
        tenant: then.tenant.clone(),
        subject,
        subject_id: subject_id.to_owned(),
        tools: put.tools(),
        before: upper(then.decision),
        after: upper(now.decision),
        rules_new: of(after.difference(&before).collect()),
        rules_gone: of(before.difference(&after).collect()),
        reason: now.reason.clone(),
    });
    now
}

/// How much of history a core takes at a time.
const SHARE: usize = 256;

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
    let by_id: HashMap<&str, &Verdict> = verdicts.iter().map(|v| (v.verdict_id.as_str(), v)).collect();
    let revisions: BTreeSet<&str> = verdicts.iter().map(|v| v.policy_revision.as_str()).collect();
    let taken = AtomicUsize::new(0);
    let parts = std::thread::scope(|scope| {
        let working: Vec<_> = gates
            .into_iter()
            .map(|gate| {
                let (by_id, revisions, taken) = (&by_id, &revisions, &taken);
                scope.spawn(move || {
                    let mut done = Vec::new();
                    loop {
                        let share = taken.fetch_add(1, Ordering::Relaxed);
                        let Some(puts) = puts.chunks(SHARE).nth(share) else {
                            return Ok::<_, Fault>(done);
                        };
                        let mut found = Backtest::default();
                        for put in puts {
                            let digest = digest_of(&put.0)?;
                            let then = revisions.iter();
                            let then = then.filter_map(|r| by_id.get(put.verdict_id(&digest, r).as_str()));
                            let then: Vec<_> = then.collect();
                            found.unmatched += usize::from(then.is_empty());
                            for verdict in then {
                                judge_digested(&gate, members, (put, digest.clone()), verdict, &mut found);
                            }
                        }
                        done.push((share, found));
                    }
                })
            })
            .collect();
        let panicked = |_| Fault::new(kernel::FaultCode::Internal, "a judge panicked");
        let done = working.into_iter().map(|w| w.join().map_err(panicked)?);
        done.collect::<Result<Vec<_>, _>>()
    })?;
    // In the order of history, whoever judged it.
    let parts: BTreeMap<_, _> = parts.into_iter().flatten().collect();
    Ok(parts.into_values().fold(Backtest::default(), |mut all, part| {
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
