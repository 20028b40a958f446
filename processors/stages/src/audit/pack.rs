//! What an entry says, packed before it is encrypted (encrypted bytes do not pack): a record as JSON is mostly names of fields that every other
//! record has too, so a third of it is left. Text itself, which begins with `{`, was written before there was packing and is read as it is.

use std::cell::RefCell;
use std::io::Read;
use std::sync::LazyLock;

use kernel::{Fault, FaultCode};
use zstd::bulk::Compressor;
use zstd::dict::{DecoderDictionary, EncoderDictionary};

/// First byte: a zstd frame made with the first dictionary follows. Another dictionary gets another byte.
const FIRST: u8 = 1;
/// Records that `soma demo` chained, without what differs from one to the next. Entries are kept for years: this file never changes.
const DICTIONARY: &[u8] = include_bytes!("dictionary_1.txt");
/// Higher ones win a twentieth and cost twice the time.
const LEVEL: i32 = 1;

static ENCODER: LazyLock<EncoderDictionary<'static>> = LazyLock::new(|| EncoderDictionary::copy(DICTIONARY, LEVEL));
static DECODER: LazyLock<DecoderDictionary<'static>> = LazyLock::new(|| DecoderDictionary::copy(DICTIONARY));

thread_local! {
    /// Its tables are larger than all that it is ever given.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
}

/// # Errors
/// `INTERNAL`: zstd has no memory.
pub(super) fn pack(text: &str) -> Result<Vec<u8>, Fault> {
    let frame = COMPRESSOR.with_borrow_mut(|kept| {
        let compressor = match kept {
            Some(compressor) => compressor,
            None => kept.insert(Compressor::with_prepared_dictionary(&ENCODER)?),
        };
        compressor.compress(text.as_bytes())
    });
    let mut packed = vec![FIRST];
    packed.extend(frame.map_err(|e| Fault::new(FaultCode::Internal, format!("an audit body cannot be packed: {e}")))?);
    Ok(packed)
}

/// # Errors
/// A newer version packed it, or these are not its bytes.
pub(super) fn unpack(packed: Vec<u8>) -> Result<String, String> {
    match packed.split_first() {
        Some((&FIRST, frame)) => {
            let mut text = String::new();
            let decoder = zstd::Decoder::with_prepared_dictionary(frame, &DECODER);
            let read = decoder.and_then(|mut decoder| decoder.read_to_string(&mut text));
            read.map_err(|e| format!("the body cannot be unpacked: {e}"))?;
            Ok(text)
        }
        Some((b'{', _)) => String::from_utf8(packed).map_err(|e| e.to_string()),
        Some((kind, _)) => Err(format!(
            "the body was packed in way {kind}, which this version does not know: use the newer version that wrote it"
        )),
        None => Err("the body is empty".to_owned()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Not among what the dictionary was made of.
    const OUTCOME: &str = include_str!("../../../../schemas/avro/golden/Outcome.json");

    #[test]
    fn what_was_packed_is_read_and_is_smaller() {
        let value: serde_json::Value = serde_json::from_str(OUTCOME).unwrap();
        let text = value.to_string();
        let packed = pack(&text).unwrap();
        assert_eq!(unpack(packed.clone()).unwrap(), text);
        assert!(packed.len() * 2 < text.len(), "{} of {}", packed.len(), text.len());
        let random: String = (0..3_000)
            .map(|i: i32| crate::audit::digest_of(i.to_be_bytes()))
            .collect();
        assert_eq!(unpack(pack(&random).unwrap()).unwrap(), random);
        assert_eq!(unpack(pack("{}").unwrap()).unwrap(), "{}");
    }

    #[test]
    fn what_was_not_packed_or_by_a_newer_version_is_told_apart() {
        assert_eq!(unpack(b"{\"a\":1}".to_vec()).unwrap(), "{\"a\":1}");
        assert!(unpack(vec![2, 40, 181]).unwrap_err().contains("way 2"));
        assert!(unpack(vec![FIRST, 40, 181]).unwrap_err().contains("unpacked"));
        assert!(unpack(Vec::new()).is_err());
    }

    /// Packed by the first version that packed: every later one reads it.
    #[test]
    fn what_the_first_version_packed_is_read() {
        let packed = hex::decode("0128b52ffd205d65000010647d0200edb490dc248640").unwrap();
        let text = "{\"actor\":\"ada-operator\",\"autonomy\":\"SUPERVISED\",\"budget_usd\":null,\"capsule\":\"endpoint_probe\"}";
        assert_eq!(unpack(packed).unwrap(), text);
    }
}
