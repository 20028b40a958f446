//! The tool adapters and the engine they share: everything that touches the outside world for a run.
//!
//! [`Engine`] performs calls (queues, time limits, crash rules, secrets, redaction); a [`kernel::Tool`] knows one system.
//! [`all`] is the one list of tools. This crate decides nothing about permits, policies or retries: it is told what to call and
//! says what came of it.

mod engine;
mod faults;
mod http;
mod notify;
mod terraform;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use kernel::{ConfigFault, Consequence, FaultCode, Replay, Tool};
use schemas::records::Call;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use engine::{Concurrency, Engine, Heeded, Limits, Secrets};
pub use http::{Auth, Body, Driver, Expect, HttpLimits, Incoming, Outgoing, client};

/// What the tools need to know of this installation.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The terraform (or tofu) program: an absolute path, or a name found on `search_path`.
    pub terraform_path: PathBuf,
    /// Folder that holds one workspace per tenant and workspace name; made when it is missing.
    pub workspaces_dir: PathBuf,
    /// `PATH` of the programs the tools start.
    #[serde(default = "search_path")]
    pub search_path: String,
    /// Further environment of terraform, for example a provider's credentials. Nothing else is passed on.
    #[serde(default)]
    pub terraform_environment: BTreeMap<String, String>,
    /// Limits of every HTTP call.
    #[serde(default)]
    pub http: HttpLimits,
}

fn search_path() -> String {
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()
}

impl Config {
    /// Everything wrong with it at once, with paths below the tools' own section. Pure: looks at no file.
    pub fn check(&self) -> Vec<ConfigFault> {
        let mut faults = Vec::new();
        if self.terraform_path.as_os_str().is_empty() {
            faults.push(ConfigFault::new(
                "terraform_path",
                "is empty; give the path of terraform or tofu",
            ));
        }
        if !self.workspaces_dir.is_absolute() {
            faults.push(ConfigFault::new(
                "workspaces_dir",
                "must be an absolute path, so that a restart finds it again",
            ));
        }
        if self.search_path.is_empty() {
            faults.push(ConfigFault::new(
                "search_path",
                "is empty; give the folders of sh and setsid, for example /usr/bin:/bin",
            ));
        }
        for name in self
            .terraform_environment
            .keys()
            .filter(|n| terraform::RESERVED_ENV.contains(&n.as_str()))
        {
            faults.push(ConfigFault::new(
                format!("terraform_environment.{name}"),
                "is set by the tool itself; remove it",
            ));
        }
        faults.extend(self.http.check("http."));
        faults
    }
}

/// What policies are told of a call before it is made, from tool, operation and arguments: `effect` (reads, changes, destroys),
/// `reversible`, `repeatable` (safe, ask_first, never: what may be done when its answer got lost) and `rehearsal` (whether a dry run shows
/// anything). Null for a tool or an operation there is not, and for arguments that are no JSON. It calls nothing.
pub fn traits() -> impl Fn(&str, &str, &str) -> Value + Send + Sync {
    let nowhere = Config {
        terraform_path: PathBuf::new(),
        workspaces_dir: PathBuf::new(),
        search_path: String::new(),
        terraform_environment: BTreeMap::new(),
        http: HttpLimits::default(),
    };
    let all = all(&nowhere);
    move |tool, operation, text| {
        let arguments = serde_json::from_str(text).unwrap_or(Value::Null);
        let tool = all.iter().find(|t| t.name() == tool).filter(|_| !arguments.is_null());
        let there = |t: &&Arc<dyn Tool>| match t.check(operation, &arguments) {
            Err(fault) => fault.code != FaultCode::ToolUnknown,
            Ok(()) => true,
        };
        let Some(tool) = tool.filter(there) else {
            return Value::Null;
        };
        let call = Call {
            tool: tool.name().to_owned(),
            operation: operation.to_owned(),
            arguments: text.to_owned(),
            ..Call::default()
        };
        let (effect, reversible) = match tool.consequence(operation, &arguments) {
            Consequence::Reads => ("reads", true),
            Consequence::Reversible => ("changes", true),
            Consequence::Lasting => ("changes", false),
            Consequence::Destroys => ("destroys", false),
        };
        let repeatable = match tool.replay(&call) {
            Replay::Safe => "safe",
            Replay::AskFirst => "ask_first",
            Replay::Never => "never",
        };
        let rehearsal = tool.rehearsal(operation, &arguments).is_some();
        json!({"effect": effect, "reversible": reversible, "repeatable": repeatable, "rehearsal": rehearsal})
    }
}

/// Every tool, in one visible list. Building them touches nothing; a missing program shows itself as `TOOL_UNREACHABLE` when called.
pub fn all(config: &Config) -> Vec<Arc<dyn Tool>> {
    let driver = Driver::new(config.http.clone());
    vec![
        Arc::new(http::Http::new(driver.clone())),
        Arc::new(notify::Notify::new(driver)),
        Arc::new(terraform::Terraform::new(config)),
    ]
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_of_a_config_is_reported_at_once() {
        let config: Config = serde_json::from_value(serde_json::json!({
            "terraform_path": "", "workspaces_dir": "relative", "terraform_environment": {"HOME": "x"},
            "http": {"connect_timeout_ms": 0}
        }))
        .unwrap();
        let paths: Vec<String> = config.check().into_iter().map(|f| f.path).collect();
        assert_eq!(
            paths,
            [
                "terraform_path",
                "workspaces_dir",
                "terraform_environment.HOME",
                "http.connect_timeout_ms"
            ]
        );
    }

    #[test]
    fn policies_are_told_what_a_call_means() {
        let traits = traits();
        let get = r#"{"method": "GET", "url": "http://127.0.0.1/x"}"#;
        let delete = r#"{"method": "DELETE", "url": "http://127.0.0.1/x"}"#;
        // Declared to act once, it acts all the same: neither a look, nor to be sent in a dry run.
        let once = r#"{"method": "POST", "url": "http://127.0.0.1/x", "idempotent": true}"#;
        assert_eq!(traits("http", "request", once)["rehearsal"], false);
        assert_eq!(traits("http", "request", get)["rehearsal"], true);
        let apply = |n: u32| format!(r#"{{"workspace": "w", "plan_id": "p", "destroy_count": {n}}}"#);
        for (tool, operation, arguments, effect, reversible, repeatable) in [
            ("http", "request", get, "reads", true, "safe"),
            ("http", "request", delete, "destroys", false, "never"),
            ("http", "request", once, "changes", false, "safe"),
            ("terraform", "apply", apply(0).as_str(), "changes", true, "ask_first"),
            ("terraform", "apply", apply(2).as_str(), "destroys", false, "ask_first"),
            ("terraform", "plan", r#"{"workspace": "w"}"#, "reads", true, "safe"),
        ] {
            let told = traits(tool, operation, arguments);
            assert_eq!(
                (&told["effect"], &told["reversible"], &told["repeatable"]),
                (&json!(effect), &json!(reversible), &json!(repeatable)),
                "{tool} {operation} {arguments}"
            );
        }
        assert_eq!(traits("slack", "post", "{}"), Value::Null);
        assert_eq!(traits("terraform", "taint", "{}"), Value::Null);
        assert_eq!(traits("http", "request", "{"), Value::Null);
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let read = serde_json::from_value::<Config>(
            serde_json::json!({"terraform_path": "terraform", "workspaces_dir": "/w", "retries": 3}),
        );
        assert!(read.unwrap_err().to_string().contains("retries"));
    }

    #[test]
    fn the_list_names_each_tool_once() {
        let config: Config =
            serde_json::from_value(serde_json::json!({"terraform_path": "terraform", "workspaces_dir": "/w"})).unwrap();
        let names: Vec<_> = all(&config).iter().map(|t| t.name()).collect();
        assert_eq!(names, ["http", "notify", "terraform"]);
        assert!(config.check().is_empty());
    }
}
