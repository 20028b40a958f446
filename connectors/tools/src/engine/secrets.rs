//! Secret references and redaction: a secret is put in just before a call and taken out of everything the call gives back.

use std::collections::BTreeMap;
use std::fmt;

use kernel::{Fault, FaultCode};
use serde_json::{Map, Value};

use crate::faults::invalid;

const REFERENCE: &str = "$secret";
const MASK: &str = "***";
/// Shorter values would mask ordinary words.
const MASKED_LEN_MIN: usize = 4;

/// The secrets the platform was given, by name. Printing it shows the names only.
#[derive(Clone, Default)]
pub struct Secrets(pub BTreeMap<String, String>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Secrets {
    /// The arguments with every `{"$secret": name, "prefix": text, "suffix": text}` replaced by its text.
    ///
    /// # Errors
    /// `SECRET_UNKNOWN` for a name that is not given, `ARGUMENTS_INVALID` for a malformed reference; both name the path.
    pub(crate) fn resolve(&self, arguments: Value) -> Result<Value, Fault> {
        self.resolve_at(arguments, "")
    }

    fn resolve_at(&self, value: Value, path: &str) -> Result<Value, Fault> {
        match value {
            Value::Object(map) if map.contains_key(REFERENCE) => self.text_of(&map, path).map(Value::String),
            Value::Object(map) => map
                .into_iter()
                .map(|(k, v)| Ok((k.clone(), self.resolve_at(v, &format!("{path}/{k}"))?)))
                .collect::<Result<Map<_, _>, Fault>>()
                .map(Value::Object),
            Value::Array(items) => items
                .into_iter()
                .enumerate()
                .map(|(i, v)| self.resolve_at(v, &format!("{path}/{i}")))
                .collect::<Result<Vec<_>, Fault>>()
                .map(Value::Array),
            other => Ok(other),
        }
    }

    fn text_of(&self, map: &Map<String, Value>, path: &str) -> Result<String, Fault> {
        let part = |key: &str| match map.get(key) {
            None => Ok(""),
            Some(Value::String(text)) => Ok(text.as_str()),
            Some(_) => Err(invalid(format!("{path}/{key} of a secret reference must be text"))),
        };
        if let Some(key) = map
            .keys()
            .find(|k| ![REFERENCE, "prefix", "suffix"].contains(&k.as_str()))
        {
            return Err(invalid(format!(
                "{path}/{key}: a secret reference takes `$secret`, `prefix` and `suffix` only"
            )));
        }
        let name = part(REFERENCE)?;
        let secret = self.0.get(name).ok_or_else(|| {
            Fault::new(
                FaultCode::SecretUnknown,
                format!("{path}: no secret is named `{name}`; add it to the platform's secrets or correct the name"),
            )
        })?;
        Ok(format!("{}{secret}{}", part("prefix")?, part("suffix")?))
    }

    /// What takes them out again.
    pub(crate) fn redactor(&self) -> Redactor {
        let mut forms: Vec<String> = self
            .0
            .values()
            .filter(|s| s.len() >= MASKED_LEN_MIN)
            .flat_map(|s| {
                let percent = crate::http::percent_encoded(s);
                // What browsers and HTTP clients write in forms and queries differs in three characters.
                let form = percent.replace("%20", "+").replace('~', "%7E").replace("%2A", "*");
                [s.clone(), json_escaped(s), percent, form]
            })
            .collect();
        // Longest first: a secret that contains another must go as a whole.
        forms.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
        forms.dedup();
        Redactor { forms }
    }
}

fn json_escaped(text: &str) -> String {
    let quoted = Value::String(text.to_owned()).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// Replaces every secret it knows, as it is, JSON-escaped, percent-encoded and form-encoded, by `***`.
pub(crate) struct Redactor {
    forms: Vec<String>,
}

impl Redactor {
    pub(crate) fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for form in &self.forms {
            if text.contains(form.as_str()) {
                text = text.replace(form.as_str(), MASK);
            }
        }
        self.tail(text)
    }

    /// A body that was cut short may end in the beginning of a secret.
    fn tail(&self, text: String) -> String {
        let end = text.trim_end_matches('…').len();
        for form in &self.forms {
            let cuts = form.char_indices().map(|(at, _)| at).filter(|at| *at >= MASKED_LEN_MIN);
            if let Some(cut) = cuts.rev().find(|at| text[..end].ends_with(&form[..*at])) {
                return format!("{}{MASK}{}", &text[..end - cut], &text[end..]);
            }
        }
        text
    }

    pub(crate) fn value(&self, value: Value) -> Value {
        if self.forms.is_empty() {
            return value;
        }
        match value {
            Value::String(text) => Value::String(self.text(&text)),
            Value::Array(items) => Value::Array(items.into_iter().map(|v| self.value(v)).collect()),
            Value::Object(map) => Value::Object(map.into_iter().map(|(k, v)| (self.text(&k), self.value(v))).collect()),
            other => other,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn secrets() -> Secrets {
        Secrets(BTreeMap::from([
            ("token".into(), "s3cr3t/\"value".into()),
            ("pin".into(), "123".into()),
        ]))
    }

    #[test]
    fn references_are_resolved_anywhere_with_prefix_and_suffix() {
        let given = json!({"headers": {"a": {"$secret": "token", "prefix": "Bearer "}}, "list": [{"$secret": "pin", "suffix": "!"}]});
        let resolved = secrets().resolve(given).unwrap();
        assert_eq!(
            resolved,
            json!({"headers": {"a": "Bearer s3cr3t/\"value"}, "list": ["123!"]})
        );
    }

    #[test]
    fn a_bad_reference_names_its_path() {
        let fault = secrets().resolve(json!({"auth": {"$secret": "nope"}})).unwrap_err();
        assert_eq!(fault.code, FaultCode::SecretUnknown);
        assert!(
            fault.detail.contains("/auth") && fault.detail.contains("nope"),
            "{fault}"
        );
        let fault = secrets()
            .resolve(json!({"auth": {"$secret": "pin", "sufix": ""}}))
            .unwrap_err();
        assert_eq!(fault.code, FaultCode::ArgumentsInvalid);
        assert!(fault.detail.contains("sufix"), "{fault}");
    }

    #[test]
    fn every_form_of_a_secret_is_masked_but_short_ones_are_not() {
        let redactor = secrets().redactor();
        let seen = json!({"raw s3cr3t/\"value": "x s3cr3t/\"value y", "nested": "{\"a\":\"s3cr3t/\\\"value\"}", "url": "?k=s3cr3t%2F%22value", "pin": "123"});
        let masked = redactor.value(seen).to_string();
        assert!(!masked.contains("s3cr3t"), "{masked}");
        let spaced = Secrets(BTreeMap::from([("phrase".into(), "open sesame~*".into())]));
        assert_eq!(
            spaced.redactor().text("?a=open+sesame%7E*&b=open%20sesame~%2A"),
            "?a=***&b=***"
        );
        assert!(masked.contains("123"), "{masked}");
    }

    #[test]
    fn a_secret_cut_at_the_end_is_masked() {
        assert_eq!(secrets().redactor().text("body s3cr3…"), "body ***…");
        assert_eq!(secrets().redactor().text("body s3c"), "body s3c");
    }

    #[test]
    fn printing_secrets_shows_names_only() {
        let printed = format!("{:?}", secrets());
        assert!(printed.contains("token") && !printed.contains("s3cr3t"), "{printed}");
    }
}
