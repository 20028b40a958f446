//! What terraform's JSON says, in the few words a plan, a policy and a human need.

use serde_json::{Map, Value, json};

/// Result of `plan`: id, counts, resources. The id covers the changes, what they were made from and the state they start at,
/// so the same plan has the same id whenever it is made, and another state gives another.
pub(super) fn plan(shown: &Value, made_from: &[&str]) -> Result<Value, String> {
    let changes = shown.get("resource_changes").cloned().unwrap_or_else(|| json!([]));
    let outputs = shown.get("output_changes").cloned().unwrap_or_else(|| json!({}));
    let resources: Vec<Value> = changes.as_array().into_iter().flatten().filter_map(resource).collect();
    let count = |action: &str| resources.iter().filter(|r| has(&r["actions"], action)).count();
    let (add, change, destroy) = (count("create"), count("update"), count("delete"));
    let canonical = schemas::digest::canonical(&json!([changes, outputs]).to_string())?;
    let parts: Vec<&str> = ["terraform plan", &canonical]
        .into_iter()
        .chain(made_from.iter().copied())
        .collect();
    let changed = shown
        .get("applyable")
        .and_then(Value::as_bool)
        .unwrap_or(add + change + destroy > 0);
    Ok(json!({
        "plan_id": schemas::digest::sha256_hex(&parts),
        "add": add, "change": change, "destroy": destroy, "changed": changed, "resources": resources,
    }))
}

/// A resource that changes; a replacement is a `create` and a `delete`.
fn resource(change: &Value) -> Option<Value> {
    let actions = change.pointer("/change/actions")?;
    let idle = has(actions, "no-op") || has(actions, "read");
    (!idle).then(|| json!({"address": change.get("address"), "actions": actions}))
}

fn has(actions: &Value, action: &str) -> bool {
    actions.as_array().is_some_and(|a| a.iter().any(|x| x == action))
}

/// Outputs by name. Terraform marks some as sensitive: their value is not told.
pub(super) fn outputs(said: &str) -> Value {
    let Ok(Value::Object(outputs)) = serde_json::from_str::<Value>(said) else {
        return json!({});
    };
    let value = |output: Value| match output.get("sensitive").and_then(Value::as_bool) {
        Some(true) => json!("***"),
        _ => output.get("value").cloned().unwrap_or(Value::Null),
    };
    Value::Object(
        outputs
            .into_iter()
            .map(|(name, o)| (name, value(o)))
            .collect::<Map<_, _>>(),
    )
}

/// Counts of an apply or destroy, from its lines of JSON: add, change, destroy.
pub(super) fn applied(said: &str) -> (u64, u64, u64) {
    let changes = lines(said)
        .filter(|l| l["type"] == "change_summary")
        .last()
        .unwrap_or_default();
    let count = |name: &str| {
        changes
            .pointer(&format!("/changes/{name}"))
            .and_then(Value::as_u64)
            .unwrap_or(0)
    };
    (count("add"), count("change"), count("remove"))
}

/// The errors of an apply or destroy, from its lines of JSON.
pub(super) fn errors(said: &str) -> String {
    let errors: Vec<String> = lines(said)
        .filter(|l| l["@level"] == "error")
        .map(|l| diagnostic(&l["diagnostic"]))
        .collect();
    errors.join("; ")
}

/// One diagnostic in a line: what, where, why.
pub(super) fn diagnostic(diagnostic: &Value) -> String {
    let text = |pointer: &str| diagnostic.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let at = match (text("/range/filename"), diagnostic.pointer("/range/start/line")) {
        ("", _) | (_, None) => String::new(),
        (file, Some(line)) => format!(" ({file}:{line})"),
    };
    let detail = text("/detail");
    let colon = if detail.is_empty() { "" } else { ": " };
    format!("{}{at}{colon}{detail}", text("/summary"))
}

fn lines(said: &str) -> impl Iterator<Item = Value> {
    said.lines().filter_map(|l| serde_json::from_str(l).ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_replacement_counts_twice_and_idle_resources_not_at_all() {
        let shown = json!({"applyable": true, "timestamp": "now", "resource_changes": [
            {"address": "a", "change": {"actions": ["delete", "create"]}},
            {"address": "b", "change": {"actions": ["no-op"]}},
            {"address": "c", "change": {"actions": ["update"]}},
        ]});
        let told = plan(&shown, &["x"]).unwrap();
        assert_eq!(
            (&told["add"], &told["change"], &told["destroy"]),
            (&json!(1), &json!(1), &json!(1))
        );
        assert_eq!(told["resources"].as_array().unwrap().len(), 2);
        let mut later = shown.clone();
        later["timestamp"] = json!("later");
        assert_eq!(plan(&later, &["x"]).unwrap()["plan_id"], told["plan_id"]);
        assert_ne!(plan(&shown, &["y"]).unwrap()["plan_id"], told["plan_id"]);
    }

    #[test]
    fn sensitive_outputs_are_not_told() {
        let said = r#"{"a":{"sensitive":true,"value":"x"},"b":{"sensitive":false,"value":[1]}}"#;
        assert_eq!(outputs(said), json!({"a": "***", "b": [1]}));
        assert_eq!(outputs("oops"), json!({}));
    }

    #[test]
    fn errors_name_file_and_line() {
        let said = r#"{"@level":"error","diagnostic":{"summary":"Bad","detail":"why","range":{"filename":"main.tf","start":{"line":3}}}}
{"type":"change_summary","changes":{"add":1,"change":0,"remove":2}}"#;
        assert_eq!(errors(said), "Bad (main.tf:3): why");
        assert_eq!(applied(said), (1, 0, 2));
    }
}
