//! What a batch of `soma.memories` asks of a store: which memories to keep and which to forget. Shared by Qdrant and Redis.

use std::collections::BTreeMap;

use kernel::{Decoder, Fault, RawRecord, Rejected};
use schemas::records::Memory;

use crate::batch;

/// Name of a memory across tenants: (tenant, memory_id).
pub(crate) type Name = (String, String);

/// The last word on each memory of a batch, in order of name: the memory, or `None` when it is to be forgotten.
pub(crate) type Changes = BTreeMap<Name, Option<Memory>>;

/// Reads a batch.
///
/// # Errors
/// A fault that is not a record's own, such as `REGISTRY_UNAVAILABLE`.
pub(crate) fn changes(raws: &[RawRecord], decoder: &dyn Decoder) -> Result<(Changes, Vec<Rejected>), Fault> {
    let mut changes = Changes::new();
    let mut rejected = Vec::new();
    for (index, raw) in raws.iter().enumerate() {
        let read = batch::decode::<Memory>(raw, decoder).and_then(|memory| named(raw, memory));
        if let Some((name, memory)) = batch::or_reject(read, index, &mut rejected)? {
            changes.insert(name, memory);
        }
    }
    Ok((changes, rejected))
}

/// The key is the memory's only name once it is gone, so it must be right while it is there.
fn named(raw: &RawRecord, memory: Option<Memory>) -> Result<(Name, Option<Memory>), Fault> {
    let (tenant, id) = raw
        .key
        .split_once(':')
        .filter(|(tenant, id)| !tenant.is_empty() && hex_of(id).is_some())
        .ok_or_else(|| batch::invalid(raw, format!("key `{}` is not tenant:mem_ and 32 hex digits", raw.key)))?;
    if let Some(memory) = &memory
        && (memory.tenant != tenant || memory.memory_id != id)
    {
        let own = format!("{}:{}", memory.tenant, memory.memory_id);
        return Err(batch::invalid(
            raw,
            format!("key `{}` is not the memory's own, `{own}`", raw.key),
        ));
    }
    Ok(((tenant.to_owned(), id.to_owned()), memory))
}

/// The 32 hex digits of a memory id.
pub(crate) fn hex_of(memory_id: &str) -> Option<&str> {
    let digits = memory_id.strip_prefix("mem_")?;
    let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (digits.len() == 32 && digits.bytes().all(lower_hex)).then_some(digits)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::testing::{Plain, memory, raw, tombstone};

    #[test]
    fn the_last_word_on_a_memory_counts() {
        let (mut first, mut second) = (memory("acme", 1, "old"), memory("acme", 1, "new"));
        first.run_id = "run_1".into();
        second.run_id = "run_1".into();
        let key = format!("acme:{}", first.memory_id);
        let gone = memory("acme", 2, "x");
        let gone_key = format!("acme:{}", gone.memory_id);
        let batch = [
            raw("soma.memories", 0, 0, &key, &first),
            raw("soma.memories", 0, 1, &gone_key, &gone),
            raw("soma.memories", 0, 2, &key, &second),
            tombstone("soma.memories", 0, 3, &gone_key),
        ];
        let (changes, rejected) = changes(&batch, &Plain::of::<Memory>()).unwrap();
        assert!(rejected.is_empty());
        let last = |m: &Memory| changes[&(m.tenant.clone(), m.memory_id.clone())].clone();
        assert_eq!((changes.len(), last(&first), last(&gone)), (2, Some(second), None));
    }

    #[test]
    fn a_key_that_is_not_the_memorys_own_is_refused() {
        let memory = memory("acme", 1, "x");
        let batch = [
            raw("soma.memories", 0, 0, &format!("other:{}", memory.memory_id), &memory),
            tombstone("soma.memories", 0, 1, "acme:mem_short"),
            raw("soma.memories", 0, 2, &format!("acme:{}", memory.memory_id), &memory),
        ];
        let (changes, rejected) = changes(&batch, &Plain::of::<Memory>()).unwrap();
        assert_eq!(changes.len(), 1);
        let why: Vec<_> = rejected.iter().map(|r| (r.index, r.fault.code.as_str())).collect();
        assert_eq!(why, [(0, "RECORD_INVALID"), (1, "RECORD_INVALID")]);
        assert!(
            rejected[0].fault.detail.contains("key `other:"),
            "{}",
            rejected[0].fault.detail
        );
    }

    #[test]
    fn a_registry_outage_is_nobodys_record() {
        let memory = memory("acme", 1, "x");
        let batch = [raw(
            "soma.memories",
            0,
            0,
            &format!("acme:{}", memory.memory_id),
            &memory,
        )];
        assert_eq!(
            changes(&batch, &Plain::silent::<Memory>()).unwrap_err().code.as_str(),
            "REGISTRY_UNAVAILABLE"
        );
    }
}
