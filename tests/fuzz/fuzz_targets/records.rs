//! Avro bytes of every record: the fast and the slow way read the same, and what was read is written and read again unchanged.
#![no_main]

use libfuzzer_sys::fuzz_target;
use schemas::records::*;
use schemas::{Record, Written};

fn check<R: Record>(bytes: &[u8]) {
    let fast = R::from_written(&Written::with(R::schema().clone()), bytes);
    let slow = R::from_avro(R::schema(), bytes);
    assert_eq!(fast.is_ok(), slow.is_ok(), "{}: {:?} and {:?}", R::NAME, fast.err(), slow.err());
    if let (Ok(fast), Ok(slow)) = (fast, slow) {
        // Written bytes are compared: a float may be no number, which equals nothing.
        let written = fast.to_avro().expect("what was read can be written");
        assert_eq!(written, slow.to_avro().expect("what was read can be written"));
        let again = R::from_avro(R::schema(), &written).expect("what was written can be read");
        assert_eq!(written, again.to_avro().expect("and written again"));
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, bytes)) = data.split_first() else { return };
    match kind % 14 {
        0 => check::<Approval>(bytes),
        1 => check::<AuditEntry>(bytes),
        2 => check::<Call>(bytes),
        3 => check::<Checkpoint>(bytes),
        4 => check::<Control>(bytes),
        5 => check::<Event>(bytes),
        6 => check::<Memory>(bytes),
        7 => check::<Metric>(bytes),
        8 => check::<Outcome>(bytes),
        9 => check::<Plan>(bytes),
        10 => check::<Proposal>(bytes),
        11 => check::<Request>(bytes),
        12 => check::<Run>(bytes),
        _ => check::<Verdict>(bytes),
    }
});
