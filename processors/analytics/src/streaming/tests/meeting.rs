//! What the tests of joins have in common: two topics of flights, and how what was told of them is looked at.

use std::collections::BTreeMap;

use schemas::Timestamp;

use super::exact::{counted, same};
use super::world::{Chance, Flight, MINUTE, OTHER, World, batch_of, encode, flights, table};

/// Two streams: flights, and landings with a watermark and an allowed lateness of their own.
pub(super) const STREAMS: &str = "
CREATE TABLE flights (
  id TEXT NOT NULL, date TIMESTAMP NOT NULL, delay BIGINT, distance BIGINT, origin TEXT NOT NULL, destination TEXT NOT NULL,
  WATERMARK FOR date AS date - INTERVAL '10 minutes'
) WITH (connector = 'kafka', type = 'source', topic = 'demo.flights', format = 'avro', 'soma.unique' = 'id',
        'soma.allowed_lateness' = '1 hour', 'soma.idle' = '10 seconds');
CREATE TABLE landings (
  id TEXT NOT NULL, date TIMESTAMP NOT NULL, delay BIGINT, destination TEXT NOT NULL, WATERMARK FOR date AS date - INTERVAL '20 minutes'
) WITH (connector = 'kafka', type = 'source', topic = 'demo.landings', format = 'avro', 'soma.allowed_lateness' = '30 minutes', 'soma.idle' = '10 seconds');
";

/// What a view is compared with: topic, name, and how plain SQL says it over what counted on the left, `l`, and on the right, `r`.
pub(super) type Views = [(&'static str, &'static str, &'static str)];

/// How many rows the views have: all those of a batch join, and no others. `begin` comes before each view's SQL.
pub(super) fn check(world: &World, sent: &[Vec<Flight>], begin: &str, views: &Views) -> usize {
    let mut windows = 0;
    for (topic, view, sql) in views {
        let found = world.rows(topic).into_values().collect();
        let side = |which: &str| table(&counted(world, sent, &format!("{view}.{which}")));
        let wanted = batch_of(&[("l", side("left")), ("r", side("right"))], &format!("{begin} {sql}"));
        windows += same(view, found, &wanted);
    }
    windows
}

/// The flights as they land: hours later, by their distance.
pub(super) fn landed() -> Vec<Flight> {
    let land = |mut flight: Flight| {
        flight.date = flight.date.map(|at| at + flight.distance * MINUTE / 8);
        flight
    };
    flights().into_iter().map(land).collect()
}

/// Sends all flights, and where they land, in order of time.
pub(super) fn land(world: &mut World) {
    let mut chance = Chance(31);
    flights().iter().for_each(|flight| world.send(chance.below(4), flight));
    let mut sent = landed();
    sent.sort_by_key(|flight| flight.date);
    sent.iter()
        .for_each(|flight| world.other[chance.below(4)].push(encode(flight)));
    world.send_last();
}

/// No landing was late.
pub(super) fn on_time(world: &World) {
    let of_flights = |late: &kernel::RawEmit| late.headers.text("soma-late-topic") != Some(OTHER);
    assert!(world.late.iter().all(of_flights));
}

/// A flight some minutes after noon.
pub(super) fn flight(id: &str, minutes: i64, from: &str, to: &str, delay: i64) -> Flight {
    Flight {
        id: id.to_owned(),
        date: Some("2001-02-09T12:00:00Z".parse::<Timestamp>().unwrap().0 + minutes * MINUTE),
        delay: Some(delay),
        distance: 100,
        origin: from.to_owned(),
        destination: to.to_owned(),
    }
}

/// Rows of a view as told: key, columns, revision, deleted.
pub(super) fn told(world: &World, topic: &str) -> Vec<String> {
    let short = |row: &str| row.replace("2001-02-09T", "").replace(":00Z", "");
    let line = |(key, row, revision, deleted): (String, String, i32, bool)| {
        let key = key.rsplit_once('|').map_or(String::new(), |(key, _)| key.to_owned());
        format!(
            "[{key}] {} r{revision}{}",
            short(&row),
            if deleted { " deleted" } else { "" }
        )
    };
    world.told(topic).into_iter().map(line).collect()
}

/// Of all windows but the last ones nothing is kept.
pub(super) fn forgotten(world: &World) {
    for log in &world.state {
        let mut last = BTreeMap::new();
        log.iter()
            .for_each(|(key, value)| _ = last.insert(key.as_str(), value.is_some()));
        let left: Vec<_> = last
            .into_iter()
            .filter(|(_, there)| *there)
            .map(|(key, _)| key)
            .collect();
        assert!(left.len() < 90, "{} keys are left: {left:?}", left.len());
    }
}
