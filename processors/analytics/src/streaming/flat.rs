//! The short way for records of plain fields: the fields that views take go straight into columns, the others are stepped over.
//! It takes what it is sure of. A schema it does not know, or a batch with a value it cannot read, goes the long way, through
//! `arrow-avro`, whose word counts.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Float32Array, Float64Array, Int32Array, Int64Array, StringViewArray,
    TimestampMicrosecondArray, TimestampMillisecondArray, make_view,
};
use arrow::buffer::{Buffer, NullBuffer, ScalarBuffer};
use arrow::error::ArrowError;
use serde_json::Value;

/// Frames begin with a zero byte and a schema id.
const FRAME: usize = 5;

/// What lies in a field that nobody takes.
enum Skip {
    Nothing,
    Bytes(usize),
    Varint,
    Counted,
    Union(Vec<Skip>),
    /// Blocks of items; of a map each behind its key.
    Blocks(Box<Skip>, bool),
    Fields(Vec<Skip>),
}

/// Values of a field that is taken.
enum Values {
    Bool(Vec<bool>),
    Int(Vec<i32>),
    Date(Vec<i32>),
    Long(Vec<i64>),
    Micros(Vec<i64>),
    Millis(Vec<i64>),
    Float(Vec<f32>),
    Double(Vec<f64>),
    Text(Texts),
}

/// Texts as arrow's views, which hold up to twelve bytes themselves. Longer ones lie behind them, and those that come again and again only once: less
/// is copied, and that they are the same can be seen by their views (`distinct.rs`).
struct Texts {
    views: Vec<u128>,
    behind: Vec<u8>,
    /// By place, which view a long text had last, and one more; 0 for none.
    recent: Box<[u32; 64]>,
}

struct Taken {
    name: String,
    /// Which branch of the union is null.
    null: Option<u64>,
    values: Values,
    valid: Vec<bool>,
}

enum Op {
    Skip(Skip),
    Take(Taken),
}

/// A decoder of values written with one schema.
pub(crate) struct Flat {
    ops: Vec<Op>,
}

/// A variable-length number as Avro writes it, not yet taken apart into sign and size.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let (first, rest) = bytes.split_first()?;
    if *first < 0x80 {
        *bytes = rest;
        return Some(u64::from(*first));
    }
    let mut value = 0u64;
    for (i, byte) in bytes.iter().take(9).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if *byte < 0x80 {
            *bytes = bytes.get(i + 1..)?;
            return Some(value);
        }
    }
    // Ten bytes hold the sixty-fourth bit.
    let last = *bytes.get(9)?;
    *bytes = bytes.get(10..)?;
    (last <= 1).then_some(value | u64::from(last) << 63)
}

fn long(bytes: &mut &[u8]) -> Option<i64> {
    let value = varint(bytes)?;
    Some((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
}

fn split<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

fn counted<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let count = usize::try_from(long(bytes)?).ok()?;
    split(bytes, count)
}

impl Skip {
    /// From Avro JSON; `None` where it is not known.
    fn of(kind: &Value) -> Option<Self> {
        if let Value::Array(branches) = kind {
            return Some(Self::Union(branches.iter().map(Self::of).collect::<Option<_>>()?));
        }
        let name = kind.as_str().or_else(|| kind.get("type").and_then(Value::as_str));
        Some(match name? {
            "null" => Self::Nothing,
            "boolean" => Self::Bytes(1),
            "int" | "long" | "enum" => Self::Varint,
            "float" => Self::Bytes(4),
            "double" => Self::Bytes(8),
            "string" | "bytes" => Self::Counted,
            "fixed" => Self::Bytes(usize::try_from(kind.get("size")?.as_u64()?).ok()?),
            "array" => Self::Blocks(Box::new(Self::of(kind.get("items")?)?), false),
            "map" => Self::Blocks(Box::new(Self::of(kind.get("values")?)?), true),
            "record" => {
                let fields = kind.get("fields")?.as_array()?;
                Self::Fields(fields.iter().map(|f| Self::of(f.get("type")?)).collect::<Option<_>>()?)
            }
            _ => return None,
        })
    }

    fn over(&self, bytes: &mut &[u8]) -> Option<()> {
        match self {
            Self::Nothing => {}
            Self::Bytes(count) => {
                split(bytes, *count)?;
            }
            Self::Varint => {
                varint(bytes)?;
            }
            Self::Counted => {
                counted(bytes)?;
            }
            Self::Union(branches) => {
                let branch = usize::try_from(long(bytes)?).ok()?;
                branches.get(branch)?.over(bytes)?;
            }
            Self::Fields(fields) => fields.iter().try_for_each(|field| field.over(bytes))?,
            Self::Blocks(item, keyed) => loop {
                let count = long(bytes)?;
                if count == 0 {
                    break;
                }
                if count < 0 {
                    counted(bytes)?;
                    continue;
                }
                for _ in 0..count {
                    // Items of no bytes at all are not believed to be many.
                    if bytes.is_empty() {
                        return None;
                    }
                    if *keyed {
                        counted(bytes)?;
                    }
                    item.over(bytes)?;
                }
            },
        }
        Some(())
    }
}

impl Taken {
    fn of(name: &str, kind: &Value) -> Option<Self> {
        let (null, kind) = match kind {
            Value::Array(branches) => match branches.as_slice() {
                [null, kind] if null == "null" => (Some(0), kind),
                [kind, null] if null == "null" => (Some(1), kind),
                _ => return None,
            },
            kind => (None, kind),
        };
        let base = kind.as_str().or_else(|| kind.get("type").and_then(Value::as_str))?;
        let values = match (base, kind.get("logicalType").and_then(Value::as_str)) {
            ("boolean", None) => Values::Bool(Vec::new()),
            ("int", None) => Values::Int(Vec::new()),
            ("int", Some("date")) => Values::Date(Vec::new()),
            ("long", None) => Values::Long(Vec::new()),
            ("long", Some("timestamp-micros")) => Values::Micros(Vec::new()),
            ("long", Some("timestamp-millis")) => Values::Millis(Vec::new()),
            ("float", None) => Values::Float(Vec::new()),
            ("double", None) => Values::Double(Vec::new()),
            ("string", None) => Values::Text(Texts::new()),
            _ => return None,
        };
        let (name, valid) = (name.to_owned(), Vec::new());
        Some(Self {
            name,
            null,
            values,
            valid,
        })
    }

    fn take(&mut self, bytes: &mut &[u8]) -> Option<()> {
        if let Some(null) = self.null {
            // Branches 0 and 1 are written as 0 and 2.
            let valid = match varint(bytes)? {
                branch @ (0 | 2) => branch >> 1 != null,
                _ => return None,
            };
            self.valid.push(valid);
            if !valid {
                self.values.push_null();
                return Some(());
            }
        }
        self.values.push(bytes)
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let valid = std::mem::take(&mut self.valid);
        let nulls = valid.contains(&false).then(|| NullBuffer::from(valid));
        Ok(match &mut self.values {
            Values::Bool(v) => Arc::new(BooleanArray::new(std::mem::take(v).into(), nulls)),
            Values::Int(v) => Arc::new(Int32Array::new(std::mem::take(v).into(), nulls)),
            Values::Date(v) => Arc::new(Date32Array::new(std::mem::take(v).into(), nulls)),
            Values::Long(v) => Arc::new(Int64Array::new(std::mem::take(v).into(), nulls)),
            Values::Micros(v) => Arc::new(TimestampMicrosecondArray::new(std::mem::take(v).into(), nulls)),
            Values::Millis(v) => Arc::new(TimestampMillisecondArray::new(std::mem::take(v).into(), nulls)),
            Values::Float(v) => Arc::new(Float32Array::new(std::mem::take(v).into(), nulls)),
            Values::Double(v) => Arc::new(Float64Array::new(std::mem::take(v).into(), nulls)),
            Values::Text(texts) => Arc::new(texts.finish(nulls)?),
        })
    }
}

impl Values {
    fn push_null(&mut self) {
        match self {
            Self::Bool(v) => v.push(false),
            Self::Int(v) | Self::Date(v) => v.push(0),
            Self::Long(v) | Self::Micros(v) | Self::Millis(v) => v.push(0),
            Self::Float(v) => v.push(0.0),
            Self::Double(v) => v.push(0.0),
            Self::Text(texts) => texts.views.push(0),
        }
    }

    fn push(&mut self, bytes: &mut &[u8]) -> Option<()> {
        match self {
            Self::Bool(v) => v.push(match split(bytes, 1)? {
                [0] => false,
                [1] => true,
                _ => return None,
            }),
            Self::Int(v) | Self::Date(v) => v.push(i32::try_from(long(bytes)?).ok()?),
            Self::Long(v) | Self::Micros(v) | Self::Millis(v) => v.push(long(bytes)?),
            Self::Float(v) => v.push(f32::from_le_bytes(split(bytes, 4)?.try_into().ok()?)),
            Self::Double(v) => v.push(f64::from_le_bytes(split(bytes, 8)?.try_into().ok()?)),
            Self::Text(texts) => texts.push(counted(bytes)?)?,
        }
        Some(())
    }

    fn clear(&mut self) {
        match self {
            Self::Bool(v) => v.clear(),
            Self::Int(v) | Self::Date(v) => v.clear(),
            Self::Long(v) | Self::Micros(v) | Self::Millis(v) => v.clear(),
            Self::Float(v) => v.clear(),
            Self::Double(v) => v.clear(),
            Self::Text(texts) => *texts = Texts::new(),
        }
    }
}

impl Texts {
    fn new() -> Self {
        Self {
            views: Vec::new(),
            behind: Vec::new(),
            recent: Box::new([0; 64]),
        }
    }

    fn push(&mut self, text: &[u8]) -> Option<()> {
        let (Some(first), Some(last)) = (text.first_chunk::<8>(), text.last_chunk::<8>()) else {
            self.views.push(make_view(text, 0, 0));
            return Some(());
        };
        if text.len() <= 12 {
            self.views.push(make_view(text, 0, 0));
            return Some(());
        }
        let mixed = u64::from_le_bytes(*first) ^ u64::from_le_bytes(*last).rotate_left(31) ^ text.len() as u64;
        let place = (mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 58) as usize;
        if let Some(nth) = self.recent[place].checked_sub(1) {
            let view = self.views[nth as usize];
            // Of a long text: its length, four bytes, the buffer's number, where it begins.
            let (length, start) = (view as u32 as usize, (view >> 96) as usize);
            if self.behind.get(start..start + length) == Some(text) {
                self.views.push(view);
                return Some(());
            }
        }
        let start = u32::try_from(self.behind.len()).ok()?;
        self.behind.extend_from_slice(text);
        self.views.push(make_view(text, 0, start));
        self.recent[place] = u32::try_from(self.views.len()).ok()?;
        Some(())
    }

    /// Looks whether all of it is UTF-8.
    fn finish(&mut self, nulls: Option<NullBuffer>) -> Result<StringViewArray, ArrowError> {
        let Self { views, behind, .. } = std::mem::replace(self, Self::new());
        let buffers = if behind.is_empty() {
            Vec::new()
        } else {
            vec![Buffer::from_vec(behind)]
        };
        StringViewArray::try_new(ScalarBuffer::from(views), buffers, nulls)
    }
}

impl Flat {
    /// For values written with `writer`, taking the fields of `wanted`; `None` where the long way is to be gone.
    pub(crate) fn new(writer: &str, wanted: &str) -> Option<Self> {
        let (writer, wanted): (Value, Value) = (serde_json::from_str(writer).ok()?, serde_json::from_str(wanted).ok()?);
        let same = |what: &str| writer.get(what) == wanted.get(what);
        if !same("name") || !same("namespace") {
            return None;
        }
        let wanted = wanted.get("fields")?.as_array()?;
        let mut found = 0;
        let mut ops = Vec::new();
        for field in writer.get("fields")?.as_array()? {
            let (name, kind) = (field.get("name")?.as_str()?, field.get("type")?);
            match wanted
                .iter()
                .find(|f| f.get("name").and_then(Value::as_str) == Some(name))
            {
                // Another type needs Avro's rules of resolution.
                Some(reader) if reader.get("type") != Some(kind) => return None,
                Some(_) => {
                    found += 1;
                    ops.push(Op::Take(Taken::of(name, kind)?));
                }
                None => ops.push(Op::Skip(Skip::of(kind)?)),
            }
        }
        (found == wanted.len()).then_some(Self { ops })
    }

    /// Takes a framed value; `false`: nothing of the batch is left, it has to go the long way.
    pub(crate) fn take(&mut self, value: &[u8]) -> bool {
        let mut bytes = value.get(FRAME..).unwrap_or_default();
        let read = self.ops.iter_mut().try_for_each(|op| match op {
            Op::Skip(skip) => skip.over(&mut bytes),
            Op::Take(taken) => taken.take(&mut bytes),
        });
        if read.is_some() && bytes.is_empty() {
            return true;
        }
        self.clear();
        false
    }

    /// The columns of what was taken, by name.
    pub(crate) fn finish(&mut self) -> Option<Vec<(&str, ArrayRef)>> {
        let mut out = Vec::new();
        for op in &mut self.ops {
            if let Op::Take(taken) = op {
                out.push(taken.finish().map(|array| (taken.name.as_str(), array)));
            }
        }
        out.into_iter().collect::<Result<_, _>>().ok()
    }

    fn clear(&mut self) {
        for op in &mut self.ops {
            if let Op::Take(taken) = op {
                taken.values.clear();
                taken.valid.clear();
            }
        }
    }
}
