//! Records of a transaction, as the batches they are sent in: format 2 of Kafka's message format.

use bytes::{BufMut, Bytes, BytesMut};

/// A batch of several records is no longer than this before it is packed: what librdkafka sends at most, and half of what a topic takes at least.
const BATCH_BYTES: usize = 1_000_000;
/// Below that there is nothing to gain.
const COMPRESSED_BYTES: usize = 1024;
const LZ4: i16 = 3;
const TRANSACTIONAL: i16 = 1 << 4;
/// From the attributes on; what comes before is the offset, the length, the leader's epoch, the format and the checksum.
const CHECKED_FROM: usize = 21;
const LENGTH_FROM: usize = 12;

/// Who sends, as the coordinator knows it: id and epoch.
pub(super) type Producer = (i64, i16);

/// All records of a transaction, by where they go.
#[derive(Default)]
pub(super) struct Outgoing {
    pub(super) parts: Vec<Part>,
    scratch: Vec<u8>,
}

/// Those of one partition.
pub(super) struct Part {
    pub(super) topic: String,
    pub(super) partition: i32,
    /// Where the last of them comes to lie is wanted.
    pub(super) place: bool,
    pub(super) batches: Vec<Batch>,
}

/// Records of one partition that are sent at once.
#[derive(Default)]
pub(super) struct Batch {
    records: Vec<u8>,
    pub(super) count: i32,
}

/// One record.
pub(crate) struct Line<'a> {
    pub(crate) key: &'a str,
    pub(crate) value: Option<&'a [u8]>,
    /// Calls back with each header.
    pub(crate) headers: &'a dyn Fn(&mut dyn FnMut(&str, &[u8])),
}

impl Outgoing {
    /// Adds a record; `place` when it is a change of state.
    pub(super) fn put(&mut self, topic: &str, partition: i32, place: bool, line: &Line<'_>) {
        let known = self
            .parts
            .iter()
            .position(|p| p.partition == partition && p.topic == topic);
        let at = known.unwrap_or_else(|| {
            self.parts.push(Part {
                topic: topic.to_owned(),
                partition,
                place,
                batches: vec![Batch::default()],
            });
            self.parts.len() - 1
        });
        let Some(part) = self.parts.get_mut(at) else { return };
        part.place |= place;
        let count = part.batches.last().map_or(0, |b| b.count);
        encode(line, count, &mut self.scratch);
        let full = |b: &Batch| b.count > 0 && b.records.len() + self.scratch.len() > BATCH_BYTES;
        if part.batches.last().is_none_or(full) {
            part.batches.push(Batch::default());
            encode(line, 0, &mut self.scratch);
        }
        if let Some(batch) = part.batches.last_mut() {
            varint(&mut batch.records, length(&self.scratch));
            batch.records.extend_from_slice(&self.scratch);
            batch.count += 1;
        }
    }
}

impl Batch {
    /// Its bytes. `sequence` numbers its first record among those of this partition under this epoch; `now_ms` since 1970.
    pub(super) fn bytes(&self, (id, epoch): Producer, sequence: i32, now_ms: i64) -> Bytes {
        let packed = (self.records.len() >= COMPRESSED_BYTES)
            .then(|| compressed(&self.records))
            .flatten();
        let codec = if packed.is_some() { LZ4 } else { 0 };
        let records = packed.as_deref().unwrap_or(&self.records);
        let mut out = BytesMut::with_capacity(61 + records.len());
        // The broker fills in offset and leader's epoch.
        out.put_i64(0);
        out.put_i32(0);
        out.put_i32(-1);
        out.put_i8(2);
        out.put_u32(0);
        out.put_i16(codec | TRANSACTIONAL);
        out.put_i32(self.count - 1);
        out.put_i64(now_ms);
        out.put_i64(now_ms);
        out.put_i64(id);
        out.put_i16(epoch);
        out.put_i32(sequence);
        out.put_i32(self.count);
        out.put_slice(records);
        let size = u32::try_from(out.len() - LENGTH_FROM).unwrap_or(u32::MAX);
        let checksum = crc32c::crc32c(out.get(CHECKED_FROM..).unwrap_or_default());
        set(&mut out, LENGTH_FROM - size_of::<u32>(), size);
        set(&mut out, CHECKED_FROM - size_of::<u32>(), checksum);
        out.freeze()
    }
}

/// A record's bytes but for their length; `nth` in its batch, from 0.
fn encode(line: &Line<'_>, nth: i32, out: &mut Vec<u8>) {
    out.clear();
    // Attributes, and milliseconds after the batch's own time.
    out.extend([0, 0]);
    varint(out, nth.into());
    sized(out, Some(line.key.as_bytes()));
    sized(out, line.value);
    let mut count = 0;
    (line.headers)(&mut |_, _| count += 1);
    varint(out, count);
    (line.headers)(&mut |name, value| {
        sized(out, Some(name.as_bytes()));
        sized(out, Some(value));
    });
}

fn set(out: &mut [u8], at: usize, value: u32) {
    if let Some(place) = out.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *place = value.to_be_bytes();
    }
}

/// In LZ4's frame format; `None` where that is no shorter.
fn compressed(records: &[u8]) -> Option<Vec<u8>> {
    use std::io::Write as _;
    let mut frame = lz4_flex::frame::FrameEncoder::new(Vec::with_capacity(records.len() / 2));
    frame.write_all(records).ok()?;
    frame.finish().ok().filter(|packed| packed.len() < records.len())
}

fn length(bytes: &[u8]) -> i64 {
    i64::try_from(bytes.len()).unwrap_or(i64::MAX)
}

/// Bytes with their length before them, -1 of none.
fn sized(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    varint(out, bytes.map_or(-1, length));
    out.extend_from_slice(bytes.unwrap_or_default());
}

/// Zigzag, seven bits a byte.
fn varint(out: &mut Vec<u8>, value: i64) {
    let mut left = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while left > 0x7f {
        #[allow(clippy::cast_possible_truncation, reason = "seven bits")]
        out.push((left as u8) | 0x80);
        left >>= 7;
    }
    #[allow(clippy::cast_possible_truncation, reason = "what is left are seven bits")]
    out.push(left as u8);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Read as _;

    use kafka_protocol::records::{Compression, RecordBatchDecoder};

    use super::*;

    fn unpacked(bytes: &mut Bytes, how: Compression) -> Result<Bytes, std::io::Error> {
        let mut out = Vec::new();
        match how {
            Compression::Lz4 => _ = lz4_flex::frame::FrameDecoder::new(&bytes[..]).read_to_end(&mut out)?,
            _ => out.extend_from_slice(bytes),
        }
        Ok(out.into())
    }

    #[test]
    fn another_decoder_reads_what_was_put() {
        let mut out = Outgoing::default();
        let long = vec![7; 5_000];
        for (key, value) in [("a", Some(&b"short"[..])), ("", None), ("c", Some(&long))] {
            let headers = |put: &mut dyn FnMut(&str, &[u8])| {
                put("one", b"1");
                put("none", b"");
            };
            let line = Line {
                key,
                value,
                headers: &headers,
            };
            out.put("t", 3, key == "c", &line);
        }
        assert_eq!(out.parts.len(), 1);
        let part = &out.parts[0];
        assert!(part.place && part.topic == "t" && part.partition == 3);
        let mut bytes = part.batches[0].bytes((77, 5), 40, 1_700_000_000_123);
        let unpack = |b: &mut Bytes, how| unpacked(b, how).map_err(Into::into);
        let read = RecordBatchDecoder::decode_with_custom_compression(&mut bytes, Some(unpack)).unwrap();
        assert_eq!(read.compression, Compression::Lz4);
        assert_eq!(read.records.len(), 3);
        for (i, record) in (0..).zip(&read.records) {
            assert!(record.transactional && !record.control);
            assert_eq!((record.producer_id, record.producer_epoch), (77, 5));
            assert_eq!((record.sequence, record.offset), (40 + i, i64::from(i)));
            assert_eq!(record.timestamp, 1_700_000_000_123);
            let headers: Vec<_> = record
                .headers
                .iter()
                .map(|(n, v)| (n.as_str(), v.as_deref().unwrap()))
                .collect();
            assert_eq!(headers, [("one", &b"1"[..]), ("none", &b""[..])]);
        }
        let values: Vec<_> = read.records.iter().map(|r| r.value.as_deref()).collect();
        assert_eq!(values, [Some(&b"short"[..]), None, Some(&long)]);
        assert_eq!(read.records[0].key.as_deref(), Some(&b"a"[..]));
    }

    #[test]
    fn a_batch_is_never_much_longer_than_a_topic_takes() {
        let mut out = Outgoing::default();
        let value = vec![1; 300_000];
        for _ in 0..10 {
            let line = Line {
                key: "k",
                value: Some(&value),
                headers: &|_| {},
            };
            out.put("t", 0, false, &line);
        }
        let counts: Vec<_> = out.parts[0].batches.iter().map(|b| b.count).collect();
        assert_eq!(counts, [3, 3, 3, 1]);
    }

    #[test]
    fn numbers_are_zigzag() {
        for (value, bytes) in [
            (0, vec![0]),
            (-1, vec![1]),
            (63, vec![126]),
            (64, vec![128, 1]),
            (-65, vec![129, 1]),
        ] {
            let mut out = Vec::new();
            varint(&mut out, value);
            assert_eq!(out, bytes, "{value}");
        }
    }
}
