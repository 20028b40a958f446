//! W3C trace context through a step, and a span exported when a collector is configured.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use kernel::Headers;
use opentelemetry::trace::{
    Span, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer,
};
use opentelemetry::{Context, KeyValue, global};

/// Whether spans go anywhere: making one costs more than a small step.
static EXPORTED: AtomicBool = AtomicBool::new(false);

/// From now on steps are exported as spans; the process has set a tracer provider up.
pub fn export_traces() {
    EXPORTED.store(true, Ordering::Relaxed);
}

/// The trace of one step: continues the one its record carried, or begins one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// 32 hex digits.
    pub trace_id: TraceId,
    /// 16 hex digits: the parent's span.
    pub parent_id: Option<SpanId>,
    /// 16 hex digits: this step's span.
    pub span_id: SpanId,
}

impl Trace {
    /// Continues the trace in `headers`, or begins a new one.
    pub fn of(headers: &Headers) -> Self {
        Self::continuing(headers.text("traceparent"))
    }

    /// Continues a `traceparent`, or begins a new trace when it is absent or malformed.
    pub fn continuing(traceparent: Option<&str>) -> Self {
        let known = traceparent.and_then(parse);
        let fresh = || TraceId::from_bytes(uuid::Uuid::new_v4().into_bytes());
        Self {
            trace_id: known.map_or_else(fresh, |(trace, _)| trace),
            parent_id: known.map(|(_, parent)| parent),
            span_id: SpanId::from_bytes(uuid::Uuid::new_v4().as_u64_pair().1.to_be_bytes()),
        }
    }

    /// The header for what this step writes.
    pub fn header(&self) -> String {
        format!("00-{}-{}-01", self.trace_id, self.span_id)
    }

    /// Exports the step as a span, when a collector is configured; its children then hang under it.
    pub fn export(&mut self, name: &str, took: Duration, attributes: &[(&'static str, &str)], fault: Option<&str>) {
        if !EXPORTED.load(Ordering::Relaxed) {
            return;
        }
        let tracer = global::tracer("soma");
        let context = match self.parent_id {
            Some(parent) => Context::new().with_remote_span_context(SpanContext::new(
                self.trace_id,
                parent,
                TraceFlags::SAMPLED,
                true,
                TraceState::default(),
            )),
            None => Context::new(),
        };
        let end = SystemTime::now();
        let attributes: Vec<_> = attributes
            .iter()
            .map(|(k, v)| KeyValue::new(*k, (*v).to_owned()))
            .collect();
        let builder = tracer
            .span_builder(name.to_owned())
            .with_kind(SpanKind::Consumer)
            .with_start_time(end - took)
            .with_attributes(attributes);
        let mut span = tracer.build_with_context(builder, &context);
        if let Some(fault) = fault {
            span.set_status(Status::error(fault.to_owned()));
        }
        let made = span.span_context();
        if made.is_valid() {
            self.trace_id = made.trace_id();
            self.span_id = made.span_id();
        }
        span.end_with_timestamp(end);
    }
}

fn parse(header: &str) -> Option<(TraceId, SpanId)> {
    let mut parts = header.split('-');
    let (version, trace, span, _flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |s: &str, n: usize| s.len() == n && s.bytes().all(|b| b.is_ascii_hexdigit());
    if !hex(trace, 32) || !hex(span, 16) {
        return None;
    }
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    let known = version.len() == 2 && version != "ff" && trace != TraceId::INVALID && span != SpanId::INVALID;
    known.then_some((trace, span))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_header_is_continued_and_a_bad_one_begins_anew() {
        let t = Trace::continuing(Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
        assert_eq!(
            (t.trace_id.to_string(), t.parent_id.map(|id| id.to_string())),
            (
                "0af7651916cd43dd8448eb211c80319c".into(),
                Some("b7ad6b7169203331".into())
            )
        );
        assert!(t.header().starts_with("00-0af7651916cd43dd8448eb211c80319c-"));
        for bad in [
            "",
            "00-0-0-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(Trace::continuing(Some(bad)).parent_id, None, "{bad}");
        }
    }
}
