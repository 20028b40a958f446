//! What a bundle's rules say, read and checked: findings, waivers of other sources' findings, obligations.

use kernel::FaultCode;
use regorus::Value;
use schemas::records::{Ask, Decision, Deputy, Obligation, Violation};
use schemas::{Usd, digest};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::rules::{self, Level};

/// Most approvals a rule may want.
const QUORUM_MAX: i32 = 20;

/// Where a rule stands. The order of `precedence` in a constitution decides between `base`, `tenant` and `capsule`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The deployed bundle, and those published for every tenant.
    Base,
    /// A bundle published for one tenant.
    Tenant,
    /// A bundle published for a capsule.
    Capsule,
}

impl Source {
    /// The word verdicts have for it.
    pub fn word(self) -> &'static str {
        match self {
            Source::Base => "base",
            Source::Tenant => "tenant",
            Source::Capsule => "capsule",
        }
    }
}

/// A rule that speaks against the subject, and what it asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Finding {
    pub(super) decision: Decision,
    pub(super) violation: Violation,
    /// With an escalation that a human's answer can lift: whose.
    pub(super) ask: Option<Ask>,
    /// The bundle it comes from; none of the gate's own, or of a constitution's, which nothing waives.
    pub(super) source: Option<Source>,
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
            step_id: step_id.map(str::to_owned),
            source: "gate".to_owned(),
            ..Violation::default()
        };
        Self {
            decision,
            violation,
            ask: None,
            source: None,
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

    /// What a bundle says.
    pub(super) fn of(decision: Decision, mut violation: Violation, source: Source) -> Self {
        source.word().clone_into(&mut violation.source);
        Self {
            decision,
            violation,
            ask: None,
            source: Some(source),
        }
        .asking()
    }

    /// A bundle that fails to answer speaks against everything.
    pub(super) fn unanswered(error: &str) -> Self {
        let detail = format!("the policy failed while judging, so nothing is allowed: {error}");
        Self::own(Decision::Deny, FaultCode::PolicyUnreadable.as_str(), detail, None)
    }
}

/// A rule that would lift what another source says.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Waiver {
    /// The rule it would lift.
    pub(super) rule: String,
    pub(super) reason: String,
    /// For this step alone.
    #[serde(default)]
    pub(super) step_id: Option<String>,
}

/// What a rule counts: a step by its id, or every step of the case.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tallied {
    pub(super) name: String,
    #[serde(default)]
    pub(super) step_id: Option<String>,
}

/// Everything a bundle says about a case.
#[derive(Default)]
pub(super) struct Answer {
    pub(super) findings: Vec<Finding>,
    pub(super) waivers: Vec<(Source, Waiver)>,
    pub(super) obligations: Vec<Obligation>,
    pub(super) tallies: Vec<Tallied>,
}

impl Answer {
    pub(super) fn add(&mut self, other: Answer) {
        self.findings.extend(other.findings);
        self.waivers.extend(other.waivers);
        self.obligations.extend(other.obligations);
        self.tallies.extend(other.tallies);
    }
}

/// A finding as a policy writes it.
#[derive(Debug, Deserialize)]
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
    #[serde(default)]
    strike: bool,
}

impl Raw {
    /// A finding with the fields most have; none when it has others, or is none.
    fn plain(item: &Value) -> Option<Self> {
        let mut raw = Self {
            rule: String::new(),
            description: String::new(),
            severity: rules::severity(),
            weight: rules::weight(),
            step_id: None,
            approvers: Vec::new(),
            roles: Vec::new(),
            quorum: one(),
            within_s: 0,
            deputies: Vec::new(),
            strike: false,
        };
        let Value::Object(fields) = item else { return None };
        let text = |value: &Value| match value {
            Value::String(text) => Some(text.to_string()),
            _ => None,
        };
        let mut named = 0;
        for (name, value) in fields.iter() {
            let Value::String(name) = name else { return None };
            match (name.as_ref(), value) {
                ("rule", value) => (raw.rule, named) = (text(value)?, named + 1),
                ("description", value) => (raw.description, named) = (text(value)?, named + 1),
                ("step_id", value) => raw.step_id = Some(text(value)?),
                ("strike", Value::Bool(strike)) => raw.strike = *strike,
                ("weight", Value::Number(weight)) => raw.weight = weight.as_f64()?,
                ("severity", Value::String(severity)) => raw.severity = Level::named(severity)?,
                _ => return None,
            }
        }
        (named == 2).then_some(raw)
    }
}

fn one() -> i32 {
    1
}

fn read<T: DeserializeOwned>(item: &Value, form: &str) -> Result<T, String> {
    let json = serde_json::to_value(item).map_err(|e| e.to_string())?;
    serde_json::from_value(json).map_err(|e| format!("not {form}: {e}"))
}

/// A rule may speak only of steps that were put before it.
fn known(rule: &str, step_id: Option<&String>, steps: &[&str]) -> Result<(), String> {
    match step_id {
        Some(id) if !steps.contains(&id.as_str()) => Err(format!("rule {rule}: step `{id}` was not put before it")),
        _ => Ok(()),
    }
}

/// What an ask may hold, wherever it is written.
pub(super) fn ask_faults(quorum: i32, within_s: i64, deputies: &[Deputy]) -> Option<String> {
    if !(1..=QUORUM_MAX).contains(&quorum) {
        return Some(format!("quorum {quorum} is not from 1 to {QUORUM_MAX}"));
    }
    (within_s < 0 || deputies.iter().any(|d| d.after_s < 0)).then(|| "within_s and after_s are not below 0".to_owned())
}

pub(super) fn finding(item: &Value, decision: Decision, source: Source, steps: &[&str]) -> Result<Finding, String> {
    let raw = match Raw::plain(item) {
        Some(raw) => raw,
        None => read(item, "{rule, description, ...}")?,
    };
    if !(0.0..=1.0).contains(&raw.weight) {
        return Err(format!("rule {}: weight {} is not from 0 to 1", raw.rule, raw.weight));
    }
    if let Some(fault) = ask_faults(raw.quorum, raw.within_s, &raw.deputies) {
        return Err(format!("rule {}: {fault}", raw.rule));
    }
    known(&raw.rule, raw.step_id.as_ref(), steps)?;
    let violation = Violation {
        rule: raw.rule,
        description: raw.description,
        severity: raw.severity.into(),
        weight: raw.weight,
        step_id: raw.step_id,
        strike: raw.strike && decision == Decision::Deny,
        ..Violation::default()
    };
    let mut finding = Finding::of(decision, violation, source);
    if let Some(ask) = &mut finding.ask {
        (ask.approvers, ask.roles, ask.deputies) = (raw.approvers, raw.roles, raw.deputies);
        (ask.quorum, ask.within_s) = (raw.quorum, raw.within_s);
    }
    Ok(finding)
}

pub(super) fn waiver(item: &Value, steps: &[&str]) -> Result<Waiver, String> {
    let waiver: Waiver = read(item, "{rule, reason, step_id}")?;
    known(&waiver.rule, waiver.step_id.as_ref(), steps)?;
    Ok(waiver)
}

pub(super) fn tallied(item: &Value, steps: &[&str]) -> Result<Tallied, String> {
    let tallied: Tallied = read(item, "{name, step_id}")?;
    // A constitution's own counters are not for bundles to fill.
    if tallied.name.trim().is_empty() || tallied.name.starts_with("constitution.") {
        return Err(format!("a counter is not named `{}`", tallied.name));
    }
    known(&tallied.name, tallied.step_id.as_ref(), steps)?;
    Ok(tallied)
}

/// An obligation as a policy writes it. Rego's numbers are no exact money, so `usd` is also taken as text.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawObligation {
    rule: String,
    kind: String,
    #[serde(default)]
    step_id: Option<String>,
    #[serde(default)]
    fields: Vec<String>,
    #[serde(default)]
    usd: Option<serde_json::Value>,
}

pub(super) fn obligation(item: &Value, steps: &[&str]) -> Result<Obligation, String> {
    let raw: RawObligation = read(item, "{rule, kind, ...}")?;
    known(&raw.rule, raw.step_id.as_ref(), steps)?;
    let usd = match raw.usd {
        None => None,
        Some(serde_json::Value::String(text)) => Some(text),
        Some(number) => Some(number.to_string()),
    };
    let usd = usd.map(|text| text.parse::<Usd>().map_err(|e| format!("rule {}: usd: {e}", raw.rule)));
    let obligation = Obligation {
        usd: usd.transpose()?,
        rule: raw.rule,
        kind: raw.kind,
        step_id: raw.step_id,
        fields: raw.fields,
    };
    match obligation_fault(&obligation) {
        Some(fault) => Err(format!("rule {}: {fault}", obligation.rule)),
        None => Ok(obligation),
    }
}

/// What is wrong with an obligation, wherever it is written.
pub(super) fn obligation_fault(o: &Obligation) -> Option<String> {
    let pointers = |fields: &[String]| fields.iter().all(|f| f.len() > 1 && f.starts_with('/'));
    match o.kind.as_str() {
        Obligation::REDACT if o.fields.is_empty() || !pointers(&o.fields) => {
            Some("redact wants `fields`, JSON pointers into the result such as `/body/token`".to_owned())
        }
        Obligation::CAP_BUDGET if o.usd.is_none_or(|usd| usd.0 < 0) => {
            Some("cap_budget wants `usd`, not below 0".to_owned())
        }
        Obligation::CAP_BUDGET if o.step_id.is_some() => {
            Some("cap_budget is about the run: leave step_id out".to_owned())
        }
        Obligation::REDACT | Obligation::CAP_BUDGET | Obligation::DRY_RUN => None,
        other => Some(format!("kind `{other}` is not redact, cap_budget or dry_run")),
    }
}

/// What of these binds a step, each once and in a fixed order.
pub(super) fn binding(all: &[Obligation], step_id: &str) -> Vec<Obligation> {
    let mine = |o: &&Obligation| o.step_id.as_deref().is_none_or(|id| id == step_id);
    all.iter().filter(mine).cloned().collect()
}

/// Sorts obligations and takes repeats out: a set has no order to sign.
pub(super) fn in_order(obligations: &mut Vec<Obligation>) {
    let key = |o: &Obligation| {
        let json = serde_json::to_string(o).unwrap_or_default();
        digest::canonical(&json).unwrap_or_default()
    };
    obligations.sort_by_cached_key(key);
    obligations.dedup();
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_plain_finding_is_read_as_any_other_and_the_rest_is_left_to_the_reader() {
        let whole =
            json!({"rule": "r", "description": "d", "severity": "high", "weight": 0.1, "step_id": "a", "strike": true});
        for without in ["", "severity", "weight", "step_id", "strike"] {
            let mut finding = whole.clone();
            finding.as_object_mut().unwrap().remove(without);
            let item = Value::from(finding);
            let (plain, read): (_, Raw) = (Raw::plain(&item).unwrap(), read(&item, "").unwrap());
            assert_eq!(format!("{plain:?}"), format!("{read:?}"));
        }
        for (name, value) in [
            ("rule", json!(1)),
            ("description", json!(null)),
            ("severity", json!("dire")),
            ("weight", json!("1")),
            ("strike", json!(null)),
            ("quorum", json!(2)),
            ("unknown", json!(1)),
        ] {
            let mut finding = whole.clone();
            finding[name] = value;
            assert!(Raw::plain(&Value::from(finding)).is_none(), "{name}");
        }
        assert!(Raw::plain(&Value::from(json!({"rule": "r"}))).is_none());
        assert!(Raw::plain(&Value::from(json!(["rule"]))).is_none());
    }
}
