//! The input document that policies are given, made as the engine takes it.

use std::sync::Arc;

use regorus::Value;
use schemas::records::{Decision, ProposedStep, Subject};
use serde::Serialize;
use serde_json::{Value as Json, json};

use super::answer::Finding;
use super::case::Case;
use super::judge::is_exact;

const FIELDS: [&str; 19] = [
    "actor",
    "approval",
    "approvals",
    "autonomy",
    "budget_usd",
    "capsule",
    "constitutions",
    "data_classes",
    "done",
    "goal",
    "now",
    "region",
    "roles",
    "rules",
    "steps",
    "strikes",
    "subject",
    "tallies",
    "tenant",
];
const STEP_FIELDS: [&str; 10] = [
    "approval_required",
    "arguments",
    "compensation",
    "digest",
    "exact",
    "operation",
    "step_id",
    "tool",
    "traits",
    "url",
];
const SUBJECT_FIELDS: [&str; 2] = ["id", "kind"];
const URL_FIELDS: [&str; 7] = ["credentials", "host", "loopback", "path", "port", "scheme", "valid"];

/// Empty forms of its objects, made once.
pub(super) struct Form {
    fields: Value,
    step: Value,
    subject: Value,
    url: Value,
    /// What most lists and counts are.
    no_items: Value,
    no_fields: Value,
    /// Stands for what tools say of a step, until somebody looks.
    unasked: Value,
}

impl Form {
    /// Documents that are not whole hold this text in place of each step's traits.
    pub(super) fn new(unasked: &Arc<str>) -> Self {
        Self {
            unasked: Value::String(Arc::clone(unasked)),
            fields: empty(&FIELDS),
            step: empty(&STEP_FIELDS),
            subject: empty(&SUBJECT_FIELDS),
            no_items: Value::new_array(),
            no_fields: empty(&[]),
            url: empty(&URL_FIELDS),
        }
    }

    /// The document of a case: whole, or without what the tools say of its steps.
    pub(super) fn of(&self, case: &Case<'_>, matches: &[Finding], whole: bool) -> Value {
        let traits = if whole { case.traits() } else { &[] };
        let steps = case.steps.iter().zip(&case.arguments).enumerate();
        let steps = steps.map(|(n, (s, read))| self.step(s, &read.value, case.subject, traits.get(n)));
        let strikes = case.strikes.iter();
        let strikes = strikes.map(|at| json!({"at": at, "age_s": case.now.micros_since(*at) / 1_000_000}));
        let rules = matches.iter().map(|m| {
            json!({"rule": m.violation.rule, "step_id": m.violation.step_id, "escalate": m.decision == Decision::Escalate})
        });
        let tallies = if case.tallies.is_empty() {
            self.no_fields.clone()
        } else {
            read(&case.tallies)
        };
        // In the order of the names.
        filled(
            &self.fields,
            [
                text(case.actor),
                case.approvals.first().map_or(Value::Null, read),
                self.list(&case.approvals),
                read(&case.autonomy),
                // Rego compares numbers; the exact text stands in the plan.
                case.budget_usd.map_or(Value::Null, |b| Value::from(b.0 as f64 / 1e6)),
                case.capsule.map_or(Value::Null, text),
                self.list(&case.constitutions),
                self.list(case.data_classes),
                self.list(case.done),
                text(case.goal),
                text(&case.now.to_string()),
                case.region.map_or(Value::Null, text),
                self.list(case.roles),
                self.items(rules.map(|rule| of_json(&rule)).collect()),
                Value::from(steps.collect::<Vec<_>>()),
                self.items(strikes.map(|strike| of_json(&strike)).collect()),
                filled(&self.subject, [text(case.subject_id), read(&case.subject)]),
                tallies,
                text(case.tenant),
            ],
        )
    }

    fn list<T: Serialize>(&self, items: &[T]) -> Value {
        self.items(items.iter().map(read).collect())
    }

    fn items(&self, items: Vec<Value>) -> Value {
        if items.is_empty() {
            return self.no_items.clone();
        }
        Value::from(items)
    }

    fn step(&self, step: &ProposedStep, arguments: &Json, subject: Subject, traits: Option<&Json>) -> Value {
        let compensation = subject == Subject::Step && step.step_id.ends_with(".compensation");
        filled(
            &self.step,
            [
                Value::Bool(step.approval_required),
                of_json(arguments),
                Value::Bool(compensation),
                text(&step.digest),
                Value::Bool(is_exact(&step.arguments)),
                text(&step.operation),
                text(&step.step_id),
                text(&step.tool),
                traits.map_or_else(|| self.unasked.clone(), of_json),
                self.url(arguments),
            ],
        )
    }

    /// The target of `arguments.url` as the HTTP client would read it, so that policy and client cannot disagree about the host.
    /// Null when there is no such text; `valid` is false when it is no URL.
    fn url(&self, arguments: &Json) -> Value {
        let Some(given) = arguments.get("url").and_then(|u| u.as_str()) else {
            return Value::Null;
        };
        let Ok(url) = url::Url::parse(given) else {
            return of_json(&json!({"valid": false}));
        };
        let loopback = match url.host() {
            Some(url::Host::Domain(name)) => name == "localhost",
            Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
            Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
            None => false,
        };
        filled(
            &self.url,
            [
                Value::Bool(!url.username().is_empty() || url.password().is_some()),
                text(url.host_str().unwrap_or_default()),
                Value::Bool(loopback),
                text(url.path()),
                url.port_or_known_default()
                    .map_or(Value::Null, |port| Value::from(u64::from(port))),
                text(url.scheme()),
                Value::Bool(true),
            ],
        )
    }
}

fn empty(names: &[&str]) -> Value {
    let fields = names.iter().map(|name| (Value::from(*name), Value::Null));
    Value::from(fields.collect::<std::collections::BTreeMap<_, _>>())
}

/// An object of the form with these values, in the order of its names.
pub(super) fn filled(form: &Value, values: impl IntoIterator<Item = Value>) -> Value {
    let mut object = form.clone();
    if let Ok(fields) = object.as_object_mut() {
        fields
            .iter_mut()
            .zip(values)
            .for_each(|((_, field), value)| *field = value);
    }
    object
}

fn text(text: &str) -> Value {
    Value::String(Arc::from(text))
}

fn read<T: Serialize>(item: &T) -> Value {
    of_json(&serde_json::to_value(item).unwrap_or_default())
}

/// JSON as the engine takes it.
pub(super) fn of_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(is) => Value::Bool(*is),
        Json::String(is) => text(is),
        Json::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(whole), _) => Value::from(whole),
            (None, Some(whole)) => Value::from(whole),
            (None, None) => Value::from(json.clone()),
        },
        Json::Array(items) => Value::from(items.iter().map(of_json).collect::<Vec<_>>()),
        Json::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| (text(name), of_json(value)));
            Value::from(fields.collect::<std::collections::BTreeMap<_, _>>())
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::alike::Draw;
    use super::super::case::plan_case;
    use super::super::tests::NOW;
    use super::*;

    #[test]
    fn names_stand_in_order_and_json_is_read_as_the_engine_reads_it() {
        assert!(FIELDS.is_sorted() && STEP_FIELDS.is_sorted() && URL_FIELDS.is_sorted() && SUBJECT_FIELDS.is_sorted());
        let mut draw = Draw(5);
        for _ in 0..200 {
            let plan = draw.plan();
            let document = Form::new(&Arc::from("unasked")).of(&plan_case(&plan, NOW), &[], true);
            let json = serde_json::to_value(&document).unwrap();
            assert_eq!(json["subject"], json!({"kind": "PLAN", "id": plan.plan_id}));
            assert_eq!((&json["tallies"], &json["done"]), (&json!({}), &json!([])));
            assert_eq!(json.as_object().unwrap().len(), FIELDS.len());
            assert_eq!(Value::from(json.clone()), of_json(&json));
            assert_eq!(document, of_json(&json));
        }
        for number in [
            "0",
            "-1",
            "1.5",
            "1e300",
            "18446744073709551615",
            "-9223372036854775808",
            "0.1",
            "1.0",
        ] {
            let json: Json = serde_json::from_str(number).unwrap();
            assert_eq!(
                Value::from(json.clone()).to_string(),
                of_json(&json).to_string(),
                "{number}"
            );
        }
    }
}
