//! A pipeline's behaviour, in YAML that a reviewer who writes no Rust can read: `pipelines/<name>/cases.yaml`.

pub(crate) mod driver;

use std::collections::BTreeMap;

use driver::Driver;
use kernel::Perform;
use schemas::records::{Approval, ApprovalDecision, CallKind, Control, FaultInfo, Outcome, OutcomeStatus, Request};
use schemas::{Timestamp, topics};
use serde::Deserialize;
use serde_json::Value;

const RECEIVER: &str = "http://127.0.0.1:18080";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    case: String,
    request: Value,
    /// The same request again.
    #[serde(default)]
    repeats: usize,
    /// Controls in force beforehand.
    #[serde(default)]
    controls: Vec<Control>,
    /// What the world answers, by step (`<step>.compensation` for the way back); the last answer is given again.
    #[serde(default)]
    world: BTreeMap<String, Vec<Answer>>,
    /// Humans' answers, by what waits; each is given once.
    #[serde(default)]
    approvals: BTreeMap<String, Human>,
    expect: Expect,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    status: OutcomeStatus,
    #[serde(default)]
    result: Value,
    #[serde(default)]
    code: String,
    #[serde(default)]
    retryable: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Human {
    decision: ApprovalDecision,
    #[serde(default = "carol")]
    approver: String,
    /// Approves something other than what is shown.
    #[serde(default)]
    digest: Option<String>,
}

fn carol() -> String {
    "carol".to_owned()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    /// Final or last status of the run; null when there must be none.
    run: Option<String>,
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    detail: Option<String>,
    #[serde(default)]
    steps: BTreeMap<String, String>,
    /// Event types that must be there.
    #[serde(default)]
    events: Vec<String>,
    /// Number of outside calls, by tool.
    #[serde(default)]
    calls: BTreeMap<String, usize>,
    #[serde(default)]
    memories: Option<usize>,
}

#[test]
fn the_control_tower_behaves_as_its_cases_say() {
    let text = std::fs::read_to_string(driver::shipped().join("control-tower/cases.yaml")).unwrap();
    let cases: Vec<Case> = serde_yaml_ng::from_str(&text).unwrap_or_else(|e| panic!("cases.yaml: {e}"));
    assert!(cases.len() >= 10, "{} cases", cases.len());
    let failures: Vec<String> = cases
        .iter()
        .flat_map(|case| run(case).into_iter().map(|f| format!("{}: {f}", case.case)))
        .collect();
    assert!(failures.is_empty(), "{failures:#?}");
}

fn outcome(perform: &Perform, answer: &Answer, now: Timestamp) -> Outcome {
    let call = &perform.call;
    let ok = matches!(answer.status, OutcomeStatus::Succeeded | OutcomeStatus::Compensated);
    Outcome {
        call_id: call.call_id.clone(),
        run_id: call.run_id.clone(),
        tenant: call.tenant.clone(),
        goal: call.goal.clone(),
        capsule: call.capsule.clone(),
        step_id: call.step_id.clone(),
        kind: call.kind,
        attempt: call.attempt,
        tool: call.tool.clone(),
        operation: call.operation.clone(),
        status: answer.status,
        result: answer.result.to_string(),
        fault: (!ok).then(|| FaultInfo {
            code: answer.code.clone(),
            detail: "as the case says".into(),
            retryable: answer.retryable,
        }),
        idempotency_key: call.idempotency_key.clone(),
        digest: call.digest.clone(),
        latency_us: 1000,
        cost_usd: Default::default(),
        requested_at: call.requested_at,
        finished_at: now,
    }
}

fn run(case: &Case) -> Vec<String> {
    let mut driver = Driver::shipped(RECEIVER);
    for control in &case.controls {
        driver.controls.apply(control.clone());
    }
    let text = case.request.to_string().replace("RECEIVER", RECEIVER);
    let mut json: Value = serde_json::from_str(&text).unwrap();
    json["requested_at"] = Value::String(driver.now.to_string());
    let request: Request = schemas::from_json(&json).unwrap_or_else(|e| panic!("{}: {e}", case.case));
    let mut calls: BTreeMap<String, usize> = BTreeMap::new();
    let mut asked: BTreeMap<String, usize> = BTreeMap::new();
    let now = driver.now;
    let mut answer = |perform: &Perform| {
        *calls.entry(perform.call.tool.clone()).or_default() += 1;
        let compensation = perform.call.kind == CallKind::Compensation;
        let step = if compensation {
            format!("{}.compensation", perform.call.step_id)
        } else {
            perform.call.step_id.clone()
        };
        let nth = asked.entry(step.clone()).or_default();
        let listed = case.world.get(&step).map(Vec::as_slice).unwrap_or_default();
        let status = if compensation {
            OutcomeStatus::Compensated
        } else {
            OutcomeStatus::Succeeded
        };
        let given = listed.get(*nth).or(listed.last()).cloned();
        *nth += 1;
        outcome(
            perform,
            &given.unwrap_or(Answer {
                status,
                result: Value::Null,
                code: String::new(),
                retryable: false,
            }),
            now,
        )
    };
    for _ in 0..=case.repeats {
        driver.request(&request);
    }
    driver.settle(&mut answer);
    for (subject, human) in &case.approvals {
        approve(&mut driver, case, subject, human);
        driver.settle(&mut answer);
    }
    for _ in 0..20 {
        driver.pass(60_000, &mut answer);
    }
    judge(&driver, &case.expect, &calls)
}

fn approve(driver: &mut Driver, case: &Case, subject: &str, human: &Human) {
    let run = driver
        .last(topics::RUNS.name)
        .unwrap_or_else(|| panic!("{}: no run", case.case))
        .clone();
    let waiting = run["waiting"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|w| w["subject_id"] == subject || subject == "plan");
    let waiting = waiting.unwrap_or_else(|| panic!("{}: nothing waits for {subject}: {run}", case.case));
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let approval = Approval {
        approval_id: format!("apr_{subject}"),
        run_id: text(&run["run_id"]),
        tenant: text(&run["tenant"]),
        subject_id: text(&waiting["subject_id"]),
        decision: human.decision,
        digest: human.digest.clone().unwrap_or_else(|| text(&waiting["digest"])),
        policy_revision: text(&waiting["policy_revision"]),
        approver: human.approver.clone(),
        decided_at: driver.now,
        ..Approval::default()
    };
    let key = approval.run_id.clone();
    driver.put(topics::APPROVALS, &key, &approval);
}

fn judge(driver: &Driver, expect: &Expect, calls: &BTreeMap<String, usize>) -> Vec<String> {
    let mut wrong = Vec::new();
    let run = driver.last(topics::RUNS.name).cloned().unwrap_or(Value::Null);
    if run["status"].as_str() != expect.run.as_deref() {
        wrong.push(format!(
            "run is {} ({}), not {:?}",
            run["status"], run["reason"], expect.run
        ));
    }
    if let Some(code) = &expect.code
        && run["fault"]["code"] != *code.as_str()
    {
        wrong.push(format!("fault is {}, not {code}", run["fault"]));
    }
    if let Some(detail) = &expect.detail
        && !run["fault"]["detail"]
            .as_str()
            .unwrap_or_default()
            .contains(detail.as_str())
    {
        wrong.push(format!("fault is {}, without `{detail}`", run["fault"]));
    }
    for (step, status) in &expect.steps {
        let found = run["steps"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|s| s["step_id"] == *step.as_str());
        let found = found.map_or("absent", |s| s["status"].as_str().unwrap_or_default());
        if found != status {
            wrong.push(format!("step {step} is {found}, not {status}"));
        }
    }
    let events: Vec<&str> = driver
        .all(topics::EVENTS.name)
        .iter()
        .filter_map(|e| e["type"].as_str())
        .collect();
    wrong.extend(
        expect
            .events
            .iter()
            .filter(|e| !events.contains(&e.as_str()))
            .map(|e| format!("no event {e} among {events:?}")),
    );
    for (tool, n) in &expect.calls {
        let made = calls.get(tool).copied().unwrap_or(0);
        if made != *n {
            wrong.push(format!("{made} calls of {tool}, not {n}"));
        }
    }
    if let Some(n) = expect.memories
        && driver.all(topics::MEMORIES.name).len() != n
    {
        wrong.push(format!("{} memories, not {n}", driver.all(topics::MEMORIES.name).len()));
    }
    wrong
}
