//! References in argument texts: `${inputs.x}`, `${values.x}`, `${run.id}`, `${run.tenant}`, `${request.goal}` are filled in here;
//! `${steps.<id>.result.<path>}` is left for the orchestrator. `$${` stands for a plain `${`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::condition::Values;

/// What a reference names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reference {
    Input(String),
    Value(String),
    RunId,
    Tenant,
    Goal,
    /// Result of a step, with the reference as written.
    Step(String, String),
}

enum Part {
    Text(String),
    Reference(Reference),
}

/// What references are filled from.
pub(super) struct Context<'a> {
    pub(super) inputs: &'a Values,
    pub(super) values: &'a BTreeMap<String, String>,
    pub(super) run_id: &'a str,
    pub(super) tenant: &'a str,
    pub(super) goal: &'a str,
}

/// Start of a reference the orchestrator fills in. No input may smuggle one in.
const STEP_MARK: &str = "${steps.";

/// The references of a text, in order.
pub(super) fn references(text: &str) -> Result<Vec<Reference>, String> {
    let parts = parts(text)?;
    Ok(parts
        .into_iter()
        .filter_map(|p| if let Part::Reference(r) = p { Some(r) } else { None })
        .collect())
}

fn parts(text: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if at > 0 && rest.as_bytes()[at - 1] == b'$' {
            plain.push_str(&rest[..at - 1]);
            plain.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        let end = rest[at..]
            .find('}')
            .ok_or_else(|| format!("a reference is not closed: `{}`", &rest[at..]))?;
        plain.push_str(&rest[..at]);
        if !plain.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut plain)));
        }
        let whole = &rest[at..=at + end];
        parts.push(Part::Reference(reference(whole)?));
        rest = &rest[at + end + 1..];
    }
    plain.push_str(rest);
    if !plain.is_empty() {
        parts.push(Part::Text(plain));
    }
    if parts
        .iter()
        .any(|p| matches!(p, Part::Text(t) if t.contains(STEP_MARK)))
    {
        return Err(format!(
            "`$${{` may not hide `{STEP_MARK}`: the orchestrator would read it as a reference"
        ));
    }
    Ok(parts)
}

fn reference(whole: &str) -> Result<Reference, String> {
    let inner = &whole[2..whole.len() - 1];
    let fields: Vec<_> = inner.split('.').collect();
    match fields.as_slice() {
        ["inputs", name] => Ok(Reference::Input((*name).to_owned())),
        ["values", name] => Ok(Reference::Value((*name).to_owned())),
        ["run", "id"] => Ok(Reference::RunId),
        ["run", "tenant"] => Ok(Reference::Tenant),
        ["request", "goal"] => Ok(Reference::Goal),
        ["steps", id, "result", ..] => Ok(Reference::Step((*id).to_owned(), whole.to_owned())),
        _ => Err(format!(
            "unknown reference `{whole}`: known are ${{inputs.<name>}}, ${{values.<name>}}, ${{run.id}}, ${{run.tenant}}, \
             ${{request.goal}} and ${{steps.<id>.result.<path>}}; write $${{ for a plain ${{"
        )),
    }
}

/// Fills a whole value in. An object entry or list item that is exactly a reference to an input nobody gave is left out.
///
/// # Errors
/// The text of an input would be read as a reference by the orchestrator.
pub(super) fn render(value: &Value, context: &Context<'_>) -> Result<Value, String> {
    Ok(render_some(value, context)?.unwrap_or(Value::Null))
}

fn render_some(value: &Value, context: &Context<'_>) -> Result<Option<Value>, String> {
    match value {
        Value::String(text) => render_text(text, context),
        Value::Array(items) => {
            let mut filled = Vec::with_capacity(items.len());
            for item in items {
                filled.extend(render_some(item, context)?);
            }
            Ok(Some(Value::Array(filled)))
        }
        Value::Object(object) => {
            let mut filled = Map::new();
            for (key, item) in object {
                if let Some(item) = render_some(item, context)? {
                    filled.insert(key.clone(), item);
                }
            }
            Ok(Some(Value::Object(filled)))
        }
        other => Ok(Some(other.clone())),
    }
}

fn render_text(text: &str, context: &Context<'_>) -> Result<Option<Value>, String> {
    let parts = parts(text)?;
    let marks = parts
        .iter()
        .filter(|p| matches!(p, Part::Reference(Reference::Step(..))))
        .count();
    let filled = match parts.as_slice() {
        [Part::Reference(reference)] => resolve(reference, context)?,
        parts => {
            let mut text = String::new();
            for part in parts {
                match part {
                    Part::Text(plain) => text.push_str(plain),
                    Part::Reference(reference) => match resolve(reference, context)? {
                        Some(Value::String(value)) => text.push_str(&value),
                        Some(other) => text.push_str(&other.to_string()),
                        None => {}
                    },
                }
            }
            Some(Value::String(text))
        }
    };
    if filled.as_ref().map_or(0, count_marks) > marks {
        return Err(format!(
            "a value given with the request would read as a reference; it may not hold `{STEP_MARK}`"
        ));
    }
    Ok(filled)
}

fn count_marks(value: &Value) -> usize {
    match value {
        Value::String(text) => text.matches(STEP_MARK).count(),
        Value::Array(items) => items.iter().map(count_marks).sum(),
        _ => 0,
    }
}

fn resolve(reference: &Reference, context: &Context<'_>) -> Result<Option<Value>, String> {
    let text = |t: &str| Ok(Some(Value::from(t)));
    match reference {
        Reference::Input(name) => Ok(context.inputs.get(name).cloned()),
        Reference::Value(name) => match context.values.get(name) {
            Some(value) => text(value),
            None => Err(format!("the operator has not given the value `{name}`")),
        },
        Reference::RunId => text(context.run_id),
        Reference::Tenant => text(context.tenant),
        Reference::Goal => text(context.goal),
        Reference::Step(_, whole) => text(whole),
    }
}
