//! Two streams joined within a window: the same as a batch join of their rows, however cut; what a late row tells again; what is
//! refused.

use super::exact::fill;
use super::meeting::{STREAMS, check, flight, forgotten, land, landed, on_time, told};
use super::world::{Flight, World, batch_of, flights, schemas, table};
use crate::streaming::Program;

const TABLES: &str = "
CREATE TABLE turns WITH (connector = 'kafka', type = 'sink', topic = 'demo.turns', format = 'avro');
CREATE TABLE waits WITH (connector = 'kafka', type = 'sink', topic = 'demo.waits', format = 'avro');
CREATE TABLE there WITH (connector = 'kafka', type = 'sink', topic = 'demo.there', format = 'avro');
CREATE TABLE back WITH (connector = 'kafka', type = 'sink', topic = 'demo.back', format = 'avro');
CREATE TABLE total WITH (connector = 'kafka', type = 'sink', topic = 'demo.total', format = 'avro');
CREATE VIEW leaves AS SELECT tumble(INTERVAL '1 hour') AS window, origin AS airport, destination, delay, distance, date FROM flights;
CREATE VIEW lands AS SELECT origin, destination AS airport, delay, tumble(INTERVAL '1 hour') AS w, date FROM flights WHERE delay < 30;
CREATE VIEW met AS SELECT d.window, d.airport AS place, d.delay - a.delay AS wait, a.origin FROM leaves d JOIN lands a
  ON d.window = a.w AND d.airport = a.airport WHERE d.delay > a.delay;
";

const SQL: &str = "
INSERT INTO turns SELECT window, place, count(*) AS pairs, sum(wait) AS waits, count(DISTINCT origin) AS origins FROM met
  GROUP BY window, place HAVING count(*) > 1;
INSERT INTO waits SELECT d.window, d.airport, d.destination, count(*) AS n, count(a.w) AS met, max(a.delay) AS slowest FROM leaves d
  LEFT JOIN lands a ON d.window = a.w AND d.airport = a.airport AND a.date < d.date AND a.delay > 0 GROUP BY d.window, d.airport, d.destination;
INSERT INTO there SELECT coalesce(d.window, a.w) AS window, coalesce(d.airport, a.airport) AS airport, count(d.delay) AS left, count(a.delay) AS right,
  min(d.distance) AS nearest FROM leaves d FULL JOIN lands a ON d.window = a.w AND d.airport = a.airport AND d.destination = a.origin
  GROUP BY coalesce(d.window, a.w), 2;
INSERT INTO back SELECT there.w AS window, back.destination, count(there.delay) AS there, count(*) AS n FROM
  (SELECT hop(INTERVAL '1 hour', INTERVAL '6 hours') AS w, origin, destination, delay FROM flights WHERE distance > 500) there RIGHT JOIN
  (SELECT *, hop(INTERVAL '1 hour', INTERVAL '6 hours') AS w FROM flights WHERE delay > 10) back
  ON there.w = back.w AND there.origin = back.destination AND there.destination = back.origin GROUP BY window, back.destination;
INSERT INTO total SELECT a.w AS window, count(*) AS pairs FROM (SELECT tumble(INTERVAL '1 day') AS w FROM flights) a
  JOIN (SELECT tumble(INTERVAL '1 day') AS w FROM flights WHERE delay > 15) b USING (w) GROUP BY window;
";

const ROWS: &str =
    "WITH d AS (SELECT date_bin(INTERVAL '1 hour', date) w, origin airport, destination, delay, distance, date FROM l),
  a AS (SELECT date_bin(INTERVAL '1 hour', date) w, destination airport, origin, delay, date FROM r WHERE delay < 30)";

/// Of each view: topic, name, and how plain SQL says it over what counted on the left, `l`, and on the right, `r`.
const VIEWS: &[(&str, &str, &str)] = &[
    (
        "demo.turns",
        "turns",
        "SELECT d.w, d.w + INTERVAL '1 hour', d.airport, count(*), sum(d.delay - a.delay), count(DISTINCT a.origin) FROM d JOIN a
         ON d.w = a.w AND d.airport = a.airport WHERE d.delay > a.delay GROUP BY d.w, d.airport HAVING count(*) > 1",
    ),
    (
        "demo.waits",
        "waits",
        "SELECT d.w, d.w + INTERVAL '1 hour', d.airport, d.destination, count(*), count(a.w), max(a.delay) FROM d LEFT JOIN a
         ON d.w = a.w AND d.airport = a.airport AND a.date < d.date AND a.delay > 0 GROUP BY d.w, d.airport, d.destination",
    ),
    (
        "demo.there",
        "there",
        "SELECT coalesce(d.w, a.w) x, coalesce(d.w, a.w) + INTERVAL '1 hour', coalesce(d.airport, a.airport), count(d.delay), count(a.delay),
         min(distance) FROM d FULL JOIN a ON d.w = a.w AND d.airport = a.airport AND d.destination = a.origin GROUP BY 1, 2, 3",
    ),
    (
        "demo.back",
        "back",
        ", k AS (SELECT * FROM (VALUES (INTERVAL '0 hours'), (INTERVAL '1 hour'), (INTERVAL '2 hours'), (INTERVAL '3 hours'),
           (INTERVAL '4 hours'), (INTERVAL '5 hours')) t(back)),
         t AS (SELECT date_bin(INTERVAL '1 hour', date) - back w, origin, destination, delay FROM l CROSS JOIN k WHERE distance > 500),
         b AS (SELECT date_bin(INTERVAL '1 hour', date) - back w, origin, destination, delay FROM r CROSS JOIN k WHERE delay > 10)
         SELECT b.w, b.w + INTERVAL '6 hours', b.destination, count(t.delay), count(*) FROM t RIGHT JOIN b
          ON t.w = b.w AND t.origin = b.destination AND t.destination = b.origin GROUP BY b.w, b.destination",
    ),
    (
        "demo.total",
        "total",
        "SELECT x.w, x.w + INTERVAL '1 day', count(*) FROM (SELECT date_bin(INTERVAL '1 day', date) w FROM l) x
         JOIN (SELECT date_bin(INTERVAL '1 day', date) w FROM r WHERE delay > 15) y ON x.w = y.w GROUP BY x.w",
    ),
];

#[test]
fn joined_streams_equal_a_batch_join_however_they_are_cut() {
    let mut again = 0;
    for (partitions, instances, seed, most, crashes) in [
        (1, 1, 1, 100_000, false),
        (4, 1, 3, 300, true),
        (4, 2, 4, 90, false),
        (4, 4, 5, 40, true),
        (4, 2, 7, 25, true),
        // A few records between two commits: what is late is late for rows that were told.
        (2, 2, 11, 4, true),
    ] {
        let mut world = World::new(&format!("{STREAMS}{TABLES}{SQL}"), partitions);
        let sent = fill(&mut world, 99);
        world.run(instances, seed, most, crashes);
        let windows = check(&world, &sent, ROWS, VIEWS);
        assert!(windows > 1_500, "{windows}");
        assert!(
            world.outcomes.late > 10 && world.outcomes.woke == 0,
            "{:?}",
            world.outcomes
        );
        again += world.told("demo.there").iter().filter(|row| row.2 > 0).count();
    }
    assert!(again > 10, "late records told {again} rows again");
}

#[test]
fn two_topics_with_watermarks_of_their_own_are_joined_when_both_have_passed() {
    let sql = "INSERT INTO there SELECT d.window, d.airport, a.destination, count(d.delay) AS left, sum(a.delay) AS right FROM leaves d FULL JOIN
       (SELECT tumble(INTERVAL '1 hour') AS window, destination, delay FROM landings) a
       ON d.window = a.window AND d.airport = a.destination GROUP BY d.window, d.airport, a.destination;";
    for (instances, seed, most, crashes) in [(1, 2, 500, false), (2, 3, 60, true), (4, 4, 30, true)] {
        let mut world = World::new(&format!("{STREAMS}{TABLES}{sql}"), 4);
        land(&mut world);
        world.run(instances, seed, most, crashes);
        on_time(&world);
        let mut found: Vec<String> = world.rows("demo.there").into_values().collect();
        found.sort();
        let wanted = batch_of(
            &[("flights", table(&flights())), ("landed", table(&landed()))],
            "WITH d AS (SELECT date_bin(INTERVAL '1 hour', date) w, origin, delay FROM flights),
             a AS (SELECT date_bin(INTERVAL '1 hour', date) w, destination, delay FROM landed)
             SELECT coalesce(d.w, a.w) s, coalesce(d.w, a.w) + INTERVAL '1 hour', origin, destination, count(d.delay), sum(a.delay)
             FROM d FULL JOIN a ON d.w = a.w AND origin = destination GROUP BY 1, 2, 3, 4",
        );
        assert!(wanted.len() > 500);
        assert_eq!(found, wanted);
        assert_eq!(world.outcomes.woke, 0);
    }
}

#[test]
fn a_late_row_tells_again_what_it_changes_and_no_more() {
    let sql = "INSERT INTO waits SELECT d.window, d.airport, d.destination, count(a.w) AS met, max(a.delay) AS slowest FROM leaves d
        LEFT JOIN lands a ON d.window = a.w AND d.airport = a.airport GROUP BY d.window, d.airport, d.destination;
      INSERT INTO turns SELECT d.window, d.airport, count(*) AS pairs FROM leaves d JOIN lands a ON d.window = a.w AND d.airport = a.airport
        WHERE d.delay > 1 GROUP BY d.window, d.airport HAVING count(*) < 3;";
    let mut world = World::new(&format!("{STREAMS}{TABLES}{sql}"), 1);
    let step = |world: &mut World, flight: Flight| {
        world.send(0, &flight);
        world.run(1, 3, 9, true);
        world.run(1, 5, 9, true);
    };
    step(&mut world, flight("a", 1, "SFO", "ORD", 5));
    step(&mut world, flight("b", 2, "SFO", "DEN", 1));
    step(&mut world, flight("c", 72, "DEN", "DEN", 40));
    let mut all = told(&world, "demo.waits");
    all.sort();
    assert_eq!(
        all,
        [
            "[SFO|DEN] 12:00 13:00 SFO DEN 0 NULL r0",
            "[SFO|ORD] 12:00 13:00 SFO ORD 0 NULL r0"
        ],
        "nothing lands there"
    );
    assert_eq!(told(&world, "demo.turns"), [] as [&str; 0]);
    // It lands in SFO: both rows of SFO, and the inner join's first; from a row that stands alone nothing is left.
    step(&mut world, flight("lands", 3, "ORD", "SFO", 7));
    let mut all = told(&world, "demo.waits")[2..].to_vec();
    all.sort();
    assert_eq!(
        all,
        [
            "[ORD|SFO] 12:00 13:00 ORD SFO 1 5 r0",
            "[SFO|DEN] 12:00 13:00 SFO DEN 1 7 r1",
            "[SFO|ORD] 12:00 13:00 SFO ORD 1 7 r1"
        ]
    );
    let mut all = told(&world, "demo.turns");
    all.sort();
    assert_eq!(all, ["[ORD] 12:00 13:00 ORD 1 r0", "[SFO] 12:00 13:00 SFO 1 r0"]);
    // A flight more to DEN: of SFO only that row changes.
    let before = told(&world, "demo.waits").len();
    step(&mut world, flight("d", 4, "SFO", "DEN", 1));
    assert_eq!(
        told(&world, "demo.waits")[before..],
        ["[SFO|DEN] 12:00 13:00 SFO DEN 2 7 r2"]
    );
    assert_eq!(
        told(&world, "demo.turns").len(),
        2,
        "too early by WHERE: nothing changes"
    );
    step(&mut world, flight("e", 5, "SFO", "DEN", 2));
    step(&mut world, flight("f", 6, "SFO", "DEN", 3));
    assert_eq!(
        told(&world, "demo.turns")[2..],
        ["[SFO] 12:00 13:00 SFO 2 r1", "[SFO] 12:00 13:00 SFO 2 r2 deleted"],
        "three are too many"
    );
    step(&mut world, flight("far", 500, "DEN", "DEN", 1));
    step(&mut world, flight("too late", 5, "SFO", "SFO", 1));
    assert_eq!(
        world.late[0].headers.text("soma-late-views"),
        Some("waits.left,waits.right,turns.left,turns.right")
    );
}

#[test]
fn keys_that_are_null_meet_nothing_and_equal_rows_meet_as_often_as_they_are_there() {
    let sql = "INSERT INTO there SELECT a.window, a.k AS k, b.k AS other, count(*) AS n, count(a.k) AS left FROM
       (SELECT tumble(INTERVAL '1 hour') AS window, nullif(origin, 'SFO') AS k FROM flights) a FULL JOIN
       (SELECT tumble(INTERVAL '1 hour') AS window, nullif(destination, 'SFO') AS k FROM flights) b
       ON a.window = b.window AND a.k = b.k GROUP BY a.window, a.k, b.k;";
    let mut world = World::new(&format!("{STREAMS}{TABLES}{sql}"), 2);
    // Twice the same on the left, three times on the right: six pairs.
    for (i, id) in ["a", "b"].iter().enumerate() {
        world.send(i, &flight(id, 1, "DEN", "SFO", 1));
    }
    for (i, id) in ["c", "d", "e"].iter().enumerate() {
        world.send(i % 2, &flight(id, 2, "SFO", "DEN", 1));
    }
    world.send(0, &flight("end", 100, "ORD", "ORD", 1));
    world.send(1, &flight("end too", 100, "ORD", "ORD", 1));
    world.run(2, 3, 9, true);
    let mut all = told(&world, "demo.there");
    all.sort();
    // Three null keys on the left and two on the right are alone; they are in one group, for both its keys are null.
    assert_eq!(
        all,
        [
            "[DEN|DEN] 12:00 13:00 DEN DEN 6 6 r0",
            "[\\N|\\N] 12:00 13:00 NULL NULL 5 0 r0"
        ]
    );
}

#[test]
fn what_is_kept_of_streams_goes_when_their_windows_do() {
    let mut world = World::new(&format!("{STREAMS}{TABLES}{SQL}"), 2);
    fill(&mut world, 5);
    world.run(2, 11, 60, true);
    forgotten(&world);
}

#[test]
fn what_joins_of_streams_cannot_do_is_said_with_what_to_write_instead() {
    let plan = |select: &str| Program::plan(&format!("{STREAMS}{TABLES}INSERT INTO total {select};"), &schemas());
    let by = "ON d.window = a.w AND d.airport = a.airport GROUP BY d.window, d.airport";
    for (select, says) in [
        ("SELECT d.window, d.airport FROM leaves d JOIN lands a ON d.window = a.w AND d.airport = a.airport".to_owned(), "told per window and key: add GROUP BY"),
        ("SELECT window, airport FROM leaves".to_owned(), "told per window and key: add GROUP BY"),
        ("SELECT d.window, d.airport, count(*) AS n FROM leaves d JOIN lands a ON d.airport = a.airport GROUP BY d.window, d.airport".to_owned(), "the windows are not compared"),
        ("SELECT d.airport, count(*) AS n FROM leaves d JOIN lands a ON d.window = a.w AND d.airport = a.airport GROUP BY d.airport".to_owned(), "the window is not in GROUP BY"),
        (format!("SELECT d.window, d.airport, count(*) AS n FROM leaves d CROSS JOIN lands a {by}"), "line"),
        (format!("SELECT d.window, d.airport, count(*) AS n FROM leaves d LEFT SEMI JOIN lands a {by}"), "joined with JOIN, LEFT, RIGHT or FULL JOIN"),
        (format!("SELECT d.window, d.airport, count(*) AS n FROM leaves d JOIN flights a {by}"), "`flights` is a stream without a window"),
        (format!("SELECT d.window, d.airport, count(*) AS n FROM flights d JOIN flights a {by}"), "`flights` is a stream without a window"),
        (format!("SELECT d.window, d.airport, count(*) AS n FROM leaves d JOIN (SELECT tumble(INTERVAL '2 hours') AS w, origin AS airport FROM flights) AS a {by}"), "the windows differ, tumble 1 hour and tumble 2 hours"),
        (format!("SELECT d.window, d.airport, count(*) AS n FROM leaves d JOIN (SELECT tumble(INTERVAL '1 hour') AS w, origin AS airport FROM flights GROUP BY 1, 2) AS a {by}"), "the left side is rows and the other an aggregate"),
        ("SELECT d.w, count(*) AS n FROM (SELECT session(INTERVAL '1 hour') AS w, origin FROM flights) d JOIN (SELECT session(INTERVAL '1 hour') AS w, origin FROM flights) AS a ON d.w = a.w AND d.origin = a.origin GROUP BY d.w".to_owned(), "sessions are each key's own"),
        (format!("SELECT d.place, count(*) AS n FROM met d JOIN lands a {by}"), "a join of joins"),
        ("SELECT d.window, count(*) AS n FROM leaves d JOIN (SELECT hop(INTERVAL '1 hour', INTERVAL '1 hour') AS w, delay FROM flights) a ON d.window = a.w GROUP BY d.window".to_owned(), "the windows differ"),
        ("SELECT d.window, count(*) AS n FROM leaves d JOIN lands a ON d.window = a.w AND CAST(d.date AS DATE) = CAST(a.date AS DATE) AND d.airport = a.airport LEFT JOIN lands b ON a.w = b.w GROUP BY d.window".to_owned(), "more than two"),
        ("SELECT tumble(INTERVAL '1 hour') AS x, d.window, count(*) AS n FROM leaves d JOIN lands a ON d.window = a.w GROUP BY x, d.window".to_owned(), "a window over a window"),
    ] {
        let faults = plan(&select).err().unwrap_or_else(|| panic!("{select} was planned"));
        let said = faults[0].to_string();
        assert!(said.starts_with("line ") && said.contains(says), "{select}: {said}");
    }
}

#[test]
fn casts_in_on_compare_what_they_make() {
    // All flights of an hour are of one day: every pair of an airport meets.
    let sql =
        "INSERT INTO turns SELECT d.window, d.airport, count(*) AS pairs FROM leaves d JOIN lands a ON d.window = a.w
      AND CAST(d.date AS DATE) = CAST(a.date AS DATE) AND d.airport = a.airport GROUP BY d.window, d.airport;";
    let mut world = World::new(&format!("{STREAMS}{TABLES}{sql}"), 1);
    world.send(0, &flight("a", 1, "SFO", "ORD", 1));
    world.send(0, &flight("b", 9, "ORD", "SFO", 1));
    world.send(0, &flight("end", 100, "DEN", "DEN", 1));
    world.run(1, 3, 9, false);
    let mut all = told(&world, "demo.turns");
    all.sort();
    assert_eq!(all, ["[ORD] 12:00 13:00 ORD 1 r0", "[SFO] 12:00 13:00 SFO 1 r0"]);
}

#[test]
fn a_plan_says_how_streams_meet_and_what_is_kept() {
    let program = super::world::program(&format!("{STREAMS}{TABLES}{SQL}"));
    let declared = program.results();
    let key = |topic: &str| declared.iter().find(|d| d.topic == topic).unwrap().key.clone();
    assert_eq!(key("demo.waits"), ["airport", "destination"]);
    let text = program.explain();
    for says in [
        "view turns.left over flights",
        "  meet       rows of both sides by the window and airport = airport",
        "view waits, left join of waits.left and waits.right",
        "; and what else ON says",
        "  repartition by hash of airport -> topic partials",
        "  repartition by hash of nothing (one partition) -> topic partials",
        "  state      rows of both sides, equal ones once with their count, until",
        "  sink       demo.waits <- window_start, window_end, airport, destination, n, met, slowest, revision, deleted",
    ] {
        assert!(text.contains(says), "{says} is not in\n{text}");
    }
    assert!(
        !text.contains("hash of nothing (one partition) -> topic partials\nview there"),
        "{text}"
    );
}
