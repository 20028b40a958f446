//! A partition's keys on disk: one embedded database per stage instance, and in it for each partition the states, an index of
//! timers, an index of keys with open actions, and up to where the changelog is known.
//!
//! The changelog stays the truth. A batch of changes and the checkpoint behind them are written together once their
//! transaction is true, so the checkpoint may lag behind what is held, never run ahead of it; what lies behind it is read again
//! at the next start and changes nothing. What was read before a checkpoint this old may hide removals the broker has compacted
//! away since: it is dropped, and everything is read again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode};
use kernel::{Fault, FaultCode};
use schemas::Timestamp;

use super::{Bytes, Change, Marks, Table, marks};

/// Half of the time the broker keeps the mark of a removal (`delete.retention.ms`, a day).
const CHECKPOINT_AGE_MAX_MICROS: i64 = 12 * 3600 * 1_000_000;
/// Bytes gathered while a changelog is read. Most keys are written many times in it: only the last is kept.
const RESTORE_BYTES: usize = if cfg!(test) { 1000 } else { 64 << 20 };
/// Memory of a partition's states before they go to disk; small, since a start reads back what had not.
const STATES_BYTES: u64 = 4 << 20;
/// The same of each of its indexes. They are a few small rows written again with every transaction: with more, memory would fill for hours.
const INDEX_BYTES: u64 = 1 << 20;
/// Read cache of a stage; small, since what is asked for was mostly written lately and is in memory anyway. It fills for an hour, and memory with it.
const CACHE_BYTES: u64 = 8 << 20;
/// The engine takes keys of up to 64 KiB, timers' names included.
const KEY_BYTES_MAX: usize = 32 << 10;
const CHECKPOINT: &str = "checkpoint";
const STATES: &str = "states";

fn failed(what: &str, e: &fjall::Error) -> Fault {
    let detail = format!(
        "state on disk: {what}: {e}. Is the disk full, or the folder another process's? What the folder holds can be read back from the changelog: it may be deleted while the process is stopped"
    );
    Fault::new(FaultCode::StateOnDisk, detail)
}

/// The database of a stage instance.
#[derive(Clone)]
pub(super) struct Disk(Database);

impl Disk {
    pub(super) fn open(folder: &Path) -> Result<Self, Fault> {
        let shown = folder.display();
        std::fs::create_dir_all(folder)
            .map_err(|e| Fault::new(FaultCode::StateOnDisk, format!("state_dir {shown}: {e}")))?;
        let database = Database::builder(folder)
            .worker_threads(1)
            .cache_size(CACHE_BYTES)
            .open()
            .map_err(|e| failed(&format!("open {shown}"), &e))?;
        Ok(Self(database))
    }

    pub(super) fn table(&self, partition: i32) -> Result<Rows, Fault> {
        let open = |what: &str| keyspace(&self.0, &format!("p{partition}.{what}"));
        Ok(Rows {
            states: open(STATES)?,
            timers: open("timers")?,
            open: open("open")?,
            place: open("place")?,
            database: self.0.clone(),
            pending: BTreeMap::new(),
            pending_bytes: 0,
            writer: None,
            opened: None,
            floor: Vec::new(),
            next_due: None,
        })
    }
}

/// A database that a thread of its own opens.
pub(super) struct Opening {
    folder: PathBuf,
    thread: Option<JoinHandle<Result<Disk, Fault>>>,
    disk: Option<Disk>,
}

impl Opening {
    pub(super) fn start(folder: PathBuf) -> Self {
        let opened = folder.clone();
        Self {
            folder,
            thread: Some(std::thread::spawn(move || Disk::open(&opened))),
            disk: None,
        }
    }

    /// Waits for it; `None` when it was waited for before.
    fn finish(&mut self) -> Option<Result<Disk, Fault>> {
        let panicked = |_| Fault::new(FaultCode::Internal, "opening state panicked");
        Some(self.thread.take()?.join().map_err(panicked).flatten())
    }

    /// The database, waited for while it is not open.
    pub(super) fn get(&mut self) -> Result<Disk, Fault> {
        let disk = match (self.disk.take(), self.finish()) {
            (Some(disk), _) => disk,
            (None, Some(disk)) => disk?,
            (None, None) => Disk::open(&self.folder)?,
        };
        Ok(self.disk.insert(disk).clone())
    }
}

impl Drop for Opening {
    /// The folder is locked until it is done: the next to open it must find it free.
    fn drop(&mut self) {
        drop(self.finish());
    }
}

fn keyspace(of: &Database, name: &str) -> Result<Keyspace, Fault> {
    let memory = if name.ends_with(STATES) {
        STATES_BYTES
    } else {
        INDEX_BYTES
    };
    let options = || KeyspaceCreateOptions::default().max_memtable_size(memory);
    of.keyspace(name, options).map_err(|e| failed(name, &e))
}

/// One partition.
pub(super) struct Rows {
    database: Database,
    states: Keyspace,
    timers: Keyspace,
    open: Keyspace,
    place: Keyspace,
    /// Rows of the changelog not written yet, and their size.
    pending: BTreeMap<String, Option<Vec<u8>>>,
    pending_bytes: usize,
    /// Writes the rows gathered before them.
    writer: Option<JoinHandle<fjall::Result<()>>>,
    /// Keys with open actions while the changelog is read: most are opened and closed many times in it.
    opened: Option<BTreeSet<String>>,
    /// No timer lies before: what was removed there need not be walked over again.
    floor: Vec<u8>,
    next_due: Option<Timestamp>,
}

/// Sorts by time, then key, then name.
fn timer_key(due: Timestamp, key: &str, name: &str) -> Vec<u8> {
    // Flipping the sign makes the order of bytes the order of numbers.
    let due = (due.0 ^ i64::MIN).to_be_bytes();
    let length = u32::try_from(key.len()).unwrap_or(u32::MAX).to_be_bytes();
    [due.as_slice(), &length, key.as_bytes(), name.as_bytes()].concat()
}

fn timer_of(bytes: &[u8]) -> Option<(Timestamp, String, String)> {
    let (due, rest) = bytes.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (key, name) = rest.split_at_checked(length)?;
    let text = |b: &[u8]| String::from_utf8(b.to_vec()).ok();
    Some((Timestamp(i64::from_be_bytes(*due) ^ i64::MIN), text(key)?, text(name)?))
}

fn write_table(states: &Keyspace, rows: BTreeMap<String, Option<Vec<u8>>>) -> fjall::Result<()> {
    let mut table = states.start_ingestion()?;
    for (key, value) in rows {
        match value {
            Some(bytes) => table.write(key.as_str(), bytes)?,
            None => table.write_tombstone(key.as_str())?,
        }
    }
    table.finish()
}

impl Rows {
    fn batch(&self) -> OwnedWriteBatch {
        self.database.batch().durability(Some(PersistMode::Buffer))
    }

    fn set_timers(&mut self, batch: &mut OwnedWriteBatch, key: &str, marks: &Marks) {
        for t in &marks.timers {
            let at = timer_key(t.due, key, &t.name);
            self.next_due = Some(self.next_due.map_or(t.due, |known| known.min(t.due)));
            if at < self.floor {
                self.floor.clone_from(&at);
            }
            batch.insert(&self.timers, at, "");
        }
    }

    fn put_place(&self, batch: &mut OwnedWriteBatch, next: i64, now: Timestamp) {
        let place = [next.to_be_bytes(), now.0.to_be_bytes()].concat();
        batch.insert(&self.place, CHECKPOINT, place);
    }

    /// Writes the gathered rows into `batch`, or, when there are many, past journal and memory as a sorted table: then they are
    /// kept whatever becomes of the batch, which is as well, since the checkpoint comes behind them.
    fn flush(&mut self, batch: &mut OwnedWriteBatch, bulk: bool) -> Result<(), Fault> {
        let mut opened = match self.opened.take() {
            Some(opened) => opened,
            None => Self::names(&self.open)?.into_iter().collect(),
        };
        let rows = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        for (key, value) in &rows {
            let marks = value
                .as_deref()
                .map_or_else(|| Ok(Marks::default()), |bytes| marks(key, bytes))?;
            if !marks.performing.is_empty() {
                opened.insert(key.clone());
            } else {
                opened.remove(key);
            }
            self.set_timers(batch, key, &marks);
        }
        self.opened = Some(opened);
        if bulk {
            self.written()?;
            let states = self.states.clone();
            self.writer = Some(std::thread::spawn(move || write_table(&states, rows)));
            return Ok(());
        }
        for (key, value) in rows {
            match value {
                Some(bytes) => batch.insert(&self.states, key, bytes),
                None => batch.remove(&self.states, key),
            }
        }
        Ok(())
    }

    /// Waits for the table being written, if any: tables take effect in the order of their start.
    fn written(&mut self) -> Result<(), Fault> {
        let Some(writer) = self.writer.take() else {
            return Ok(());
        };
        let panicked = |_| Fault::new(FaultCode::Internal, "writing state panicked");
        writer.join().map_err(panicked)?.map_err(|e| failed("bulk write", &e))
    }

    /// Waits for a table nobody asks for any more: it must not take effect over what is written after it.
    fn give_up(&mut self) {
        if let Err(fault) = self.written() {
            tracing::warn!(detail = %fault.detail, "a table of state was not written; it is read again");
        }
    }

    /// Looks for the first timer that is left.
    fn seek(&mut self) -> Result<(), Fault> {
        let first = self.timers.range(self.floor.clone()..).next();
        let first = first.map(fjall::Guard::key).transpose();
        let first = first.map_err(|e| failed("timers", &e))?;
        self.next_due = first.as_deref().and_then(timer_of).map(|t| t.0);
        if let Some(key) = first {
            self.floor = key.to_vec();
        }
        Ok(())
    }

    /// The index may name timers that a changelog read back has since moved or removed.
    fn has(&self, timer: &(Timestamp, String, String)) -> Result<bool, Fault> {
        let (due, key, name) = timer;
        let Some(bytes) = self.get(key)? else { return Ok(false) };
        Ok(marks(key, &bytes)?
            .timers
            .iter()
            .any(|t| t.due == *due && t.name == *name))
    }

    fn names(of: &Keyspace) -> Result<Vec<String>, Fault> {
        let keys = of.iter().map(|row| row.key().map_err(|e| failed("keys", &e)));
        keys.map(|key| Ok(String::from_utf8_lossy(&key?).into_owned()))
            .collect()
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl Table for Rows {
    fn get(&self, key: &str) -> Result<Option<Bytes>, Fault> {
        if key.len() > KEY_BYTES_MAX {
            let detail = format!(
                "a key of {} bytes; state on disk takes up to {KEY_BYTES_MAX}",
                key.len()
            );
            return Err(Fault::new(FaultCode::RecordInvalid, detail));
        }
        let bytes = self.states.get(key).map_err(|e| failed("read", &e))?;
        Ok(bytes.map(|b| Bytes::from(&*b)))
    }

    fn apply(&mut self, changes: Vec<Change>, next: Option<i64>, now: Timestamp) -> Result<(), Fault> {
        let mut batch = self.batch();
        let mut gone = false;
        for change in changes {
            for t in &change.before.timers {
                gone |= self.next_due == Some(t.due);
                batch.remove(&self.timers, timer_key(t.due, &change.key, &t.name));
            }
            match (change.before.performing.is_empty(), change.marks.performing.is_empty()) {
                (false, true) => batch.remove(&self.open, change.key.as_str()),
                (true, false) => batch.insert(&self.open, change.key.as_str(), ""),
                _ => {}
            }
            self.set_timers(&mut batch, &change.key, &change.marks);
            match change.bytes {
                Some(bytes) => batch.insert(&self.states, change.key.as_str(), &*bytes),
                None => batch.remove(&self.states, change.key.as_str()),
            }
        }
        if let Some(next) = next {
            self.put_place(&mut batch, next, now);
        }
        batch.commit().map_err(|e| failed("write", &e))?;
        if gone { self.seek() } else { Ok(()) }
    }

    fn checkpoint(&mut self, now: Timestamp) -> Result<Option<i64>, Fault> {
        let place = self.place.get(CHECKPOINT).map_err(|e| failed("checkpoint", &e))?;
        let number = |bytes: &[u8]| bytes.try_into().ok().map(i64::from_be_bytes);
        let known = place.and_then(|p| Some((number(p.get(..8)?)?, number(p.get(8..)?)?)));
        let fresh = known.filter(|(_, at)| now.0.saturating_sub(*at) < CHECKPOINT_AGE_MAX_MICROS);
        if fresh.is_none() {
            self.clear()?;
        }
        Ok(fresh.map(|(next, _)| next))
    }

    fn clear(&mut self) -> Result<(), Fault> {
        self.give_up();
        // The checkpoint first: a death half-way must not leave one that promises what is gone.
        for part in [&mut self.place, &mut self.states, &mut self.timers, &mut self.open] {
            // Not the engine's own clear: it stays in the journal, and replayed at the next start it would take with it the
            // tables that were written past the journal since.
            if part.is_empty().map_err(|e| failed("clear", &e))? {
                continue;
            }
            let name = part.name().to_string();
            self.database
                .delete_keyspace(part.clone())
                .map_err(|e| failed("clear", &e))?;
            *part = keyspace(&self.database, &name)?;
        }
        self.pending.clear();
        (self.pending_bytes, self.opened, self.floor, self.next_due) = (0, None, Vec::new(), None);
        Ok(())
    }

    fn restore(&mut self, key: String, value: Option<&[u8]>) -> Result<(), Fault> {
        self.pending_bytes += key.len() + value.map_or(0, <[u8]>::len);
        self.pending.insert(key, value.map(<[u8]>::to_vec));
        if self.pending_bytes < RESTORE_BYTES {
            return Ok(());
        }
        let mut batch = self.batch();
        self.flush(&mut batch, true)?;
        batch.commit().map_err(|e| failed("write", &e))
    }

    fn restored(&mut self, next: i64, now: Timestamp) -> Result<(), Fault> {
        let mut batch = self.batch();
        self.written()?;
        self.flush(&mut batch, false)?;
        if let Some(opened) = self.opened.take() {
            let before = Self::names(&self.open)?.into_iter();
            before
                .filter(|k| !opened.contains(k))
                .for_each(|k| batch.remove(&self.open, k));
            opened.into_iter().for_each(|k| batch.insert(&self.open, k, ""));
        }
        self.put_place(&mut batch, next, now);
        batch.commit().map_err(|e| failed("write", &e))?;
        self.floor.clear();
        self.seek()
    }

    fn keys(&self) -> Result<Vec<String>, Fault> {
        Self::names(&self.states)
    }

    fn performing(&self) -> Result<Vec<String>, Fault> {
        Self::names(&self.open)
    }

    fn due(&mut self, now: Timestamp, max: usize) -> Result<Vec<(Timestamp, String, String)>, Fault> {
        let mut ready = Vec::new();
        let mut stale = Vec::new();
        for row in self.timers.range(self.floor.clone()..) {
            let bytes = row.key().map_err(|e| failed("timers", &e))?;
            let Some(timer) = timer_of(&bytes).filter(|t| t.0 <= now && ready.len() < max) else {
                break;
            };
            if self.has(&timer)? {
                ready.push(timer);
            } else {
                stale.push(bytes);
            }
        }
        if !stale.is_empty() {
            let mut batch = self.batch();
            stale.into_iter().for_each(|key| batch.remove(&self.timers, key));
            batch.commit().map_err(|e| failed("write", &e))?;
            self.seek()?;
        }
        Ok(ready)
    }

    fn next_due(&self) -> Option<Timestamp> {
        self.next_due
    }

    fn len(&self) -> usize {
        self.states.approximate_len()
    }

    fn timers_len(&self) -> usize {
        self.timers.approximate_len()
    }

    fn bytes(&self) -> usize {
        usize::try_from(self.states.disk_space() + self.timers.disk_space()).unwrap_or(usize::MAX)
    }
}
