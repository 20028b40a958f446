//! `json_path(json, path)`: one value out of a JSON text. One file, posted to Arroyo as it stands.
/*
[dependencies]
serde_json = { version = "1", features = ["raw_value"] }
*/

use std::collections::BTreeMap;

#[cfg(not(test))]
use arroyo_udf_plugin::udf;
use serde_json::value::RawValue;

/// Value at a path such as `$.steps[0].tool` or `$['a key']`: a string without its quotes, anything else as the text
/// has it; NULL when it is not there or null, and when the text is no JSON or the path no such path.
#[cfg(not(test))]
#[udf]
fn json_path(json: &str, path: &str) -> Option<String> {
    plain(json, path)
}

/// A step of a path.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    /// From the front, or from the back when below zero.
    At(i64),
}

/// The function itself. Values are cut out of the text, not rendered anew, so that numbers keep every digit.
pub fn plain(json: &str, path: &str) -> Option<String> {
    let mut here: &RawValue = serde_json::from_str(json).ok()?;
    for step in steps(path)? {
        here = match step {
            Step::Key(key) => serde_json::from_str::<BTreeMap<String, &RawValue>>(here.get())
                .ok()?
                .remove(&key)?,
            Step::At(at) => {
                let items: Vec<&RawValue> = serde_json::from_str(here.get()).ok()?;
                let at = if at < 0 { at + items.len() as i64 } else { at };
                items.get(usize::try_from(at).ok()?)?
            }
        };
    }
    match here.get() {
        "null" => None,
        text if text.starts_with('"') => serde_json::from_str(text).ok(),
        text => Some(text.to_owned()),
    }
}

/// Reads `$`, then `.name`, `['name']`, `["name"]` and `[n]` as often as they come. Wildcards, slices and filters,
/// which give several values, are no such path.
fn steps(path: &str) -> Option<Vec<Step>> {
    let mut rest = path.strip_prefix('$')?;
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            let (key, more) = after.split_at(end);
            if key.is_empty() || key == "*" {
                return None;
            }
            steps.push(Step::Key(key.to_owned()));
            rest = more;
        } else {
            let after = rest.strip_prefix('[')?;
            let quote = after.chars().next().filter(|c| matches!(c, '\'' | '"'));
            let (step, more) = match quote {
                Some(quote) => {
                    let (key, more) = after[1..].split_once(quote)?;
                    (Step::Key(key.to_owned()), more.strip_prefix(']')?)
                }
                None => {
                    let (index, more) = after.split_once(']')?;
                    (Step::At(index.parse().ok()?), more)
                }
            };
            steps.push(step);
            rest = more;
        }
    }
    Some(steps)
}
