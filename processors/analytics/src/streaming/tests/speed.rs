//! How fast the local half is. Run by hand, in a release build: `cargo test --release -p soma-analytics --lib speed -- --ignored
//! --nocapture`.

#![allow(clippy::print_stdout, reason = "a measurement for whoever runs it")]

use kernel::{Dataflow, Slab};
use schemas::Timestamp;

use super::followed::{Follower, KNOWN};
use super::world::{MINUTE, World, encode, flights};

const SOURCE: &str =
    "CREATE TABLE flights (id TEXT, date TIMESTAMP, delay BIGINT, distance BIGINT, origin TEXT, destination TEXT,
  WATERMARK FOR date AS date - INTERVAL '10 minutes'
) WITH (connector = 'kafka', type = 'source', topic = 'demo.flights', format = 'avro');
CREATE TABLE airports (code TEXT PRIMARY KEY, state TEXT) WITH (connector = 'kafka', type = 'lookup', topic = 'demo.airports', format = 'avro');
CREATE TABLE out WITH (connector = 'kafka', type = 'sink', topic = 'demo.out', format = 'avro');
INSERT INTO out ";

/// Seconds this thread had a core.
fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

fn measure(name: &str, select: &str) {
    let mut world = World::new(&format!("{SOURCE}{select};"), 1);
    world.airports.write_all(KNOWN);
    let all = flights();
    let begin = all[0].date.unwrap();
    let mut slabs = Vec::new();
    let (slab_rows, rows) = (20_000, 1_000_000usize);
    for first in (0..rows).step_by(slab_rows) {
        let mut slab = Slab {
            topic: "demo.flights".into(),
            ..Slab::default()
        };
        for i in first..first + slab_rows {
            let mut flight = all[i % all.len()].clone();
            // 10,000 records a minute, out of order within a minute.
            flight.date = Some(begin + i as i64 * MINUTE / 10_000 - (i * 7_919 % 60) as i64 * 1_000_000);
            flight.id = format!("{i:08}");
            slab.push(&encode(&flight), i as i64, Timestamp(0));
        }
        slabs.push(slab);
    }
    let subjects = world.program.results().into_iter().map(|d| d.subject);
    let ids = subjects.zip(1..).collect();
    world.settings.state_bytes_max = usize::MAX;
    let mut query = world
        .program
        .start(world.settings.clone(), world.registry(), ids)
        .unwrap()
        .following(Box::new(Follower::of(&world.airports)));
    query.begin(0);
    let now = Timestamp(world.now);
    let (mut best, mut flushing) = (f64::MAX, 0.0);
    for _ in 0..3 {
        query.release(0);
        query.begin(0);
        let start = cpu();
        let mut flushes = 0.0;
        for slabs in slabs.chunks(5) {
            query.on_batch(slabs, now).unwrap();
            let start = cpu();
            query.flush(now).unwrap();
            flushes += cpu() - start;
        }
        let took = cpu() - start;
        if took < best {
            (best, flushing) = (took, flushes);
        }
    }
    eprintln!(
        "{name}: rows_per_cpu_s={:.0} flush_share={:.2}",
        rows as f64 / best,
        flushing / best
    );
}

#[test]
#[ignore = "a measurement"]
fn speed() {
    measure(
        "count per minute",
        "SELECT tumble(INTERVAL '1 minute') AS w, count(*) AS n FROM flights GROUP BY w",
    );
    measure(
        "count per minute and looked up state",
        "SELECT tumble(INTERVAL '1 minute') AS w, a.state, count(*) AS n FROM flights f LEFT JOIN airports a ON f.origin = a.code GROUP BY w, a.state",
    );
    measure(
        "count per minute and origin",
        "SELECT tumble(INTERVAL '1 minute') AS w, origin, count(*) AS n FROM flights GROUP BY w, origin",
    );
    measure(
        "count and average per minute, origin and destination",
        "SELECT tumble(INTERVAL '1 minute') AS w, origin, destination, count(*) AS n, avg(delay) AS d FROM flights GROUP BY w, origin, destination",
    );
}

/// Keys of one long window: what stays in memory, and what each commit writes of it.
#[test]
#[ignore = "a measurement"]
fn a_million_keys() {
    let select =
        "SELECT tumble(INTERVAL '1 day') AS w, id, count(*) AS n, sum(distance) AS d FROM flights GROUP BY w, id";
    let world = World::new(&format!("{SOURCE}{select};"), 1);
    let mut settings = world.settings.clone();
    settings.state_bytes_max = usize::MAX;
    let subjects = world.program.results().into_iter().map(|d| d.subject);
    let ids = subjects.zip(1..).collect();
    let mut query = world.program.start(settings, world.registry(), ids).unwrap();
    query.begin(0);
    let (base, now) = (flights().remove(0), Timestamp(world.now));
    let (mut frames, mut written, mut most, mut slowest) = (Slab::default(), 0, 0, 0.0f64);
    let (keys, per_commit) = (1_000_000usize, 20_000);
    for first in (0..2 * keys).step_by(per_commit) {
        let mut slab = Slab {
            topic: "demo.flights".into(),
            ..Slab::default()
        };
        for i in first..first + per_commit {
            let mut flight = base.clone();
            flight.id = format!("key {:07}", (i * 7_919) % keys);
            slab.push(&encode(&flight), i as i64, Timestamp(0));
        }
        let start = cpu();
        query.on_batch(&[slab, std::mem::take(&mut frames)], now).unwrap();
        let flow = query.flush(now).unwrap();
        slowest = slowest.max(cpu() - start);
        frames.topic = "demo.views.partials".into();
        for emit in flow.emits {
            frames.push(&emit.value.unwrap(), 0, Timestamp(0));
        }
        let bytes: usize = flow.changes.iter().filter_map(|c| c.value.as_ref()).map(Vec::len).sum();
        (written, most) = (written + bytes, most.max(bytes));
    }
    let commits = 2 * keys / per_commit;
    eprintln!(
        "open_window_bytes={} commits={commits} changelog_bytes_per_commit={} most={most} slowest_commit_cpu_s={slowest:.3}",
        query.open_window_bytes(),
        written / commits
    );
}
