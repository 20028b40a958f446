//! Which output formats may be sent in pieces. The engine starts every piece of a streamed result afresh, so pieces
//! of JSON or Parquet are whole documents and cannot be joined: those results are held whole. A header that repeats
//! is cut off.

/// How the pieces of a streamed result become one answer.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Pieces {
    /// Pieces follow each other as they are.
    Join,
    /// Each piece begins with the same header: a count, that many names, and types too.
    BinaryHeader { types: bool },
    /// Each piece begins with the same lines.
    Lines(usize),
    /// Not joinable.
    Whole,
}

impl Pieces {
    pub fn of(format: &str) -> Pieces {
        match format.to_ascii_lowercase().as_str() {
            "tabseparated"
            | "tsv"
            | "tabseparatedraw"
            | "tsvraw"
            | "raw"
            | "csv"
            | "jsoneachrow"
            | "jsonlines"
            | "ndjson"
            | "jsonstringseachrow"
            | "jsoncompacteachrow"
            | "jsoncompactstringseachrow"
            | "rowbinary"
            | "native"
            | "tskv"
            | "rawblob"
            | "null" => Pieces::Join,
            "rowbinarywithnames" => Pieces::BinaryHeader { types: false },
            "rowbinarywithnamesandtypes" => Pieces::BinaryHeader { types: true },
            "tabseparatedwithnames" | "tsvwithnames" | "jsoncompacteachrowwithnames" => Pieces::Lines(1),
            "tabseparatedwithnamesandtypes" | "tsvwithnamesandtypes" | "jsoncompacteachrowwithnamesandtypes" => {
                Pieces::Lines(2)
            }
            _ => Pieces::Whole,
        }
    }

    /// Bytes of the header at the start of the first piece.
    pub fn header_len(self, piece: &[u8]) -> usize {
        match self {
            Pieces::Join | Pieces::Whole => 0,
            Pieces::Lines(lines) => {
                let ends = piece
                    .iter()
                    .enumerate()
                    .filter(|(_, b)| **b == b'\n')
                    .map(|(n, _)| n + 1);
                ends.take(lines).last().unwrap_or(0)
            }
            Pieces::BinaryHeader { types } => binary_header(piece, types).unwrap_or(0),
        }
    }
}

fn binary_header(piece: &[u8], types: bool) -> Option<usize> {
    let mut at = 0;
    let columns = varint(piece, &mut at)?;
    for _ in 0..columns * if types { 2 } else { 1 } {
        let length = varint(piece, &mut at)?;
        at = at.checked_add(length)?;
    }
    (at <= piece.len()).then_some(at)
}

fn varint(data: &[u8], at: &mut usize) -> Option<usize> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let byte = *data.get(*at)?;
        *at += 1;
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// `Content-Type` of an answer, as the server names it.
pub fn content_type(format: &str) -> &'static str {
    let name = format.to_ascii_lowercase();
    if name.ends_with("eachrow") || name == "jsonlines" || name == "ndjson" {
        "application/x-ndjson; charset=UTF-8"
    } else if name.starts_with("json") {
        "application/json; charset=UTF-8"
    } else if name.starts_with("csv") {
        "text/csv; charset=UTF-8; header=absent"
    } else if name.starts_with("tabseparated") || name.starts_with("tsv") {
        "text/tab-separated-values; charset=UTF-8"
    } else if ["rowbinary", "native", "parquet", "arrow", "orc", "avro"]
        .iter()
        .any(|p| name.starts_with(p))
    {
        "application/octet-stream"
    } else {
        "text/plain; charset=UTF-8"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_repeated_headers() {
        let piece = b"\x01\x011\x05UInt8\x07";
        assert_eq!(Pieces::of("RowBinaryWithNamesAndTypes").header_len(piece), 9);
        assert_eq!(Pieces::of("RowBinaryWithNames").header_len(piece), 3);
        assert_eq!(Pieces::of("TSVWithNamesAndTypes").header_len(b"a\nUInt8\n1\n"), 8);
        assert_eq!(Pieces::of("Parquet"), Pieces::Whole);
    }
}
