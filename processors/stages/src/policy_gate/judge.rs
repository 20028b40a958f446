//! One judgement: the input document, and what a bundle's Rego and weighted rules say about it.

use std::sync::{Mutex, PoisonError};

use kernel::FaultCode;
use regorus::Value;
use schemas::digest;
use schemas::records::{Decision, ProposedStep, Subject};
use serde_json::json;

use super::answer::{self, Answer, Finding, Source};
use super::bundle::{Bundle, DENY, OBLIGE, TALLY, WAIVE};
use super::case::{Arguments, Case};
use super::rego::Evaluator;
use super::rules::WeightedRule;

/// The policies of one bundle, ready to judge.
pub(super) struct Judge {
    evaluator: Mutex<Evaluator>,
    rules: Vec<WeightedRule>,
    /// Where the bundle stands.
    source: Source,
}

impl Judge {
    pub(super) fn new(bundle: Bundle, source: Source) -> Self {
        Self {
            evaluator: Mutex::new(Evaluator::of(&bundle)),
            rules: bundle.rules,
            source,
        }
    }

    /// Another judge of the same bundle.
    pub(super) fn another(&self) -> Self {
        let evaluator = self.evaluator.lock().unwrap_or_else(PoisonError::into_inner);
        Self {
            evaluator: Mutex::new(evaluator.another()),
            rules: self.rules.clone(),
            source: self.source,
        }
    }

    /// Everything that the bundle says about the case, in a fixed order. One that fails to answer speaks against it.
    pub(super) fn answer(&self, case: &Case<'_>) -> Answer {
        let matches = self.matches(case);
        let steps: Vec<_> = case.steps.iter().map(|s| s.step_id.as_str()).collect();
        let mut answer = self
            .rego(document(case, &matches), &steps)
            .unwrap_or_else(|error| Answer {
                findings: vec![Finding::unanswered(&error)],
                ..Answer::default()
            });
        answer.findings.extend(matches);
        answer
    }

    /// The input document as the policies are given it.
    pub(super) fn document(&self, case: &Case<'_>) -> serde_json::Value {
        document(case, &self.matches(case))
    }

    fn matches(&self, case: &Case<'_>) -> Vec<Finding> {
        let mut found = Vec::new();
        // Canonical text, so that an escape such as \u002d cannot hide a pattern.
        let text = |(s, read)| canonical_or_raw(s, read);
        let texts: Vec<_> = case.steps.iter().zip(&case.arguments).map(text).collect();
        for rule in &self.rules {
            let decision = if rule.escalate {
                Decision::Escalate
            } else {
                Decision::Deny
            };
            let finding = |violation| Finding::of(decision, violation, self.source);
            // A human who approved the plan has seen the goal; asking again at every step would say nothing new.
            if !rule.escalate || case.subject == Subject::Plan {
                found.extend(rule.violation(case.tenant, case.goal, None).map(finding));
            }
            for (text, step_id) in &texts {
                found.extend(rule.violation(case.tenant, text, Some(step_id)).map(finding));
            }
        }
        found
    }

    fn rego(&self, document: serde_json::Value, steps: &[&str]) -> Result<Answer, String> {
        let mut evaluator = self.evaluator.lock().unwrap_or_else(PoisonError::into_inner);
        let sets = evaluator.ask(Value::from(document))?;
        drop(evaluator);
        let mut answer = Answer::default();
        for (entry, set) in &sets {
            let items = set.as_set().map_err(|_| format!("{entry} is not a set"))?.iter();
            let named = |error: String| format!("{entry}: {error}");
            for item in items {
                let decision = if *entry == DENY {
                    Decision::Deny
                } else {
                    Decision::Escalate
                };
                match *entry {
                    WAIVE => answer
                        .waivers
                        .push((self.source, answer::waiver(item, steps).map_err(named)?)),
                    OBLIGE => answer.obligations.push(answer::obligation(item, steps).map_err(named)?),
                    TALLY => answer.tallies.push(answer::tallied(item, steps).map_err(named)?),
                    _ => answer
                        .findings
                        .push(answer::finding(item, decision, self.source, steps).map_err(named)?),
                }
            }
        }
        Ok(answer)
    }
}

/// What the plan itself demands of a step.
pub(super) fn required(step: &ProposedStep) -> Finding {
    let detail = "the plan demands a human's approval for this step";
    Finding::own(
        Decision::Escalate,
        "step.approval_required",
        detail,
        Some(&step.step_id),
    )
    .asking()
}

/// Whether arguments are complete, or wait for the result of an earlier step.
pub(super) fn is_exact(arguments: &str) -> bool {
    !arguments.contains("${steps.")
}

fn document(case: &Case<'_>, matches: &[Finding]) -> serde_json::Value {
    let traits = case.traits.iter().chain(std::iter::repeat(&serde_json::Value::Null));
    let steps = case.steps.iter().zip(&case.arguments).zip(traits);
    let steps: Vec<_> = steps
        .map(|((s, read), traits)| step_document(s, &read.value, case.subject, traits))
        .collect();
    let rules: Vec<_> = matches
        .iter()
        .map(|m| json!({"rule": m.violation.rule, "step_id": m.violation.step_id, "escalate": m.decision == Decision::Escalate}))
        .collect();
    json!({
        "subject": {"kind": case.subject, "id": case.subject_id},
        "tenant": case.tenant,
        "actor": case.actor,
        "roles": case.roles,
        "goal": case.goal,
        "capsule": case.capsule,
        "autonomy": case.autonomy,
        "region": case.region,
        "data_classes": case.data_classes,
        // Rego compares numbers; the exact text stands in the plan.
        "budget_usd": case.budget_usd.map(|b| b.0 as f64 / 1e6),
        "steps": steps,
        "approval": case.approvals.first(),
        "approvals": case.approvals,
        "done": case.done,
        "rules": rules,
        "constitutions": case.constitutions,
        "tallies": case.tallies,
        "strikes": case.strikes.iter().map(|at| json!({"at": at, "age_s": case.now.micros_since(*at) / 1_000_000})).collect::<Vec<_>>(),
        "now": case.now,
    })
}

fn step_document(
    step: &ProposedStep,
    arguments: &serde_json::Value,
    subject: Subject,
    traits: &serde_json::Value,
) -> serde_json::Value {
    json!({
        "step_id": step.step_id,
        "tool": step.tool,
        "operation": step.operation,
        "url": url_facts(arguments),
        "arguments": arguments,
        "digest": step.digest,
        "traits": traits,
        "approval_required": step.approval_required,
        "exact": is_exact(&step.arguments),
        "compensation": subject == Subject::Step && step.step_id.ends_with(".compensation"),
    })
}

/// The target of `arguments.url` as the HTTP client would read it, so that policy and client cannot disagree about the host.
/// Null when there is no such text; `valid` is false when it is no URL.
fn url_facts(arguments: &serde_json::Value) -> serde_json::Value {
    let Some(text) = arguments.get("url").and_then(|u| u.as_str()) else {
        return serde_json::Value::Null;
    };
    let Ok(url) = url::Url::parse(text) else {
        return json!({"valid": false});
    };
    let loopback = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    };
    json!({
        "valid": true,
        "scheme": url.scheme(),
        "host": url.host_str().unwrap_or_default(),
        "port": url.port_or_known_default(),
        "path": url.path(),
        "loopback": loopback,
        "credentials": !url.username().is_empty() || url.password().is_some(),
    })
}

/// Arguments in canonical form, where they have one, and the step's id.
fn canonical_or_raw<'a>(step: &'a ProposedStep, read: &'a Arguments) -> (&'a str, &'a str) {
    let text = read.canonical.as_deref().unwrap_or(&step.arguments);
    (text, &step.step_id)
}

/// Steps whose digest is not the digest of what they say, or whose arguments are not a JSON object.
pub(super) fn digest_findings(steps: &mut [ProposedStep], arguments: &[Arguments]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (step, read) in steps.iter_mut().zip(arguments) {
        let code = FaultCode::PermitInvalid.as_str();
        let deny = |detail: String| Finding::own(Decision::Deny, code, detail, Some(&step.step_id));
        let text = match &read.canonical {
            Ok(text) => text,
            Err(error) => {
                findings.push(deny(format!("arguments: {error}")));
                continue;
            }
        };
        let own = digest::canonical_action(&step.tool, &step.operation, text);
        if !read.value.is_object() {
            findings.push(deny("arguments are not a JSON object".into()));
        } else if own != step.digest {
            findings.push(deny(format!(
                "digest {} is not that of the arguments, {own}",
                step.digest
            )));
            step.digest = own;
        }
    }
    findings
}
