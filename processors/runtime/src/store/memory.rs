//! A partition's keys in memory.

use std::borrow::Borrow;
use std::collections::{BTreeSet, HashSet};
use std::hash::{Hash, Hasher};

use kernel::Fault;
use schemas::Timestamp;

use super::{Bytes, Change, Marks, Table, marks};

/// A key and its state in one piece of memory, the key's length before them: of a small state most were two allocations and their pointers.
struct Row(Box<[u8]>);

const LENGTH: usize = size_of::<u32>();

impl Row {
    fn new(key: &str, value: &[u8]) -> Self {
        let length = u32::try_from(key.len()).unwrap_or(u32::MAX).to_ne_bytes();
        Self([&length, key.as_bytes(), value].concat().into())
    }

    fn split(&self) -> (&[u8], &[u8]) {
        let (length, rest) = self.0.split_first_chunk::<LENGTH>().unwrap_or((&[0; LENGTH], &[]));
        let length = usize::try_from(u32::from_ne_bytes(*length)).unwrap_or(usize::MAX);
        rest.split_at_checked(length).unwrap_or((rest, &[]))
    }

    fn key(&self) -> String {
        String::from_utf8_lossy(self.split().0).into_owned()
    }

    /// Bytes of key and state.
    fn size(&self) -> usize {
        self.0.len() - LENGTH
    }
}

impl Borrow<[u8]> for Row {
    fn borrow(&self) -> &[u8] {
        self.split().0
    }
}

impl Hash for Row {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.split().0.hash(state);
    }
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        self.split().0 == other.split().0
    }
}

impl Eq for Row {}

#[derive(Default)]
pub(super) struct Memory {
    /// By key.
    rows: HashSet<Row>,
    timers: BTreeSet<(Timestamp, String, String)>,
    open: BTreeSet<String>,
    bytes: usize,
}

impl Memory {
    fn put(&mut self, key: &str, value: Option<&[u8]>) {
        let before = match value {
            Some(bytes) => {
                let row = Row::new(key, bytes);
                self.bytes += row.size();
                self.rows.replace(row)
            }
            None => self.rows.take(key.as_bytes()),
        };
        self.bytes -= before.map_or(0, |row| row.size());
    }

    fn mark(&mut self, key: &str, marks: Marks) {
        let timers = marks.timers.into_iter().map(|t| (t.due, key.to_owned(), t.name));
        self.timers.extend(timers);
        if !marks.performing.is_empty() {
            self.open.insert(key.to_owned());
        }
    }
}

impl Table for Memory {
    fn get(&self, key: &str) -> Result<Option<Bytes>, Fault> {
        Ok(self.rows.get(key.as_bytes()).map(|row| row.split().1.into()))
    }

    fn apply(&mut self, changes: Vec<Change>, _: Option<i64>, _: Timestamp) -> Result<(), Fault> {
        for change in changes {
            for t in change.before.timers {
                self.timers.remove(&(t.due, change.key.clone(), t.name));
            }
            if !change.before.performing.is_empty() {
                self.open.remove(&change.key);
            }
            self.mark(&change.key, change.marks);
            self.put(&change.key, change.bytes.as_deref());
        }
        Ok(())
    }

    fn checkpoint(&mut self, _: Timestamp) -> Result<Option<i64>, Fault> {
        Ok(None)
    }

    fn clear(&mut self) -> Result<(), Fault> {
        *self = Self::default();
        Ok(())
    }

    fn restore(&mut self, key: String, value: Option<&[u8]>) -> Result<(), Fault> {
        self.put(&key, value);
        Ok(())
    }

    fn restored(&mut self, _: i64, _: Timestamp) -> Result<(), Fault> {
        let mut all = Vec::new();
        for row in &self.rows {
            let key = row.key();
            let marks = marks(&key, row.split().1)?;
            if marks != Marks::default() {
                all.push((key, marks));
            }
        }
        all.into_iter().for_each(|(key, marks)| self.mark(&key, marks));
        Ok(())
    }

    fn keys(&self) -> Result<Vec<String>, Fault> {
        Ok(self.rows.iter().map(Row::key).collect())
    }

    fn performing(&self) -> Result<Vec<String>, Fault> {
        Ok(self.open.iter().cloned().collect())
    }

    fn due(&mut self, now: Timestamp, max: usize) -> Result<Vec<(Timestamp, String, String)>, Fault> {
        let ready = self.timers.iter().take_while(|t| t.0 <= now).take(max);
        Ok(ready.cloned().collect())
    }

    fn next_due(&self) -> Option<Timestamp> {
        self.timers.first().map(|t| t.0)
    }

    fn len(&self) -> usize {
        self.rows.len()
    }

    fn timers_len(&self) -> usize {
        self.timers.len()
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_found_by_its_key_replaced_and_removed() {
        let mut memory = Memory::default();
        memory.put("run_1", Some(b"one"));
        memory.put("run_12", Some(b""));
        memory.put("", Some(b"no key"));
        memory.put("run_1", Some(b"another"));
        assert_eq!(memory.get("run_1").unwrap().as_deref(), Some(&b"another"[..]));
        assert_eq!(memory.get("run_12").unwrap().as_deref(), Some(&b""[..]));
        assert_eq!(memory.get("").unwrap().as_deref(), Some(&b"no key"[..]));
        assert_eq!(memory.get("run_").unwrap(), None);
        assert_eq!((memory.len(), memory.bytes()), (3, 12 + 6 + 6));
        memory.put("run_1", None);
        memory.put("run_1", None);
        assert_eq!(
            (memory.get("run_1").unwrap(), memory.len(), memory.bytes()),
            (None, 2, 12)
        );
        let mut keys = memory.keys().unwrap();
        keys.sort();
        assert_eq!(keys, ["", "run_12"]);
    }
}
