//! What is put before the gate, taken from a plan or a proposal.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use kernel::EventTime;
use schemas::records::{ApprovalRef, Autonomy, Done, Plan, Proposal, ProposedStep, Subject};
use schemas::{Timestamp, Usd, digest};

use super::Traits;

/// What is put before the gate, from a plan or a proposal.
pub(super) struct Case<'a> {
    pub(super) run_id: &'a str,
    pub(super) tenant: &'a str,
    pub(super) actor: &'a str,
    pub(super) roles: &'a [String],
    pub(super) goal: &'a str,
    pub(super) capsule: Option<&'a str>,
    pub(super) autonomy: Autonomy,
    pub(super) region: Option<&'a str>,
    pub(super) data_classes: &'a [String],
    pub(super) budget_usd: Option<Usd>,
    pub(super) subject: Subject,
    pub(super) subject_id: &'a str,
    pub(super) steps: Vec<ProposedStep>,
    /// Whether the digests of the steps were made here.
    pub(super) digested: bool,
    /// The arguments of the steps, read once.
    pub(super) arguments: Vec<Arguments>,
    pub(super) approvals: Vec<ApprovalRef>,
    /// What the run has done so far.
    pub(super) done: &'a [Done],
    /// The constitutions over the tenant, as policies are told of them.
    pub(super) constitutions: Vec<serde_json::Value>,
    /// When the actor was struck, the first first.
    pub(super) strikes: Vec<Timestamp>,
    /// Seconds since each step that counts in the tenant's other runs, by what is counted, the newest first.
    pub(super) tallies: BTreeMap<&'a str, Vec<i64>>,
    /// What tools say of their calls.
    pub(super) know: Option<Traits>,
    /// The same of its steps, once somebody has asked.
    pub(super) traits: OnceCell<Vec<serde_json::Value>>,
    pub(super) now: Timestamp,
}

impl Case<'_> {
    /// What the tools of its steps say of them, in the order of the steps; null where nothing is known. It costs as much as the rest of
    /// a judgement: only for who looks at it.
    pub(super) fn traits(&self) -> &[serde_json::Value] {
        self.traits.get_or_init(|| {
            let of = |s: &ProposedStep| match &self.know {
                Some(know) => know(&s.tool, &s.operation, &s.arguments),
                None => serde_json::Value::Null,
            };
            self.steps.iter().map(of).collect()
        })
    }
}

/// Arguments of a step, read.
pub(super) struct Arguments {
    /// Null when they are no JSON.
    pub(super) value: serde_json::Value,
    /// In canonical form, or why they have none.
    pub(super) canonical: Result<String, String>,
}

impl Arguments {
    fn of(text: &str) -> Self {
        match serde_json::from_str(text) {
            Ok(value) => Self {
                canonical: digest::canonical_value(&value),
                value,
            },
            Err(error) => Self {
                canonical: Err(format!("not JSON: {error}")),
                value: serde_json::Value::Null,
            },
        }
    }

    /// Digest of the action they belong to; empty when they have none.
    fn digest(&self, tool: &str, operation: &str) -> String {
        let digest = |text: &String| digest::canonical_action(tool, operation, text);
        self.canonical.as_ref().map(digest).unwrap_or_default()
    }
}

pub(super) fn plan_case(plan: &Plan, now: EventTime) -> Case<'_> {
    let arguments: Vec<_> = plan.steps.iter().map(|s| Arguments::of(&s.arguments)).collect();
    let steps = plan.steps.iter().zip(&arguments).map(|(s, read)| ProposedStep {
        step_id: s.step_id.clone(),
        tool: s.tool.clone(),
        operation: s.operation.clone(),
        arguments: s.arguments.clone(),
        digest: read.digest(&s.tool, &s.operation),
        approval_required: s.approval_required,
    });
    Case {
        run_id: &plan.run_id,
        tenant: &plan.tenant,
        actor: &plan.actor,
        roles: &plan.roles,
        goal: &plan.goal,
        capsule: plan.capsule.as_deref(),
        autonomy: plan.autonomy,
        region: plan.region.as_deref(),
        data_classes: &plan.data_classes,
        budget_usd: plan.budget_usd,
        subject: Subject::Plan,
        subject_id: &plan.plan_id,
        steps: steps.collect(),
        digested: true,
        arguments,
        approvals: Vec::new(),
        done: &[],
        constitutions: Vec::new(),
        strikes: Vec::new(),
        tallies: BTreeMap::new(),
        know: None,
        traits: OnceCell::new(),
        now,
    }
}

pub(super) fn proposal_case(proposal: &Proposal, now: EventTime) -> Case<'_> {
    Case {
        run_id: &proposal.run_id,
        tenant: &proposal.tenant,
        actor: &proposal.actor,
        roles: &proposal.roles,
        goal: &proposal.goal,
        capsule: proposal.capsule.as_deref(),
        autonomy: proposal.autonomy,
        region: proposal.region.as_deref(),
        data_classes: &proposal.data_classes,
        budget_usd: proposal.budget_usd,
        subject: proposal.subject,
        subject_id: &proposal.subject_id,
        steps: proposal.steps.clone(),
        digested: false,
        arguments: proposal.steps.iter().map(|s| Arguments::of(&s.arguments)).collect(),
        approvals: approvals(proposal),
        done: &proposal.done,
        constitutions: Vec::new(),
        strikes: Vec::new(),
        tallies: BTreeMap::new(),
        know: None,
        traits: OnceCell::new(),
        now,
    }
}

/// Older writers bring one approval alone.
fn approvals(proposal: &Proposal) -> Vec<ApprovalRef> {
    if proposal.approvals.is_empty() {
        return proposal.approval.iter().cloned().collect();
    }
    proposal.approvals.clone()
}
