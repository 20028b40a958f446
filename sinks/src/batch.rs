//! Decoding what a sink is given: bad records are set aside for the dead-letter topic, everything else is a fault of the batch.

use kernel::{Blame, Decoder, Fault, FaultCode, RawRecord, Rejected};
use schemas::Record;

/// The record, or `None` for a tombstone.
///
/// # Errors
/// As [`kernel::decode`].
pub(crate) fn decode<R: Record>(raw: &RawRecord, decoder: &dyn Decoder) -> Result<Option<R>, Fault> {
    raw.value
        .as_deref()
        .map(|value| kernel::decode(value, decoder))
        .transpose()
}

/// Sets a record aside when the fault is its own; any other fault is the batch's.
///
/// # Errors
/// The fault, when it is not the record's.
pub(crate) fn or_reject<T>(
    result: Result<T, Fault>,
    index: usize,
    rejected: &mut Vec<Rejected>,
) -> Result<Option<T>, Fault> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(fault) if fault.blame == Blame::Input => {
            rejected.push(Rejected { index, fault });
            Ok(None)
        }
        Err(fault) => Err(fault),
    }
}

/// A readable record that says something impossible.
pub(crate) fn invalid(raw: &RawRecord, what: impl std::fmt::Display) -> Fault {
    Fault::new(FaultCode::RecordInvalid, format!("{}: {what}", raw.position))
}
