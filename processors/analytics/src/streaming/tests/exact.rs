//! The same records give the same rows as a batch query does, however they are cut, restored and shared out.

use super::world::{Chance, Flight, HOUR, MINUTE, TOPIC, World, batch, flights};

pub(super) const SQL: &str = "
CREATE TABLE flights (
  id TEXT NOT NULL, date TIMESTAMP NOT NULL, delay BIGINT, distance BIGINT, origin TEXT NOT NULL, destination TEXT NOT NULL,
  WATERMARK FOR date AS date - INTERVAL '10 minutes'
) WITH (connector = 'kafka', type = 'source', topic = 'demo.flights', format = 'avro', 'soma.unique' = 'id',
        'soma.allowed_lateness' = '1 hour', 'soma.idle' = '10 seconds');
CREATE TABLE per_hour WITH (connector = 'kafka', type = 'sink', topic = 'demo.per_hour', format = 'avro');
CREATE TABLE per_minute WITH (connector = 'kafka', type = 'sink', topic = 'demo.per_minute', format = 'avro');
CREATE TABLE routes WITH (connector = 'kafka', type = 'sink', topic = 'demo.routes', format = 'avro');
CREATE TABLE hops WITH (connector = 'kafka', type = 'sink', topic = 'demo.hops', format = 'avro');
CREATE TABLE busy WITH (connector = 'kafka', type = 'sink', topic = 'demo.busy', format = 'avro');
CREATE TABLE spread WITH (connector = 'kafka', type = 'sink', topic = 'demo.spread', format = 'avro');
CREATE VIEW delayed AS SELECT origin, delay AS minutes FROM flights WHERE delay > 0;
INSERT INTO per_hour SELECT tumble(INTERVAL '1 hour') AS window, origin, count(*) AS flights, avg(delay) AS delay, max(delay) AS worst,
  sum(distance) AS distance FROM flights GROUP BY window, origin;
INSERT INTO per_minute SELECT tumble(INTERVAL '1 minute') AS window, count(*) AS flights FROM flights GROUP BY window;
INSERT INTO routes SELECT origin, destination, tumble(INTERVAL '1 day') AS w, count(*) AS n, min(delay) AS a, sum(delay) + 1 AS c
  FROM flights GROUP BY 1, 2, 3 HAVING count(*) > 3;
INSERT INTO hops SELECT hop(INTERVAL '15 minutes', INTERVAL '1 hour') AS window, origin, count(*) AS n, avg(minutes) AS m
  FROM delayed GROUP BY window, origin;
INSERT INTO busy SELECT session(INTERVAL '20 minutes') AS window, origin, count(*) AS n, sum(distance) AS d FROM flights
  GROUP BY window, origin;
INSERT INTO spread SELECT tumble(INTERVAL '6 hours') AS window, origin, count(distinct destination) AS places,
  approx_percentile_cont(delay, 0.5) AS half FROM flights GROUP BY window, origin;
";

/// Of each view: topic, name, how plain SQL says it. `half` is left out: it depends on the order of merging.
pub(super) const VIEWS: &[(&str, &str, &str)] = &[
    (
        "demo.per_hour",
        "per_hour",
        "SELECT date_bin(INTERVAL '1 hour', date) s, date_bin(INTERVAL '1 hour', date) + INTERVAL '1 hour', origin, count(*),
         avg(delay), max(delay), sum(distance) FROM flights GROUP BY s, origin",
    ),
    (
        "demo.per_minute",
        "per_minute",
        "SELECT date_bin(INTERVAL '1 minute', date) s, date_bin(INTERVAL '1 minute', date) + INTERVAL '1 minute', count(*)
         FROM flights GROUP BY s",
    ),
    (
        "demo.routes",
        "routes",
        "SELECT date_bin(INTERVAL '1 day', date) s, date_bin(INTERVAL '1 day', date) + INTERVAL '1 day', origin, destination,
         count(*), min(delay), sum(delay) + 1 FROM flights GROUP BY s, origin, destination HAVING count(*) > 3",
    ),
    (
        "demo.hops",
        "hops",
        "SELECT s - back a, s - back + INTERVAL '1 hour', origin, count(*), avg(delay)
         FROM (SELECT date_bin(INTERVAL '15 minutes', date) s, origin, delay FROM flights WHERE delay > 0) CROSS JOIN
         (VALUES (INTERVAL '0 minutes'), (INTERVAL '15 minutes'), (INTERVAL '30 minutes'), (INTERVAL '45 minutes')) k(back)
         GROUP BY a, origin",
    ),
    (
        "demo.busy",
        "busy",
        "SELECT min(date), max(date) + INTERVAL '20 minutes', origin, count(*), sum(distance) FROM
         (SELECT *, sum(fresh) OVER (PARTITION BY origin ORDER BY date, distance) n FROM
          (SELECT *, CASE WHEN date - lag(date) OVER (PARTITION BY origin ORDER BY date, distance) <= INTERVAL '20 minutes'
            THEN 0 ELSE 1 END fresh FROM flights)) GROUP BY origin, n",
    ),
    (
        "demo.spread",
        "spread",
        "SELECT date_bin(INTERVAL '6 hours', date) s, date_bin(INTERVAL '6 hours', date) + INTERVAL '6 hours', origin,
         count(distinct destination) FROM flights GROUP BY s, origin",
    ),
];

/// Fills the source: shuffled within bounds, some twice, some too late.
pub(super) fn fill(world: &mut World, seed: u64) -> Vec<Vec<Flight>> {
    let mut chance = Chance(seed | 1);
    let partitions = world.source.len();
    let mut sent = vec![Vec::new(); partitions];
    let mut timed: Vec<(i64, Flight)> = Vec::new();
    for flight in flights() {
        let bound = match chance.below(40) {
            0 => 30 * HOUR,
            1 | 2 => 70 * MINUTE,
            _ => 9 * MINUTE,
        };
        let at = flight.date.unwrap() + chance.below(bound as usize) as i64;
        if chance.below(20) == 0 {
            timed.push((at + chance.below(5 * MINUTE as usize) as i64, flight.clone()));
        }
        timed.push((at, flight));
    }
    timed.sort_by_key(|(at, _)| *at);
    for (_, flight) in timed {
        // By id, so that the same flight sent twice is in one partition.
        let partition = flight.id.parse::<usize>().unwrap() * 7 % partitions;
        world.send(partition, &flight);
        sent[partition].push(flight);
    }
    world.send_last();
    sent
}

/// Flights that count for a view: once each, without those that were too late for it.
pub(super) fn counted(world: &World, sent: &[Vec<Flight>], view: &str) -> Vec<Flight> {
    let mut late = std::collections::BTreeSet::new();
    for emit in &world.late {
        let said = |name: &str| emit.headers.text(name).unwrap().to_owned();
        assert_eq!(
            (said("soma-late-topic").as_str(), said("soma-late-reason").as_str()),
            (TOPIC, "late")
        );
        if said("soma-late-views").split(',').any(|v| v == view) {
            let place = (said("soma-late-partition"), said("soma-late-offset"));
            let place: (usize, usize) = (place.0.parse().unwrap(), place.1.parse().unwrap());
            assert_eq!(
                &**emit.value.as_ref().unwrap(),
                &world.source[place.0][place.1][..],
                "bytes are unchanged"
            );
            assert!(late.insert(place), "told late once");
        }
    }
    // Of a flight sent twice the first decides: the second is a duplicate, or comes when the first is forgotten and is late itself.
    let mut first: std::collections::BTreeMap<&str, (bool, &Flight)> = std::collections::BTreeMap::new();
    for (p, flights) in sent.iter().enumerate() {
        for (i, flight) in flights.iter().enumerate() {
            first.entry(&flight.id).or_insert((!late.contains(&(p, i)), flight));
        }
    }
    first
        .into_values()
        .filter(|(counts, _)| *counts)
        .map(|(_, flight)| flight.clone())
        .collect()
}

/// How many rows a view has: those wanted, in any order, and no others.
pub(super) fn same(view: &str, mut found: Vec<String>, wanted: &[String]) -> usize {
    found.sort();
    let wrong = found.iter().zip(wanted).find(|(f, w)| f != w);
    assert!(
        found == wanted,
        "{view}: {} rows, wanted {}; first wrong {wrong:?}",
        found.len(),
        wanted.len()
    );
    wanted.len()
}

fn check(world: &World, sent: &[Vec<Flight>]) -> usize {
    let mut windows = 0;
    for (topic, view, sql) in VIEWS {
        let mut found: Vec<String> = world.rows(topic).into_values().collect();
        if *view == "spread" {
            found = found
                .iter()
                .map(|row| row.rsplit_once(' ').unwrap().0.to_owned())
                .collect();
        }
        let wanted = batch(&counted(world, sent, view), sql);
        windows += same(view, found, &wanted);
    }
    windows
}

#[test]
fn one_instance_that_takes_all_at_once_equals_a_batch_query() {
    let mut world = World::new(SQL, 1);
    let sent = fill(&mut world, 7);
    world.run(1, 1, 100_000, false);
    let windows = check(&world, &sent);
    assert!(windows > 2_000, "{windows}");
    assert!(
        world.outcomes.late > 10 && world.outcomes.duplicate > 40,
        "{:?}",
        world.outcomes
    );
    assert!(world.refused.is_empty());
}

#[test]
fn cuts_restores_and_instances_change_nothing() {
    for (instances, seed, most, crashes) in [(1, 3, 300, true), (2, 4, 90, false), (4, 5, 25, true), (2, 7, 12, true)] {
        let mut world = World::new(SQL, 4);
        let sent = fill(&mut world, 99);
        world.run(instances, seed, most, crashes);
        check(&world, &sent);
        assert_eq!(world.outcomes.woke, 0);
    }
}

/// How often a partition's state said of a view that its windows are told in part: of the next window, these shares.
fn told_in_part(world: &World) -> usize {
    let of = |value: &Option<Vec<u8>>| value.as_ref().is_some_and(|v| v.len() == 32 && v[28..] != [0; 4]);
    let all = world.state.iter().flatten();
    all.filter(|(key, value)| key.ends_with("|u") && of(value)).count()
}

#[test]
fn windows_told_in_several_transactions_are_the_same() {
    for (instances, seed, most, crashes, room) in [(1, 3, 300, true, 1), (2, 4, 90, false, 4), (4, 5, 25, true, 9)] {
        let mut world = World::new(SQL, 4);
        world.settings.told_rows_max = room;
        let sent = fill(&mut world, 99);
        world.run(instances, seed, most, crashes);
        check(&world, &sent);
        let parts = told_in_part(&world);
        assert!(
            parts > 100,
            "room for {room} rows, but {parts} windows were told in part"
        );
    }
}

#[test]
fn what_is_kept_goes_when_its_windows_do() {
    let mut world = World::new(SQL, 2);
    fill(&mut world, 5);
    world.run(2, 11, 60, true);
    for log in &world.state {
        let mut last = std::collections::BTreeMap::new();
        for (key, value) in log {
            last.insert(key.clone(), value.clone());
        }
        let left: Vec<_> = last
            .into_iter()
            .filter(|(_, value)| value.is_some())
            .map(|(key, _)| key)
            .collect();
        // The rows of the last flight, watermarks, and a few stretches that end with the day.
        assert!(left.len() < 60, "{} keys are left: {left:?}", left.len());
    }
}
