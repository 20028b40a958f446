//! A partition's keys in memory.

use std::collections::{BTreeSet, HashMap};

use kernel::Fault;
use schemas::Timestamp;

use super::{Bytes, Change, Marks, Table, marks};

#[derive(Default)]
pub(super) struct Memory {
    rows: HashMap<String, Bytes>,
    timers: BTreeSet<(Timestamp, String, String)>,
    open: BTreeSet<String>,
    bytes: usize,
}

impl Memory {
    fn put(&mut self, key: String, value: Option<Bytes>) {
        let size = key.len();
        let (added, before) = match value {
            Some(bytes) => (size + bytes.len(), self.rows.insert(key, bytes)),
            None => (0, self.rows.remove(&key)),
        };
        self.bytes += added;
        self.bytes -= before.map_or(0, |bytes| size + bytes.len());
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
        Ok(self.rows.get(key).cloned())
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
            self.put(change.key, change.bytes);
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
        self.put(key, value.map(Into::into));
        Ok(())
    }

    fn restored(&mut self, _: i64, _: Timestamp) -> Result<(), Fault> {
        let mut all = Vec::new();
        for (key, bytes) in &self.rows {
            let marks = marks(key, bytes)?;
            if marks != Marks::default() {
                all.push((key.clone(), marks));
            }
        }
        all.into_iter().for_each(|(key, marks)| self.mark(&key, marks));
        Ok(())
    }

    fn keys(&self) -> Result<Vec<String>, Fault> {
        Ok(self.rows.keys().cloned().collect())
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
