//! Headers on the wire: the CloudEvents Kafka binding in binary mode, W3C trace context, tenant.

use kernel::Headers;
use rdkafka::message::{BorrowedMessage, Header, Headers as _, Message, OwnedHeaders};
use schemas::Timestamp;

/// A record's attributes in the CloudEvents binding, with tenant and trace.
pub(crate) struct CloudEvent<'a> {
    pub(crate) source: &'a str,
    /// `soma.` and the record's short name.
    pub(crate) kind: &'a str,
    /// When it is written, RFC 3339.
    pub(crate) time: &'a str,
    pub(crate) tenant: &'a str,
    pub(crate) traceparent: Option<&'a str>,
}

impl CloudEvent<'_> {
    /// Each attribute, and its value.
    pub(crate) fn each(&self, mut put: impl FnMut(&str, &str)) {
        put("ce_specversion", "1.0");
        let mut id = uuid::Uuid::encode_buffer();
        put("ce_id", uuid::Uuid::new_v4().hyphenated().encode_lower(&mut id));
        put("ce_source", self.source);
        put("ce_type", self.kind);
        put("ce_time", self.time);
        put("content-type", "application/avro");
        if !self.tenant.is_empty() {
            put("soma-tenant", self.tenant);
        }
        if let Some(trace) = self.traceparent {
            put("traceparent", trace);
        }
    }
}

/// CloudEvents headers of a record (`ce_id`, `ce_source`, `ce_type`, `ce_time`, `ce_specversion`).
pub fn cloud_event(source: &str, record: &str, at: Timestamp, tenant: &str, traceparent: Option<&str>) -> Headers {
    let (time, kind) = (at.to_string(), format!("soma.{record}"));
    let event = CloudEvent {
        source,
        kind: &kind,
        time: &time,
        tenant,
        traceparent,
    };
    Headers::build(|put| event.each(|name, value| put(name, value.as_bytes())))
}

pub(crate) fn header<'a>(name: &'a str, value: &'a [u8]) -> Header<'a, &'a [u8]> {
    Header {
        key: name,
        value: Some(value),
    }
}

pub(crate) fn to_wire(headers: &Headers) -> OwnedHeaders {
    add(OwnedHeaders::new_with_capacity(headers.iter().count()), headers)
}

pub(crate) fn add(wire: OwnedHeaders, headers: &Headers) -> OwnedHeaders {
    let all = headers.iter();
    all.fold(wire, |wire, (name, value)| wire.insert(header(name, value)))
}

pub(crate) fn from_wire(message: &BorrowedMessage<'_>) -> Headers {
    message.headers().map_or_else(Headers::default, |wire| {
        Headers::build(|put| wire.iter().for_each(|h| put(h.key, h.value.unwrap_or_default())))
    })
}
