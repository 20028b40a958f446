//! `terraform` through the engine with the real program; `terraform_data` and `local-exec` are built in and need no network.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernel::{Approach, Clock, Performer};
use schemas::Timestamp;
use schemas::records::{Call, CallKind, Outcome, OutcomeStatus};
use serde_json::{Value, json};

use crate::{Config, Engine, Limits, Secrets};

const MODULE: &str = r#"
variable "n" { type = number }
variable "log" { type = string }
variable "seconds" { default = 0 }
resource "terraform_data" "service" {
  input            = var.n
  triggers_replace = [var.n]
  provisioner "local-exec" { command = "echo applied >> ${var.log}; sleep ${var.seconds}" }
}
output "n" { value = terraform_data.service.output }
output "hidden" {
  value     = "not for you"
  sensitive = true
}
"#;

/// What the stack's setup found or built; `make` names it.
fn program() -> String {
    std::env::var("SOMA_TERRAFORM").unwrap_or_else(|_| "terraform".to_owned())
}

struct WallClock;

impl Clock for WallClock {
    fn elapsed(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        Timestamp(i64::try_from(since.as_micros()).unwrap())
    }
}

/// A root of workspaces, gone with the test.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("soma-terraform-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn log(&self) -> PathBuf {
        self.0.join("applied.log")
    }

    fn applied(&self) -> usize {
        std::fs::read_to_string(self.log()).map_or(0, |t| t.lines().count())
    }

    async fn plan(&self, n: u32, seconds: u32) -> Value {
        let variables = json!({"n": n, "log": self.log(), "seconds": seconds});
        done(
            &self.0,
            call(
                "plan",
                "plan",
                json!({"workspace": "web", "module": {"main.tf": MODULE}, "variables": variables}),
            ),
        )
        .await
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

fn engine(root: &Path) -> Engine {
    let config: Config =
        serde_json::from_value(json!({"terraform_path": program(), "workspaces_dir": root.join("workspaces")}))
            .unwrap();
    Engine::new(
        crate::all(&config),
        Secrets::default(),
        Limits::default(),
        Arc::new(WallClock),
        Arc::new(Arc::default),
    )
}

fn call(operation: &str, key: &str, arguments: Value) -> Call {
    Call {
        run_id: "run_live".into(),
        tenant: "acme".into(),
        attempt: 1,
        tool: "terraform".into(),
        operation: operation.into(),
        arguments: arguments.to_string(),
        idempotency_key: key.into(),
        timeout_ms: 60_000,
        ..Call::default()
    }
}

async fn perform(root: &Path, call: Call) -> Outcome {
    engine(root).perform(call, Approach::Fresh).await
}

async fn done(root: &Path, call: Call) -> Value {
    let outcome = perform(root, call).await;
    assert!(outcome.fault.is_none(), "{:?}", outcome.fault);
    serde_json::from_str(&outcome.result).unwrap()
}

async fn fault(root: &Path, call: Call) -> String {
    let outcome = perform(root, call).await;
    let fault = outcome.fault.expect("a fault");
    format!(
        "{:?} {} {} {}",
        outcome.status, fault.code, fault.retryable, fault.detail
    )
}

fn apply(plan: &Value, key: &str) -> Call {
    call(
        "apply",
        key,
        json!({"workspace": "web", "plan_id": plan["plan_id"], "destroy_count": plan["destroy"]}),
    )
}

#[tokio::test]
async fn plan_apply_replace_destroy() {
    let place = Place::new("life");
    let first = place.plan(1, 0).await;
    assert_eq!(
        (&first["add"], &first["destroy"], &first["changed"]),
        (&json!(1), &json!(0), &json!(true))
    );
    assert_eq!(
        place.plan(1, 0).await["plan_id"],
        first["plan_id"],
        "the same plan has the same id"
    );
    let applied = done(&place.0, apply(&first, "a1")).await;
    assert_eq!(
        applied,
        json!({"applied": true, "outputs": {"n": 1, "hidden": "***"}, "add": 1, "change": 0, "destroy": 0})
    );

    let replace = place.plan(2, 0).await;
    assert_eq!((&replace["add"], &replace["destroy"]), (&json!(1), &json!(1)));
    assert_eq!(
        replace["resources"],
        json!([{"address": "terraform_data.service", "actions": ["delete", "create"]}])
    );
    assert_eq!(done(&place.0, apply(&replace, "a2")).await["outputs"]["n"], 2);
    assert_eq!(place.plan(2, 0).await["changed"], false);

    assert_eq!(
        done(&place.0, call("output", "o", json!({"workspace": "web"}))).await["outputs"]["n"],
        2
    );
    let back = Call {
        kind: CallKind::Compensation,
        ..call("destroy", "d1", json!({"workspace": "web"}))
    };
    let outcome = perform(&place.0, back).await;
    assert_eq!(outcome.status, OutcomeStatus::Compensated, "{:?}", outcome.fault);
    assert_eq!(outcome.result, r#"{"destroy":1,"destroyed":true}"#);
    let state = place.0.join("workspaces/acme/web/module/terraform.tfstate");
    assert!(std::fs::read_to_string(state).unwrap().contains(r#""resources": []"#));
    assert_eq!(place.applied(), 2);
}

#[tokio::test]
async fn only_a_saved_plan_that_still_holds_is_applied() {
    let place = Place::new("saved");
    let first = place.plan(1, 0).await;
    let other = place.plan(2, 0).await;
    let unknown = json!({"plan_id": "0".repeat(64)});
    let said = fault(&place.0, apply(&unknown, "a0")).await;
    assert!(
        said.starts_with("Refused ARGUMENTS_INVALID false") && said.contains("plan_id"),
        "{said}"
    );
    let wrong = json!({"plan_id": first["plan_id"], "destroy": 7});
    let said = fault(&place.0, apply(&wrong, "a0")).await;
    assert!(
        said.starts_with("Refused ARGUMENTS_INVALID") && said.contains("destroy_count is 7"),
        "{said}"
    );
    done(&place.0, apply(&first, "a1")).await;
    let said = fault(&place.0, apply(&other, "a2")).await;
    assert!(said.starts_with("Failed TOOL_FAILED false"), "{said}");
    assert!(
        said.contains("stale") && said.contains(other["plan_id"].as_str().unwrap()),
        "{said}"
    );
    let elsewhere = Call {
        tenant: "globex".into(),
        ..apply(&first, "a3")
    };
    assert!(
        fault(&place.0, elsewhere)
            .await
            .starts_with("Refused ARGUMENTS_INVALID"),
        "another tenant's plan"
    );
    assert_eq!(place.applied(), 1);
}

#[tokio::test]
async fn a_repeated_key_runs_once() {
    let place = Place::new("repeat");
    let plan = place.plan(1, 0).await;
    let first = done(&place.0, apply(&plan, "same")).await;
    assert_eq!(done(&place.0, apply(&plan, "same")).await, first);
    let recovered = engine(&place.0).perform(apply(&plan, "same"), Approach::Recover).await;
    assert_eq!(recovered.status, OutcomeStatus::Succeeded);
    assert_eq!(place.applied(), 1);
    let fresh = engine(&place.0)
        .perform(call("destroy", "d", json!({"workspace": "web"})), Approach::Recover)
        .await;
    assert_eq!(
        fresh.status,
        OutcomeStatus::Succeeded,
        "a destroy that never began is begun: {:?}",
        fresh.fault
    );
}

#[tokio::test]
async fn a_bad_module_is_told_and_leaves_the_workspace_as_it_was() {
    let place = Place::new("bad");
    let plan = place.plan(1, 0).await;
    done(&place.0, apply(&plan, "a1")).await;
    let bad = json!({"workspace": "web", "module": {"main.tf": "resource \"terraform_data\" {}"}});
    let said = fault(&place.0, call("validate", "v", bad.clone())).await;
    assert!(said.starts_with("Failed TOOL_FAILED false"), "{said}");
    let said = fault(&place.0, call("plan", "p", bad)).await;
    assert!(said.starts_with("Failed TOOL_FAILED false"), "{said}");
    let good = json!({"workspace": "fresh", "module": {"main.tf": "output \"a\" { value = 1 }"}});
    assert_eq!(done(&place.0, call("validate", "v", good)).await["valid"], true);
    let said = fault(&place.0, call("destroy", "d", json!({"workspace": "nowhere"}))).await;
    assert!(said.starts_with("Refused ARGUMENTS_INVALID"), "{said}");
    assert_eq!(
        done(&place.0, call("destroy", "d", json!({"workspace": "web"}))).await["destroy"],
        1
    );
}

#[tokio::test]
async fn an_apply_past_its_time_is_stopped_and_its_end_is_known() {
    let place = Place::new("late");
    let plan = place.plan(1, 60).await;
    let late = Call {
        timeout_ms: 4_000,
        ..apply(&plan, "late")
    };
    let began = Instant::now();
    let outcome = perform(&place.0, late).await;
    assert!(
        matches!(outcome.status, OutcomeStatus::Failed | OutcomeStatus::Unknown),
        "{outcome:?}"
    );
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    assert_eq!(place.applied(), 1);
}

#[tokio::test]
async fn a_missing_program_says_what_to_do() {
    let place = Place::new("missing");
    let config = json!({"terraform_path": place.0.join("no-terraform"), "workspaces_dir": place.0.join("workspaces")});
    let tools = crate::all(&serde_json::from_value(config).unwrap());
    let engine = Engine::new(
        tools,
        Secrets::default(),
        Limits::default(),
        Arc::new(WallClock),
        Arc::new(Arc::default),
    );
    let plan = call("plan", "p", json!({"workspace": "web", "module": {"main.tf": ""}}));
    let fault = engine.perform(plan, Approach::Fresh).await.fault.unwrap();
    assert_eq!((fault.code.as_str(), fault.retryable), ("TOOL_UNREACHABLE", true));
    assert!(fault.detail.contains("no-terraform"), "{}", fault.detail);
}

#[tokio::test]
async fn an_apply_survives_the_death_of_the_platform_and_is_found() {
    let place = Place::new("killed");
    let plan = place.plan(1, 3).await;
    // A process of its own stands for the platform: this test binary, running the test below and nothing else.
    let mut platform = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "terraform::live_tests::the_platform_that_dies",
            "--ignored",
            "--nocapture",
        ])
        .env("SOMA_TEST_PLACE", &place.0)
        .env("SOMA_TEST_PLAN", plan.to_string())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while place.applied() == 0 {
        assert!(Instant::now() < deadline, "the apply did not begin");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // SIGKILL.
    platform.kill().unwrap();
    platform.wait().unwrap();
    let found = engine(&place.0)
        .perform(apply(&plan, "killed"), Approach::Recover)
        .await;
    assert_eq!(found.status, OutcomeStatus::Succeeded, "{:?}", found.fault);
    let result: Value = serde_json::from_str(&found.result).unwrap();
    assert_eq!(
        (&result["applied"], &result["outputs"]["n"], &result["add"]),
        (&json!(true), &json!(1), &json!(1))
    );
    assert_eq!(place.applied(), 1, "it was not applied again");

    // The same when the apply itself was killed: nobody can tell, and nobody tries again.
    let calls = place.0.join("workspaces/acme/web/calls");
    std::fs::remove_file(calls.join("killed.done")).unwrap();
    let lost = engine(&place.0)
        .perform(apply(&plan, "killed"), Approach::Recover)
        .await;
    assert_eq!(lost.status, OutcomeStatus::Unknown);
    assert_eq!(lost.fault.unwrap().code, "OUTCOME_UNKNOWN");
    assert_eq!(place.applied(), 1);
}

#[tokio::test]
#[ignore = "a process that the test above starts and kills"]
async fn the_platform_that_dies() {
    let root = PathBuf::from(std::env::var("SOMA_TEST_PLACE").unwrap());
    let plan: Value = serde_json::from_str(&std::env::var("SOMA_TEST_PLAN").unwrap()).unwrap();
    perform(&root, apply(&plan, "killed")).await;
}
