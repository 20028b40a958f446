//! What an answer must be like to count as success.

use std::collections::BTreeMap;

use kernel::{CallFault, FaultCode};
use serde::Deserialize;
use serde_json::Value;

use super::driver::Incoming;
use crate::faults::{excerpt, harmless, invalid, refused};

/// Expected status and content. By default any 2xx.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    status: Option<Statuses>,
    /// Expected value by JSON pointer.
    json: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "expect.status must be 200, \"2xx\" or a list of these")]
enum Statuses {
    One(Status),
    Any(Vec<Status>),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Status {
    Code(u16),
    Class(String),
}

impl Status {
    fn check(&self) -> Result<(), kernel::Fault> {
        match self {
            Status::Code(100..=599) => Ok(()),
            Status::Class(text) if class(text).is_some() => Ok(()),
            other => Err(invalid(format!(
                "expect.status: `{}` is neither a status such as 200 nor a class such as 2xx",
                other.text()
            ))),
        }
    }

    fn covers(&self, status: u16) -> bool {
        match self {
            Status::Code(code) => *code == status,
            Status::Class(text) => class(text) == Some(status / 100),
        }
    }

    fn text(&self) -> String {
        match self {
            Status::Code(code) => code.to_string(),
            Status::Class(text) => text.clone(),
        }
    }
}

fn class(text: &str) -> Option<u16> {
    let digit = text.strip_suffix("xx")?.parse().ok()?;
    (1..=5).contains(&digit).then_some(digit)
}

impl Expect {
    fn statuses(&self) -> Vec<Status> {
        match &self.status {
            None => vec![Status::Class("2xx".to_owned())],
            Some(Statuses::One(one)) => vec![one.clone()],
            Some(Statuses::Any(any)) => any.clone(),
        }
    }

    /// Whether it can be met at all.
    ///
    /// # Errors
    /// `ARGUMENTS_INVALID` naming the field.
    pub fn check(&self) -> Result<(), kernel::Fault> {
        let statuses = self.statuses();
        if statuses.is_empty() {
            return Err(invalid("expect.status is an empty list, which no answer meets"));
        }
        statuses.iter().try_for_each(Status::check)?;
        match self.json.keys().find(|p| !p.is_empty() && !p.starts_with('/')) {
            Some(pointer) => Err(invalid(format!(
                "expect.json: `{pointer}` is not a JSON pointer; write `/{pointer}`"
            ))),
            None => Ok(()),
        }
    }

    /// Whether `answer` meets it. `safe`: repeating the call is harmless, so a passing trouble of the server may be tried again.
    ///
    /// # Errors
    /// `TOOL_FAILED` with status and an excerpt of the body, or with the pointer that differs.
    pub fn met(&self, what: &str, answer: &Incoming, safe: bool, excerpt_chars: usize) -> Result<(), CallFault> {
        let statuses = self.statuses();
        if !statuses.iter().any(|s| s.covers(answer.status)) {
            let expected: Vec<String> = statuses.iter().map(Status::text).collect();
            let after = answer
                .headers
                .get("retry-after")
                .map(|v| format!(" (retry after {v})"))
                .unwrap_or_default();
            let detail = format!(
                "{what} answered {}{after}, expected {}: {}",
                answer.status,
                expected.join(" or "),
                excerpt(&answer.text(), excerpt_chars)
            );
            let passing = matches!(answer.status, 408 | 425 | 429 | 500..=599);
            return Err(if safe && passing {
                harmless(FaultCode::ToolFailed, detail)
            } else {
                refused(detail)
            });
        }
        self.content(what, answer, excerpt_chars).map_err(refused)
    }

    fn content(&self, what: &str, answer: &Incoming, excerpt_chars: usize) -> Result<(), String> {
        if self.json.is_empty() {
            return Ok(());
        }
        // What the server calls it does not matter when the caller expects JSON.
        let Ok(body) = serde_json::from_slice::<Value>(&answer.body) else {
            return Err(format!(
                "{what} answered no JSON: {}",
                excerpt(&answer.text(), excerpt_chars)
            ));
        };
        for (pointer, expected) in &self.json {
            match body.pointer(pointer) {
                Some(found) if found == expected => {}
                Some(found) => {
                    let found = excerpt(&found.to_string(), excerpt_chars);
                    return Err(format!("{what}: {pointer} is {found}, expected {expected}"));
                }
                None => return Err(format!("{what}: {pointer} is missing, expected {expected}")),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use kernel::Effect;
    use serde_json::json;

    use super::*;

    fn expect(value: Value) -> Expect {
        serde_json::from_value(value).unwrap()
    }

    fn answer(status: u16, body: &str) -> Incoming {
        Incoming {
            status,
            body: body.as_bytes().to_vec(),
            ..Incoming::default()
        }
    }

    fn effect(expect: &Expect, status: u16, safe: bool) -> Option<Effect> {
        expect
            .met("GET x", &answer(status, "sorry"), safe, 100)
            .err()
            .map(|f| f.effect)
    }

    #[test]
    fn statuses_may_be_a_code_a_class_or_a_list() {
        assert_eq!(effect(&Expect::default(), 204, false), None);
        assert_eq!(effect(&expect(json!({"status": 404})), 404, false), None);
        assert_eq!(effect(&expect(json!({"status": [200, "3xx"]})), 302, false), None);
        assert_eq!(
            effect(&expect(json!({"status": "4xx"})), 200, false),
            Some(Effect::Refused)
        );
    }

    #[test]
    fn only_a_passing_trouble_of_a_safe_call_may_be_tried_again() {
        let expect = Expect::default();
        assert_eq!(effect(&expect, 503, true), Some(Effect::None));
        assert_eq!(effect(&expect, 503, false), Some(Effect::Refused));
        assert_eq!(effect(&expect, 404, true), Some(Effect::Refused));
    }

    #[test]
    fn content_that_differs_names_the_pointer() {
        let expect = expect(json!({"json": {"/status": "ok"}}));
        assert!(
            expect
                .met("GET x", &answer(200, r#"{"status":"ok"}"#), true, 100)
                .is_ok()
        );
        for (body, says) in [
            (r#"{"status":"bad"}"#, "/status is \"bad\""),
            ("{}", "/status is missing"),
            ("<p>", "no JSON: <p>"),
        ] {
            let fault = expect.met("GET x", &answer(200, body), true, 100).unwrap_err().fault;
            assert!(fault.detail.contains(says), "{fault}");
        }
    }

    #[test]
    fn an_expectation_nothing_meets_is_refused() {
        for bad in [
            json!({"status": []}),
            json!({"status": "2x"}),
            json!({"status": 42}),
            json!({"json": {"status": 1}}),
        ] {
            assert!(expect(bad.clone()).check().is_err(), "{bad}");
        }
        let read = serde_json::from_value::<Expect>(json!({"status": {}}));
        assert!(read.unwrap_err().to_string().contains("expect.status"));
    }
}
