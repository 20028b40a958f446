//! A compacted topic in memory: the airports of the flights, as instances follow them.

use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use kernel::Fault;
use schemas::Timestamp;

use super::world::{Chance, long, text};
use crate::streaming::{Follow, Looked, TakeIn};

pub(super) const AIRPORTS: &str = "demo.airports";
pub(super) const AIRPORT_ID: i32 = 42;
pub(super) const AIRPORT: &str = r#"{"type":"record","name":"Airport","namespace":"demo","fields":[
  {"name":"code","type":["null","string"],"default":null},{"name":"state","type":"string"},{"name":"feet","type":"int"}]}"#;

/// Airports of the flights: state, and feet above the sea. San Francisco is left out, so that somebody finds nothing.
pub(super) const KNOWN: &[(&str, &str, i64)] = &[
    ("ATL", "GA", 1_026),
    ("BOS", "MA", 20),
    ("DEN", "CO", 5_434),
    ("JFK", "NY", 13),
    ("LAX", "CA", 128),
    ("ORD", "IL", 680),
    ("PHX", "AZ", 1_135),
    ("SEA", "WA", 433),
];

/// A framed airport.
pub(super) fn airport(code: Option<&str>, state: &str, feet: i64) -> Vec<u8> {
    let mut out = vec![0];
    out.extend(AIRPORT_ID.to_be_bytes());
    long(&mut out, i64::from(code.is_some()));
    code.into_iter().for_each(|code| text(&mut out, code));
    text(&mut out, state);
    long(&mut out, feet);
    out
}

/// As a table.
pub(super) fn airports(all: &[(&str, &str, i64)]) -> RecordBatch {
    let columns: [(&str, ArrayRef); 3] = [
        ("code", Arc::new(StringArray::from_iter_values(all.iter().map(|a| a.0)))),
        (
            "state",
            Arc::new(StringArray::from_iter_values(all.iter().map(|a| a.1))),
        ),
        ("feet", Arc::new(Int64Array::from_iter_values(all.iter().map(|a| a.2)))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

/// The topic's log.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<Looked>>>);

impl Log {
    /// Writes a record; its partition follows from its key.
    pub(super) fn write(&self, key: &str, value: Option<Vec<u8>>) {
        let mut all = self.0.lock().unwrap();
        let partition = i32::from(key.as_bytes().first().is_some_and(|b| b % 2 == 1));
        let offset = all.iter().filter(|l| l.partition == partition).count() as i64;
        let at = Timestamp(all.len() as i64);
        all.push(Looked {
            topic: AIRPORTS.into(),
            partition,
            offset,
            at,
            key: key.as_bytes().to_vec(),
            value,
        });
    }

    pub(super) fn write_all(&self, all: &[(&str, &str, i64)]) {
        all.iter()
            .for_each(|(code, state, feet)| self.write(code, Some(airport(Some(code), state, *feet))));
    }
}

/// Reads it for one instance, a few records at a time.
pub(super) struct Follower {
    log: Log,
    at: usize,
    chance: Chance,
}

impl Follower {
    pub(super) fn of(log: &Log) -> Self {
        Self {
            log: log.clone(),
            at: 0,
            chance: Chance(0x5eed),
        }
    }

    fn some(&mut self, most: usize) -> Vec<Looked> {
        let found: Vec<_> = self
            .log
            .0
            .lock()
            .unwrap()
            .iter()
            .skip(self.at)
            .take(most)
            .cloned()
            .collect();
        self.at += found.len();
        found
    }
}

impl Follow for Follower {
    fn at_hand(&mut self) -> Result<Vec<Looked>, Fault> {
        let most = self.chance.below(3);
        Ok(self.some(most))
    }

    fn to_the_ends(&mut self, take_in: &mut TakeIn<'_>) -> Result<(), Fault> {
        loop {
            let some = self.some(3);
            if some.is_empty() {
                return Ok(());
            }
            take_in(some)?;
        }
    }
}
