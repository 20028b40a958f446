//! What an allow is bound to, done here: results are redacted before anybody sees them, and a dry run goes through a call without its
//! effect. The permit's signature covers both, so nobody between the gate and the invoker can take them off.

use kernel::{Answer, CallFault, Fault, FaultCode};
use schemas::records::{Call, CallKind, Obligation};
use serde_json::{Value, json};

use super::Ready;
use super::ending::Ending;

const MASK: &str = "***";

fn obligations<'a>(call: &'a Call, kind: &'a str) -> impl Iterator<Item = &'a Obligation> {
    let all = call.permit.iter().flat_map(|p| &p.obligations);
    all.filter(move |o| o.kind == kind)
}

/// Whether the call may only be gone through.
pub(super) fn is_dry(call: &Call) -> bool {
    obligations(call, Obligation::DRY_RUN).next().is_some()
}

/// The result without what must not be seen.
pub(super) fn redacted(call: &Call, mut result: Value) -> Value {
    for pointer in obligations(call, Obligation::REDACT).flat_map(|o| &o.fields) {
        let names: Vec<_> = pointer
            .split('/')
            .skip(1)
            .map(|n| n.replace("~1", "/").replace("~0", "~"))
            .collect();
        mask(&mut result, &names);
    }
    result
}

/// Masks what a pointer leads to; `*` leads to everything there is.
fn mask(value: &mut Value, names: &[String]) {
    let Some((name, rest)) = names.split_first() else {
        *value = Value::String(MASK.to_owned());
        return;
    };
    match value {
        Value::Object(map) if name == "*" => map.values_mut().for_each(|v| mask(v, rest)),
        Value::Array(items) if name == "*" => items.iter_mut().for_each(|v| mask(v, rest)),
        Value::Object(map) => map.get_mut(name).into_iter().for_each(|v| mask(v, rest)),
        Value::Array(items) => {
            let at = name.parse().ok().and_then(|at: usize| items.get_mut(at));
            at.into_iter().for_each(|v| mask(v, rest));
        }
        // JSON that came as text is text: what cannot be taken apart is masked as a whole.
        other if !other.is_null() => *other = Value::String(MASK.to_owned()),
        _ => {}
    }
}

impl Ready {
    /// Goes through the call without its effect. `asked` is the call before secrets were put in.
    pub(super) async fn rehearse(&self, asked: &Call) -> Ending {
        if asked.kind == CallKind::Compensation {
            let detail = "a policy obliges this way back to a dry run, which would undo nothing: look at it by hand, or exempt compensations";
            return Ending::Refused(Fault::new(FaultCode::PolicyDenied, detail));
        }
        let arguments = serde_json::from_str(&self.call.arguments).unwrap_or_default();
        let Some((operation, arguments)) = self.tool.rehearsal(&self.call.operation, &arguments) else {
            let arguments: Value = serde_json::from_str(&asked.arguments).unwrap_or_default();
            return done(
                json!({"dry_run": true, "sent": false, "would": {"tool": asked.tool, "operation": asked.operation, "arguments": arguments}}),
            );
        };
        if let Err(fault) = self.tool.check(&operation, &arguments) {
            return Ending::Refused(fault);
        }
        let call = Call {
            arguments: arguments.to_string(),
            operation,
            ..self.call.clone()
        };
        match tokio::time::timeout(self.timeout, self.tool.call(&call)).await {
            Ok(Ok(answer)) => {
                // The pointers are into the call's own result, which lies deeper here.
                let shown = redacted(asked, answer.result);
                done(json!({"dry_run": true, "sent": true, "operation": call.operation, "shown": shown}))
            }
            // It changes nothing, so whatever became of it may be tried again.
            Ok(Err(CallFault { fault, .. })) => Ending::without_effect(fault),
            Err(_) => {
                let detail = format!("no answer within {} ms", self.timeout.as_millis());
                Ending::without_effect(Fault::new(FaultCode::ToolTimedOut, detail))
            }
        }
    }
}

fn done(result: Value) -> Ending {
    Ending::Done(Answer {
        result,
        cost_micros_usd: 0,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use schemas::records::Permit;

    use super::*;

    fn bound(fields: &[&str]) -> Call {
        let redact = Obligation {
            kind: Obligation::REDACT.into(),
            fields: fields.iter().map(|f| (*f).to_owned()).collect(),
            ..Obligation::default()
        };
        Call {
            permit: Some(Permit {
                obligations: vec![redact],
                ..Permit::default()
            }),
            ..Call::default()
        }
    }

    #[test]
    fn what_pointers_lead_to_is_masked_wherever_it_lies() {
        let result =
            json!({"json": {"token": "t", "users": [{"mail": "a", "id": 1}, {"mail": "b"}], "a/b": 2}, "text": "x"});
        let call = bound(&[
            "/json/token",
            "/json/users/*/mail",
            "/json/users/0/id",
            "/json/a~1b",
            "/text/secret",
            "/none/there",
        ]);
        assert_eq!(
            redacted(&call, result.clone()),
            json!({"json": {"token": "***", "users": [{"mail": "***", "id": "***"}, {"mail": "***"}], "a/b": "***"}, "text": "***"})
        );
        assert_eq!(
            redacted(&bound(&["/*"]), json!({"a": 1, "b": [2]})),
            json!({"a": "***", "b": "***"})
        );
        assert_eq!(redacted(&Call::default(), result.clone()), result);
    }
}
