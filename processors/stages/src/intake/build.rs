//! A definition and a request's inputs become the steps of a plan, or the refusal that says which input is wrong.

use std::collections::BTreeMap;

use kernel::FaultCode;
use schemas::records::{Compensation, Refusal, Request, Step};

use super::condition::Values;
use super::definition::{Action, Definition, StepSpec};
use super::template::{self, Context, Reference};

/// A refusal with its code, the field at fault and the fix.
pub(super) fn refusal(code: FaultCode, field: impl Into<String>, detail: impl Into<String>) -> Refusal {
    Refusal {
        code: code.as_str().to_owned(),
        field: field.into(),
        detail: detail.into(),
    }
}

/// The steps of a plan.
pub(super) fn steps(
    definition: &Definition,
    request: &Request,
    values: &BTreeMap<String, String>,
    run_id: &str,
) -> Result<Vec<Step>, Refusal> {
    let inputs = inputs(definition, request)?;
    let context = Context {
        inputs: &inputs,
        values,
        run_id,
        tenant: &request.tenant,
        goal: &request.goal,
    };
    let kept: Vec<_> = definition
        .steps
        .iter()
        .filter(|s| s.when.iter().all(|w| w.holds(&inputs)))
        .collect();
    if kept.is_empty() {
        return Err(refusal(
            FaultCode::PlanInvalid,
            "inputs",
            "these inputs leave no step to do: change the answers",
        ));
    }
    kept.iter()
        .map(|spec| step(spec, definition, &kept, &context))
        .collect()
}

/// Typed inputs, checked one by one and then against the rules that span several.
fn inputs(definition: &Definition, request: &Request) -> Result<Values, Refusal> {
    let bad = |name: &str, detail: String| refusal(FaultCode::InputInvalid, format!("inputs.{name}"), detail);
    if let Some(name) = request
        .inputs
        .keys()
        .find(|n| !definition.fields.iter().any(|f| &&f.name == n))
    {
        let known: Vec<_> = definition.fields.iter().map(|f| f.name.as_str()).collect();
        return Err(bad(
            name,
            format!("{} has no such input; it takes {}", definition.key(), known.join(", ")),
        ));
    }
    let mut inputs = Values::new();
    for field in &definition.fields {
        let given = request.inputs.get(&field.name).map(String::as_str);
        let value = field.value(given).map_err(|detail| bad(&field.name, detail))?;
        inputs.extend(value.map(|v| (field.name.clone(), v)));
    }
    match definition.rules.iter().find(|rule| !rule.require.holds(&inputs)) {
        Some(rule) => Err(bad(&rule.field, rule.error.clone())),
        None => Ok(inputs),
    }
}

fn step(spec: &StepSpec, definition: &Definition, kept: &[&StepSpec], context: &Context<'_>) -> Result<Step, Refusal> {
    let compensation = spec.compensation.as_ref().map(|action| {
        Ok(Compensation {
            tool: action.tool.clone(),
            operation: action.operation.clone(),
            arguments: arguments(action, kept, context)?,
        })
    });
    Ok(Step {
        step_id: spec.id.clone(),
        tool: spec.action.tool.clone(),
        operation: spec.action.operation.clone(),
        arguments: arguments(&spec.action, kept, context)?,
        needs: relink(spec, definition, kept),
        description: spec.description.clone(),
        retry: spec.retry.clone(),
        timeout_ms: spec.timeout_ms,
        compensation: compensation.transpose()?,
        approval_required: spec.approval_required.holds(context.inputs),
        replay_safe: spec.replay_safe.holds(context.inputs),
    })
}

fn arguments(action: &Action, kept: &[&StepSpec], context: &Context<'_>) -> Result<String, Refusal> {
    let value =
        template::render(&action.arguments, context).map_err(|e| refusal(FaultCode::InputInvalid, "inputs", e))?;
    let mut gone = None;
    visit(&action.arguments, &mut |text| {
        for reference in template::references(text).unwrap_or_default() {
            if let Reference::Step(id, whole) = reference
                && !kept.iter().any(|s| s.id == id)
            {
                gone = Some(format!(
                    "these inputs leave out the step `{id}`, whose result `{whole}` is needed"
                ));
            }
        }
    });
    match gone {
        Some(detail) => Err(refusal(FaultCode::PlanInvalid, "inputs", detail)),
        None => Ok(value.to_string()),
    }
}

fn visit(value: &serde_json::Value, seen: &mut dyn FnMut(&str)) {
    match value {
        serde_json::Value::String(text) => seen(text),
        serde_json::Value::Array(items) => items.iter().for_each(|i| visit(i, seen)),
        serde_json::Value::Object(object) => object.values().for_each(|v| visit(v, seen)),
        _ => {}
    }
}

/// Needs of a step once some are left out: what a left-out step needed is needed instead, in order, without repeats.
fn relink(spec: &StepSpec, definition: &Definition, kept: &[&StepSpec]) -> Vec<String> {
    let mut needs: Vec<String> = Vec::new();
    let mut open: Vec<&String> = spec.needs.iter().rev().collect();
    while let Some(need) = open.pop() {
        if kept.iter().any(|s| &s.id == need) {
            if !needs.contains(need) {
                needs.push(need.clone());
            }
        } else if let Some(gone) = definition.steps.iter().find(|s| &s.id == need) {
            open.extend(gone.needs.iter().rev());
        }
    }
    needs
}
