//! A policy bundle: Rego files, their data and the weighted rules, read as a whole. Its revision is the SHA-256 of every file.

use kernel::ConfigFault;
use regorus::{Engine, Value};
use schemas::digest;

use super::machine::Machine;
use super::recursion::recursive;
use super::rego::{Rego, engine};
use super::rules::{self, WeightedRule};

pub(super) const DENY: &str = "data.soma.gate.deny";
pub(super) const ESCALATE: &str = "data.soma.gate.escalate";
pub(super) const WAIVE: &str = "data.soma.gate.waive";
pub(super) const OBLIGE: &str = "data.soma.gate.oblige";
pub(super) const TALLY: &str = "data.soma.gate.tally";

/// Rules every bundle must define in package `soma.gate`; it may define [`BESIDE`] too.
pub(super) const ENTRY_POINTS: [&str; 2] = [DENY, ESCALATE];

/// What a bundle may define beside them.
const BESIDE: [&str; 3] = [WAIVE, OBLIGE, TALLY];

/// Builtins whose answer is not a function of the input: a verdict must come out the same when it is given again.
const IMPURE: [&str; 5] = ["rand.", "time.", "http.send", "opa.runtime", "uuid."];

/// Builtins that answer otherwise here than in OPA (`make opa` found them), where a rule could silently not fire.
const UNLIKE_OPA: [&str; 9] = [
    "json.is_valid",
    "json.match_schema",
    "json.verify_schema",
    "object.subset",
    "regex.replace",
    "semver.is_valid",
    "strings.count",
    "strings.replace_n",
    "yaml.is_valid",
];

/// A bundle that compiles.
pub struct Bundle {
    /// Prepared engine without the tests.
    pub(super) engine: Engine,
    /// Weighted rules in order of their pattern.
    pub(super) rules: Vec<WeightedRule>,
    /// What of [`BESIDE`] it has.
    beside: Vec<&'static str>,
    revision: String,
    tests: Vec<(String, String)>,
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bundle({})", self.revision)
    }
}

/// What a test of the bundle gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestResult {
    /// File and rule, for example `base/gate_test.rego: test_destroy_escalates`.
    pub name: String,
    /// Whether it holds.
    pub passed: bool,
    /// Why it does not; empty when it does.
    pub detail: String,
}

/// What of a policy file the tests came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// File.
    pub path: String,
    /// How many lines that say something were evaluated.
    pub covered: usize,
    /// The others, from 1.
    pub missed: Vec<u32>,
}

impl Bundle {
    /// Reads (path, text) pairs: `*.rego`, `*_test.rego`, `rules.yaml`, and data in any other `.yaml` or `.json`.
    /// Data of all files is merged at `data`. `.md` files are not part of the bundle.
    ///
    /// # Errors
    /// Every fault, each with its file and, for Rego, its line.
    pub fn parse(files: &[(String, String)]) -> Result<Self, Vec<ConfigFault>> {
        let mut files: Vec<_> = files.iter().filter(|(path, _)| !path.ends_with(".md")).collect();
        files.sort();
        let mut faults = Vec::new();
        let mut bundle = Self {
            engine: engine(),
            rules: Vec::new(),
            beside: Vec::new(),
            revision: revision(&files),
            tests: Vec::new(),
        };
        for (path, text) in files {
            bundle.add(path, text, &mut faults);
        }
        // Before anything is evaluated: a rule without end would take the process with it.
        faults.extend(recursive(&bundle.with_tests()));
        if faults.is_empty() {
            bundle.prove(&mut faults);
        }
        bundle
            .rules
            .sort_by(|a, b| (a.pattern.to_lowercase(), &a.name).cmp(&(b.pattern.to_lowercase(), &b.name)));
        if faults.is_empty() { Ok(bundle) } else { Err(faults) }
    }

    /// SHA-256 over all files: 64 hex digits.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// Its policies and data alone, to ask other questions of.
    pub fn rego(&self) -> Rego {
        Rego::of(self.engine.clone())
    }

    /// Why it is interpreted rather than run as bytecode; none when it is fast.
    pub fn slow(&self) -> Option<String> {
        Machine::of(&self.engine, &self.entries()).err()
    }

    /// The entry points it has.
    pub(super) fn entries(&self) -> Vec<&'static str> {
        ENTRY_POINTS.into_iter().chain(self.beside.iter().copied()).collect()
    }

    /// The engine with the tests; those that do not parse are left out.
    fn with_tests(&self) -> Engine {
        let mut engine = self.engine.clone();
        for (path, text) in &self.tests {
            engine.add_policy(path.clone(), text.clone()).ok();
        }
        engine
    }

    /// Runs every `test_` rule of the `*_test.rego` files. A test passes when its value is `true`.
    pub fn test(&self) -> Vec<TestResult> {
        self.run_tests(&mut self.with_tests())
    }

    /// The same, and what of each policy file the tests came to.
    ///
    /// # Errors
    /// The engine gives no report.
    pub fn test_with_coverage(&self) -> Result<(Vec<TestResult>, Vec<Coverage>), String> {
        let mut engine = self.with_tests();
        engine.set_enable_coverage(true);
        let results = self.run_tests(&mut engine);
        let report = engine.get_coverage_report().map_err(|e| e.to_string())?;
        let policies = report.files.into_iter().filter(|f| !f.path.ends_with("_test.rego"));
        let one = |f: regorus::coverage::File| Coverage {
            path: f.path,
            covered: f.covered.len(),
            missed: f.not_covered.into_iter().collect(),
        };
        Ok((results, policies.map(one).collect()))
    }

    fn run_tests(&self, engine: &mut Engine) -> Vec<TestResult> {
        let mut results = Vec::new();
        for (path, text) in &self.tests {
            let package = text
                .lines()
                .find_map(|l| l.strip_prefix("package "))
                .unwrap_or_default()
                .trim();
            for rule in test_rules(text) {
                let value = engine.eval_rule(format!("data.{package}.{rule}"));
                let detail = match value {
                    Ok(value) if value == Value::from(true) => String::new(),
                    Ok(value) => format!(
                        "expected true, got {}",
                        value.to_json_str().unwrap_or_else(|_| "undefined".into())
                    ),
                    Err(error) => error.to_string(),
                };
                results.push(TestResult {
                    name: format!("{path}: {rule}"),
                    passed: detail.is_empty(),
                    detail,
                });
            }
        }
        results
    }

    fn add(&mut self, path: &str, text: &str, faults: &mut Vec<ConfigFault>) {
        let name = path.rsplit('/').next().unwrap_or(path);
        if name.ends_with(".rego") {
            faults.extend(unsound(path, text));
            if name.ends_with("_test.rego") {
                // A test that does not parse is as wrong as a policy that does not.
                if let Err(error) = engine().add_policy(path.to_owned(), text.to_owned()) {
                    faults.push(rego_fault(path, &error.to_string()));
                }
                self.tests.push((path.to_owned(), text.to_owned()));
            } else if let Err(error) = self.engine.add_policy(path.to_owned(), text.to_owned()) {
                faults.push(rego_fault(path, &error.to_string()));
            }
        } else if name == "rules.yaml" {
            self.rules.extend(rules::read(path, text, faults));
        } else if let Err(detail) = self.add_data(name, text) {
            faults.push(ConfigFault::new(path, detail));
        }
    }

    fn add_data(&mut self, name: &str, text: &str) -> Result<(), String> {
        let value: serde_json::Value = match name.rsplit('.').next() {
            Some("json") => serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))?,
            Some("yaml" | "yml") => serde_yaml_ng::from_str::<serde_yaml_ng::Value>(text)
                .map_err(|e| e.to_string())
                .and_then(|v| serde_json::to_value(v).map_err(|e| e.to_string()))
                .map_err(|e| format!("not YAML: {e}"))?,
            _ => return Err("a bundle holds .rego, .yaml, .json and .md files: move this one elsewhere".into()),
        };
        match value.as_object() {
            None => return Err("data must be an object of named values".into()),
            Some(object) if object.contains_key("soma") => {
                return Err("data may not be named `soma`: that is where the policies stand".into());
            }
            Some(_) => {}
        }
        self.engine
            .add_data(Value::from(value))
            .map_err(|e| format!("data collides with another file's: {e}"))
    }

    /// Evaluates the entry points once over an empty plan: what is missing or unknown shows here, not at the first request.
    fn prove(&mut self, faults: &mut Vec<ConfigFault>) {
        self.engine.set_input(Value::from(serde_json::json!({
            "subject": {"kind": "PLAN", "id": ""}, "tenant": "", "actor": "", "roles": [], "goal": "", "capsule": null,
            "autonomy": "SUPERVISED", "region": null, "data_classes": [], "budget_usd": null, "steps": [], "approval": null, "approvals": [], "done": [], "rules": [], "constitutions": [], "strikes": [], "tallies": {}, "now": ""
        })));
        self.beside = BESIDE.into_iter().filter(|rule| self.defines(rule)).collect();
        for rule in self.entries() {
            let word = rule.rsplit('.').next().unwrap_or(rule);
            match self.engine.eval_rule(rule.to_owned()) {
                Ok(value) if value.as_set().is_ok() => {}
                Ok(_) => faults.push(ConfigFault::new(
                    rule,
                    format!("must be a set: write `{word} contains finding if {{ ... }}`"),
                )),
                Err(error) => faults.push(rego_fault(rule, &format!("the bundle has no usable `{rule}`: {error}"))),
            }
        }
    }
}

impl Bundle {
    /// Whether a module defines a rule. The engine tells a rule that is not there by this text alone; any other error is the rule's.
    fn defines(&mut self, rule: &str) -> bool {
        let answer = self.engine.eval_rule(rule.to_owned());
        !answer.is_err_and(|e| e.to_string().contains("not a valid rule path"))
    }
}

fn revision(files: &[&(String, String)]) -> String {
    let parts: Vec<_> = files
        .iter()
        .flat_map(|(path, text)| [path.as_str(), text.as_str()])
        .collect();
    digest::sha256_hex(&[&["bundle"], parts.as_slice()].concat())
}

/// Builtins of OPA that are not here: found where a bundle is read rather than when a rule first comes to them.
const ABSENT: [&str; 18] = [
    "array.flatten",
    "base64url.",
    "crypto.",
    "graphql.",
    "io.jwt.",
    "json.marshal_with_options",
    "json.patch",
    "net.",
    "providers.",
    "regex.globs_match",
    "regex.template_match",
    "rego.metadata",
    "rego.parse_module",
    "strings.render_template",
    "strings.split_n",
    "units.",
    "uri.",
    "urlquery.",
];

/// What a module may not use: it would not give the same verdict again, or another one than OPA.
pub fn unsound(path: &str, text: &str) -> Vec<ConfigFault> {
    let mut faults = Vec::new();
    let mut refuse = |at: usize, detail: String| {
        faults.push(ConfigFault::new(format!("{path}:{}", at + 1), detail));
    };
    for (at, line) in text.lines().enumerate() {
        let code = line.split('#').next().unwrap_or_default();
        let names = |name: &str| {
            let starts = |i: usize| {
                !code[..i].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.' || c == '"')
            };
            code.match_indices(name).any(|(i, _)| starts(i))
        };
        for name in IMPURE.into_iter().filter(|n| names(n)) {
            let why = "a verdict must be the same when it is given again; use input.now";
            refuse(at, format!("`{name}` is not allowed: {why}"));
        }
        for name in UNLIKE_OPA.into_iter().filter(|n| names(n)) {
            refuse(
                at,
                format!("`{name}` is not allowed: in some cases it answers otherwise than OPA's; use other builtins"),
            );
        }
        for name in ABSENT.into_iter().filter(|n| names(n)) {
            refuse(at, format!("`{name}` is not a builtin of this gate; use others"));
        }
        let begins = |i: usize| code[..i].ends_with([' ', '\t', '(', '[', '{', ',']);
        let starts_text = |text: &str| code.match_indices(text).any(|(i, _)| begins(i));
        if starts_text("$\"") || starts_text("$`") {
            refuse(at, "text with `$` in front is not known here: use sprintf".to_owned());
        }
        let opted = code.trim().strip_prefix("import future.keywords.");
        if let Some(word) = opted.filter(|w| !["contains", "every", "if", "in"].contains(&w.trim())) {
            let detail = format!("keyword `{}` is not known here: write it without", word.trim());
            refuse(at, detail);
        }
    }
    faults
}

/// A Rego error with the file and line it names: `--> file:line:column`.
fn rego_fault(path: &str, error: &str) -> ConfigFault {
    let at = error.lines().find_map(|l| l.trim().strip_prefix("-->")).map(str::trim);
    let place = at
        .and_then(|at| at.rsplit_once(':'))
        .map_or(path, |(place, _column)| place);
    let reason = error
        .lines()
        .rev()
        .find_map(|l| l.trim().strip_prefix("error:"))
        .map_or(error, str::trim);
    ConfigFault::new(place, reason.to_owned())
}

fn test_rules(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in text.lines().filter(|l| l.starts_with("test_")) {
        let name: String = line
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect();
        if !found.contains(&name) {
            found.push(name);
        }
    }
    found
}
