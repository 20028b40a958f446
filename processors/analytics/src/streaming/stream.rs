//! One instance's part of a streaming query.

use kernel::{Dataflow, EventTime, Fault, Flow, Slab};

/// The part of a query that one instance runs.
pub struct Streaming {
    name: String,
}

impl Dataflow for Streaming {
    fn name(&self) -> &str {
        &self.name
    }

    fn on_batch(&mut self, _slabs: &[Slab], _now: EventTime) -> Result<(), Fault> {
        Ok(())
    }

    fn flush(&mut self, _now: EventTime) -> Result<Flow, Fault> {
        Ok(Flow::default())
    }

    fn restore(&mut self, _partition: i32, _key: &str, _value: Option<&[u8]>) -> Result<(), Fault> {
        Ok(())
    }

    fn begin(&mut self, _partition: i32) {}

    fn release(&mut self, _partition: i32) {}
}
