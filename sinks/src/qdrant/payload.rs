//! A memory as a Qdrant point and back: every field in the payload, times as microseconds, the id from the memory's own.

use std::collections::HashMap;

use kernel::{Fault, FaultCode};
use qdrant_client::qdrant::value::Kind;
use qdrant_client::qdrant::{PointId, PointStruct, Struct, Value};
use schemas::Timestamp;
use schemas::records::{Memory, MemoryKind};

use crate::memories;

/// The point id of a memory: its 32 hex digits read as a UUID. `None` when it is not `mem_` and 32 hex digits.
pub(crate) fn point_id(memory_id: &str) -> Option<PointId> {
    let hex = memories::hex_of(memory_id)?;
    let uuid = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-");
    Some(PointId::from(uuid))
}

/// The point of a memory.
pub(crate) fn point(memory: &Memory, vector: Vec<f32>) -> Option<PointStruct> {
    let attributes = memory
        .attributes
        .iter()
        .map(|(k, v)| (k.clone(), Value::from(v.clone())))
        .collect();
    let mut payload: HashMap<String, Value> = HashMap::from([
        ("memory_id".to_owned(), memory.memory_id.clone().into()),
        ("tenant".to_owned(), memory.tenant.clone().into()),
        ("run_id".to_owned(), memory.run_id.clone().into()),
        ("step_id".to_owned(), memory.step_id.clone().into()),
        ("kind".to_owned(), word(memory.kind).into()),
        ("text".to_owned(), memory.text.clone().into()),
        (
            "attributes".to_owned(),
            Value {
                kind: Some(Kind::StructValue(Struct { fields: attributes })),
            },
        ),
        ("created_at".to_owned(), memory.created_at.0.into()),
    ]);
    if let Some(at) = memory.expires_at {
        payload.insert("expires_at".to_owned(), at.0.into());
    }
    Some(PointStruct::new(point_id(&memory.memory_id)?, vector, payload))
}

/// The word of a kind, as on the wire.
pub(crate) fn word(kind: MemoryKind) -> &'static str {
    match kind {
        MemoryKind::Outcome => "OUTCOME",
        MemoryKind::Note => "NOTE",
    }
}

/// The memory of a point's payload.
///
/// # Errors
/// `STORE_REFUSED` naming the field that is missing or of another type: somebody else writes into the collection.
pub(crate) fn memory(payload: &HashMap<String, Value>) -> Result<Memory, Fault> {
    let kind = match text(payload, "kind")?.as_str() {
        "OUTCOME" => MemoryKind::Outcome,
        "NOTE" => MemoryKind::Note,
        other => return Err(foreign("kind", &format!("is `{other}`"))),
    };
    Ok(Memory {
        memory_id: text(payload, "memory_id")?,
        tenant: text(payload, "tenant")?,
        run_id: text(payload, "run_id")?,
        step_id: text(payload, "step_id")?,
        kind,
        text: text(payload, "text")?,
        attributes: match payload.get("attributes").and_then(|v| v.kind.as_ref()) {
            Some(Kind::StructValue(s)) => s
                .fields
                .keys()
                .map(|k| Ok((k.clone(), text(&s.fields, k)?)))
                .collect::<Result<_, Fault>>()?,
            _ => return Err(foreign("attributes", "is not an object")),
        },
        created_at: time(payload, "created_at")?.ok_or_else(|| foreign("created_at", "is missing"))?,
        expires_at: time(payload, "expires_at")?,
    })
}

fn text(payload: &HashMap<String, Value>, field: &str) -> Result<String, Fault> {
    match payload.get(field).and_then(|v| v.kind.as_ref()) {
        Some(Kind::StringValue(text)) => Ok(text.clone()),
        _ => Err(foreign(field, "is not text")),
    }
}

fn time(payload: &HashMap<String, Value>, field: &str) -> Result<Option<Timestamp>, Fault> {
    match payload.get(field).and_then(|v| v.kind.as_ref()) {
        Some(Kind::IntegerValue(micros)) => Ok(Some(Timestamp(*micros))),
        None | Some(Kind::NullValue(_)) => Ok(None),
        _ => Err(foreign(field, "is not microseconds")),
    }
}

fn foreign(field: &str, what: &str) -> Fault {
    Fault::new(
        FaultCode::StoreRefused,
        format!("Qdrant: a point's field `{field}` {what}: it was not written by this sink"),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_memory_survives_the_way_to_a_point_and_back() {
        let mut before = testing::memory("acme", 1, "rolled out");
        before.expires_at = Some(Timestamp(7));
        let point = point(&before, vec![0.0]).unwrap();
        assert_eq!(memory(&point.payload).unwrap(), before);
        before.expires_at = None;
        let mut payload = super::point(&before, vec![0.0]).unwrap().payload;
        assert_eq!(memory(&payload).unwrap(), before);
        payload.remove("tenant");
        assert!(memory(&payload).unwrap_err().detail.contains("`tenant`"));
    }

    #[test]
    fn the_point_id_is_the_memorys_own() {
        let id = point_id("mem_00112233445566778899aabbccddeeff").unwrap();
        assert_eq!(id, PointId::from("00112233-4455-6677-8899-aabbccddeeff".to_owned()));
        assert!(point_id("mem_xyz").is_none() && point_id("00112233445566778899aabbccddeeff").is_none());
    }
}
