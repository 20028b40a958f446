//! The store against its changelog, in memory and on disk.

use super::*;

pub(super) const NOW: Timestamp = Timestamp(1_790_000_000_000_000);

pub(super) fn timer(due: i64) -> Timer {
    Timer {
        name: "t".into(),
        due: Timestamp(due),
    }
}

/// A folder of its own, gone at the end.
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    pub(super) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("soma-store-{name}-{}", std::process::id()));
        let _gone = std::fs::remove_dir_all(&path);
        Self(path)
    }

    pub(super) fn store(&self) -> Store {
        Store::at(StateAt::Disk(self.0.clone()))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

/// A store with a changelog beside it.
pub(super) struct Logged {
    pub(super) store: Store,
    pub(super) log: Vec<(String, Option<Vec<u8>>)>,
}

impl Logged {
    pub(super) fn on(mut store: Store) -> Self {
        store.own(0, NOW).unwrap();
        store.came(0);
        Self { store, log: Vec::new() }
    }

    /// One transaction of one key; with `told`, the broker says where its changelog goes on.
    pub(super) fn put(&mut self, key: &str, state: u32, timers: Vec<Timer>, performing: u32, told: bool) {
        let mut overlay = Overlay::default();
        let mut loaded = self.store.load::<u32>(&overlay, 0, key).unwrap();
        let open = (0..performing).map(|i| format!("call_{i}")).collect();
        (loaded.state, loaded.timers, loaded.performing) = (state, timers, open);
        overlay.save(0, key, loaded).unwrap();
        let written = overlay.changelog(&"x.state".into()).into_iter();
        self.log.extend(written.map(|r| (r.key, r.value.map(|v| v.to_vec()))));
        let next = i64::try_from(self.log.len()).unwrap();
        self.store.apply(overlay, |_| told.then_some(next), NOW).unwrap();
    }

    pub(super) fn read_back(&self, mut store: Store) -> (Store, i64) {
        let from = store.own(0, NOW).unwrap();
        for (key, value) in self.log.iter().skip(usize::try_from(from).unwrap()) {
            store.restore(0, key.clone(), value.as_deref()).unwrap();
        }
        store.restored(0, i64::try_from(self.log.len()).unwrap(), NOW).unwrap();
        assert_eq!(store.entries().unwrap(), vec![], "nothing is there before all is");
        store.came(0);
        (store, from)
    }
}

pub(super) fn facts(store: &mut Store) -> (Vec<(i32, String, Vec<u8>)>, Vec<(i32, String, Timer)>, Vec<String>) {
    (
        store.entries().unwrap(),
        store.due(Timestamp(i64::MAX), 99).unwrap(),
        store.performing(0).unwrap(),
    )
}

pub(super) fn history(logged: &mut Logged) {
    logged.put("a", 7, vec![timer(5)], 1, true);
    logged.put("b", 0, vec![], 0, true);
    logged.put("c", 1, vec![timer(-3)], 0, true);
    logged.put("d", 4, vec![timer(9)], 2, true);
    logged.put("c", 0, vec![], 0, true);
    logged.put("a", 8, vec![timer(6)], 0, true);
}

#[test]
fn a_store_is_the_fold_of_its_changelog_in_memory_and_on_disk() {
    let folder = Folder::new("fold");
    let mut memory = Logged::on(Store::default());
    let mut disk = Logged::on(folder.store());
    for logged in [&mut memory, &mut disk] {
        history(logged);
        assert_eq!(logged.log.len(), 5, "a default state of an unknown key is not written");
        let store = &mut logged.store;
        assert_eq!(store.due(Timestamp(5), 9).unwrap(), vec![]);
        assert_eq!(store.due(Timestamp(6), 9).unwrap(), vec![(0, "a".into(), timer(6))]);
        assert_eq!(store.next_due(), Some(Timestamp(6)));
        assert_eq!(store.performing(0).unwrap(), ["d"]);
        assert_eq!(store.load::<u32>(&Overlay::default(), 0, "a").unwrap().state, 8);
    }
    let again = Folder::new("again");
    let wanted = facts(&mut memory.store);
    assert_eq!(facts(&mut disk.store), wanted);
    for store in [Store::default(), again.store()] {
        let (mut store, from) = memory.read_back(store);
        assert_eq!((from, facts(&mut store)), (0, wanted.clone()));
    }
}

#[test]
fn a_restart_reads_the_tail_only() {
    let folder = Folder::new("tail");
    let mut logged = Logged::on(folder.store());
    history(&mut logged);
    // Written, but the broker did not say where: held, and behind the checkpoint.
    logged.put("e", 5, vec![timer(1)], 1, false);
    logged.put("a", 0, vec![], 0, false);
    let wanted = facts(&mut logged.store);
    let (mut log, store) = (logged.log, std::mem::take(&mut logged.store));
    drop(store);
    // What another instance, or a transaction whose answer was lost, added meanwhile.
    log.push((
        "d".into(),
        Some(br#"{"v":1,"s":9,"t":[{"name":"t","due":2}]}"#.to_vec()),
    ));
    let logged = Logged {
        store: Store::default(),
        log,
    };
    let (mut store, from) = logged.read_back(folder.store());
    assert_eq!(from, 5, "the checkpoint is behind the last place that was told");
    let (entries, due, performing) = facts(&mut store);
    let (whole, _) = logged.read_back(Store::default());
    assert_eq!(entries, whole.entries().unwrap());
    assert_ne!(entries, wanted.0);
    assert_eq!(
        due,
        vec![(0, "e".into(), timer(1)), (0, "d".into(), timer(2))],
        "a timer that has been moved is not due at its former time"
    );
    assert_eq!(performing, ["e"]);
}

#[test]
fn a_long_changelog_goes_to_disk_in_sorted_tables() {
    let folder = Folder::new("long");
    let mut logged = Logged::on(Store::default());
    for i in 0..2_000_u32 {
        let key = format!("k{}", i * 7919 % 97);
        let (timers, performing) = (
            vec![timer(i64::from(i)); usize::from(i % 3 == 0)],
            u32::from(i % 5 == 0),
        );
        let gone = i % 11 == 0;
        let (state, timers, performing) = if gone { (0, vec![], 0) } else { (i, timers, performing) };
        logged.put(&key, state, timers, performing, true);
    }
    let size: usize = logged
        .log
        .iter()
        .map(|(k, v)| k.len() + v.as_ref().map_or(0, Vec::len))
        .sum();
    let wanted = facts(&mut logged.store);
    let (mut store, from) = logged.read_back(folder.store());
    assert_eq!((from, facts(&mut store)), (0, wanted.clone()), "{size} bytes");
    drop(store);
    let (mut store, from) = logged.read_back(folder.store());
    let end = i64::try_from(logged.log.len()).unwrap();
    assert_eq!((from, facts(&mut store)), (end, wanted.clone()), "a restart loses none");
    // Emptied and read again, and then a restart: what emptied it is not done again.
    store.own(0, NOW).unwrap();
    store.clear(0).unwrap();
    for (key, value) in &logged.log {
        store.restore(0, key.clone(), value.as_deref()).unwrap();
    }
    store.restored(0, end, NOW).unwrap();
    store.came(0);
    assert_eq!(facts(&mut store), wanted);
    drop(store);
    let (mut store, from) = logged.read_back(folder.store());
    assert_eq!(
        (from, facts(&mut store)),
        (end, wanted),
        "a restart after it was emptied"
    );
}

#[test]
fn an_old_checkpoint_is_not_trusted() {
    let folder = Folder::new("old");
    let mut logged = Logged::on(folder.store());
    history(&mut logged);
    drop(std::mem::take(&mut logged.store));
    let mut store = folder.store();
    let later = Timestamp(NOW.0 + 13 * 3600 * 1_000_000);
    assert_eq!(store.own(0, later).unwrap(), 0);
    store.came(0);
    assert_eq!(
        store.entries().unwrap(),
        vec![],
        "removals since may be gone from the log"
    );
    drop(store);
    assert_eq!(folder.store().own(0, NOW).unwrap(), 0, "it was emptied for good");
}

#[test]
fn back_to_the_default_is_a_removal() {
    for store in [Store::default(), Folder::new("default").store()] {
        let mut logged = Logged::on(store);
        logged.put("a", 7, vec![timer(5)], 1, true);
        logged.put("a", 0, vec![], 0, true);
        assert!(logged.log[1].1.is_none());
        assert_eq!(facts(&mut logged.store), (vec![], vec![], vec![]));
        assert_eq!(logged.store.bytes(), 0);
        assert_eq!(logged.store.next_due(), None);
    }
}

#[test]
fn counted_actions_of_the_version_before_are_open() {
    let mut store = Store::default();
    store.own(0, NOW).unwrap();
    store.restore(0, "a".into(), Some(br#"{"v":1,"s":1,"p":2}"#)).unwrap();
    store.restored(0, 1, NOW).unwrap();
    store.came(0);
    assert_eq!(store.performing(0).unwrap(), ["a"]);
    let loaded = store.load::<u32>(&Overlay::default(), 0, "a").unwrap();
    assert_eq!(loaded.performing.len(), 2);
}

#[test]
fn a_newer_version_is_refused() {
    let mut store = Store::default();
    store.own(0, NOW).unwrap();
    store.restore(0, "a".into(), Some(br#"{"v":9,"s":1}"#)).unwrap();
    store.came(0);
    let fault = store.load::<u32>(&Overlay::default(), 0, "a").err().unwrap();
    assert_eq!(fault.code, FaultCode::StateUnreadable);
}

#[test]
fn a_folder_in_use_is_refused_by_name() {
    let folder = Folder::new("twice");
    let mut one = folder.store();
    one.own(0, NOW).unwrap();
    let fault = folder.store().own(0, NOW).unwrap_err();
    assert_eq!(fault.code, FaultCode::StateOnDisk);
    assert!(fault.detail.contains("soma-store-twice"), "{fault}");
}
