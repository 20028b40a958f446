//! Which revision rows were told with last, where that does not follow from the kept rows. A log by the time of their windows'
//! ends, each stretch of which is dropped whole.

use std::collections::{BTreeMap, HashMap};

use kernel::{Fault, FaultCode};
use serde::{Deserialize, Serialize};

use super::windows::floor;

const STRETCH: i64 = 3_600_000_000;
const ENTRIES: usize = 4_096;

/// Key, end, revision, and whether it is a row still.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry(String, i64, i32, bool);

/// What was told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    known: HashMap<String, (i64, i32, bool)>,
    /// By stretch, the numbers of its records in the changelog, and keys that may end in it.
    stretches: BTreeMap<i64, (Vec<u64>, Vec<String>)>,
    fresh: BTreeMap<i64, Vec<Entry>>,
    next: u64,
}

impl Told {
    /// The revision a row was told with last.
    pub(crate) fn revision(&self, key: &str) -> Option<i32> {
        self.known.get(key).map(|told| told.1)
    }

    /// The same, where the row still stands.
    pub(crate) fn live(&self, key: &str) -> Option<i32> {
        self.known.get(key).filter(|told| told.2).map(|told| told.1)
    }

    /// The window end it was told with.
    pub(crate) fn end(&self, key: &str) -> i64 {
        self.known.get(key).map_or(0, |told| told.0)
    }

    pub(crate) fn put(&mut self, key: &str, end: i64, revision: i32) {
        self.note(Entry(key.to_owned(), end, revision, true));
    }

    pub(crate) fn remove(&mut self, key: &str, revision: i32) {
        self.note(Entry(key.to_owned(), self.end(key), revision, false));
    }

    fn note(&mut self, entry: Entry) {
        self.know(&entry);
        self.fresh.entry(floor(entry.1, STRETCH)).or_default().push(entry);
    }

    fn know(&mut self, entry: &Entry) {
        self.known.insert(entry.0.clone(), (entry.1, entry.2, entry.3));
        self.stretches
            .entry(floor(entry.1, STRETCH))
            .or_default()
            .1
            .push(entry.0.clone());
    }

    /// Bytes it takes, about.
    pub(crate) fn size(&self) -> usize {
        self.known.len() * 160
    }

    /// Changes since the last call, and stretches that end before `dead` taken away.
    pub(crate) fn changes(&mut self, dead: i64) -> Vec<(String, Option<Vec<u8>>)> {
        let mut out = Vec::new();
        for (stretch, entries) in std::mem::take(&mut self.fresh) {
            for piece in entries.chunks(ENTRIES) {
                self.stretches.entry(stretch).or_default().0.push(self.next);
                out.push((format!("{stretch}|{}", self.next), serde_json::to_vec(piece).ok()));
                self.next += 1;
            }
        }
        while let Some(first) = self
            .stretches
            .first_entry()
            .filter(|e| e.key().saturating_add(STRETCH) <= dead)
        {
            let stretch = *first.key();
            let (numbers, keys) = first.remove();
            for key in keys {
                if self
                    .known
                    .get(&key)
                    .is_some_and(|told| floor(told.0, STRETCH) == stretch)
                {
                    self.known.remove(&key);
                }
            }
            out.extend(numbers.into_iter().map(|number| (format!("{stretch}|{number}"), None)));
        }
        out
    }

    /// Takes back what [`Told::changes`] gave.
    pub(crate) fn restore(&mut self, key: &str, value: Option<&[u8]>) -> Result<(), Fault> {
        let wrong = || {
            Fault::new(
                FaultCode::StateUnreadable,
                format!("told revisions under `{key}` cannot be read"),
            )
        };
        let (stretch, number) = key.split_once('|').ok_or_else(wrong)?;
        let stretch: i64 = stretch.parse().map_err(|_| wrong())?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        self.next = self.next.max(number + 1);
        let Some(value) = value else { return Ok(()) };
        self.stretches.entry(stretch).or_default().0.push(number);
        let entries: Vec<Entry> = serde_json::from_slice(value).map_err(|_| wrong())?;
        entries.iter().for_each(|entry| self.know(entry));
        Ok(())
    }
}
