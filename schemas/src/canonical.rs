//! JSON in canonical form (RFC 8785), written straight from a value: every plan, step and call is digested several times over.

use serde_json::{Number, Value};

use crate::records::{Compensation, Retry, Step};

/// Whole numbers up to here are written as they are; beyond, a double's digits may be others.
const WHOLE_MAX: i64 = 1 << 53;

/// Writes a value in canonical form.
///
/// # Errors
/// It holds a number JSON cannot carry.
pub(crate) fn write(value: &Value, into: &mut String) -> Result<(), String> {
    match value {
        Value::Null => into.push_str("null"),
        Value::Bool(true) => into.push_str("true"),
        Value::Bool(false) => into.push_str("false"),
        Value::Number(number) => write_number(number, into)?,
        Value::String(text) => write_text(text, into),
        Value::Array(items) => {
            into.push('[');
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    into.push(',');
                }
                write(item, into)?;
            }
            into.push(']');
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            // Order is that of UTF-16, which is that of the map unless a character stands behind the surrogates.
            if fields.iter().any(|(key, _)| key.chars().any(|c| c >= '\u{e000}')) {
                fields.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            }
            into.push('{');
            for (n, (key, value)) in fields.into_iter().enumerate() {
                if n > 0 {
                    into.push(',');
                }
                write_text(key, into);
                into.push(':');
                write(value, into)?;
            }
            into.push('}');
        }
    }
    Ok(())
}

/// Writes a plan's steps in canonical form: what [`write`] makes of them as JSON, without making that first. Fields stand in the order
/// of their names.
///
/// # Errors
/// As [`write`].
pub(crate) fn write_steps(steps: &[Step], into: &mut String) -> Result<(), String> {
    into.push('[');
    for (n, step) in steps.iter().enumerate() {
        if n > 0 {
            into.push(',');
        }
        write_step(step, into)?;
    }
    into.push(']');
    Ok(())
}

/// Taken apart field by field, so that one more does not compile until it is written here.
fn write_step(step: &Step, into: &mut String) -> Result<(), String> {
    let Step {
        step_id,
        tool,
        operation,
        arguments,
        needs,
        description,
        retry,
        timeout_ms,
        compensation,
        approval_required,
        replay_safe,
    } = step;
    write_flag("{\"approval_required\":", *approval_required, into);
    write_named(",\"arguments\":", arguments, into);
    into.push_str(",\"compensation\":");
    match compensation {
        None => into.push_str("null"),
        Some(Compensation {
            tool,
            operation,
            arguments,
        }) => {
            write_named("{\"arguments\":", arguments, into);
            write_named(",\"operation\":", operation, into);
            write_named(",\"tool\":", tool, into);
            into.push('}');
        }
    }
    write_named(",\"description\":", description, into);
    into.push_str(",\"needs\":[");
    for (n, needed) in needs.iter().enumerate() {
        write_named(if n > 0 { "," } else { "" }, needed, into);
    }
    write_named("],\"operation\":", operation, into);
    write_flag(",\"replay_safe\":", *replay_safe, into);
    let Retry {
        attempts_max,
        backoff_ms,
        backoff_ms_max,
    } = retry;
    write_whole(",\"retry\":{\"attempts_max\":", i64::from(*attempts_max), into)?;
    write_whole(",\"backoff_ms\":", *backoff_ms, into)?;
    write_whole(",\"backoff_ms_max\":", *backoff_ms_max, into)?;
    write_named("},\"step_id\":", step_id, into);
    write_whole(",\"timeout_ms\":", *timeout_ms, into)?;
    write_named(",\"tool\":", tool, into);
    into.push('}');
    Ok(())
}

fn write_named(before: &str, text: &str, into: &mut String) {
    into.push_str(before);
    write_text(text, into);
}

fn write_flag(before: &str, is: bool, into: &mut String) {
    into.push_str(before);
    into.push_str(if is { "true" } else { "false" });
}

fn write_whole(before: &str, number: i64, into: &mut String) -> Result<(), String> {
    into.push_str(before);
    if number == 0 {
        into.push('0');
        return Ok(());
    }
    write_number(&Number::from(number), into)
}

fn write_number(number: &Number, into: &mut String) -> Result<(), String> {
    if let Some(whole) = number.as_i64().filter(|n| (-WHOLE_MAX..=WHOLE_MAX).contains(n)) {
        into.push_str(&whole.to_string());
        return Ok(());
    }
    let text = serde_json_canonicalizer::to_string(number).map_err(|e| format!("not canonical JSON: {e}"))?;
    into.push_str(&text);
    Ok(())
}

fn write_text(text: &str, into: &mut String) {
    into.push('"');
    let mut from = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        into.push_str(&text[from..at]);
        from = at + 1;
        match byte {
            b'"' => into.push_str("\\\""),
            b'\\' => into.push_str("\\\\"),
            0x08 => into.push_str("\\b"),
            0x09 => into.push_str("\\t"),
            0x0a => into.push_str("\\n"),
            0x0c => into.push_str("\\f"),
            0x0d => into.push_str("\\r"),
            other => into.push_str(&format!("\\u{other:04x}")),
        }
    }
    into.push_str(&text[from..]);
    into.push('"');
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn both(value: &Value) -> (String, String) {
        let mut ours = String::new();
        write(value, &mut ours).unwrap();
        (ours, serde_json_canonicalizer::to_string(value).unwrap())
    }

    #[test]
    fn steps_are_written_as_their_json_is() {
        let mut seed = 11_u64;
        let mut below = move |n: u64| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        let pieces = ["", "a", "é", "\"", "\\", "\n", "\u{1}", "{\"b\":1}", "\u{1f600}"];
        let wholes = [0, 1, -1, 250, i64::MAX, i64::MIN, WHOLE_MAX + 1];
        for _ in 0..2000 {
            let mut text = || pieces[below(9) as usize].repeat(below(3) as usize);
            let mut texts = || (text(), text(), text());
            let (step_id, tool, operation) = texts();
            let (arguments, description, undone) = texts();
            let needs = Vec::from(<[String; 3]>::from(texts()));
            let mut whole = || wholes[below(7) as usize];
            let step = Step {
                retry: Retry {
                    attempts_max: i32::try_from(whole()).unwrap_or(i32::MIN),
                    backoff_ms: whole(),
                    backoff_ms_max: whole(),
                },
                timeout_ms: whole(),
                needs: needs.into_iter().take(below(4) as usize).collect(),
                compensation: (below(2) == 0).then(|| Compensation {
                    tool: undone.clone(),
                    operation: description.clone(),
                    arguments: tool.clone(),
                }),
                approval_required: below(2) == 0,
                replay_safe: below(2) == 0,
                step_id,
                tool,
                operation,
                arguments,
                description,
            };
            let steps = vec![step; below(4) as usize];
            let (mut ours, mut theirs) = (String::new(), String::new());
            write_steps(&steps, &mut ours).unwrap();
            write(&serde_json::to_value(&steps).unwrap(), &mut theirs).unwrap();
            assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn it_writes_what_the_library_writes() {
        let mut seed = 5_u64;
        let mut below = move |n: u64| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        let pieces = [
            "",
            "a",
            "é",
            "\u{1f600}",
            "\u{e000}",
            "\u{fb33}",
            "\u{0}",
            "\u{1f}",
            "\u{7f}",
            "\"",
            "\\",
            "/",
            "\n\r\t",
            "\u{8}\u{c}",
            "\u{2028}",
        ];
        let numbers = [
            json!(0),
            json!(-0.0),
            json!(-1),
            json!(9_007_199_254_740_992_i64),
            json!(9_007_199_254_740_993_i64),
            json!(-9_007_199_254_740_993_i64),
            json!(u64::MAX),
            json!(i64::MIN),
            json!(1e21),
            json!(1e-7),
            json!(0.1),
            json!(1.0),
            json!(333_333_333.333_333_3),
        ];
        for _ in 0..3000 {
            let mut text = || (0..below(4)).map(|_| pieces[below(15) as usize]).collect::<String>();
            let texts: Vec<_> = (0..6).map(|_| text()).collect();
            let number = numbers[below(13) as usize].clone();
            let mut fields = serde_json::Map::new();
            for (n, key) in texts.iter().enumerate() {
                let value = match below(5) {
                    0 => json!([number, texts[(n + 1) % 6], null, {}]),
                    1 => json!({texts[(n + 2) % 6].as_str(): true, texts[(n + 3) % 6].as_str(): {"b": false, "a": []}}),
                    2 => number.clone(),
                    _ => json!(texts[(n + 4) % 6]),
                };
                fields.insert(key.clone(), value);
            }
            let (ours, theirs) = both(&Value::Object(fields));
            assert_eq!(ours, theirs);
        }
    }
}
