//! The five operations, once the workspace is ours alone.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use kernel::{CallFault, Effect, Fault, FaultCode, Found};
use schemas::digest::sha256_hex;
use schemas::records::Call;
use serde_json::{Value, json};

use super::Terraform;
use super::arguments::{ApplyArguments, PlanArguments};
use super::detached::{Marks, Standing};
use super::process::Said;
use super::summary;
use super::workspace::{Staged, VARIABLES, Workspace, disk};
use crate::faults::{excerpt, harmless, invalid, refused, unknown};

/// How long terraform waits for another holder of the state lock.
const LOCK_TIMEOUT: &str = "-lock-timeout=30s";
const COMPLAINT_CHARS_MAX: usize = 2000;

impl Terraform {
    async fn run(&self, workspace: &Workspace, arguments: &[&str]) -> Result<Said, CallFault> {
        self.program.run(&workspace.dir, &workspace.module(), arguments).await
    }

    /// Runs a step that must end well. Its failure had no effect outside the workspace.
    async fn must(&self, workspace: &Workspace, arguments: &[&str]) -> Result<Vec<u8>, CallFault> {
        let said = self.run(workspace, arguments).await?;
        match said.code {
            Some(0) => Ok(said.out),
            code => Err(refused(failure(arguments[0], code, &said.complaint()))),
        }
    }

    async fn init(&self, workspace: &Workspace, digest: &str) -> Result<(), CallFault> {
        if workspace.is_initialised(digest) {
            return Ok(());
        }
        self.must(workspace, &["init", "-input=false", "-no-color", LOCK_TIMEOUT])
            .await?;
        workspace.initialised(digest)
    }

    pub(super) async fn plan(&self, workspace: &Workspace, plan: PlanArguments) -> Result<Value, CallFault> {
        workspace.make()?;
        let files = files(workspace, plan.module, &plan.variables)?;
        let digest = files_digest(&files);
        let staged = Staged::new(workspace, &files)?;
        self.init(workspace, &modules_digest(&files)).await?;
        let draft = workspace.dir.join("draft.tfplan");
        let out = format!("-out={}", draft.display());
        let mut arguments = vec!["plan", "-input=false", "-no-color", LOCK_TIMEOUT, &out];
        arguments.extend(plan.destroy.then_some("-destroy"));
        self.must(workspace, &arguments).await?;
        let shown = self
            .must(workspace, &["show", "-json", "-no-color", &draft.to_string_lossy()])
            .await?;
        let shown: Value =
            serde_json::from_slice(&shown).map_err(|e| refused(format!("terraform show gave no JSON: {e}")))?;
        let made_from = [
            digest.as_str(),
            &workspace.state_digest(),
            if plan.destroy { "destroy" } else { "" },
        ];
        let told = summary::plan(&shown, &made_from).map_err(refused)?;
        let plan_id = told["plan_id"].as_str().unwrap_or_default();
        // The summary first: a plan file alone would be one whose counts nobody can check.
        let to = workspace.plan_summary(plan_id);
        fs::write(&to, told.to_string()).map_err(|e| disk("write", &to, &e))?;
        workspace.keep_plan_files(plan_id, &files)?;
        let to = workspace.plan(plan_id);
        fs::rename(&draft, &to).map_err(|e| disk("write", &to, &e))?;
        staged.keep();
        Ok(told)
    }

    /// Looks at the files in a folder of their own, so that what a workspace holds is not touched.
    pub(super) async fn validate(&self, workspace: &Workspace, plan: PlanArguments) -> Result<Value, CallFault> {
        workspace.make()?;
        let files = files(workspace, plan.module, &plan.variables)?;
        let scratch = Workspace {
            dir: workspace.dir.join("validate"),
        };
        scratch.make()?;
        scratch.set_files(&files)?;
        self.must(&scratch, &["init", "-backend=false", "-input=false", "-no-color"])
            .await?;
        let said = self.run(&scratch, &["validate", "-json", "-no-color"]).await?;
        let Ok(report) = serde_json::from_slice::<Value>(&said.out) else {
            return Err(refused(failure("validate", said.code, &said.complaint())));
        };
        let diagnostics: Vec<String> = report["diagnostics"]
            .as_array()
            .into_iter()
            .flatten()
            .map(summary::diagnostic)
            .collect();
        if report["valid"] != true {
            return Err(refused(format!("the module is not valid: {}", diagnostics.join("; "))));
        }
        Ok(json!({"valid": true, "warnings": diagnostics}))
    }

    pub(super) async fn apply(
        &self,
        call: &Call,
        workspace: &Workspace,
        apply: &ApplyArguments,
    ) -> Result<Value, CallFault> {
        let marks = Marks::new(workspace, &call.idempotency_key, call.attempt);
        let mut staged = None;
        if marks.standing() == Standing::Absent {
            saved(workspace, apply).map_err(|fault| CallFault {
                fault,
                effect: Effect::None,
            })?;
            // A plan goes with the files and variables it was made from, whatever was planned since.
            let files = workspace.files_of_plan(&apply.plan_id)?;
            staged = Some(Staged::new(workspace, &files)?);
            self.init(workspace, &modules_digest(&files)).await?;
            let plan = workspace.plan(&apply.plan_id);
            let plan = plan.to_string_lossy();
            let arguments = ["apply", "-input=false", "-no-color", "-json", LOCK_TIMEOUT, &plan];
            marks
                .start(&self.program, &workspace.dir, &workspace.module(), &arguments)
                .await?;
        }
        let standing = marks.wait(work_time(call)).await;
        if let Some(staged) = staged
            && !matches!(standing, Standing::Done(code) if code != 0)
        {
            staged.keep();
        }
        settled(call, &marks, standing, &named_plan(&apply.plan_id))
    }

    pub(super) async fn destroy(&self, call: &Call, workspace: &Workspace) -> Result<Value, CallFault> {
        self.must_exist(workspace)?;
        let marks = Marks::new(workspace, &call.idempotency_key, call.attempt);
        if marks.standing() == Standing::Absent {
            let arguments = [
                "destroy",
                "-auto-approve",
                "-input=false",
                "-no-color",
                "-json",
                LOCK_TIMEOUT,
            ];
            marks
                .start(&self.program, &workspace.dir, &workspace.module(), &arguments)
                .await?;
        }
        settled(call, &marks, marks.wait(work_time(call)).await, "")
    }

    pub(super) async fn output(&self, workspace: &Workspace) -> Result<Value, CallFault> {
        self.must_exist(workspace)?;
        let out = self.must(workspace, &["output", "-json", "-no-color"]).await?;
        Ok(json!({"outputs": summary::outputs(&String::from_utf8_lossy(&out))}))
    }

    fn must_exist(&self, workspace: &Workspace) -> Result<(), CallFault> {
        if workspace.exists() {
            return Ok(());
        }
        let name = workspace.dir.file_name().unwrap_or_default().to_string_lossy();
        Err(harmless(
            FaultCode::ArgumentsInvalid,
            format!("workspace `{name}` does not exist for this tenant; plan in it first"),
        ))
    }

    /// Whether an apply or destroy happened. Waits for one that is under way, as long as the call may take.
    pub(super) async fn look(&self, call: &Call, workspace: &Workspace, arguments: &Value) -> Result<Found, Fault> {
        let marks = Marks::new(workspace, &call.idempotency_key, call.attempt);
        let standing = marks.wait(Duration::from_millis(call.timeout_ms.unsigned_abs())).await;
        if standing == Standing::Absent {
            return Ok(Found::DidNot);
        }
        let plan = arguments["plan_id"].as_str().map(named_plan).unwrap_or_default();
        Ok(match settled(call, &marks, standing, &plan) {
            Ok(result) => Found::Happened(kernel::Answer {
                result,
                cost_micros_usd: 0,
            }),
            Err(CallFault {
                fault,
                effect: Effect::Refused | Effect::None,
            }) => Found::Failed(fault),
            Err(_) => Found::Unknown,
        })
    }
}

/// The module's files with the variables among them: terraform reads both, and a later destroy needs both.
fn files(
    workspace: &Workspace,
    module: Option<BTreeMap<String, String>>,
    variables: &serde_json::Map<String, Value>,
) -> Result<BTreeMap<String, String>, CallFault> {
    let given = module.is_some();
    let mut files = match module {
        Some(files) => files,
        None => workspace.files()?,
    };
    if files.is_empty() {
        let detail = "module is missing, and the workspace holds no files of an earlier plan; give `module`";
        return Err(harmless(FaultCode::ArgumentsInvalid, detail));
    }
    if given || !variables.is_empty() {
        files.insert(VARIABLES.to_owned(), Value::Object(variables.clone()).to_string());
    }
    Ok(files)
}

fn files_digest(files: &BTreeMap<String, String>) -> String {
    let parts: Vec<&str> = files
        .iter()
        .flat_map(|(name, text)| [name.as_str(), text.as_str()])
        .collect();
    sha256_hex(&parts)
}

/// What `init` depends on: everything but the variables.
fn modules_digest(files: &BTreeMap<String, String>) -> String {
    let mut files = files.clone();
    files.remove(VARIABLES);
    files_digest(&files)
}

/// Whether this plan may be applied.
fn saved(workspace: &Workspace, apply: &ApplyArguments) -> Result<(), Fault> {
    let id = &apply.plan_id;
    let summary = workspace.plan(id).exists().then(|| workspace.summary(id)).flatten();
    let Some(summary) = summary else {
        return Err(invalid(format!(
            "plan_id: workspace `{}` has no saved plan {id}; plan again and apply the id it gives",
            apply.workspace
        )));
    };
    match (apply.destroy_count, summary["destroy"].as_u64()) {
        (Some(told), Some(planned)) if told != planned => Err(invalid(format!(
            "destroy_count is {told}, but plan {id} destroys {planned}; the number judged must be the number destroyed"
        ))),
        _ => Ok(()),
    }
}

fn named_plan(plan_id: &str) -> String {
    format!(" of plan {plan_id}")
}

/// The last tenth of a call's time, at most five seconds, is kept for stopping in good order.
fn work_time(call: &Call) -> Duration {
    let all = Duration::from_millis(call.timeout_ms.unsigned_abs());
    all - (all / 10).min(Duration::from_secs(5))
}

/// What came of an apply or destroy.
fn settled(call: &Call, marks: &Marks, standing: Standing, plan: &str) -> Result<Value, CallFault> {
    let operation = call.operation.as_str();
    match standing {
        Standing::Done(0) => {
            let (add, change, destroy) = summary::applied(&marks.text("out"));
            Ok(match operation {
                "destroy" => json!({"destroyed": true, "destroy": destroy}),
                _ => {
                    let outputs = summary::outputs(&marks.text("outputs"));
                    json!({"applied": true, "outputs": outputs, "add": add, "change": change, "destroy": destroy})
                }
            })
        }
        Standing::Done(code) => {
            let mut complaint = summary::errors(&marks.text("out"));
            if complaint.is_empty() {
                complaint = marks.text("err");
            }
            let hint = if complaint.contains("stale") {
                "; plan again: the workspace changed since"
            } else {
                ""
            };
            let complaint = excerpt(&complaint, COMPLAINT_CHARS_MAX);
            let detail = format!("terraform {operation}{plan} failed with code {code}: {complaint}{hint}");
            // A destroy that failed may simply be made again: what is gone is gone.
            Err(if operation == "destroy" {
                harmless(FaultCode::ToolFailed, detail)
            } else {
                refused(detail)
            })
        }
        Standing::Running(pid) => Err(unknown(
            FaultCode::ToolTimedOut,
            format!("terraform {operation}{plan} is still under way as process {pid}"),
        )),
        Standing::Absent | Standing::Lost => Err(unknown(
            FaultCode::ToolFailed,
            format!("terraform {operation}{plan} was killed before it ended"),
        )),
    }
}

fn failure(operation: &str, code: Option<i32>, complaint: &str) -> String {
    let how = code.map_or_else(|| "was killed".to_owned(), |c| format!("failed with code {c}"));
    format!(
        "terraform {operation} {how}: {}",
        excerpt(complaint, COMPLAINT_CHARS_MAX)
    )
}
