//! What a stage is given: a record, where it came from, and what travelled with it.

use std::fmt;

use schemas::{Record, Timestamp, Written};

use crate::fault::{Fault, FaultCode};

/// Where a record stands in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// Topic.
    pub topic: String,
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

/// Headers of a record, in order. Names may repeat; the last one counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, Vec<u8>)>);

impl Headers {
    /// The text of a header; `None` when it is absent or not UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .rev()
            .find(|(n, _)| n == name)
            .and_then(|(_, v)| std::str::from_utf8(v).ok())
    }

    /// Sets a header, in place of any of the same name.
    pub fn set(&mut self, name: &str, value: impl Into<Vec<u8>>) {
        self.0.retain(|(n, _)| n != name);
        self.0.push((name.to_owned(), value.into()));
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
