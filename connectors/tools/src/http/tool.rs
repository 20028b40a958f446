//! The `http` tool: one request to any JSON API, and what is expected of the answer.

use kernel::{Answer, CallFault, Consequence, Effect, Fault, Found, Pending, Replay, Tool};
use schemas::records::Call;
use serde_json::{Value, json};

use super::arguments::Arguments;
use super::driver::{Driver, Incoming, place};
use crate::faults::{no_operation, parse};

const OPERATIONS: [&str; 1] = ["request"];

/// Any HTTP API.
pub(crate) struct Http {
    driver: Driver,
}

impl Http {
    pub(crate) fn new(driver: Driver) -> Self {
        Self { driver }
    }

    async fn request(&self, call: &Call) -> Result<Answer, CallFault> {
        let Arguments { out, expect, safe, .. } =
            parse(&call.arguments)
                .and_then(|a| Arguments::read(&a))
                .map_err(|fault| CallFault {
                    fault,
                    effect: Effect::None,
                })?;
        let what = format!("{} {}", out.method, place(&out.url));
        let answer = self.driver.send(call, out).await?;
        expect.met(
            &what,
            &answer,
            safe || call.replay_safe,
            self.driver.limits().excerpt_chars_max,
        )?;
        Ok(Answer {
            result: result(&answer),
            cost_micros_usd: 0,
        })
    }
}

/// `{"status","headers","url","json" | "text","truncated"}`.
pub(crate) fn result(answer: &Incoming) -> Value {
    let mut result = json!({"status": answer.status, "headers": answer.headers, "url": answer.url});
    match answer.json() {
        Some(body) => result["json"] = body,
        None => result["text"] = Value::String(answer.text()),
    }
    if answer.truncated {
        result["truncated"] = Value::Bool(true);
    }
    result
}

impl Tool for Http {
    fn name(&self) -> &'static str {
        "http"
    }

    fn check(&self, operation: &str, arguments: &Value) -> Result<(), Fault> {
        if !OPERATIONS.contains(&operation) {
            return Err(no_operation("http", operation, &OPERATIONS));
        }
        Arguments::read(arguments).map(drop)
    }

    fn replay(&self, call: &Call) -> Replay {
        // HTTP has no way to ask whether a request happened.
        match parse(&call.arguments).and_then(|a| Arguments::read(&a)) {
            Ok(arguments) if arguments.safe => Replay::Safe,
            _ => Replay::Never,
        }
    }

    fn consequence(&self, _operation: &str, arguments: &Value) -> Consequence {
        let method = arguments["method"].as_str().unwrap_or_default();
        match Arguments::read(arguments) {
            Ok(arguments) if arguments.reads => Consequence::Reads,
            _ if method.eq_ignore_ascii_case("delete") => Consequence::Destroys,
            _ => Consequence::Lasting,
        }
    }

    fn rehearsal(&self, operation: &str, arguments: &Value) -> Option<(String, Value)> {
        // What changes nothing shows itself. What may be sent twice still acts once: a dry run must not send it.
        let reads = Arguments::read(arguments).is_ok_and(|a| a.reads);
        reads.then(|| (operation.to_owned(), arguments.clone()))
    }

    // What has been sent is with the server.
    fn interrupt(&self, _call: &Call) -> bool {
        false
    }

    fn call<'a>(&'a self, call: &'a Call) -> Pending<'a, Result<Answer, CallFault>> {
        Box::pin(self.request(call))
    }

    fn find<'a>(&'a self, _call: &'a Call) -> Pending<'a, Result<Found, Fault>> {
        Box::pin(async { Ok(Found::Unknown) })
    }
}
