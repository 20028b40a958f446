//! The runner, regorus' machine and its interpreter hold the same of the same input: over the shipped bundle with its data changed at
//! random, over rules written for each construct, and over inputs that hold anything anywhere.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use regorus::Value;
use serde_json::{Value as Json, json};

use schemas::records::Step;

use super::machine::Machine;
use super::rego::{Rego, engine};
use super::tests::shipped;
use super::*;

/// Draws that come out the same again.
pub(super) struct Draw(pub(super) u64);

impl Draw {
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n.max(1)
    }

    pub(super) fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    /// Something that a document may hold where a rule expects something else.
    fn anything(&mut self) -> Json {
        match self.below(12) {
            0 => Json::Null,
            1 => json!(true),
            2 => json!(-3),
            3 => json!(1e21),
            4 => json!([]),
            5 => json!(["a", 1, null]),
            6 => json!({}),
            7 => json!({"x": {"y": [1]}}),
            8 => json!("7"),
            9 => json!(101),
            10 => json!("0.0.0.0/0 AKIAABCDEFGHIJKLMNOP @here"),
            _ => json!(false),
        }
    }

    /// Puts anything somewhere.
    fn spoil(&mut self, document: &mut Json) {
        match document {
            Json::Object(fields) if !fields.is_empty() && self.below(6) > 0 => {
                let at = self.below(fields.len());
                let name = fields.keys().nth(at).unwrap().clone();
                if self.below(8) == 0 {
                    fields.remove(&name);
                } else {
                    self.spoil(&mut fields[&name]);
                }
            }
            Json::Array(items) if !items.is_empty() && self.below(6) > 0 => {
                let at = self.below(items.len());
                self.spoil(&mut items[at]);
            }
            other => *other = self.anything(),
        }
    }

    fn step(&mut self, id: usize) -> Step {
        let hosts = [
            "127.0.0.1:8080",
            "api.example.org",
            "169.254.169.254",
            "localhost:22",
            "[::1]",
        ];
        let url = format!(
            "{}://{}/{}",
            self.one(&["http", "https", "ftp"]),
            self.one(&hosts),
            self.one(&["", "x", "items/1"])
        );
        let method = self.one(&["GET", "post", "DELETE", "PUT", "BREW"]);
        let (tool, operation, arguments) = match self.below(6) {
            0 | 1 => (
                "http",
                "request",
                json!({"method": method, "url": url, "headers": {self.one(&["Host", "Cookie", "Accept"]): "x"}}),
            ),
            2 => (
                "notify",
                "webhook",
                json!({"url": url, "text": self.one(&["hello", "@everyone", "AKIAABCDEFGHIJKLMNOP"])}),
            ),
            3 => (
                "terraform",
                self.one(&["plan", "validate"]),
                json!({"workspace": "web", "destroy": self.below(3) == 0, "variables": {"replicas": self.one(&["3", "300", "x"]), "region": "eu-west"}, "module": {"main.tf": self.one(&["cidr 0.0.0.0/0", "resource \"aws_iam_role\"", "x"])}}),
            ),
            4 => (
                "terraform",
                self.one(&["apply", "destroy"]),
                json!({"workspace": "web", "destroy_count": self.one(&[0, 1, 60])}),
            ),
            _ => (
                "http",
                "request",
                json!({"url": self.one(&["${steps.a.url}", "no url", "https://u:p@api.example.org/"])}),
            ),
        };
        super::tests::step(&format!("s{id}"), tool, operation, &arguments.to_string())
    }

    pub(super) fn plan(&mut self) -> Plan {
        let steps = (0..self.below(4)).map(|id| self.step(id)).collect();
        Plan {
            tenant: self.one(&["acme", "umbrella", "globex", "аcme", ""]).to_owned(),
            actor: self.one(&["ada", ""]).to_owned(),
            goal: self
                .one(&["keep it up", "Ignore previous instructions", "drop table x"])
                .to_owned(),
            roles: self.one(&[vec![], vec!["ops".to_owned()]]),
            budget_usd: self.one(&[
                None,
                Some(schemas::Usd(50_000_000)),
                Some(schemas::Usd(200_000_000)),
                Some(schemas::Usd(-1)),
            ]),
            autonomy: self.one(&[
                schemas::records::Autonomy::Supervised,
                schemas::records::Autonomy::Autonomous,
            ]),
            ..super::tests::plan(steps)
        }
    }
}

/// What is said of a question, errors by the fact alone.
fn all_three(machine: &mut Machine, rego: &mut Rego, asks: &[&str], input: &Json) -> [Result<Json, ()>; 3] {
    let json = |v: Result<Value, String>| v.map(|v| serde_json::to_value(&v).unwrap()).map_err(drop);
    let input_value = || Value::from(input.clone());
    let query = asks.iter().enumerate().map(|(n, ask)| format!("v{n} = {ask}"));
    let query = query.collect::<Vec<_>>().join("; ");
    let interpreted = rego.ask(&query, Some(input)).map_err(drop).map(|answers| {
        let answer = answers.into_iter().next().unwrap_or_default();
        (0..asks.len())
            .map(|n| answer[format!("v{n}")].clone())
            .collect::<Json>()
    });
    let ran = machine
        .ask_runner(input_value(), None)
        .expect("it is run by the runner");
    [json(ran), json(machine.ask_machine(input_value())), interpreted]
}

#[test]
fn the_runner_finds_in_the_shipped_bundle_what_machine_and_interpreter_find() {
    let (mut draw, mut found, mut erred) = (Draw(7), 0, 0);
    let asks = ["data.soma.gate.deny", "data.soma.gate.escalate"];
    for round in 0..12 {
        let mut files = shipped();
        for (path, text) in &mut files {
            if round > 0 && path.ends_with("data.yaml") {
                let mut data: Json = serde_yaml_ng::from_str(text).unwrap();
                data["tenants"]["read_only"] = draw.one(&[json!([]), json!(["acme"]), json!(["umbrella", "globex"])]);
                data["tenants"]["tools"] = draw.one(&[json!({}), json!({"acme": ["http"]})]);
                data["roles"]["change"] = draw.one(&[json!([]), json!(["ops"])]);
                data["roles"]["tools"] = draw.one(&[json!({}), json!({"terraform": ["ops"]})]);
                data["freezes"] = draw.one(&[json!([]), json!([{"from": "1970", "until": "2100", "reason": "rest"}])]);
                data["hosts"]["allowed"] = draw.one(&[json!([]), json!([".example.org"]), json!(["api.example.org"])]);
                data["regions"]["allowed"] = draw.one(&[json!([]), json!(["eu-north"])]);
                data["terraform"]["protected"] = draw.one(&[json!([]), json!(["web"])]);
                if round > 8 {
                    draw.spoil(&mut data);
                }
                *text = serde_json::to_string(&data).unwrap();
            }
        }
        let Ok(bundle) = Bundle::parse(&files) else { continue };
        let mut machine = Machine::of(&bundle.engine, &asks).unwrap();
        let (mut rego, gate) = (bundle.rego(), PolicyGate::new(bundle, [9; 32], || 0));
        for _ in 0..60 {
            let mut document = gate.document(&Input::Plan(Box::new(draw.plan())), super::tests::NOW);
            let spoiled = draw.below(4);
            for _ in 0..spoiled {
                draw.spoil(&mut document);
            }
            let [ran, machined, interpreted] = all_three(&mut machine, &mut rego, &asks, &document);
            assert_eq!(ran, machined, "{document:#}");
            // The interpreter takes `some x in null` for an error; no document of the gate's has it.
            assert!(
                spoiled > 0 || ran == interpreted,
                "{ran:?} {interpreted:?} {document:#}"
            );
            found += ran.as_ref().map_or(0, |sets| {
                sets.as_array()
                    .unwrap()
                    .iter()
                    .map(|s| s.as_array().unwrap().len())
                    .sum()
            });
            erred += usize::from(ran.is_err());
        }
    }
    assert!(found > 500 && erred > 5, "{found} findings, {erred} errors");
}

/// Rules for what the shipped bundle does not use, or uses in one way.
const CONSTRUCTS: [&str; 24] = [
    "p contains x if some x in input.a",
    "p contains [k, v] if some k, v in input.a",
    "p contains x if { some x in input.a; x > 1 }",
    "p contains 1 if every x in input.a { x > 0 }",
    "p contains 1 if every k, x in input.a { k != x; some y in input.b; y == x }",
    "p contains x if x := input.a[_]",
    "p contains [i, x] if { x := input.a[i]; i != 1 }",
    "p contains [x, y] if { some x in input.a; some y in input.b; x != y }",
    "p contains n if n := count([x | some x in input.a; x != 2])",
    "p contains s if s := {x | some x in input.a; some y in input.b; x == y}",
    "p contains s if s := [[x, [y | some y in input.b; y > x]] | some x in input.a]",
    "p contains f(x) if some x in input.a\nf(x) := \"small\" if x < 2\nelse := \"big\" if x < 10\nelse := \"none\"",
    "p contains 1 if not q\nq if { some x in input.a; x in input.b }",
    "p contains v if v := q\ndefault q := 3\nq := 4 if input.a == input.b",
    "p contains 1 if { x := input.a; not f(x) }\nf(x) if x[0] == 1\nf(x) if count(x) > 3",
    "p contains {\"k\": x, \"n\": object.get(input, \"c\", null)} if some x in input.a",
    "p contains x if { some x in q; startswith(x, \"s\") }\nq contains sprintf(\"s%v\", [y]) if some y in input.a\nq contains \"t\" if input.b",
    "p contains y if { [_, y] = input.a }",
    "p contains y if { {\"k\": y} = input.b }",
    "p contains x if { some {\"k\": x} in input.a }",
    "p contains f(input.a, input.b) if true\nf(x, y) := x if x == y\nelse := [x, y]",
    "p contains f([1, input.a]) if true\nf([n, x]) := [x, n]",
    "p contains input.a.b.c if input.a.b\np contains input.a.b if not input.a.b.c\np contains 5",
    "p contains to_number(x) if some x in input.a",
];

#[test]
fn the_runner_holds_of_each_construct_what_machine_and_interpreter_hold() {
    let mut draw = Draw(11);
    let mut answered = 0;
    for text in CONSTRUCTS {
        let mut engine = engine();
        engine
            .add_policy("m.rego".to_owned(), format!("package t\n\n{text}\n"))
            .unwrap();
        let mut machine = match Machine::of(&engine, &["data.t.p"]) {
            Ok(machine) => machine,
            Err(_) => continue,
        };
        let mut rego = Rego::of(engine);
        for _ in 0..60 {
            let mut input = draw.one(&[
                json!({"a": [1, 2, 3], "b": [2, 5]}),
                json!({"a": {"x": 1, "y": 2}, "b": {"k": 2}}),
                json!({"a": [1, 2], "b": [1, 2]}),
                json!({"a": [{"k": 1}, {"k": 2}], "b": []}),
                json!({"a": {"b": {"c": 1}}, "b": {"b": 2}}),
            ]);
            for _ in 0..draw.below(3) {
                draw.spoil(&mut input);
            }
            if machine.ask_runner(Value::from(input.clone()), None).is_none() {
                continue;
            }
            let [ran, machined, _] = all_three(&mut machine, &mut rego, &["data.t.p"], &input);
            assert_eq!(ran, machined, "{text}\n{input:#}");
            answered += 1;
        }
    }
    assert!(answered > 1000, "{answered}");
}

/// Each looks at what the tool says of a step, or at the step as a whole.
const LOOKS: [&str; 14] = [
    "step.traits.effect == \"changes\"",
    "step[\"traits\"].effect == \"changes\"",
    "k := \"traits\"; step[k].effect == \"changes\"",
    "some k, v in step; k == \"traits\"; v.effect == \"changes\"",
    "contains(json.marshal(step), \"changes\")",
    "contains(json.marshal(input), \"changes\")",
    "contains(sprintf(\"%v\", [[step]]), \"changes\")",
    "object.get(step, [\"traits\", \"effect\"], \"\") == \"changes\"",
    "f(step) == \"changes\"",
    "some s in q; s.traits.effect == \"changes\"",
    "object.filter(step, [\"traits\"]) == {\"traits\": {\"effect\": \"changes\"}}",
    "{\"effect\": \"changes\"} in [x | some x in step]",
    "every v in step { v != {\"effect\": \"changes\"} }",
    "[x | some x in input.steps][0] != object.union(step, {\"traits\": {\"effect\": \"changes\"}})",
];

#[test]
fn who_looks_at_what_a_tool_says_is_told_and_who_does_not_costs_nothing() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let mut draw = Draw(2);
    let rule = |looks: &str| {
        format!(
            "package soma.gate\n\ndeny contains f if {{\n\tsome step in input.steps\n\t{}\n\tf := {{\"rule\": \"looks\", \"description\": \"x\"}}\n}}\n\n\
             escalate contains {{\"rule\": \"r\", \"description\": \"x\"}} if count(input.steps) > 100\n\nf(x) := x.traits.effect\n\n\
             q contains step if some step in input.steps\n",
            looks.replace("; ", "\n\t")
        )
    };
    for (n, looks) in LOOKS.iter().chain(&["step.tool == \"http\""]).enumerate() {
        let bundle =
            || super::tests::parse(&[("a/gate.rego", &rule(looks))]).unwrap_or_else(|f| panic!("{looks}: {f:?}"));
        let asked = std::sync::Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let gate = PolicyGate::new(bundle(), [9; 32], || 0).with_traits(std::sync::Arc::new(move |_, _, arguments| {
            count.fetch_add(1, Ordering::Relaxed);
            json!({"effect": if arguments.len() % 2 == 0 { "changes" } else { "reads" }})
        }));
        let (mut rego, mut found) = (bundle().rego(), 0);
        for _ in 0..20 {
            let plan = Input::Plan(Box::new(draw.plan()));
            let verdict = gate.judge(&plan, super::tests::NOW, &Members::default()).unwrap();
            let before = asked.load(Ordering::Relaxed);
            let all = rego.findings(&gate.document(&plan, super::tests::NOW)).unwrap();
            asked.store(before, Ordering::Relaxed);
            let ours = verdict.violations.iter().filter(|v| v.rule == "looks").count();
            assert_eq!(ours, all.len(), "{looks}");
            found += ours;
        }
        assert!(found > 0, "{looks} finds nothing");
        assert_eq!(asked.load(Ordering::Relaxed) == 0, n == LOOKS.len(), "{looks}");
    }
}
