//! The `notify` tool: tells a webhook. Not a mailer and not a chat client.

use std::collections::BTreeMap;

use kernel::{Answer, CallFault, Consequence, Effect, Fault, Found, Pending, Replay, Tool};
use reqwest::Method;
use schemas::records::Call;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::faults::{invalid, no_operation, parse, read};
use crate::http::{self, Auth, Body, Driver, Expect, Outgoing};

const OPERATIONS: [&str; 1] = ["webhook"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    url: String,
    json: Option<Value>,
    text: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    auth: Option<Auth>,
    #[serde(default)]
    idempotent: bool,
}

/// A webhook.
pub(crate) struct Notify {
    driver: Driver,
}

impl Notify {
    pub(crate) fn new(driver: Driver) -> Self {
        Self { driver }
    }

    async fn webhook(&self, call: &Call) -> Result<Answer, CallFault> {
        let (out, idempotent) = parse(&call.arguments)
            .and_then(|a| outgoing(&a))
            .map_err(|fault| CallFault {
                fault,
                effect: Effect::None,
            })?;
        let what = format!("webhook {}", http::place(&out.url));
        let answer = self.driver.send(call, out).await?;
        let safe = idempotent || call.replay_safe;
        Expect::default().met(&what, &answer, safe, self.driver.limits().excerpt_chars_max)?;
        Ok(Answer {
            result: json!({"delivered": true, "status": answer.status}),
            cost_micros_usd: 0,
        })
    }
}

fn outgoing(arguments: &Value) -> Result<(Outgoing, bool), Fault> {
    let raw: Raw = read(arguments)?;
    let body = match (raw.json, raw.text) {
        (Some(value), None) => Body::Json(value),
        (None, Some(text)) => Body::Text(text),
        _ => return Err(invalid("give the message as one of `json` and `text`")),
    };
    let out = Outgoing {
        method: Method::POST,
        url: http::url(&raw.url)?,
        headers: http::headers(raw.headers)?,
        query: Vec::new(),
        body,
        auth: raw.auth,
        response_bytes_max: None,
    };
    Ok((out, raw.idempotent))
}

impl Tool for Notify {
    fn name(&self) -> &'static str {
        "notify"
    }

    fn check(&self, operation: &str, arguments: &Value) -> Result<(), Fault> {
        if !OPERATIONS.contains(&operation) {
            return Err(no_operation("notify", operation, &OPERATIONS));
        }
        outgoing(arguments).map(drop)
    }

    fn replay(&self, call: &Call) -> Replay {
        match parse(&call.arguments).and_then(|a| outgoing(&a)) {
            Ok((_, true)) => Replay::Safe,
            _ => Replay::Never,
        }
    }

    fn consequence(&self, _operation: &str, _arguments: &Value) -> Consequence {
        // What was said is not unsaid.
        Consequence::Lasting
    }

    fn rehearsal(&self, _operation: &str, _arguments: &Value) -> Option<(String, Value)> {
        None
    }

    // What has been sent is with the server.
    fn interrupt(&self, _call: &Call) -> bool {
        false
    }

    fn call<'a>(&'a self, call: &'a Call) -> Pending<'a, Result<Answer, CallFault>> {
        Box::pin(self.webhook(call))
    }

    fn find<'a>(&'a self, _call: &'a Call) -> Pending<'a, Result<Found, Fault>> {
        Box::pin(async { Ok(Found::Unknown) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_json_or_text() {
        assert!(outgoing(&json!({"url": "http://h/", "text": "done"})).is_ok());
        for bad in [
            json!({"url": "http://h/"}),
            json!({"url": "http://h/", "text": "", "json": 1}),
            json!({"text": ""}),
        ] {
            assert!(outgoing(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_a_declared_webhook_may_be_repeated() {
        let notify = Notify::new(Driver::new(http::HttpLimits::default()));
        let call = |arguments: Value| Call {
            arguments: arguments.to_string(),
            ..Call::default()
        };
        assert_eq!(
            notify.replay(&call(json!({"url": "http://h/", "text": ""}))),
            Replay::Never
        );
        assert_eq!(
            notify.replay(&call(json!({"url": "http://h/", "text": "", "idempotent": true}))),
            Replay::Safe
        );
        assert!(notify.check("mail", &json!({})).unwrap_err().detail.contains("webhook"));
    }
}
