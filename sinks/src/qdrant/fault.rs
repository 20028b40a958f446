//! What Qdrant's errors mean to us: wait, or halt because our request is wrong.

use kernel::{Fault, FaultCode};
use qdrant_client::QdrantError;

/// gRPC codes that pass with time: CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, ABORTED, INTERNAL, UNAVAILABLE.
/// A connection that breaks in the middle of an answer shows as CANCELLED, UNKNOWN or INTERNAL.
const PASSING: &[i32] = &[1, 2, 4, 8, 10, 13, 14];
const NOT_FOUND: i32 = 5;

/// The fault of a failed call.
pub(crate) fn of(what: &str, error: &QdrantError) -> Fault {
    match error {
        QdrantError::ResponseError { status } | QdrantError::ResourceExhaustedError { status, .. } => {
            let passes = PASSING.contains(&(status.code() as i32));
            let code = if passes {
                FaultCode::StoreUnavailable
            } else {
                FaultCode::StoreRefused
            };
            Fault::new(code, format!("{what}: {:?}: {}", status.code(), status.message()))
        }
        QdrantError::Io(error) => Fault::new(FaultCode::StoreUnavailable, format!("{what}: {error}")),
        other => Fault::new(FaultCode::StoreRefused, format!("{what}: {other}")),
    }
}

/// Whether what was asked for is not there.
pub(crate) fn is_missing(error: &QdrantError) -> bool {
    matches!(error, QdrantError::ResponseError { status } if status.code() as i32 == NOT_FOUND)
}
