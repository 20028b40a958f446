//! Headers on the wire: the CloudEvents Kafka binding in binary mode, W3C trace context, tenant.

use kernel::Headers;
use rdkafka::message::{BorrowedMessage, Header, Headers as _, Message, OwnedHeaders};
use schemas::Timestamp;

/// CloudEvents headers of a record (`ce_id`, `ce_source`, `ce_type`, `ce_time`, `ce_specversion`).
pub fn cloud_event(source: &str, record: &str, at: Timestamp, tenant: &str, traceparent: Option<&str>) -> Headers {
    let mut headers = Headers::default();
    headers.set("ce_specversion", "1.0");
    headers.set("ce_id", uuid::Uuid::new_v4().to_string());
    headers.set("ce_source", source);
    headers.set("ce_type", format!("soma.{record}"));
    headers.set("ce_time", at.to_string());
    headers.set("content-type", "application/avro");
    if !tenant.is_empty() {
        headers.set("soma-tenant", tenant);
    }
    if let Some(trace) = traceparent {
        headers.set("traceparent", trace);
    }
    headers
}

pub(crate) fn to_wire(headers: &Headers) -> OwnedHeaders {
    headers.0.iter().fold(
        OwnedHeaders::new_with_capacity(headers.0.len()),
        |wire, (name, value)| {
            wire.insert(Header {
                key: name,
                value: Some(value.as_slice()),
            })
        },
    )
}

pub(crate) fn from_wire(message: &BorrowedMessage<'_>) -> Headers {
    let Some(wire) = message.headers() else {
        return Headers::default();
    };
    Headers(
        wire.iter()
            .map(|h| (h.key.to_owned(), h.value.unwrap_or_default().to_vec()))
            .collect(),
    )
}
