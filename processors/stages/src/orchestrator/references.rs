//! `${steps.<id>.result.<path>}` in a step's arguments: finding and filling in. It does not know what a run is.

use serde_json::Value;

const OPEN: &str = "${steps.";

/// A reference to a part of a step's result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    /// Step whose result it is.
    pub(super) step_id: String,
    /// Keys and list indices from the result inwards; empty for all of it.
    path: Vec<String>,
}

/// A piece of a string.
enum Piece<'a> {
    Text(&'a str),
    Reference(Reference),
}

/// Arguments that hold no reference are known before the run.
pub(super) fn is_static(arguments: &str) -> bool {
    !arguments.contains(OPEN)
}

/// Every reference in the arguments.
///
/// # Errors
/// The arguments are not a JSON object, or a reference is malformed.
pub(super) fn find_all(arguments: &str) -> Result<Vec<Reference>, String> {
    let value: Value = serde_json::from_str(arguments).map_err(|e| format!("arguments are not JSON: {e}"))?;
    if !value.is_object() {
        return Err("arguments are not a JSON object".to_owned());
    }
    let mut found = Vec::new();
    collect(&value, &mut found)?;
    Ok(found)
}

fn collect(value: &Value, found: &mut Vec<Reference>) -> Result<(), String> {
    match value {
        Value::String(text) => {
            for piece in split(text)? {
                if let Piece::Reference(reference) = piece {
                    found.push(reference);
                }
            }
            Ok(())
        }
        Value::Array(items) => items.iter().try_for_each(|item| collect(item, found)),
        Value::Object(fields) => fields.values().try_for_each(|field| collect(field, found)),
        _ => Ok(()),
    }
}

/// The arguments with every reference replaced. A string that is one reference becomes the typed value; inside longer
/// text
/// the value is written as text. What is filled in is not looked through again.
///
/// # Errors
/// A step has no result, or the result has no such path; the text names the reference.
pub(super) fn resolve<'r>(arguments: &str, result_of: impl Fn(&str) -> Option<&'r str>) -> Result<String, String> {
    if is_static(arguments) {
        return Ok(arguments.to_owned());
    }
    let value: Value = serde_json::from_str(arguments).map_err(|e| format!("arguments are not JSON: {e}"))?;
    let value = fill(value, &|reference| look_up(reference, &result_of))?;
    Ok(value.to_string())
}

fn fill(value: Value, look: &dyn Fn(&Reference) -> Result<Value, String>) -> Result<Value, String> {
    match value {
        Value::String(text) if !is_static(&text) => fill_text(&text, look),
        Value::Array(items) => items
            .into_iter()
            .map(|item| fill(item, look))
            .collect::<Result<_, _>>()
            .map(Value::Array),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, field)| Ok((name, fill(field, look)?)))
            .collect::<Result<_, String>>()
            .map(Value::Object),
        other => Ok(other),
    }
}

fn fill_text(text: &str, look: &dyn Fn(&Reference) -> Result<Value, String>) -> Result<Value, String> {
    let pieces = split(text)?;
    if let [Piece::Reference(reference)] = pieces.as_slice() {
        return look(reference);
    }
    let mut filled = String::with_capacity(text.len());
    for piece in &pieces {
        match piece {
            Piece::Text(plain) => filled.push_str(plain),
            Piece::Reference(reference) => match look(reference)? {
                Value::String(inner) => filled.push_str(&inner),
                other => filled.push_str(&other.to_string()),
            },
        }
    }
    Ok(Value::String(filled))
}

fn look_up<'r>(reference: &Reference, result_of: &impl Fn(&str) -> Option<&'r str>) -> Result<Value, String> {
    let Some(result) = result_of(&reference.step_id) else {
        return Err(format!(
            "{reference}: step `{}` has no result yet; name it in `needs`",
            reference.step_id
        ));
    };
    let root: Value = match result {
        "" => Value::Null,
        text => serde_json::from_str(text).map_err(|e| format!("{reference}: the result is not JSON ({e})"))?,
    };
    let mut value = &root;
    for key in &reference.path {
        let inner = match value {
            Value::Object(fields) => fields.get(key),
            Value::Array(items) => key.parse::<usize>().ok().and_then(|nth| items.get(nth)),
            _ => None,
        };
        value = inner.ok_or_else(|| format!("{reference}: the result has no `{key}` there; it has {}", kind(value)))?;
    }
    Ok(value.clone())
}

fn kind(value: &Value) -> String {
    match value {
        Value::Object(fields) if fields.is_empty() => "an empty object".to_owned(),
        Value::Object(fields) => fields
            .keys()
            .take(10)
            .map(|k| format!("`{k}`"))
            .collect::<Vec<_>>()
            .join(", "),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::String(_) => "text".to_owned(),
        other => other.to_string(),
    }
}

fn split(text: &str) -> Result<Vec<Piece<'_>>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(OPEN) {
        let Some(length) = rest[start..].find('}') else {
            return Err(format!("`{}` is not closed with `}}`", &rest[start..]));
        };
        if start > 0 {
            pieces.push(Piece::Text(&rest[..start]));
        }
        pieces.push(Piece::Reference(parse(&rest[start + OPEN.len()..start + length])?));
        rest = &rest[start + length + 1..];
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    Ok(pieces)
}

fn parse(inner: &str) -> Result<Reference, String> {
    let mut parts = inner.split('.');
    let step_id = parts.next().unwrap_or_default();
    let word = parts.next().unwrap_or_default();
    let path: Vec<String> = parts.map(str::to_owned).collect();
    if step_id.is_empty() || word != "result" || path.iter().any(String::is_empty) {
        return Err(format!(
            "`{OPEN}{inner}}}` is not of the form ${{steps.<step_id>.result.<path>}}"
        ));
    }
    Ok(Reference {
        step_id: step_id.to_owned(),
        path,
    })
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{OPEN}{}.result", self.step_id)?;
        self.path.iter().try_for_each(|key| write!(f, ".{key}"))?;
        f.write_str("}")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn filled(arguments: &str) -> Result<Value, String> {
        let plan =
            r#"{"id":"p1","destroy":2,"ok":true,"none":null,"list":[{"a":"x"},7],"trap":"${steps.plan.result.id}"}"#;
        resolve(arguments, |id| (id == "plan").then_some(plan)).map(|text| serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn a_lone_reference_keeps_its_type_and_text_takes_words() {
        for (arguments, expected) in [
            (r#"{"a":"${steps.plan.result.destroy}"}"#, r#"{"a":2}"#),
            (r#"{"a":["${steps.plan.result.ok}"]}"#, r#"{"a":[true]}"#),
            (
                r#"{"a":"n=${steps.plan.result.destroy}, ${steps.plan.result.id}!"}"#,
                r#"{"a":"n=2, p1!"}"#,
            ),
            (
                r#"{"a":"${steps.plan.result.list.0.a}${steps.plan.result.list.1}"}"#,
                r#"{"a":"x7"}"#,
            ),
            (
                r#"{"a":{"b":"${steps.plan.result.list.0}"}}"#,
                r#"{"a":{"b":{"a":"x"}}}"#,
            ),
            (r#"{"a":"${steps.plan.result.none}"}"#, r#"{"a":null}"#),
            (
                r#"{"a":"${var.x} ${steps.plan.result.ok}"}"#,
                r#"{"a":"${var.x} true"}"#,
            ),
            (
                r#"{"a":"${steps.plan.result.trap}"}"#,
                r#"{"a":"${steps.plan.result.id}"}"#,
            ),
        ] {
            assert_eq!(
                filled(arguments).unwrap(),
                serde_json::from_str::<Value>(expected).unwrap(),
                "{arguments}"
            );
        }
        assert_eq!(resolve(r#"{ "a" : 1 }"#, |_| None).unwrap(), r#"{ "a" : 1 }"#);
    }

    #[test]
    fn what_is_missing_or_malformed_is_named() {
        for (arguments, words) in [
            (
                r#"{"a":"${steps.plan.result.nope}"}"#,
                "has no `nope` there; it has `destroy`, `id`",
            ),
            (
                r#"{"a":"${steps.plan.result.list.9}"}"#,
                "has no `9` there; it has a list of 2",
            ),
            (r#"{"a":"${steps.plan.result.id.x}"}"#, "has no `x` there; it has text"),
            (r#"{"a":"${steps.other.result}"}"#, "step `other` has no result yet"),
            (r#"{"a":"${steps.plan.output}"}"#, "is not of the form"),
            (r#"{"a":"${steps.plan.result.id"}"#, "is not closed"),
        ] {
            let error = filled(arguments).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        assert!(find_all("[1]").unwrap_err().contains("not a JSON object"));
        assert!(find_all("{").unwrap_err().contains("not JSON"));
        assert_eq!(
            find_all(r#"{"a":["${steps.x.result.y} ${steps.z.result}"]}"#)
                .unwrap()
                .len(),
            2
        );
    }
}
