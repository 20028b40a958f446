//! What a stage is given: a record, where it came from, and what travelled with it.

use std::fmt;
use std::sync::Arc;

use schemas::{Record, Timestamp, Written};

use crate::fault::{Fault, FaultCode};

/// Where a record stands in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// Topic.
    pub topic: Arc<str>,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.topic, self.partition, self.offset)
    }
}

/// Headers of a record, in order. Names may repeat; the last one counts. They are passed on with every record and seldom
/// looked into, so they lie in one piece of memory that copies share: per header the lengths of name and value, then both.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Arc<[u8]>);

const LENGTH: usize = size_of::<u32>();

/// Splits a length off.
fn length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH>()?;
    Some((usize::try_from(u32::from_ne_bytes(*length)).ok()?, rest))
}

impl Headers {
    /// The headers that `fill` puts, in that order.
    pub fn build(fill: impl FnOnce(&mut dyn FnMut(&str, &[u8]))) -> Self {
        let mut bytes = Vec::with_capacity(512);
        fill(&mut |name, value| {
            for length in [name.len(), value.len()] {
                bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
            }
            bytes.extend(name.as_bytes());
            bytes.extend(value);
        });
        Self(bytes.into())
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let mut left = &*self.0;
        std::iter::from_fn(move || {
            let (name, rest) = length(left)?;
            let (value, rest) = length(rest)?;
            let (name, rest) = rest.split_at_checked(name)?;
            let (value, rest) = rest.split_at_checked(value)?;
            left = rest;
            Some((std::str::from_utf8(name).unwrap_or_default(), value))
        })
    }

    /// The text of a header; `None` when it is absent or not UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        let last = self.iter().filter(|(n, _)| *n == name).last();
        last.and_then(|(_, v)| std::str::from_utf8(v).ok())
    }

    /// Sets a header, in place of any of the same name.
    pub fn set(&mut self, name: &str, value: impl AsRef<[u8]>) {
        *self = Self::build(|put| {
            self.iter().filter(|(n, _)| *n != name).for_each(|(n, v)| put(n, v));
            put(name, value.as_ref());
        });
    }

    /// Those whose name `keep` accepts.
    #[must_use]
    pub fn filtered(&self, keep: impl Fn(&str) -> bool) -> Self {
        Self::build(|put| self.iter().filter(|(n, _)| keep(n)).for_each(|(n, v)| put(n, v)))
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.iter().map(|(n, v)| (n, String::from_utf8_lossy(v)));
        f.debug_map().entries(all).finish()
    }
}

/// A record as the log holds it: bytes, untouched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawRecord {
    /// Where it stands.
    pub position: Position,
    /// Key bytes as text; lossy when they are not UTF-8.
    pub key: String,
    /// Value bytes; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Headers.
    pub headers: Headers,
    /// When the broker or producer stamped it.
    pub at: Timestamp,
}

/// A decoded record and what travelled with it.
#[derive(Clone, Debug)]
pub struct Delivery<T> {
    /// The record.
    pub input: T,
    /// Its key.
    pub key: String,
    /// Where it stands.
    pub position: Position,
    /// Its headers.
    pub headers: Headers,
    /// When it was stamped.
    pub at: Timestamp,
}

/// Turns framed bytes into records. The connector that knows the registry implements it.
pub trait Decoder: Send + Sync {
    /// The writer's schema of a framed value, and the Avro bytes behind the frame.
    ///
    /// # Errors
    /// Input faults for bytes that are not framed or name an unknown schema; a dependency fault when the registry does not answer.
    fn unframe<'a>(&self, value: &'a [u8]) -> Result<(std::sync::Arc<Written>, &'a [u8]), Fault>;
}

/// What a stage reads: one record type, or an enum of several made with [`inputs!`](crate::inputs).
pub trait Input: Sized + Send + 'static {
    /// Topics it comes from.
    fn topics() -> Vec<&'static str>;
    /// Decodes a value of one of those topics.
    ///
    /// # Errors
    /// Input faults for bytes that cannot be read; a dependency fault when the registry does not answer.
    fn decode(topic: &str, value: &[u8], decoder: &dyn Decoder) -> Result<Self, Fault>;
}

/// Decodes one record of a known type.
///
/// # Errors
/// As [`Input::decode`].
pub fn decode<R: Record>(value: &[u8], decoder: &dyn Decoder) -> Result<R, Fault> {
    let (written, bytes) = decoder.unframe(value)?;
    R::from_written(&written, bytes).map_err(|e| Fault::new(FaultCode::RecordUnreadable, e.0))
}

/// Declares what a stage reads: an enum with one variant per topic.
///
/// `inputs! { pub enum Input { Plan(Plan) = PLANS, Verdict(Verdict) = VERDICTS } }`
#[macro_export]
macro_rules! inputs {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($variant:ident($record:ty) = $topic:path),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        $vis enum $name { $(#[doc = "One record of its topic."] $variant(Box<$record>)),+ }

        impl $crate::Input for $name {
            fn topics() -> Vec<&'static str> {
                vec![$($topic.name),+]
            }

            fn decode(topic: &str, value: &[u8], decoder: &dyn $crate::Decoder) -> Result<Self, $crate::Fault> {
                $(if topic == $topic.name {
                    return $crate::decode::<$record>(value, decoder).map(|r| $name::$variant(Box::new(r)));
                })+
                Err($crate::Fault::new($crate::FaultCode::Internal, format!("topic {topic} is not an input of this stage")))
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::Headers;

    #[test]
    fn the_last_of_a_name_counts_and_a_set_one_is_alone() {
        let mut headers = Headers::build(|put| {
            put("a", b"1");
            put("b", &[0xff, 0x00]);
            put("a", b"2");
        });
        assert_eq!(
            (headers.text("a"), headers.text("b"), headers.text("c")),
            (Some("2"), None, None)
        );
        headers.set("a", "3");
        let all: Vec<_> = headers.iter().collect();
        assert_eq!(all, [("b", &[0xff, 0x00][..]), ("a", b"3")]);
        assert_eq!(headers.filtered(|n| n != "b"), Headers::build(|put| put("a", b"3")));
        assert_eq!(Headers::default().iter().count(), 0);
    }
}
