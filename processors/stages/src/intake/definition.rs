//! A capsule or wizard as read from YAML: its inputs, rules and steps, every fault of the file noted with its path.

use kernel::ConfigFault;
use schemas::records::Retry;
use serde_json::Value;

use super::condition::Expr;
use super::field::Field;
use super::graph;
use super::node::{Faults, Node, is_name};
use super::template::{self, Reference};

/// Where a definition came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Capsule,
    Wizard,
}

/// A capsule or wizard that has no faults.
#[derive(Clone, Debug)]
pub(super) struct Definition {
    pub(super) origin: Origin,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) fields: Vec<Field>,
    pub(super) rules: Vec<Rule>,
    pub(super) steps: Vec<StepSpec>,
    /// Operator values the steps refer to.
    pub(super) values: Vec<String>,
}

/// A rule over several inputs: `error` is said when `require` does not hold.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) require: Expr,
    pub(super) error: String,
    pub(super) field: String,
}

/// One step before its references are filled in.
#[derive(Clone, Debug)]
pub(super) struct StepSpec {
    pub(super) id: String,
    pub(super) description: String,
    pub(super) action: Action,
    pub(super) needs: Vec<String>,
    /// All must hold, else the step is left out.
    pub(super) when: Vec<Expr>,
    pub(super) retry: Retry,
    pub(super) timeout_ms: i64,
    pub(super) replay_safe: Expr,
    pub(super) approval_required: Expr,
    pub(super) compensation: Option<Action>,
}

/// What a step or its compensation does.
#[derive(Clone, Debug, Default)]
pub(super) struct Action {
    pub(super) tool: String,
    pub(super) operation: String,
    pub(super) arguments: Value,
}

/// One attempt of a step, when the file does not say otherwise.
const TIMEOUT_MS: i64 = 60_000;
/// Longest a single attempt may be given: one day.
const TIMEOUT_MS_MAX: i64 = 86_400_000;

impl Definition {
    /// Name and version as printed: `name@version`.
    pub(super) fn key(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }

    /// Reads one file. `capsules` gives the steps a wizard's module takes over with `use`.
    pub(super) fn read(origin: Origin, root: &Node<'_>, capsules: &[Node<'_>], faults: &mut Faults) -> Option<Self> {
        let body: &[&str] = match origin {
            Origin::Capsule => &["name", "version", "title", "description", "inputs", "rules", "steps"],
            Origin::Wizard => &[
                "name",
                "version",
                "title",
                "description",
                "questions",
                "rules",
                "modules",
            ],
        };
        if !root.keys(body, faults) {
            return None;
        }
        let name = root.required_text("name", faults);
        if !name.is_empty() && !is_name(&name) {
            root.fault(
                faults,
                format!("`{name}`: a name is a-z first, then a-z, 0-9 and `_`, at most 48 in all"),
            );
        }
        let version = root.required_text("version", faults);
        for key in ["title", "description"] {
            root.required_text(key, faults);
        }
        let (list, read): (_, fn(&Node<'_>, &mut Faults) -> Option<Field>) = match origin {
            Origin::Capsule => ("inputs", Field::input),
            Origin::Wizard => ("questions", Field::question),
        };
        let fields: Vec<_> = root.list(list, faults).iter().filter_map(|n| read(n, faults)).collect();
        for (i, field) in fields.iter().enumerate() {
            if fields[..i].iter().any(|f| f.name == field.name) {
                root.fault(faults, format!("{list}[{i}]: `{}` is declared twice", field.name));
            }
        }
        let rules = root
            .list("rules", faults)
            .iter()
            .filter_map(|n| rule(n, &fields, faults))
            .collect();
        let mut reader = StepReader {
            fields: &fields,
            found: Vec::new(),
            values: Vec::new(),
        };
        match origin {
            Origin::Capsule => root
                .list("steps", faults)
                .into_iter()
                .for_each(|n| reader.step(n, &[], faults)),
            Origin::Wizard => root
                .list("modules", faults)
                .iter()
                .for_each(|n| reader.module(n, capsules, faults)),
        }
        if reader.found.is_empty() {
            root.fault(faults, "has no steps: add at least one");
        }
        graph::check(&reader.found, root, faults);
        let (steps, values) = (reader.found.into_iter().map(|(spec, _)| spec).collect(), reader.values);
        Some(Self {
            origin,
            name,
            version,
            fields,
            rules,
            steps,
            values,
        })
    }
}

fn rule(node: &Node<'_>, fields: &[Field], faults: &mut Faults) -> Option<Rule> {
    node.keys(&["require", "error", "field"], faults);
    let field = node.text("field", faults).unwrap_or_default();
    if !field.is_empty() && !fields.iter().any(|f| f.name == field) {
        node.fault(faults, format!("`field` names `{field}`, which is not declared"));
    }
    let error = node.required_text("error", faults);
    let require = node.required_text("require", faults);
    let require = expression(&require, fields).map_err(|e| node.fault(faults, e)).ok()?;
    Some(Rule { require, error, field })
}

fn expression(text: &str, fields: &[Field]) -> Result<Expr, String> {
    Expr::parse(text, fields)
}

/// Reads steps one after another, remembering where each stood.
struct StepReader<'f, 'n> {
    fields: &'f [Field],
    found: Vec<(StepSpec, Node<'n>)>,
    values: Vec<String>,
}

impl<'n> StepReader<'_, 'n> {
    fn module(&mut self, node: &Node<'n>, capsules: &[Node<'n>], faults: &mut Faults) {
        node.keys(&["id", "title", "when", "use", "steps"], faults);
        node.required_text("id", faults);
        let when: Vec<_> = self.condition(node, "when", faults).into_iter().collect();
        let own = node.list("steps", faults);
        let Some(key) = node.text("use", faults) else {
            return own.into_iter().for_each(|step| self.step(step, &when, faults));
        };
        let named = |n: &&Node<'_>| {
            let text = |k: &str| n.text(k, &mut Faults::new()).unwrap_or_default();
            format!("{}@{}", text("name"), text("version")) == key
        };
        match capsules.iter().find(named) {
            Some(capsule) if own.is_empty() => {
                let steps = capsule.list("steps", &mut Faults::new());
                steps.into_iter().for_each(|step| self.step(step, &when, faults));
            }
            Some(_) => node.fault(faults, "`use` and `steps` exclude each other: keep one"),
            None => node.fault(
                faults,
                format!("`use` names the capsule `{key}`, which is not in the catalogue"),
            ),
        }
    }

    fn step(&mut self, node: Node<'n>, outer: &[Expr], faults: &mut Faults) {
        const KNOWN: [&str; 12] = [
            "id",
            "description",
            "tool",
            "operation",
            "arguments",
            "needs",
            "when",
            "retry",
            "timeout_ms",
            "replay_safe",
            "approval_required",
            "compensation",
        ];
        if !node.keys(&KNOWN, faults) {
            return;
        }
        let id = node.required_text("id", faults);
        if !id.is_empty() && !is_name(&id) {
            node.fault(
                faults,
                format!("step id `{id}`: a-z first, then a-z, 0-9 and `_`, at most 48 in all"),
            );
        }
        let timeout_ms = node.integer("timeout_ms", faults).unwrap_or(TIMEOUT_MS);
        if !(1..=TIMEOUT_MS_MAX).contains(&timeout_ms) {
            node.fault(
                faults,
                format!("timeout_ms {timeout_ms} is not from 1 to {TIMEOUT_MS_MAX}"),
            );
        }
        let compensation = node.get("compensation");
        if let Some(way_back) = &compensation {
            way_back.keys(&["tool", "operation", "arguments"], faults);
        }
        let spec = StepSpec {
            id,
            description: node.text("description", faults).unwrap_or_default(),
            action: self.action(&node, faults),
            needs: node.texts("needs", faults),
            when: outer
                .iter()
                .cloned()
                .chain(self.condition(&node, "when", faults))
                .collect(),
            retry: retry(&node, faults),
            timeout_ms,
            replay_safe: self.flag(&node, "replay_safe", faults),
            approval_required: self.flag(&node, "approval_required", faults),
            compensation: compensation.map(|n| self.action(&n, faults)),
        };
        self.found.push((spec, node));
    }

    fn action(&mut self, node: &Node<'_>, faults: &mut Faults) -> Action {
        let arguments = node.get("arguments");
        match &arguments {
            Some(found) if !found.value.is_object() => found.fault(faults, "expected an object"),
            Some(found) => found.strings(&mut |at, text| match template::references(text) {
                Ok(references) => references.iter().for_each(|r| self.reference(r, at, faults)),
                Err(error) => at.fault(faults, error),
            }),
            None => {}
        }
        Action {
            tool: node.required_text("tool", faults),
            operation: node.required_text("operation", faults),
            arguments: arguments.map_or_else(|| Value::Object(serde_json::Map::new()), |n| n.value.clone()),
        }
    }

    fn reference(&mut self, reference: &Reference, at: &Node<'_>, faults: &mut Faults) {
        match reference {
            Reference::Input(name) if !self.fields.iter().any(|f| &f.name == name) => {
                at.fault(faults, format!("refers to inputs.{name}, which is not declared"));
            }
            Reference::Value(name) if !self.values.contains(name) => self.values.push(name.clone()),
            _ => {}
        }
    }

    fn condition(&self, node: &Node<'_>, key: &str, faults: &mut Faults) -> Option<Expr> {
        let at = node.get(key)?;
        let parsed = match at.value {
            Value::Bool(fixed) => Ok(Expr::Literal(Value::Bool(*fixed))),
            Value::String(text) => expression(text, self.fields),
            _ => Err("expected true, false or a condition such as inputs.x == \"y\"".to_owned()),
        };
        parsed.map_err(|e| at.fault(faults, e)).ok()
    }

    fn flag(&self, node: &Node<'_>, key: &str, faults: &mut Faults) -> Expr {
        self.condition(node, key, faults)
            .unwrap_or(Expr::Literal(Value::Bool(false)))
    }
}

fn retry(step: &Node<'_>, faults: &mut Faults) -> Retry {
    let Some(node) = step.get("retry") else {
        return Retry {
            attempts_max: 1,
            backoff_ms: 1_000,
            backoff_ms_max: 60_000,
        };
    };
    node.keys(&["attempts_max", "backoff_ms", "backoff_ms_max"], faults);
    let attempts = node.integer("attempts_max", faults).unwrap_or(1);
    let backoff_ms = node.integer("backoff_ms", faults).unwrap_or(1_000);
    let backoff_ms_max = node.integer("backoff_ms_max", faults).unwrap_or(60_000.max(backoff_ms));
    if !(1..=100).contains(&attempts) {
        node.fault(faults, format!("attempts_max {attempts} is not from 1 to 100"));
    }
    if backoff_ms < 0 || backoff_ms_max < backoff_ms {
        faults.push(ConfigFault::new(
            node.path(),
            "backoff_ms must be at least 0 and at most backoff_ms_max",
        ));
    }
    Retry {
        attempts_max: i32::try_from(attempts).unwrap_or(1),
        backoff_ms,
        backoff_ms_max,
    }
}
