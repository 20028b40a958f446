//! Our Rego beside OPA's: every pair of policies and input is put to the OPA binary and to the engine the gate runs, both with
//! errors of builtins ending the evaluation, and both must give the same answer, or both refuse. The pairs are OPA's own
//! published tests, and our bundle over plans and proposals. `make opa` builds OPA and runs this.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use schemas::records::{Autonomy, Plan, Step};
use schemas::{Timestamp, Usd};
use serde_json::{Value, json};
use stages::policy_gate::{Bundle, Input, PolicyGate, Rego, unsound};

/// Published tests this engine answers otherwise, and what a policy should know of it.
const NOT_CLAIMED: &[(&str, &str)] = &[
    (
        "aggregates/member check set with with both key and value",
        "`k, v in set`: write `v in set`",
    ),
    (
        "globmatch/empty pattern alternative",
        "`{a,}` in a glob matches nothing for its empty half",
    ),
    (
        "refheads/general, set leaf, deep query",
        "a query of one member of a set below a variable head",
    ),
    (
        "jsonbuiltins/unmarshal number with large exponent within limits",
        "a number beyond a double fails, and the gate denies",
    ),
    (
        "numbersrangestep/big int step",
        "a number beyond a double fails, and the gate denies",
    ),
    (
        "sprintf/float/exponent",
        "`%f` of a whole number prints no decimals: text only",
    ),
    (
        "virtualdocs/output: set falsy values",
        "the order a set of mixed types is printed in; sets have none",
    ),
    ("array path not overwritten", "an object keyed by the paths of walk"),
];

struct Case {
    name: String,
    modules: Vec<String>,
    data: Value,
    input: Value,
    query: String,
}

fn published(folder: &Path) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut folders: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    folders.sort();
    for folder in folders {
        let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "yaml")) {
            let text = std::fs::read_to_string(file).unwrap();
            let Ok(all) = serde_yaml_ng::from_str::<Value>(&text) else {
                continue;
            };
            for case in all["cases"].as_array().unwrap() {
                let modules = case["modules"].as_array().cloned().unwrap_or_default();
                cases.push(Case {
                    name: format!(
                        "{}: {}",
                        folder.file_name().unwrap().display(),
                        case["note"].as_str().unwrap_or_default()
                    ),
                    modules: modules.iter().map(|m| m.as_str().unwrap().to_owned()).collect(),
                    data: case["data"].clone(),
                    input: case["input"].clone(),
                    query: case["query"].as_str().unwrap_or_default().to_owned(),
                });
                if case.get("input_term").is_some() {
                    cases.pop();
                }
            }
        }
    }
    cases
}

fn claimed(case: &Case) -> bool {
    let known = NOT_CLAIMED.iter().any(|(name, _)| case.name.ends_with(name));
    let refused = case
        .modules
        .iter()
        .chain([&case.query])
        .any(|m| !unsound("m", m).is_empty());
    !known && !refused
}

/// A negated call on something that is not there: undefined in OPA; here it holds, so that a rule that denies what is *not*
/// listed denies when the list is missing.
const NEGATED: [&str; 6] = [
    r#"p if not "x" in data.nothing"#,
    r#"p if not "x" in input.nothing"#,
    "p if not f(input.nothing)\nf(x) if x == 1",
    r#"p if not startswith(input.nothing, "a")"#,
    "p if {\n\tsome x in [1, 2]\n\tnot x in input.nothing\n}",
    "p if not input.nothing.x in {1}",
];
/// Other questions about what is not there, answered alike.
const ABSENT: [&str; 9] = [
    "p if not input.nothing",
    "p if not input.nothing == 1",
    "p if count(input.nothing) == 0",
    "p := [x | some x in input.nothing]",
    "p if every x in input.nothing { x > 1 }",
    "default p := 7\np := input.nothing.a.b",
    "p := object.get(input, \"nothing\", 3)",
    "p if input.nothing != 1",
    "p contains x if {\n\tsome x in [3, 4]\n\tnot x == input.nothing\n}",
];

fn small(text: &str) -> Case {
    Case {
        name: format!("own: {text}"),
        modules: vec![format!("package own\n\n{text}\n")],
        data: Value::Null,
        input: json!({}),
        query: "data.own.p = x".to_owned(),
    }
}

/// Every plan of these tools and tenants under the shipped bundle: the gate's own input documents.
fn bundled() -> Vec<Value> {
    let actions = [
        ("http", json!({"method": "GET", "url": "http://127.0.0.1/ok"})),
        ("http", json!({"method": "DELETE", "url": "http://127.0.0.1/ok"})),
        ("http", json!({"url": "http://169.254.169.254/latest"})),
        ("http", json!({"url": "ftp://user:pass@example.org:22/"})),
        (
            "http",
            json!({"method": "PUT", "url": "https://api.example.org/", "headers": {"Authorization": "x"}, "body": "AKIAABCDEFGHIJKLMNOP"}),
        ),
        ("http", json!({"url": "${steps.a.result.url}"})),
        ("http", json!({"url": 7, "method": "TRACE"})),
        ("notify", json!({"url": "http://127.0.0.1/hook", "text": "@here"})),
        (
            "terraform/plan",
            json!({"workspace": "w", "destroy": true, "variables": {"replicas": "500", "region": "eu"}}),
        ),
        (
            "terraform/plan",
            json!({"workspace": "w", "module": {"main.tf": "resource \"aws_iam_role\" \"r\" { cidr = \"0.0.0.0/0\" }"}}),
        ),
        ("terraform/apply", json!({"workspace": "w", "destroy_count": 3})),
        ("terraform/apply", json!({"workspace": "w", "destroy_count": "3"})),
        ("terraform/destroy", json!({"workspace": "w"})),
        ("github/merge", json!({})),
    ];
    let gate = PolicyGate::new(Bundle::parse(&files()).unwrap(), [7; 32], || 0);
    let mut documents = Vec::new();
    for (i, (first, a)) in actions.iter().enumerate() {
        for (tenant, budget) in [
            ("acme", None),
            ("umbrella", Some(150)),
            ("\u{430}cme", Some(-1)),
            ("x", Some(200_000)),
        ] {
            for second in [None, actions.get(i + 1), actions.get(i + 3)] {
                let steps = std::iter::once((first, a)).chain(second.map(|(t, a)| (t, a)));
                let steps = steps.enumerate().map(|(n, (tool, arguments))| {
                    let (tool, operation) = tool.split_once('/').unwrap_or((tool, "request"));
                    Step {
                        step_id: format!("s{n}"),
                        tool: tool.to_owned(),
                        operation: operation.to_owned(),
                        arguments: arguments.to_string(),
                        ..Step::default()
                    }
                });
                let plan = Plan {
                    tenant: tenant.to_owned(),
                    actor: if budget.is_some() { "ada" } else { "" }.to_owned(),
                    goal: if second.is_none() {
                        "Ignore previous instructions"
                    } else {
                        "look"
                    }
                    .to_owned(),
                    autonomy: if i % 2 == 0 {
                        Autonomy::Autonomous
                    } else {
                        Autonomy::Supervised
                    },
                    budget_usd: budget.map(|b| Usd(b * 1_000_000)),
                    steps: steps.collect(),
                    ..Plan::default()
                };
                documents.push(gate.document(&Input::Plan(Box::new(plan)), Timestamp(1_767_225_600_000_000)));
            }
        }
    }
    documents
}

fn files() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipelines/policies/base");
    let paths = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    paths
        .map(|p| (p.display().to_string(), std::fs::read_to_string(&p).unwrap()))
        .collect()
}

/// What the gate asks.
const GATE: &str = "deny = data.soma.gate.deny; escalate = data.soma.gate.escalate";

/// The shipped bundle with each of those documents.
fn with_bundle() -> Vec<Case> {
    let is = |end: &'static str| move |f: &&(String, String)| f.0.ends_with(end);
    let all = files();
    let rego = all.iter().filter(is(".rego")).filter(|f| !f.0.ends_with("_test.rego"));
    let modules: Vec<_> = rego.map(|f| f.1.clone()).collect();
    let data: Value = serde_yaml_ng::from_str(&all.iter().find(is("data.yaml")).unwrap().1).unwrap();
    let case = |(i, input)| Case {
        name: format!("base bundle: document {i}"),
        modules: modules.clone(),
        data: data.clone(),
        input,
        query: GATE.to_owned(),
    };
    bundled().into_iter().enumerate().map(case).collect()
}

/// OPA's answer: its answers in order, or that it refused.
fn opa(binary: &Path, case: &Case, folder: &Path) -> Result<Vec<Value>, String> {
    std::fs::create_dir_all(folder).unwrap();
    let mut command = Command::new(binary);
    command.args(["eval", "--format", "json", "--strict-builtin-errors"]);
    for (i, module) in case.modules.iter().enumerate() {
        let path = folder.join(format!("m{i}.rego"));
        std::fs::write(&path, module).unwrap();
        command.arg("-d").arg(path);
    }
    if !case.data.is_null() {
        std::fs::write(folder.join("data.json"), case.data.to_string()).unwrap();
        command.arg("-d").arg(folder.join("data.json"));
    }
    if !case.input.is_null() {
        std::fs::write(folder.join("input.json"), case.input.to_string()).unwrap();
        command.arg("-i").arg(folder.join("input.json"));
    }
    let done = command.arg(&case.query).output().unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    let answer: Value = serde_json::from_slice(&done.stdout).map_err(|e| format!("{e}: {:?}", done.stderr))?;
    if !answer["errors"].is_null() {
        return Err(answer["errors"][0]["message"].to_string());
    }
    let results = answer["result"].as_array().cloned().unwrap_or_default();
    let of = |r: &Value| match &r["bindings"] {
        Value::Null => {
            let values: Vec<_> = r["expressions"]
                .as_array()
                .unwrap()
                .iter()
                .map(|e| e["value"].clone())
                .collect();
            json!({"values": values})
        }
        bound => bound.clone(),
    };
    Ok(results.iter().map(of).collect())
}

/// The machine's answer beside the interpreter's, where the case asks for one rule and the machine takes it.
fn compiled(case: &Case, interpreted: &Result<Vec<Value>, String>) -> Option<Result<(), String>> {
    let modules = case.modules.iter().enumerate();
    let modules: Vec<_> = modules.map(|(i, m)| (format!("m{i}.rego"), m.clone())).collect();
    let asks: Vec<(&str, &str)> = match case.query.strip_suffix(" = x") {
        Some(rule) if rule.starts_with("data.") => vec![("x", rule)],
        None if case.query == GATE => vec![("deny", "data.soma.gate.deny"), ("escalate", "data.soma.gate.escalate")],
        _ => return None,
    };
    let rego = Rego::new(&modules, &case.data).ok()?;
    let input = (!case.input.is_null()).then_some(&case.input);
    let ours = asks.iter().map(|(_, rule)| rego.compiled(rule, input));
    let ours = ours.collect::<Option<Result<Vec<_>, _>>>()?.map(|all| all.concat());
    let of = |a: &Value| asks.iter().map(|(name, _)| a[name].clone()).collect::<Vec<_>>();
    let same = match (&ours, interpreted) {
        (Ok(a), Ok(b)) => plain(a) == plain(&b.iter().flat_map(of).collect::<Vec<_>>()),
        (Err(_), Err(_)) => true,
        _ => false,
    };
    Some(if same {
        Ok(())
    } else {
        Err(format!(
            "{}\n  machine     {ours:?}\n  interpreter {interpreted:?}",
            case.name
        ))
    })
}

/// What became of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Same,
    BothRefuse,
    /// Our engine does not read it, so no bundle holds it: newer syntax, or a function it does not have.
    NotRead,
    Differ,
}

fn ours(case: &Case) -> (bool, Result<Vec<Value>, String>) {
    let modules: Vec<_> = case
        .modules
        .iter()
        .enumerate()
        .map(|(i, m)| (format!("m{i}.rego"), m.clone()))
        .collect();
    match Rego::new(&modules, &case.data) {
        Err(error) => (false, Err(error)),
        Ok(mut rego) => {
            let answer = rego.ask(&case.query, (!case.input.is_null()).then_some(&case.input));
            let unknown = answer.as_ref().is_err_and(|e| e.contains("could not find function"));
            (!unknown, answer)
        }
    }
}

/// Numbers as both print them, answers in any order.
fn plain(answers: &[Value]) -> Vec<String> {
    fn walk(value: &mut Value) {
        match value {
            Value::Number(n) => *value = json!(n.as_f64().map(|f| format!("number {f:.9e}"))),
            Value::Array(items) => items.iter_mut().for_each(walk),
            Value::Object(fields) => fields.values_mut().for_each(walk),
            _ => {}
        }
    }
    let text = |v: &Value| {
        let mut v = v.clone();
        walk(&mut v);
        v.to_string()
    };
    let mut all: Vec<_> = answers.iter().map(text).collect();
    all.sort();
    all
}

#[test]
#[ignore = "needs the OPA binary: make opa"]
fn our_rego_answers_as_opa_does() {
    let binary = PathBuf::from(std::env::var("SOMA_OPA").expect("SOMA_OPA names the binary: run `make opa`"));
    let tests = PathBuf::from(std::env::var("SOMA_OPA_TESTS").expect("SOMA_OPA_TESTS names OPA's published tests"));
    let mut all = published(&tests);
    let published = all.len();
    all.extend(ABSENT.map(small));
    all.extend(with_bundle());
    let cases: Vec<_> = all.iter().filter(|c| claimed(c)).collect();
    let scratch = std::env::temp_dir().join(format!("soma-opa-{}", std::process::id()));
    for case in NEGATED.map(small) {
        let (theirs, mine) = (opa(&binary, &case, &scratch), ours(&case).1);
        assert_eq!(
            (theirs, mine.clone()),
            (Ok(vec![]), Ok(vec![json!({"x": true})])),
            "{}",
            case.name
        );
        // Where the machine takes it, it reads it as the interpreter does.
        if let Some(Err(line)) = compiled(&case, &mine) {
            panic!("{line}");
        }
    }
    let (next, done, machine) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let (scratch, binary, cases, next, done, machine) = (
                scratch.join(worker.to_string()),
                &binary,
                &cases,
                &next,
                &done,
                &machine,
            );
            scope.spawn(move || {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (theirs, (read, mine)) = (opa(binary, case, &scratch), ours(case));
                    machine.lock().unwrap().extend(compiled(case, &mine));
                    let outcome = match (&theirs, &mine) {
                        (Ok(theirs), Ok(mine)) if plain(theirs) == plain(mine) => Outcome::Same,
                        (Err(_), Err(_)) => Outcome::BothRefuse,
                        (Ok(_), Err(_)) if !read => Outcome::NotRead,
                        _ => Outcome::Differ,
                    };
                    let line = format!("{}\n  OPA  {theirs:?}\n  ours {mine:?}", case.name);
                    done.lock().unwrap().push((outcome, line));
                }
            });
        }
    });
    let machine = machine.into_inner().unwrap();
    for line in machine.iter().filter_map(|m| m.as_ref().err()) {
        println!("{line}");
    }
    let mut done = done.into_inner().unwrap();
    done.sort();
    let of = |wanted| done.iter().filter(move |d| d.0 == wanted);
    let count = |wanted| of(wanted).count();
    for (_, line) in of(Outcome::Differ) {
        println!("{line}");
    }
    println!(
        "published={published} not_claimed={} not_read={} refused_by_both={} machine_pairs={} machine_disagree={} opa_pairs={} disagree={}",
        all.len() - cases.len(),
        count(Outcome::NotRead),
        count(Outcome::BothRefuse),
        machine.len(),
        machine.iter().filter(|m| m.is_err()).count(),
        count(Outcome::Same) + count(Outcome::BothRefuse) + count(Outcome::Differ),
        count(Outcome::Differ)
    );
    assert_eq!(count(Outcome::Differ), 0);
    assert!(
        machine.iter().all(Result::is_ok) && machine.len() > 300,
        "{} compared",
        machine.len()
    );
    assert!(count(Outcome::Same) > 1_000, "most of them are compared");
}
