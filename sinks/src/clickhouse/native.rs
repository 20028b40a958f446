//! Rows as one block of ClickHouse's Native format, column after column as the table's parts are: the server copies what it would
//! have to take apart row by row.
//!
//! Not the crate's own blocks (`clickhouse::native`): they cannot be given LowCardinality, DateTime64 and Decimal, which is most of
//! our columns, and are sent without compression. What is written here is what
//! <https://clickhouse.com/docs/interfaces/formats/Native> says, and the live tests read every kind of column back.

use std::collections::{BTreeMap, HashMap};

/// Types of a table's columns by name, in the server's own words.
pub(crate) type Types = BTreeMap<String, String>;

/// A row that can be written column by column.
pub(crate) trait Columns: Sized {
    /// Number of columns.
    const COUNT: usize;
    /// Writes each column.
    ///
    /// # Errors
    /// What [`Block::column`] says.
    fn write(rows: &[Self], block: &mut Block<'_>) -> Result<(), String>;
}

/// Rows as a block.
///
/// # Errors
/// Names a column that the table does not have, or whose type we do not write.
pub(crate) fn block<T: Columns>(rows: &[T], types: &Types) -> Result<Vec<u8>, String> {
    let mut block = Block {
        types,
        bytes: Vec::with_capacity(rows.len() * 256),
    };
    length(&mut block.bytes, T::COUNT);
    length(&mut block.bytes, rows.len());
    T::write(rows, &mut block)?;
    Ok(block.bytes)
}

/// A block that is being written.
pub(crate) struct Block<'a> {
    types: &'a Types,
    bytes: Vec<u8>,
}

impl Block<'_> {
    /// Writes one field of all rows.
    ///
    /// # Errors
    /// The table has no such column, or we write nothing as its type.
    pub(crate) fn column<'c, C: Cell + 'c>(
        &mut self,
        name: &str,
        cells: impl Iterator<Item = &'c C> + Clone,
    ) -> Result<(), String> {
        let kind = self
            .types
            .get(name)
            .ok_or_else(|| format!("column {name} is not there (apply the migrations: `soma deploy`)"))?;
        text(&mut self.bytes, name);
        text(&mut self.bytes, kind);
        if C::write(kind, cells, &mut self.bytes) {
            return Ok(());
        }
        Err(format!(
            "column {name} is {kind}, and the sink has {} for it: restore the type that sinks/migrations/clickhouse gives it",
            std::any::type_name::<C>()
        ))
    }
}

/// A field's type.
pub(crate) trait Cell: Sized {
    /// Writes cells as a column of this type; false where they are not of it.
    fn write<'c>(kind: &str, cells: impl Iterator<Item = &'c Self> + Clone, into: &mut Vec<u8>) -> bool
    where
        Self: 'c;
}

macro_rules! numbers {
    ($($type:ty: $fits:expr,)+) => {
        $(impl Cell for $type {
            fn write<'c>(kind: &str, cells: impl Iterator<Item = &'c Self> + Clone, into: &mut Vec<u8>) -> bool {
                let fits: fn(&str) -> bool = $fits;
                if fits(kind) {
                    cells.for_each(|cell| into.extend(cell.to_le_bytes()));
                }
                fits(kind)
            }
        })+
    };
}

numbers! {
    // Microseconds and millionths of a dollar: another scale would be another number.
    i64: |kind| kind == "Int64" || kind == "Decimal(18, 6)" || kind == "DateTime64(6)" || kind.starts_with("DateTime64(6, "),
    i32: |kind| kind == "Int32",
    u32: |kind| kind == "UInt32",
    f64: |kind| kind == "Float64",
}

impl Cell for bool {
    fn write<'c>(kind: &str, cells: impl Iterator<Item = &'c Self> + Clone, into: &mut Vec<u8>) -> bool {
        into.extend(cells.map(|cell| u8::from(*cell)));
        kind == "Bool"
    }
}

impl Cell for Option<i64> {
    fn write<'c>(kind: &str, cells: impl Iterator<Item = &'c Self> + Clone, into: &mut Vec<u8>) -> bool {
        let Some(kind) = inside(kind, "Nullable") else {
            return false;
        };
        into.extend(cells.clone().map(|cell| u8::from(cell.is_none())));
        let numbers: Vec<i64> = cells.map(|cell| cell.unwrap_or_default()).collect();
        i64::write(kind, numbers.iter(), into)
    }
}

impl Cell for String {
    fn write<'c>(kind: &str, cells: impl Iterator<Item = &'c Self> + Clone, into: &mut Vec<u8>) -> bool {
        let Some(texts) = Texts::of(kind) else { return false };
        texts.begin(into);
        texts.write(cells.map(String::as_str), into);
        true
    }
}

impl Cell for Vec<String> {
    fn write<'c>(kind: &str, cells: impl Iterator<Item = &'c Self> + Clone, into: &mut Vec<u8>) -> bool {
        let Some(texts) = inside(kind, "Array").and_then(Texts::of) else {
            return false;
        };
        texts.begin(into);
        ends(cells.clone().map(Vec::len), into);
        texts.write(cells.flatten().map(String::as_str), into);
        true
    }
}

/// A map.
impl Cell for Vec<(String, String)> {
    fn write<'c>(kind: &str, cells: impl Iterator<Item = &'c Self> + Clone, into: &mut Vec<u8>) -> bool {
        let kinds = inside(kind, "Map").and_then(|kinds| kinds.split_once(", "));
        let Some((Some(keys), Some(values))) = kinds.map(|(k, v)| (Texts::of(k), Texts::of(v))) else {
            return false;
        };
        keys.begin(into);
        values.begin(into);
        ends(cells.clone().map(Vec::len), into);
        keys.write(cells.clone().flatten().map(|(key, _)| key.as_str()), into);
        values.write(cells.flatten().map(|(_, value)| value.as_str()), into);
        true
    }
}

/// How text is kept.
#[derive(Clone, Copy)]
enum Texts {
    /// `String`: each one with its length.
    Plain,
    /// `LowCardinality(String)`: each one once, and where it is for every row.
    Dictionary,
}

/// The dictionary is in the block itself, and is all there is of it.
const OWN_DICTIONARY: u64 = 1 << 9 | 1 << 10;

impl Texts {
    fn of(kind: &str) -> Option<Self> {
        match kind {
            "String" => Some(Self::Plain),
            "LowCardinality(String)" => Some(Self::Dictionary),
            _ => None,
        }
    }

    /// What stands before the first row of the column, even where it is within an array.
    fn begin(self, into: &mut Vec<u8>) {
        if matches!(self, Self::Dictionary) {
            into.extend(1u64.to_le_bytes());
        }
    }

    fn write<'c>(self, cells: impl Iterator<Item = &'c str>, into: &mut Vec<u8>) {
        match self {
            Self::Plain => cells.for_each(|cell| text(into, cell)),
            Self::Dictionary => dictionary(cells, into),
        }
    }
}

fn dictionary<'c>(cells: impl Iterator<Item = &'c str>, into: &mut Vec<u8>) {
    let (mut known, mut words, mut places) = (HashMap::new(), Vec::new(), Vec::new());
    for cell in cells {
        // Most often the same as above it.
        let place = match places.last() {
            Some(last) if words.get(*last as usize) == Some(&cell) => *last,
            _ => *known.entry(cell).or_insert_with(|| {
                words.push(cell);
                u32::try_from(words.len() - 1).unwrap_or(u32::MAX)
            }),
        };
        places.push(place);
    }
    if places.is_empty() {
        return;
    }
    // How wide a place is: 0 for one byte, 1 for two, 2 for four.
    let width = match words.len() {
        0..=0x100 => 0u64,
        0x101..=0x1_0000 => 1,
        _ => 2,
    };
    into.extend((OWN_DICTIONARY | width).to_le_bytes());
    into.extend((words.len() as u64).to_le_bytes());
    words.iter().for_each(|word| text(into, word));
    into.extend((places.len() as u64).to_le_bytes());
    for place in places {
        into.extend(&place.to_le_bytes()[..1 << width]);
    }
}

/// Where each row's elements end.
fn ends(lengths: impl Iterator<Item = usize>, into: &mut Vec<u8>) {
    let mut end = 0u64;
    for length in lengths {
        end += length as u64;
        into.extend(end.to_le_bytes());
    }
}

fn inside<'k>(kind: &'k str, outer: &str) -> Option<&'k str> {
    kind.strip_prefix(outer)?.strip_prefix('(')?.strip_suffix(')')
}

fn text(into: &mut Vec<u8>, text: &str) {
    length(into, text.len());
    into.extend(text.as_bytes());
}

/// Seven bits a byte, the least first.
fn length(into: &mut Vec<u8>, length: usize) {
    let mut rest = length;
    while rest > 0x7f {
        into.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    into.push(rest as u8);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn column<'c, C: Cell + 'c>(kind: &str, cells: impl Iterator<Item = &'c C> + Clone) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        C::write(kind, cells, &mut bytes).then_some(bytes)
    }

    #[test]
    fn a_dictionary_holds_each_word_once_and_as_wide_places_as_it_needs() {
        let words = ["a", "b", "a", ""].map(str::to_owned);
        let bytes = column("LowCardinality(String)", words.iter()).unwrap();
        let (flags, keys, rows) = ([0, 6, 0, 0, 0, 0, 0, 0], 3u64.to_le_bytes(), 4u64.to_le_bytes());
        let expected = [
            &1u64.to_le_bytes()[..],
            &flags,
            &keys,
            b"\x01a\x01b\x00",
            &rows,
            &[0, 1, 0, 2],
        ]
        .concat();
        assert_eq!(bytes, expected);
        for (count, width) in [(256, 1), (257, 2), (65_536, 2), (65_537, 4)] {
            let words: Vec<_> = (0..count).map(|n| format!("{n:06}")).collect();
            let bytes = column("LowCardinality(String)", words.iter()).unwrap();
            assert_eq!(bytes.len(), 8 + 8 + 8 + 7 * count + 8 + width * count, "{count}");
            assert_eq!(bytes[8], (width / 2) as u8);
        }
    }

    #[test]
    fn maps_and_arrays_say_where_rows_end_and_an_empty_one_has_no_dictionary() {
        let maps = [vec![("k".to_owned(), "v".to_owned()); 2], vec![]];
        let bytes = column("Map(String, String)", maps.iter()).unwrap();
        let ends = [2u64.to_le_bytes(), 2u64.to_le_bytes()].concat();
        assert_eq!(bytes, [&ends[..], b"\x01k\x01k\x01v\x01v"].concat());
        let empty: [Vec<String>; 1] = [vec![]];
        let bytes = column("Array(LowCardinality(String))", empty.iter()).unwrap();
        assert_eq!(bytes, [1u64.to_le_bytes(), 0u64.to_le_bytes()].concat());
    }

    #[test]
    fn what_a_column_is_not_is_not_written_and_named() {
        assert_eq!(
            column("DateTime64(6, 'UTC')", [7i64].iter()).unwrap(),
            7i64.to_le_bytes()
        );
        assert!(column("DateTime64(3, 'UTC')", [7i64].iter()).is_none());
        assert!(column("Decimal(18, 2)", [7i64].iter()).is_none());
        assert!(column("Nullable(String)", ["a".to_owned()].iter()).is_none());
        assert_eq!(column("Nullable(Int64)", [None, Some(1)].iter()).unwrap()[..2], [1, 0]);
        let types = Types::from([("n".to_owned(), "UInt64".to_owned())]);
        let mut block = Block {
            types: &types,
            bytes: Vec::new(),
        };
        let fault = block.column("n", [7i64].iter()).unwrap_err();
        assert!(fault.contains("column n is UInt64") && fault.contains("i64"), "{fault}");
        let fault = block.column("m", [7i64].iter()).unwrap_err();
        assert!(
            fault.contains("column m is not there") && fault.contains("soma deploy"),
            "{fault}"
        );
    }

    #[test]
    fn lengths_are_seven_bits_a_byte() {
        for (n, expected) in [(0, vec![0]), (127, vec![127]), (128, vec![128, 1]), (300, vec![172, 2])] {
            let mut bytes = Vec::new();
            length(&mut bytes, n);
            assert_eq!(bytes, expected);
        }
    }
}
