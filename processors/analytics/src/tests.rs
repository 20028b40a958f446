//! The window stage against a direct count of the same events: shuffled, late, idle, with wrong clocks, and moved half-way.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;

use kernel::{Delivery, FaultCode, Headers, Position, Window};
use schemas::Timestamp;
use schemas::records::{Event, Metric};

use crate::{Config, EVENTS_PER_MINUTE_SQL, EventsPerMinute, Input};

/// 2026-01-31T12:00:00Z, a whole minute, microseconds.
const T0: i64 = 1_769_860_800_000_000;
const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const TOTAL: (&str, &str) = ("*", "*");

type Told = BTreeMap<(i64, String, String), (i64, i32)>;

fn stage() -> EventsPerMinute {
    EventsPerMinute::new(Config::default(), EVENTS_PER_MINUTE_SQL).unwrap()
}

fn event(partition: i32, ts: i64, tenant: &str, kind: &str) -> Delivery<Input> {
    let event = Event {
        ts: Timestamp(ts),
        tenant: tenant.into(),
        kind: kind.into(),
        ..Event::default()
    };
    Delivery {
        input: Input::Event(Box::new(event)),
        key: String::new(),
        position: Position {
            topic: "soma.events".into(),
            partition,
            offset: 0,
        },
        headers: Headers::default(),
        at: Timestamp(ts),
    }
}

/// A fixed sequence that looks shuffled: the same on every machine.
fn pattern(n: u64) -> i64 {
    let x = n
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    ((x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 33) as i64
}

/// `n` events over ten minutes in three partitions; each up to `jitter` behind its place.
fn events(n: u64, jitter: i64) -> Vec<Delivery<Input>> {
    let tenants = ["acme", "globex", "initech", "umbrella"];
    let kinds = ["call.ended", "plan.made", "run.ended", "run.started", "verdict.allow"];
    (0..n)
        .map(|i| {
            let place = T0 + i as i64 * 10 * MINUTE / n as i64;
            let ts = place - pattern(i) % jitter.max(1);
            let (tenant, kind) = (
                tenants[pattern(i + n) as usize % 4],
                kinds[pattern(i + 2 * n) as usize % 5],
            );
            event((pattern(i + 3 * n) % 3) as i32, ts, tenant, kind)
        })
        .collect()
}

fn directly(events: &[Delivery<Input>]) -> BTreeMap<(i64, String, String), i64> {
    let mut counts = BTreeMap::new();
    for e in events.iter().map(|d| d.input.event()) {
        let start = e.ts.0 - e.ts.0 % MINUTE;
        *counts.entry((start, e.tenant.clone(), e.kind.clone())).or_default() += 1;
        *counts.entry((start, "*".into(), "*".into())).or_default() += 1;
    }
    counts
}

/// Takes metrics in as a store would, and checks that revisions count up by one from 0.
fn note(told: &mut Told, metrics: &[Metric]) {
    for m in metrics.iter().filter(|m| m.name == "soma_events_per_minute") {
        assert_eq!(m.window_end.0 - m.window_start.0, MINUTE);
        let key = (m.window_start.0, m.labels["tenant"].clone(), m.labels["type"].clone());
        let before = told.insert(key.clone(), (m.value as i64, m.revision));
        assert_eq!(m.revision, before.map_or(0, |b| b.1 + 1), "{key:?}");
    }
}

fn values(told: &Told) -> BTreeMap<(i64, String, String), i64> {
    told.iter().map(|(k, v)| (k.clone(), v.0)).collect()
}

fn newest(batch: &[Delivery<Input>]) -> i64 {
    batch.iter().map(|d| d.at.0).max().unwrap()
}

/// Runs batches, the clock a second behind the newest event of each, then lets time pass until all is told.
fn run(mut stage: EventsPerMinute, batches: &[&[Delivery<Input>]], moved_after: Option<usize>) -> Told {
    let mut told = Told::new();
    let mut now = T0;
    for (i, batch) in batches.iter().enumerate() {
        now = now.max(newest(batch) + SECOND);
        note(&mut told, &stage.on_batch(batch, Timestamp(now)).unwrap());
        if moved_after == Some(i) {
            stage = moved(&stage);
        }
    }
    note(&mut told, &stage.on_tick(Timestamp(now + 2 * MINUTE)).unwrap());
    assert_eq!(
        stage.on_tick(Timestamp(now + 3 * MINUTE)).unwrap(),
        vec![],
        "nothing is told twice"
    );
    told
}

fn moved(from: &EventsPerMinute) -> EventsPerMinute {
    let mut to = stage();
    for p in [2, 0, 1] {
        to.restore(p, from.snapshot(p).unwrap().as_deref()).unwrap();
    }
    to
}

fn find<'a>(metrics: &'a [Metric], name: &str) -> Option<&'a Metric> {
    metrics.iter().find(|m| m.name == name)
}

#[test]
fn shuffled_events_within_the_delay_give_exact_counts_at_once() {
    let events = events(9_000, 4 * SECOND);
    let told = run(stage(), &events.chunks(333).collect::<Vec<_>>(), None);
    assert_eq!(values(&told), directly(&events));
    assert!(told.values().all(|v| v.1 == 0), "no correction was needed");
}

#[test]
fn late_events_correct_their_window_with_the_next_revision() {
    let events = events(9_000, 9 * MINUTE);
    let told = run(stage(), &events.chunks(250).collect::<Vec<_>>(), None);
    assert_eq!(values(&told), directly(&events));
    assert!(told.values().any(|v| v.1 > 3), "closed windows were corrected");
}

#[test]
fn a_late_event_corrects_only_its_series_and_the_total() {
    let mut stage = stage();
    let now = |s: i64| Timestamp(T0 + s * SECOND);
    let both = [
        event(0, T0, "acme", "a"),
        event(0, T0, "acme", "b"),
        event(0, T0 + 70 * SECOND, "acme", "a"),
    ];
    assert_eq!(
        stage.on_batch(&both, now(71)).unwrap().len(),
        3,
        "two series and the total of the first minute"
    );
    let metrics = stage.on_batch(&[event(0, T0 + 1, "acme", "b")], now(72)).unwrap();
    let told: Vec<_> = metrics
        .iter()
        .map(|m| (m.labels["type"].as_str(), m.value, m.revision))
        .collect();
    assert_eq!(told, [("*", 3.0, 1), ("b", 2.0, 1)]);
    let metrics = stage.on_batch(&[event(0, T0 + 1, "globex", "b")], now(73)).unwrap();
    let told: Vec<_> = metrics
        .iter()
        .map(|m| (m.labels["tenant"].as_str(), m.value, m.revision))
        .collect();
    assert_eq!(
        told,
        [("*", 4.0, 2), ("globex", 1.0, 0)],
        "a series that is new to a closed window begins at 0"
    );
}

#[test]
fn a_move_half_way_changes_nothing() {
    for jitter in [4 * SECOND, 9 * MINUTE] {
        let events = events(6_000, jitter);
        let batches: Vec<_> = events.chunks(250).collect();
        let undisturbed = run(stage(), &batches, None);
        for at in [0, 7, 22] {
            assert_eq!(run(stage(), &batches, Some(at)), undisturbed, "moved after batch {at}");
        }
    }
}

#[test]
fn beyond_the_allowed_lateness_events_are_counted_apart() {
    let mut stage = stage();
    let now = Timestamp(T0 + 3 * 60 * MINUTE);
    stage.on_batch(&[event(0, now.0, "acme", "a")], now).unwrap();
    let old = event(1, T0, "acme", "a");
    let metrics = stage.on_batch(&[old.clone(), old.clone()], now).unwrap();
    assert_eq!(metrics.len(), 1);
    let told = find(&metrics, "soma_events_too_late_total").unwrap();
    assert_eq!((told.value, told.revision), (2.0, 0));
    assert_eq!((told.labels["tenant"].as_str(), told.labels["type"].as_str()), TOTAL);
    let mut stage = moved(&stage);
    stage.on_batch(&[event(0, now.0, "acme", "a")], now.plus_ms(1)).unwrap();
    stage.on_tick(now.plus_ms(20_000)).unwrap();
    let metrics = stage.on_batch(&[old], now.plus_ms(30_000)).unwrap();
    let told = find(&metrics, "soma_events_too_late_total").unwrap();
    assert_eq!((told.value, told.revision), (3.0, 1), "the count goes on after a move");
}

#[test]
fn wrong_clocks_are_counted_apart_and_do_not_move_the_watermark() {
    let mut stage = stage();
    let now = Timestamp(T0 + 30 * SECOND);
    stage.on_batch(&[event(0, T0 + 30 * SECOND, "acme", "a")], now).unwrap();
    let before = stage.watermark();
    let wrong = [0, i64::MIN, i64::MAX, now.0 + 25 * 60 * MINUTE].map(|ts| event(0, ts, "acme", "a"));
    let metrics = stage.on_batch(&wrong, now).unwrap();
    let told = find(&metrics, "soma_events_clock_wrong_total").unwrap();
    assert_eq!((metrics.len(), told.value), (1, 4.0));
    assert_eq!(stage.watermark(), before);
    // Ahead, but believable: it is counted in its window and still closes nothing.
    assert_eq!(
        stage
            .on_batch(&[event(0, now.0 + 5 * MINUTE, "acme", "a")], now)
            .unwrap(),
        vec![]
    );
    assert_eq!(stage.watermark(), before);
}

#[test]
fn a_slow_partition_holds_the_watermark_until_it_is_idle() {
    let mut stage = stage();
    let at = |s: i64| Timestamp(T0 + s * SECOND);
    let of = |partition, s: i64| event(partition, at(s).0, "acme", "a");
    stage.on_batch(&[of(0, 0), of(1, 10)], at(10)).unwrap();
    assert_eq!(stage.watermark(), Some(at(-5)));
    assert_eq!(stage.on_batch(&[of(1, 10)], at(60)).unwrap(), vec![]);
    assert_eq!(stage.watermark(), Some(at(5)), "partition 0 is idle and does not count");
    assert_eq!(stage.on_batch(&[of(0, 66)], at(66)).unwrap(), vec![]);
    assert_eq!(stage.watermark(), Some(at(5)), "partition 1 is slow and holds");
    let metrics = stage.on_batch(&[of(0, 70)], at(70)).unwrap();
    assert_eq!(stage.watermark(), Some(at(65)), "partition 1 is idle");
    assert_eq!(metrics.first().map(|m| m.value), Some(3.0));
}

#[test]
fn a_partition_taken_over_gets_time_to_bring_its_backlog() {
    let mut stage = stage();
    stage.restore(0, None).unwrap();
    stage.restore(1, None).unwrap();
    let now = Timestamp(T0 + 10 * 60 * MINUTE);
    assert_eq!(stage.on_batch(&[event(0, now.0, "acme", "a")], now).unwrap(), vec![]);
    let backlog = [event(1, T0, "acme", "a"), event(1, T0 + 8 * MINUTE, "acme", "a")];
    let metrics = stage.on_batch(&backlog, now.plus_ms(5_000)).unwrap();
    assert!(
        find(&metrics, "soma_events_too_late_total").is_none(),
        "ten hours old, and not late"
    );
    assert_eq!(metrics.first().map(|m| (m.window_start.0, m.value)), Some((T0, 1.0)));
}

#[test]
fn without_records_the_clock_closes_windows() {
    let mut stage = stage();
    stage.on_batch(&[event(0, T0, "acme", "a")], Timestamp(T0)).unwrap();
    let due = T0 + MINUTE + 15 * SECOND;
    assert_eq!(stage.on_tick(Timestamp(due - 1)).unwrap(), vec![]);
    let metrics = stage.on_tick(Timestamp(due)).unwrap();
    assert_eq!(metrics.len(), 2);
    assert!(
        metrics
            .iter()
            .all(|m| m.value == 1.0 && m.revision == 0 && m.emitted_at.0 == due)
    );
    assert_eq!(stage.on_tick(Timestamp(due + 1)).unwrap(), vec![]);
}

#[test]
fn what_can_no_longer_change_is_forgotten() {
    let mut stage = stage();
    stage.on_batch(&[event(0, T0, "acme", "a")], Timestamp(T0)).unwrap();
    let full = stage.snapshot(0).unwrap().unwrap().len();
    stage.on_tick(Timestamp(T0 + 3 * 60 * MINUTE)).unwrap();
    assert!(stage.snapshot(0).unwrap().unwrap().len() < full);
    stage.release(0);
    assert_eq!((stage.snapshot(0).unwrap(), stage.watermark()), (None, None));
}

#[test]
fn bad_settings_sql_and_snapshots_are_refused() {
    let config = Config {
        idle_ms: 0,
        watermark_delay_ms: -1,
        ..Config::default()
    };
    let faults = EventsPerMinute::new(config, "SELECT 1 FROM nowhere").err().unwrap();
    let paths: Vec<_> = faults.iter().map(|f| f.path.as_str()).collect();
    assert_eq!(paths, ["watermark_delay_ms", "idle_ms", "sql"]);
    let seconds = EVENTS_PER_MINUTE_SQL.replace("1 minute", "1 second");
    let mut stage = EventsPerMinute::new(Config::default(), &seconds).unwrap();
    let fault = stage
        .on_batch(&[event(0, T0 + SECOND, "acme", "a")], Timestamp(T0))
        .unwrap_err();
    assert_eq!(fault.code, FaultCode::ConfigInvalid);
    assert_eq!(
        stage.restore(0, Some(b"\0")).unwrap_err().code,
        FaultCode::StateUnreadable
    );
}
