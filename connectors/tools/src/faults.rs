//! Short ways to say how a call failed, and how arguments are read. Which of these may be retried is the engine's rule, not theirs.

use kernel::{CallFault, Effect, Fault, FaultCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Certainly without effect: trying again is harmless.
pub(crate) fn harmless(code: FaultCode, detail: impl Into<String>) -> CallFault {
    CallFault {
        fault: Fault::new(code, detail),
        effect: Effect::None,
    }
}

/// Answered with a failure.
pub(crate) fn refused(detail: impl Into<String>) -> CallFault {
    CallFault {
        fault: Fault::new(FaultCode::ToolFailed, detail),
        effect: Effect::Refused,
    }
}

/// Nobody knows whether it happened.
pub(crate) fn unknown(code: FaultCode, detail: impl Into<String>) -> CallFault {
    CallFault {
        fault: Fault::new(code, detail),
        effect: Effect::Unknown,
    }
}

/// `ARGUMENTS_INVALID`: name the field and the fix.
pub(crate) fn invalid(detail: impl Into<String>) -> Fault {
    Fault::new(FaultCode::ArgumentsInvalid, detail)
}

/// `TOOL_UNKNOWN` for an operation a tool does not have.
pub(crate) fn no_operation(tool: &str, operation: &str, known: &[&str]) -> Fault {
    Fault::new(
        FaultCode::ToolUnknown,
        format!("{tool} has no operation `{operation}`; it has {}", known.join(", ")),
    )
}

/// Arguments as a type.
pub(crate) fn read<T: DeserializeOwned>(arguments: &Value) -> Result<T, Fault> {
    serde_json::from_value(arguments.clone()).map_err(|e| invalid(format!("arguments: {e}")))
}

/// Arguments of a call, as JSON.
pub(crate) fn parse(arguments: &str) -> Result<Value, Fault> {
    let value: Value = serde_json::from_str(arguments).map_err(|e| invalid(format!("arguments are not JSON: {e}")))?;
    if value.is_object() {
        Ok(value)
    } else {
        Err(invalid("arguments must be a JSON object"))
    }
}

/// The first `chars` characters, with an ellipsis when there were more.
pub(crate) fn excerpt(text: &str, chars: usize) -> String {
    let text = text.trim();
    match text.char_indices().nth(chars) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
