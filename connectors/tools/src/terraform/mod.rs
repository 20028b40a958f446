//! The `terraform` tool: the real program (terraform or tofu) in a workspace of its own per tenant and name.
//!
//! `plan` saves what it planned; `apply` applies exactly one saved plan and never plans by itself. Module text is as powerful as the
//! platform's user (provisioners run programs): which modules may be planned is the policy's business, not this tool's.

mod arguments;
mod detached;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod live_tests;
mod operations;
mod process;
mod summary;
mod workspace;

use std::path::PathBuf;

use kernel::{Answer, CallFault, Consequence, Effect, Fault, Found, Pending, Replay, Tool};
use schemas::records::Call;
use serde_json::{Value, json};

use crate::Config;
use crate::faults::{no_operation, parse};
use arguments::{ApplyArguments, PlanArguments, WorkspaceArguments, name};
use detached::Marks;
use process::Program;
pub(crate) use process::RESERVED_ENV;
use workspace::{Locks, Workspace};

const OPERATIONS: [&str; 5] = ["validate", "plan", "apply", "destroy", "output"];

/// The program, its workspaces and who works in them.
pub(crate) struct Terraform {
    program: Program,
    root: PathBuf,
    locks: Locks,
}

impl Terraform {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            program: Program {
                path: config.terraform_path.clone(),
                search_path: config.search_path.clone(),
                environment: config.terraform_environment.clone(),
            },
            root: config.workspaces_dir.clone(),
            locks: Locks::default(),
        }
    }

    fn workspace(&self, call: &Call, workspace: &str) -> Result<Workspace, Fault> {
        name("tenant", &call.tenant)?;
        Ok(Workspace::at(&self.root, &call.tenant, workspace))
    }

    async fn act(&self, call: &Call) -> Result<Answer, CallFault> {
        let none = |fault: Fault| CallFault {
            fault,
            effect: Effect::None,
        };
        let arguments = parse(&call.arguments).map_err(none)?;
        let named = WorkspaceArguments::read(&arguments).map_err(none)?;
        let workspace = self.workspace(call, &named.workspace).map_err(none)?;
        let _alone = self.locks.lock(&workspace).await;
        let result = match call.operation.as_str() {
            "validate" => {
                self.validate(&workspace, PlanArguments::read(&arguments).map_err(none)?)
                    .await
            }
            "plan" => {
                self.plan(&workspace, PlanArguments::read(&arguments).map_err(none)?)
                    .await
            }
            "apply" => {
                self.apply(call, &workspace, &ApplyArguments::read(&arguments).map_err(none)?)
                    .await
            }
            "destroy" => self.destroy(call, &workspace).await,
            "output" => self.output(&workspace).await,
            other => Err(none(no_operation("terraform", other, &OPERATIONS))),
        }?;
        Ok(Answer {
            result,
            cost_micros_usd: 0,
        })
    }

    /// Tells an apply or a destroy under way to stop, as Ctrl-C does: terraform ends what it is at and keeps its state.
    fn stop(&self, call: &Call) -> Result<bool, Fault> {
        if !matches!(call.operation.as_str(), "apply" | "destroy") {
            return Ok(false);
        }
        let named = WorkspaceArguments::read(&parse(&call.arguments)?)?;
        let workspace = self.workspace(call, &named.workspace)?;
        Ok(Marks::new(&workspace, &call.idempotency_key, call.attempt).interrupt())
    }

    async fn ask(&self, call: &Call) -> Result<Found, Fault> {
        if !matches!(call.operation.as_str(), "apply" | "destroy") {
            return Ok(Found::DidNot);
        }
        let arguments = parse(&call.arguments)?;
        let named = WorkspaceArguments::read(&arguments)?;
        let workspace = self.workspace(call, &named.workspace)?;
        self.look(call, &workspace, &arguments).await
    }
}

impl Tool for Terraform {
    fn name(&self) -> &'static str {
        "terraform"
    }

    fn check(&self, operation: &str, arguments: &Value) -> Result<(), Fault> {
        match operation {
            "validate" | "plan" => PlanArguments::read(arguments).map(drop),
            "apply" => ApplyArguments::read(arguments).map(drop),
            "destroy" | "output" => WorkspaceArguments::read(arguments).map(drop),
            other => Err(no_operation("terraform", other, &OPERATIONS)),
        }
    }

    fn replay(&self, call: &Call) -> Replay {
        match call.operation.as_str() {
            "validate" | "plan" | "output" => Replay::Safe,
            _ => Replay::AskFirst,
        }
    }

    fn consequence(&self, operation: &str, arguments: &Value) -> Consequence {
        match operation {
            "validate" | "plan" | "output" => Consequence::Reads,
            "destroy" => Consequence::Destroys,
            // What was made can be destroyed again; what a plan destroys is gone.
            "apply" if arguments["destroy_count"] == 0 => Consequence::Reversible,
            "apply" => Consequence::Destroys,
            _ => Consequence::Lasting,
        }
    }

    fn rehearsal(&self, operation: &str, arguments: &Value) -> Option<(String, Value)> {
        match operation {
            "validate" | "plan" | "output" => Some((operation.to_owned(), arguments.clone())),
            "destroy" => Some((
                "plan".to_owned(),
                json!({"workspace": arguments["workspace"], "destroy": true}),
            )),
            // An apply carries out a saved plan, which was shown when it was made.
            _ => None,
        }
    }

    fn interrupt(&self, call: &Call) -> bool {
        self.stop(call).unwrap_or(false)
    }

    fn call<'a>(&'a self, call: &'a Call) -> Pending<'a, Result<Answer, CallFault>> {
        Box::pin(self.act(call))
    }

    fn find<'a>(&'a self, call: &'a Call) -> Pending<'a, Result<Found, Fault>> {
        Box::pin(self.ask(call))
    }
}
