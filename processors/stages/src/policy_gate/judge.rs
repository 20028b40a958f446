//! One judgement: the input document, what Rego and the weighted rules say about it, as findings.

use std::sync::{Mutex, PoisonError};

use kernel::FaultCode;
use regorus::{Engine, Value};
use schemas::digest;
use schemas::records::{ApprovalRef, Ask, Autonomy, Decision, Deputy, Done, ProposedStep, Subject, Violation};
use schemas::{Timestamp, Usd};
use serde::Deserialize;
use serde_json::json;

use super::bundle::{Bundle, ENTRY_POINTS};
use super::rego::asked;
use super::rules::{self, Level, WeightedRule};

/// What is put before the gate, from a plan or a proposal.
pub(super) struct Case<'a> {
    pub(super) tenant: &'a str,
    pub(super) actor: &'a str,
    pub(super) roles: &'a [String],
    pub(super) goal: &'a str,
    pub(super) capsule: Option<&'a str>,
    pub(super) autonomy: Autonomy,
    pub(super) budget_usd: Option<Usd>,
    pub(super) subject: Subject,
    pub(super) subject_id: &'a str,
    pub(super) steps: Vec<ProposedStep>,
    pub(super) approvals: Vec<ApprovalRef>,
    /// What the run has done so far.
    pub(super) done: &'a [Done],
    pub(super) now: Timestamp,
}

/// A rule that speaks against the subject, and what it asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Finding {
    pub(super) decision: Decision,
    pub(super) violation: Violation,
    /// With an escalation that a human's answer can lift: whose.
    pub(super) ask: Option<Ask>,
}

impl Finding {
    /// A finding of the gate itself.
    pub(super) fn own(decision: Decision, rule: &str, description: impl Into<String>, step_id: Option<&str>) -> Self {
        let (weight, severity) = match decision {
            Decision::Deny => (1.0, Level::Critical),
            _ => (rules::weight(), rules::severity()),
        };
        let violation = Violation {
            rule: rule.to_owned(),
            description: description.into(),
            severity: severity.into(),
            weight,
            excerpt: String::new(),
            step_id: step_id.map(str::to_owned),
        };
        Self {
            decision,
            violation,
            ask: None,
        }
    }

    /// The same, asking anyone but the actor when it escalates.
    pub(super) fn asking(mut self) -> Self {
        let ask = || Ask {
            rule: self.violation.rule.clone(),
            step_id: self.violation.step_id.clone(),
            ..Ask::default()
        };
        self.ask = (self.decision == Decision::Escalate).then(ask);
        self
    }
}

/// A finding as a policy writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    rule: String,
    description: String,
    #[serde(default = "rules::severity")]
    severity: Level,
    #[serde(default = "rules::weight")]
    weight: f64,
    #[serde(default)]
    step_id: Option<String>,
    #[serde(default)]
    approvers: Vec<String>,
    #[serde(default)]
    roles: Vec<String>,
    #[serde(default = "one")]
    quorum: i32,
    #[serde(default)]
    within_s: i64,
    #[serde(default)]
    deputies: Vec<Deputy>,
}

/// Most approvals a rule may want.
const QUORUM_MAX: i32 = 20;

fn one() -> i32 {
    1
}

/// The policies, ready to judge.
pub(super) struct Judge {
    engine: Mutex<Engine>,
    /// What the engine is replaced by when it breaks down.
    pristine: Engine,
    rules: Vec<WeightedRule>,
}

impl Judge {
    pub(super) fn new(bundle: Bundle) -> Self {
        Self {
            engine: Mutex::new(bundle.engine.clone()),
            pristine: bundle.engine,
            rules: bundle.rules,
        }
    }

    /// Everything that speaks against the case, in a fixed order. A policy that fails to answer speaks against it too.
    pub(super) fn findings(&self, case: &Case<'_>) -> Vec<Finding> {
        let mut findings = Vec::new();
        let matches = self.matches(case);
        match self.rego(&document(case, &matches)) {
            Ok(found) => findings.extend(found),
            Err(error) => {
                let code = FaultCode::PolicyUnreadable.as_str();
                let detail = format!("the policy failed while judging, so nothing is allowed: {error}");
                findings.push(Finding::own(Decision::Deny, code, detail, None));
            }
        }
        findings.extend(matches);
        findings
    }

    /// The input document as the policies are given it.
    pub(super) fn document(&self, case: &Case<'_>) -> serde_json::Value {
        document(case, &self.matches(case))
    }

    fn matches(&self, case: &Case<'_>) -> Vec<Finding> {
        let mut found = Vec::new();
        // Canonical text, so that an escape such as \u002d cannot hide a pattern.
        let text = |s: &ProposedStep| digest::canonical(&s.arguments).unwrap_or_else(|_| s.arguments.clone());
        let texts: Vec<_> = case.steps.iter().map(|s| (text(s), s.step_id.as_str())).collect();
        for rule in &self.rules {
            let decision = if rule.escalate {
                Decision::Escalate
            } else {
                Decision::Deny
            };
            let finding = |violation| {
                let ask = None;
                Finding {
                    decision,
                    violation,
                    ask,
                }
                .asking()
            };
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

    fn rego(&self, document: &serde_json::Value) -> Result<Vec<Finding>, String> {
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        asked(&mut engine, &self.pristine, |engine| {
            engine.set_input(Value::from(document.clone()));
            let mut findings = Vec::new();
            for (rule, decision) in ENTRY_POINTS.into_iter().zip([Decision::Deny, Decision::Escalate]) {
                let value = engine.eval_rule(rule.to_owned()).map_err(|e| e.to_string())?;
                for item in value.as_set().map_err(|_| format!("{rule} is not a set"))?.iter() {
                    findings.push(finding(item, decision, document).map_err(|e| format!("{rule}: {e}"))?);
                }
            }
            Ok(findings)
        })
    }
}

fn finding(item: &Value, decision: Decision, document: &serde_json::Value) -> Result<Finding, String> {
    let json = serde_json::to_value(item).map_err(|e| e.to_string())?;
    let raw: Raw =
        serde_json::from_value(json).map_err(|e| format!("a finding is not {{rule, description, ...}}: {e}"))?;
    if !(0.0..=1.0).contains(&raw.weight) {
        return Err(format!("rule {}: weight {} is not from 0 to 1", raw.rule, raw.weight));
    }
    if !(1..=QUORUM_MAX).contains(&raw.quorum) {
        return Err(format!(
            "rule {}: quorum {} is not from 1 to {QUORUM_MAX}",
            raw.rule, raw.quorum
        ));
    }
    if raw.within_s < 0 || raw.deputies.iter().any(|d| d.after_s < 0) {
        return Err(format!("rule {}: within_s and after_s are not below 0", raw.rule));
    }
    let known = |id: &String| {
        document["steps"]
            .as_array()
            .is_some_and(|s| s.iter().any(|s| s["step_id"] == id.as_str()))
    };
    if let Some(id) = raw.step_id.as_ref().filter(|id| !known(id)) {
        return Err(format!("rule {}: step `{id}` was not put before it", raw.rule));
    }
    let violation = Violation {
        rule: raw.rule,
        description: raw.description,
        severity: raw.severity.into(),
        weight: raw.weight,
        excerpt: String::new(),
        step_id: raw.step_id,
    };
    let mut finding = Finding {
        decision,
        violation,
        ask: None,
    }
    .asking();
    if let Some(ask) = &mut finding.ask {
        (ask.approvers, ask.roles, ask.deputies) = (raw.approvers, raw.roles, raw.deputies);
        (ask.quorum, ask.within_s) = (raw.quorum, raw.within_s);
    }
    Ok(finding)
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
    let steps: Vec<_> = case.steps.iter().map(|s| step_document(s, case.subject)).collect();
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
        // Rego compares numbers; the exact text stands in the plan.
        "budget_usd": case.budget_usd.map(|b| b.0 as f64 / 1e6),
        "steps": steps,
        "approval": case.approvals.first(),
        "approvals": case.approvals,
        "done": case.done,
        "rules": rules,
        "now": case.now,
    })
}

fn step_document(step: &ProposedStep, subject: Subject) -> serde_json::Value {
    let arguments = serde_json::from_str(&step.arguments).unwrap_or(serde_json::Value::Null);
    json!({
        "step_id": step.step_id,
        "tool": step.tool,
        "operation": step.operation,
        "url": url_facts(&arguments),
        "arguments": arguments,
        "digest": step.digest,
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

/// Steps whose digest is not the digest of what they say, or whose arguments are not a JSON object.
pub(super) fn digest_findings(steps: &mut [ProposedStep]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for step in steps {
        let code = FaultCode::PermitInvalid.as_str();
        let deny = |detail: String| Finding::own(Decision::Deny, code, detail, Some(&step.step_id));
        let object = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&step.arguments).is_ok();
        match digest::action(&step.tool, &step.operation, &step.arguments) {
            Ok(_) if !object => findings.push(deny("arguments are not a JSON object".into())),
            Ok(own) if own == step.digest => {}
            Ok(own) => {
                findings.push(deny(format!(
                    "digest {} is not that of the arguments, {own}",
                    step.digest
                )));
                step.digest = own;
            }
            Err(error) => findings.push(deny(format!("arguments: {error}"))),
        }
    }
    findings
}
