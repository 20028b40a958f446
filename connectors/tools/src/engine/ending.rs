//! What came of a call, before it is written down as an Outcome.

use kernel::{Answer, Fault, FaultCode};
use schemas::Timestamp;
use schemas::Usd;
use schemas::records::{Call, CallKind, Outcome, OutcomeStatus};
use serde_json::{Value, json};

use super::obliged;
use super::secrets::Redactor;
use crate::faults::excerpt;

/// What came of a call.
pub(super) enum Ending {
    Done(Answer),
    Failed {
        fault: Fault,
        retryable: bool,
    },
    Unknown(Fault),
    Refused(Fault),
    /// A control came while it waited for its turn: nothing was sent. It may be asked for again when a pause is over.
    Stopped {
        fault: Fault,
        paused: bool,
    },
}

impl Ending {
    pub(super) fn unknown(why: impl std::fmt::Display) -> Self {
        let detail =
            format!("{why}. It cannot be told whether the call happened: look at the system, then decide by hand");
        Ending::Unknown(Fault::new(FaultCode::OutcomeUnknown, detail))
    }

    /// A stop came first.
    pub(super) fn stopped_before() -> Self {
        let detail = "stopped before it was sent; nothing was done";
        Ending::Failed {
            fault: Fault::new(FaultCode::ControlStopped, detail),
            retryable: false,
        }
    }

    /// A failure that certainly had no effect.
    pub(super) fn without_effect(fault: Fault) -> Self {
        use FaultCode::{ArgumentsInvalid, SecretUnknown, ToolFailed, ToolTimedOut, ToolUnknown, ToolUnreachable};
        match fault.code {
            ArgumentsInvalid | SecretUnknown | ToolUnknown => Ending::Refused(fault),
            ToolUnreachable | ToolTimedOut | ToolFailed => Ending::Failed { fault, retryable: true },
            _ => Ending::Failed {
                fault,
                retryable: false,
            },
        }
    }
}

/// Bounds of what is written down.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    pub(super) result_bytes_max: usize,
    pub(super) fault_chars_max: usize,
}

/// When it ended, and how long it took.
#[derive(Clone, Copy)]
pub(super) struct Times {
    pub(super) latency_us: i64,
    pub(super) finished_at: Timestamp,
}

/// The complete record.
pub(super) fn outcome(call: Call, ending: Ending, times: Times, redactor: &Redactor, bounds: Bounds) -> Outcome {
    let info = |fault: Fault, retryable: bool| {
        let detail = excerpt(&redactor.text(&fault.detail), bounds.fault_chars_max);
        Some(Fault { detail, ..fault }.info(retryable))
    };
    let (status, result, cost, fault) = match ending {
        Ending::Done(answer) => {
            let status = match call.kind {
                CallKind::Action => OutcomeStatus::Succeeded,
                CallKind::Compensation => OutcomeStatus::Compensated,
            };
            let result = obliged::redacted(&call, redactor.value(answer.result));
            let result = bounded(&result, bounds.result_bytes_max);
            (status, result, answer.cost_micros_usd, None)
        }
        Ending::Failed { fault, retryable } => (OutcomeStatus::Failed, String::new(), 0, info(fault, retryable)),
        Ending::Unknown(fault) => (OutcomeStatus::Unknown, String::new(), 0, info(fault, false)),
        Ending::Refused(fault) => (OutcomeStatus::Refused, String::new(), 0, info(fault, false)),
        Ending::Stopped { fault, paused } => (OutcomeStatus::Refused, String::new(), 0, info(fault, paused)),
    };
    Outcome {
        status,
        result,
        fault,
        latency_us: times.latency_us,
        cost_usd: Usd(cost.clamp(-Usd::MICROS_MAX, Usd::MICROS_MAX)),
        finished_at: times.finished_at,
        call_id: call.call_id,
        run_id: call.run_id,
        tenant: call.tenant,
        goal: call.goal,
        capsule: call.capsule,
        step_id: call.step_id,
        kind: call.kind,
        attempt: call.attempt,
        tool: call.tool,
        operation: call.operation,
        idempotency_key: call.idempotency_key,
        digest: call.digest,
        requested_at: call.requested_at,
    }
}

/// The result as JSON text. A larger one is replaced by its size and beginning, so that it says itself that it was cut.
fn bounded(result: &Value, bytes_max: usize) -> String {
    if result.is_null() {
        return String::new();
    }
    let text = result.to_string();
    if text.len() <= bytes_max {
        return text;
    }
    let cut = |mut end: usize| {
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        json!({"truncated": true, "bytes": text.len(), "excerpt": text[..end]}).to_string()
    };
    // Quotes double when JSON is put into text: half leaves room for that.
    cut((bytes_max / 2).min(text.len()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_large_result_says_that_it_was_cut_and_stays_json() {
        let large = json!({"text": "\"é".repeat(4000)});
        let text = bounded(&large, 1000);
        assert!(text.len() <= 1000 + 200, "{}", text.len());
        let read: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["truncated"], true);
        assert_eq!(bounded(&json!({"a": 1}), 1000), r#"{"a":1}"#);
        assert_eq!(bounded(&Value::Null, 1000), "");
    }

    #[test]
    fn bad_arguments_are_refused_and_an_unreachable_tool_is_tried_again() {
        let ending = |code| Ending::without_effect(Fault::new(code, ""));
        assert!(matches!(ending(FaultCode::ArgumentsInvalid), Ending::Refused(_)));
        assert!(matches!(
            ending(FaultCode::ToolUnreachable),
            Ending::Failed { retryable: true, .. }
        ));
        assert!(matches!(
            ending(FaultCode::Internal),
            Ending::Failed { retryable: false, .. }
        ));
    }
}
