//! What the local half sends to the final half, and how rows are kept: Arrow IPC without the schema, which both sides know from the
//! plan, cut so that no record grows beyond what a topic takes.

use std::collections::HashMap;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow_ipc::reader::read_record_batch;
use arrow_ipc::root_as_message;
use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions};
use kernel::{Fault, FaultCode};
use serde::{Deserialize, Serialize};

const VERSION: u8 = 1;
/// Rows are cut into pieces of about this many bytes.
pub(crate) const PIECE: usize = 384 << 10;

/// How far a source partition has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// Its watermark, microseconds; `None` before its first record.
    pub(crate) watermark: Option<i64>,
    /// It has had no record for so long that nobody waits for it.
    pub(crate) idle: bool,
}

/// Rows of one view in a frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Section {
    pub(crate) view: String,
    /// [`super::plan::View::mark`] of the text that made them.
    pub(crate) mark: u64,
    pub(crate) bytes: usize,
}

/// What a frame says before its rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    /// How far that partition has come with these rows and all before; `None` where more frames of the same commit follow.
    pub(crate) come: Option<Mark>,
    pub(crate) sections: Vec<Section>,
}

/// Writes a frame.
pub(crate) fn write(head: &Head, bodies: &[Vec<u8>]) -> Result<Vec<u8>, Fault> {
    let text = serde_json::to_vec(head).map_err(|e| broken(&e))?;
    let length = u32::try_from(text.len()).map_err(|e| broken(&e))?;
    let mut out = vec![VERSION];
    out.extend(length.to_le_bytes());
    out.extend(text);
    bodies.iter().for_each(|body| out.extend_from_slice(body));
    Ok(out)
}

/// Reads a frame: its head, and the bytes of each section.
pub(crate) fn read(bytes: &[u8]) -> Result<(Head, Vec<&[u8]>), Fault> {
    let unreadable = |what: &str| Fault::new(FaultCode::StateUnreadable, format!("a frame of partial results {what}"));
    let (version, rest) = bytes.split_first().ok_or_else(|| unreadable("is empty"))?;
    if *version != VERSION {
        return Err(unreadable(&format!(
            "has version {version}; this program reads {VERSION}"
        )));
    }
    let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(|| unreadable("is cut off"))?;
    let (head, mut rest) = rest
        .split_at_checked(u32::from_le_bytes(*length) as usize)
        .ok_or_else(|| unreadable("is cut off"))?;
    let head: Head = serde_json::from_slice(head).map_err(|e| unreadable(&format!("has no head: {e}")))?;
    let mut bodies = Vec::with_capacity(head.sections.len());
    for section in &head.sections {
        let (body, left) = rest
            .split_at_checked(section.bytes)
            .ok_or_else(|| unreadable("is cut off"))?;
        bodies.push(body);
        rest = left;
    }
    Ok((head, bodies))
}

/// Rows as bytes, in pieces.
pub(crate) fn pieces(rows: &RecordBatch) -> Result<Vec<Vec<u8>>, Fault> {
    let mut out = Vec::new();
    let mut left = vec![rows.clone()];
    while let Some(part) = left.pop() {
        let bytes = encode(&part).map_err(|e| broken(&e))?;
        let half = part.num_rows() / 2;
        if bytes.len() > PIECE && half > 0 {
            left.push(part.slice(half, part.num_rows() - half));
            left.push(part.slice(0, half));
        } else {
            out.push(bytes);
        }
    }
    Ok(out)
}

fn encode(rows: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    let (mut tracker, options) = (DictionaryTracker::new(true), IpcWriteOptions::default());
    let (_, encoded) = IpcDataGenerator::default().encode(rows, &mut tracker, &options, &mut Default::default())?;
    let mut out = Vec::with_capacity(4 + encoded.ipc_message.len() + encoded.arrow_data.len());
    let length = u32::try_from(encoded.ipc_message.len()).map_err(|e| ArrowError::IpcError(e.to_string()))?;
    out.extend(length.to_le_bytes());
    out.extend(encoded.ipc_message);
    out.extend(encoded.arrow_data);
    Ok(out)
}

/// Reads one piece.
pub(crate) fn rows(bytes: &[u8], schema: &SchemaRef) -> Result<RecordBatch, Fault> {
    decode(bytes, schema).map_err(|e| Fault::new(FaultCode::StateUnreadable, format!("kept rows cannot be read: {e}")))
}

fn decode(bytes: &[u8], schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let cut = || ArrowError::IpcError("cut off".to_owned());
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(cut)?;
    let (message, data) = rest
        .split_at_checked(u32::from_le_bytes(*length) as usize)
        .ok_or_else(cut)?;
    let message = root_as_message(message).map_err(|e| ArrowError::IpcError(e.to_string()))?;
    let batch = message.header_as_record_batch().ok_or_else(cut)?;
    let data = Buffer::from(data);
    read_record_batch(&data, batch, schema.clone(), &HashMap::new(), None, &message.version())
}

fn broken(error: &dyn std::fmt::Display) -> Fault {
    Fault::new(
        FaultCode::Internal,
        format!("partial results cannot be written: {error}"),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    #[test]
    fn frames_and_pieces_come_back() {
        let schema = Arc::new(Schema::new(vec![
            Field::new("n", DataType::Int64, false),
            Field::new("s", DataType::Utf8, true),
        ]));
        let count = 60_000;
        let names = StringArray::from_iter((0..count).map(|i| (i % 7 != 0).then(|| format!("name {i}"))));
        let numbers = Int64Array::from_iter_values(0..count);
        let all = RecordBatch::try_new(schema.clone(), vec![Arc::new(numbers), Arc::new(names)]).unwrap();
        let bodies = pieces(&all).unwrap();
        assert!(bodies.len() > 2 && bodies.iter().all(|b| b.len() <= PIECE));
        let head = Head {
            topic: "t".to_owned(),
            partition: 3,
            come: Some(Mark {
                watermark: Some(-5),
                idle: true,
            }),
            sections: bodies
                .iter()
                .map(|b| Section {
                    view: "v".to_owned(),
                    mark: 9,
                    bytes: b.len(),
                })
                .collect(),
        };
        let bytes = write(&head, &bodies).unwrap();
        let (read_head, found) = read(&bytes).unwrap();
        assert_eq!(read_head, head);
        let parts: Vec<_> = found.iter().map(|b| rows(b, &schema).unwrap()).collect();
        assert_eq!(arrow::compute::concat_batches(&schema, &parts).unwrap(), all);
        assert!(read(&bytes[..bytes.len() - 1]).unwrap_err().detail.contains("cut off"));
        assert!(read(&[7]).unwrap_err().detail.contains("version 7"));
    }
}
