//! Arguments of the terraform operations, and the names that become paths.

use std::collections::BTreeMap;

use kernel::Fault;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::faults::{invalid, read};

/// Parts of file names that terraform or we use ourselves.
const FILES_RESERVED: [&str; 2] = [".tfstate", super::workspace::VARIABLES];

/// Arguments of `plan` and `validate`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PlanArguments {
    pub(super) workspace: String,
    /// File name to text; left out, the files of the last plan are used again.
    pub(super) module: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub(super) variables: Map<String, Value>,
    #[serde(default)]
    pub(super) destroy: bool,
}

/// Arguments of `apply`. Further keys are for the policy to read.
#[derive(Deserialize)]
pub(super) struct ApplyArguments {
    pub(super) workspace: String,
    pub(super) plan_id: String,
    /// How many resources the asker believes will be destroyed.
    pub(super) destroy_count: Option<u64>,
}

/// Arguments of `destroy` and `output`. Further keys are for the policy to read.
#[derive(Deserialize)]
pub(super) struct WorkspaceArguments {
    pub(super) workspace: String,
}

impl PlanArguments {
    pub(super) fn read(arguments: &Value) -> Result<Self, Fault> {
        let plan: Self = read(arguments)?;
        name("workspace", &plan.workspace)?;
        for file in plan.module.iter().flat_map(BTreeMap::keys) {
            module_file(file)?;
        }
        match &plan.module {
            Some(files) if !files.keys().any(|f| f.ends_with(".tf") || f.ends_with(".tf.json")) => {
                Err(invalid("module holds no .tf file; give at least `main.tf`"))
            }
            _ => Ok(plan),
        }
    }
}

impl ApplyArguments {
    pub(super) fn read(arguments: &Value) -> Result<Self, Fault> {
        let apply: Self = read(arguments)?;
        name("workspace", &apply.workspace)?;
        if apply.plan_id.len() != 64 || !apply.plan_id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(invalid("plan_id must be the 64 hex digits that `plan` gave"));
        }
        Ok(apply)
    }
}

impl WorkspaceArguments {
    pub(super) fn read(arguments: &Value) -> Result<Self, Fault> {
        let read: Self = read(arguments)?;
        name("workspace", &read.workspace)?;
        Ok(read)
    }
}

/// A name that becomes a folder: 1 to 64 of a-z, A-Z, 0-9, `-`, `_`.
pub(super) fn name(field: &str, text: &str) -> Result<(), Fault> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if (1..=64).contains(&text.len()) && text.bytes().all(fits) {
        Ok(())
    } else {
        Err(invalid(format!(
            "{field} `{}` must be 1 to 64 of letters, digits, `-` and `_`",
            text.escape_debug()
        )))
    }
}

/// A flat file of a module. No folders, no dot files, nothing terraform keeps itself.
fn module_file(file: &str) -> Result<(), Fault> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let reserved = FILES_RESERVED.iter().any(|r| file.contains(r));
    if (1..=128).contains(&file.len()) && file.bytes().all(fits) && !file.starts_with('.') && !reserved {
        Ok(())
    } else {
        Err(invalid(format!(
            "module: `{}` is not a file name a module may have (letters, digits, `-`, `_`, `.`; no folder, no leading dot, not {})",
            file.escape_debug(),
            FILES_RESERVED.join(" or ")
        )))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn path_tricks_are_refused() {
        for bad in ["", "..", "a/b", "a\\b", "../x", ".hidden", "a\0b", "ä"] {
            assert!(name("workspace", bad).is_err(), "{bad}");
        }
        for bad in [
            "../main.tf",
            "a/main.tf",
            ".terraformrc",
            "terraform.tfstate",
            "terraform.tfstate.backup",
            "",
        ] {
            let module = json!({"workspace": "w", "module": {"main.tf": "", bad: ""}});
            assert!(PlanArguments::read(&module).is_err(), "{bad}");
        }
        assert!(name("workspace", "web-1_A").is_ok());
    }

    #[test]
    fn a_plan_says_what_it_lacks_and_apply_takes_further_keys() {
        let fault = PlanArguments::read(&json!({"workspace": "w", "module": {"readme.md": ""}}))
            .err()
            .unwrap();
        assert!(fault.detail.contains(".tf"), "{fault}");
        assert!(
            PlanArguments::read(&json!({"workspace": "w", "modul": {}}))
                .err()
                .unwrap()
                .detail
                .contains("modul")
        );
        let id = "a".repeat(64);
        let apply = ApplyArguments::read(&json!({"workspace": "w", "plan_id": id, "destroy_count": 2, "add_count": 1}));
        assert_eq!(apply.unwrap().destroy_count, Some(2));
        assert!(ApplyArguments::read(&json!({"workspace": "w", "plan_id": "../x"})).is_err());
    }
}
