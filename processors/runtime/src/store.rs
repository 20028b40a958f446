//! State of a stage's keys: an in-memory table per partition, the fold of the changelog. Changes go through an overlay that
//! becomes true only with its transaction.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use kernel::{Fault, FaultCode, Headers, RawEmit, State, Timer};
use schemas::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Version of the envelope. A higher one found in a changelog was written by a newer build: refuse to start.
const VERSION: u32 = 1;

/// What the changelog holds per key.
#[derive(Serialize, Deserialize)]
struct Envelope<S> {
    v: u32,
    s: S,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    t: Vec<Timer>,
    /// Outside actions asked for and not yet answered.
    #[serde(default, skip_serializing_if = "is_zero")]
    p: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// A key's state with its timers and open actions.
pub(crate) struct Loaded<S> {
    pub(crate) state: S,
    pub(crate) timers: Vec<Timer>,
    pub(crate) performing: u32,
}

type Table = HashMap<String, Box<[u8]>>;
type TimerKey = (Timestamp, i32, String, String);

/// All keys of a stage instance.
#[derive(Default)]
pub(crate) struct Store {
    partitions: BTreeMap<i32, Table>,
    timers: BTreeSet<TimerKey>,
}

/// Changes of one batch, by partition and key; `None` removes the key.
#[derive(Default)]
pub(crate) struct Overlay {
    changes: BTreeMap<(i32, String), Option<Box<[u8]>>>,
}

impl Store {
    /// Takes a partition over, empty.
    pub(crate) fn own(&mut self, partition: i32) {
        self.release(partition);
        self.partitions.insert(partition, Table::new());
    }

    /// Gives a partition up.
    pub(crate) fn release(&mut self, partition: i32) {
        self.partitions.remove(&partition);
        self.timers.retain(|t| t.1 != partition);
    }

    /// Takes one changelog record in; [`Store::restored`] reads what is left at the end, since most are overwritten.
    pub(crate) fn restore(&mut self, partition: i32, key: String, value: Option<Vec<u8>>) {
        let Some(table) = self.partitions.get_mut(&partition) else {
            return;
        };
        match value {
            Some(bytes) => drop(table.insert(key, bytes.into_boxed_slice())),
            None => drop(table.remove(&key)),
        }
    }

    /// The changelog of a partition has been read: sets its timers.
    pub(crate) fn restored(&mut self, partition: i32) -> Result<(), Fault> {
        let table = self.partitions.get(&partition).into_iter().flatten();
        for (key, bytes) in table {
            for t in header(bytes).map_err(|e| unreadable(key, &e))?.t {
                self.timers.insert((t.due, partition, key.clone(), t.name));
            }
        }
        Ok(())
    }

    /// Every key, in order: what follows from it must not depend on how a table is laid out.
    pub(crate) fn keys(&self) -> Vec<(i32, String)> {
        let keys = self
            .partitions
            .iter()
            .flat_map(|(p, table)| table.keys().map(|k| (*p, k.clone())));
        let mut keys: Vec<_> = keys.collect();
        keys.sort();
        keys
    }

    /// Every key with its state's bytes.
    pub(crate) fn entries(&self) -> Vec<(i32, String, Vec<u8>)> {
        let tables = self.partitions.iter();
        let entries = tables.flat_map(|(p, table)| table.iter().map(|(k, v)| (*p, k.clone(), v.to_vec())));
        entries.collect()
    }

    /// Keys of a partition with outside actions not yet answered.
    pub(crate) fn performing(&self, partition: i32) -> Vec<String> {
        let Some(table) = self.partitions.get(&partition) else {
            return Vec::new();
        };
        let open = |bytes: &[u8]| header(bytes).is_ok_and(|h| h.p > 0);
        let keys = table.iter().filter(|(_, bytes)| open(bytes)).map(|(k, _)| k.clone());
        let mut keys: Vec<_> = keys.collect();
        keys.sort();
        keys
    }

    pub(crate) fn len(&self) -> usize {
        self.partitions.values().map(HashMap::len).sum()
    }

    pub(crate) fn timers_len(&self) -> usize {
        self.timers.len()
    }

    /// Timers due at `now`, at most `max`.
    pub(crate) fn due(&self, now: Timestamp, max: usize) -> Vec<(i32, String, Timer)> {
        let ready = self.timers.iter().take_while(|t| t.0 <= now).take(max);
        ready
            .map(|(due, p, key, name)| {
                (
                    *p,
                    key.clone(),
                    Timer {
                        name: name.clone(),
                        due: *due,
                    },
                )
            })
            .collect()
    }

    /// When the next timer is due.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.timers.first().map(|t| t.0)
    }

    /// State of a key, as the overlay or else the table has it.
    pub(crate) fn load<S: State>(&self, overlay: &Overlay, partition: i32, key: &str) -> Result<Loaded<S>, Fault> {
        let bytes = match overlay.changes.get(&(partition, key.to_owned())) {
            Some(change) => change.as_deref(),
            None => self
                .partitions
                .get(&partition)
                .and_then(|t| t.get(key))
                .map(AsRef::as_ref),
        };
        let Some(bytes) = bytes else {
            return Ok(Loaded {
                state: S::default(),
                timers: Vec::new(),
                performing: 0,
            });
        };
        let envelope: Envelope<S> = serde_json::from_slice(bytes).map_err(|e| unreadable(key, &e.to_string()))?;
        if envelope.v > VERSION {
            return Err(unreadable(
                key,
                &format!("it has version {}, this build reads up to {VERSION}", envelope.v),
            ));
        }
        Ok(Loaded {
            state: envelope.s,
            timers: envelope.t,
            performing: envelope.p,
        })
    }

    /// Makes an overlay true, once its transaction is.
    pub(crate) fn apply(&mut self, overlay: Overlay) -> Result<(), Fault> {
        overlay
            .changes
            .into_iter()
            .try_for_each(|((partition, key), value)| self.put(partition, key, value))
    }

    fn put(&mut self, partition: i32, key: String, value: Option<Box<[u8]>>) -> Result<(), Fault> {
        let Some(table) = self.partitions.get_mut(&partition) else {
            return Ok(());
        };
        if let Some(old) = table.get(&key) {
            for t in header(old).map_err(|e| unreadable(&key, &e))?.t {
                self.timers.remove(&(t.due, partition, key.clone(), t.name));
            }
        }
        match value {
            Some(bytes) => {
                for t in header(&bytes).map_err(|e| unreadable(&key, &e))?.t {
                    self.timers.insert((t.due, partition, key.clone(), t.name));
                }
                table.insert(key, bytes);
            }
            None => drop(table.remove(&key)),
        }
        Ok(())
    }
}

impl Overlay {
    /// Puts a key's state; one that equals its default, without timers or open actions, is removed.
    pub(crate) fn save<S: State>(&mut self, partition: i32, key: &str, loaded: Loaded<S>) -> Result<(), Fault> {
        let empty = loaded.timers.is_empty() && loaded.performing == 0 && loaded.state == S::default();
        let value = if empty {
            None
        } else {
            let envelope = Envelope {
                v: VERSION,
                s: loaded.state,
                t: loaded.timers,
                p: loaded.performing,
            };
            let bytes = serde_json::to_vec(&envelope).map_err(|e| Fault::new(FaultCode::Internal, e.to_string()))?;
            Some(bytes.into_boxed_slice())
        };
        self.changes.insert((partition, key.to_owned()), value);
        Ok(())
    }

    /// Whether a change exists for a key the table does not hold, so that removing it need not be written.
    fn is_noop(&self, store: &Store, at: &(i32, String)) -> bool {
        let known = store.partitions.get(&at.0).and_then(|t| t.get(&at.1));
        self.changes
            .get(at)
            .is_some_and(|change| change.as_deref() == known.map(AsRef::as_ref))
    }

    /// The changes as changelog records.
    pub(crate) fn changelog(&self, store: &Store, topic: &str) -> Vec<RawEmit> {
        let written = self.changes.iter().filter(|(at, _)| !self.is_noop(store, at));
        written
            .map(|((partition, key), value)| RawEmit {
                topic: topic.to_owned(),
                partition: Some(*partition),
                key: key.clone(),
                value: value.as_deref().map(<[u8]>::to_vec),
                headers: Headers::default(),
            })
            .collect()
    }
}

/// Reads timers and open actions without reading the state.
fn header(bytes: &[u8]) -> Result<Header, String> {
    let envelope: Envelope<&RawValue> = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    Ok(Header {
        t: envelope.t,
        p: envelope.p,
    })
}

struct Header {
    t: Vec<Timer>,
    p: u32,
}

fn unreadable(key: &str, why: &str) -> Fault {
    let detail =
        format!("state of key {key} cannot be read by this version: {why}; go back to the version that wrote it");
    Fault::new(FaultCode::StateUnreadable, detail)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_store_is_the_fold_of_its_changelog() {
        let mut store = Store::default();
        store.own(0);
        let timer = Timer {
            name: "t".into(),
            due: Timestamp(5),
        };
        let mut overlay = Overlay::default();
        overlay
            .save(
                0,
                "a",
                Loaded {
                    state: 7u32,
                    timers: vec![timer.clone()],
                    performing: 1,
                },
            )
            .unwrap();
        overlay
            .save(
                0,
                "b",
                Loaded {
                    state: 0u32,
                    timers: vec![],
                    performing: 0,
                },
            )
            .unwrap();
        let log = overlay.changelog(&store, "x.state");
        assert_eq!(log.len(), 1, "a default state of an unknown key is not written");
        store.apply(overlay).unwrap();

        let mut again = Store::default();
        again.own(0);
        for record in log {
            again.restore(0, record.key, record.value);
        }
        again.restored(0).unwrap();
        for s in [&store, &again] {
            let loaded = s.load::<u32>(&Overlay::default(), 0, "a").unwrap();
            assert_eq!(
                (loaded.state, loaded.timers, loaded.performing),
                (7, vec![timer.clone()], 1)
            );
            assert_eq!(s.due(Timestamp(5), 9).len(), 1);
            assert_eq!(s.due(Timestamp(4), 9).len(), 0);
            assert_eq!(s.performing(0), vec!["a".to_owned()]);
        }
        let mut overlay = Overlay::default();
        overlay
            .save(
                0,
                "a",
                Loaded {
                    state: 0u32,
                    timers: vec![],
                    performing: 0,
                },
            )
            .unwrap();
        assert!(
            overlay.changelog(&store, "x")[0].value.is_none(),
            "back to the default is a tombstone"
        );
        store.apply(overlay).unwrap();
        assert_eq!((store.len(), store.timers_len()), (0, 0));
    }

    #[test]
    fn a_newer_version_is_refused() {
        let mut store = Store::default();
        store.own(0);
        store.restore(0, "a".into(), Some(br#"{"v":9,"s":1}"#.to_vec()));
        let fault = store.load::<u32>(&Overlay::default(), 0, "a").err().unwrap();
        assert_eq!(fault.code, FaultCode::StateUnreadable);
    }
}
