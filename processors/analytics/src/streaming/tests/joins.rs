//! Two windowed aggregates joined: the same as a batch join of them, however cut; how rows are told again; what is refused.

use super::exact::fill;
use super::meeting::{STREAMS, check, flight, forgotten, land, landed, on_time, told};
use super::world::{World, batch_of, encode, flights, schemas, table};
use crate::streaming::Program;

const TABLES: &str = "
CREATE TABLE hubs WITH (connector = 'kafka', type = 'sink', topic = 'demo.hubs', format = 'avro');
CREATE TABLE leaving WITH (connector = 'kafka', type = 'sink', topic = 'demo.leaving', format = 'avro');
CREATE TABLE either WITH (connector = 'kafka', type = 'sink', topic = 'demo.either', format = 'avro');
CREATE TABLE back WITH (connector = 'kafka', type = 'sink', topic = 'demo.back', format = 'avro');
CREATE TABLE total WITH (connector = 'kafka', type = 'sink', topic = 'demo.total', format = 'avro');
CREATE VIEW departures AS SELECT tumble(INTERVAL '1 hour') AS window, origin AS airport, count(*) AS n, sum(delay) AS delay
  FROM flights GROUP BY window, origin;
CREATE VIEW arrivals AS SELECT count(*) AS n, destination AS place, tumble(INTERVAL '1 hour') AS w, sum(distance) AS miles
  FROM flights WHERE delay < 30 GROUP BY w, destination;
";

const SQL: &str = "
INSERT INTO hubs SELECT a.window, a.airport, a.n AS departures, b.n AS arrivals, a.n - b.n AS balance, miles
  FROM departures a JOIN arrivals b ON a.window = b.w AND a.airport = b.place WHERE a.n + b.n > 2;
INSERT INTO leaving SELECT airport, a.n AS departures, b.n AS arrivals, b.miles, window FROM departures a LEFT JOIN arrivals b
  ON b.place = a.airport AND a.window = b.w;
INSERT INTO either SELECT coalesce(a.window, b.w) AS window, coalesce(a.airport, b.place) AS airport, a.n AS departures, b.n AS arrivals
  FROM departures a FULL JOIN arrivals b ON a.window = b.w AND a.airport = b.place;
INSERT INTO back SELECT there.w AS window, there.origin, there.destination, there.n AS there, back.n AS back FROM
  (SELECT hop(INTERVAL '1 hour', INTERVAL '6 hours') AS w, origin, destination, count(*) AS n FROM flights GROUP BY w, origin, destination) there
  RIGHT JOIN (SELECT hop(INTERVAL '1 hour', INTERVAL '6 hours') AS w, destination, origin, count(*) AS n FROM flights GROUP BY 1, 2, 3
    HAVING count(*) > 1) AS back
  ON there.w = back.w AND there.origin = back.destination AND there.destination = back.origin;
INSERT INTO total SELECT a.w AS window, a.n AS all, b.n AS delayed FROM
  (SELECT tumble(INTERVAL '1 day') AS w, count(*) AS n FROM flights GROUP BY w) a JOIN
  (SELECT tumble(INTERVAL '1 day') AS w, count(*) AS n FROM flights WHERE delay > 15 GROUP BY w) b USING (w);
";

const HOURLY: &str = "WITH d AS (SELECT date_bin(INTERVAL '1 hour', date) w, origin airport, count(*) n FROM l GROUP BY 1, 2),
  a AS (SELECT date_bin(INTERVAL '1 hour', date) w, destination place, count(*) n, sum(distance) miles FROM r WHERE delay < 30 GROUP BY 1, 2)";

/// Of each view: topic, name, and how plain SQL says it over what counted on the left, `l`, and on the right, `r`.
const VIEWS: &[(&str, &str, &str)] = &[
    (
        "demo.hubs",
        "hubs",
        "SELECT d.w, d.w + INTERVAL '1 hour', airport, d.n, a.n, d.n - a.n, miles FROM d JOIN a ON d.w = a.w AND airport = place
         WHERE d.n + a.n > 2",
    ),
    (
        "demo.leaving",
        "leaving",
        "SELECT d.w, d.w + INTERVAL '1 hour', airport, d.n, a.n, miles FROM d LEFT JOIN a ON d.w = a.w AND airport = place",
    ),
    (
        "demo.either",
        "either",
        "SELECT coalesce(d.w, a.w) x, coalesce(d.w, a.w) + INTERVAL '1 hour', coalesce(airport, place), d.n, a.n
         FROM d FULL JOIN a ON d.w = a.w AND airport = place",
    ),
    (
        "demo.back",
        "back",
        ", k AS (SELECT * FROM (VALUES (INTERVAL '0 hours'), (INTERVAL '1 hour'), (INTERVAL '2 hours'), (INTERVAL '3 hours'),
           (INTERVAL '4 hours'), (INTERVAL '5 hours')) t(back)),
         t AS (SELECT date_bin(INTERVAL '1 hour', date) - back w, origin, destination, count(*) n FROM l CROSS JOIN k GROUP BY 1, 2, 3),
         b AS (SELECT date_bin(INTERVAL '1 hour', date) - back w, origin, destination, count(*) n FROM r CROSS JOIN k GROUP BY 1, 2, 3
          HAVING count(*) > 1)
         SELECT b.w, b.w + INTERVAL '6 hours', t.origin, t.destination, t.n, b.n FROM t RIGHT JOIN b
          ON t.w = b.w AND t.origin = b.destination AND t.destination = b.origin",
    ),
    (
        "demo.total",
        "total",
        ", x AS (SELECT date_bin(INTERVAL '1 day', date) w, count(*) n FROM l GROUP BY 1),
         y AS (SELECT date_bin(INTERVAL '1 day', date) w, count(*) n FROM r WHERE delay > 15 GROUP BY 1)
         SELECT x.w, x.w + INTERVAL '1 day', x.n, y.n FROM x JOIN y ON x.w = y.w",
    ),
];

#[test]
fn joined_windows_equal_a_batch_join_however_they_are_cut() {
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
        let windows = check(&world, &sent, HOURLY, VIEWS);
        assert!(windows > 1_500, "{windows}");
        assert!(
            world.outcomes.late > 10 && world.outcomes.woke == 0,
            "{:?}",
            world.outcomes
        );
        again += world.told("demo.either").iter().filter(|row| row.2 > 0).count();
    }
    assert!(again > 10, "late records told {again} rows again");
}

#[test]
fn two_topics_with_watermarks_of_their_own_are_joined_when_both_have_passed() {
    let sql = "INSERT INTO either SELECT coalesce(a.window, b.window) AS window, coalesce(a.airport, b.airport) AS airport, a.n AS departures,
       b.n AS arrivals FROM departures a FULL JOIN
       (SELECT tumble(INTERVAL '1 hour') AS window, destination AS airport, count(*) AS n FROM landings GROUP BY window, airport) b
       ON a.window = b.window AND a.airport = b.airport;";
    for (instances, seed, most, crashes) in [(1, 2, 500, false), (2, 3, 60, true), (4, 4, 30, true)] {
        let mut world = World::new(&format!("{STREAMS}{TABLES}{sql}"), 4);
        land(&mut world);
        world.run(instances, seed, most, crashes);
        on_time(&world);
        let mut found: Vec<String> = world.rows("demo.either").into_values().collect();
        found.sort();
        let all = table(&flights());
        let wanted = batch_of(
            &[("flights", all), ("landed", table(&landed()))],
            "
          WITH a AS (SELECT date_bin(INTERVAL '1 hour', date) w, origin airport, count(*) n FROM flights GROUP BY 1, 2),
          b AS (SELECT date_bin(INTERVAL '1 hour', date) w, destination airport, count(*) n FROM landed GROUP BY 1, 2)
          SELECT coalesce(a.w, b.w) s, coalesce(a.w, b.w) + INTERVAL '1 hour', coalesce(a.airport, b.airport), a.n, b.n
          FROM a FULL JOIN b ON a.w = b.w AND a.airport = b.airport",
        );
        assert!(wanted.len() > 500);
        assert_eq!(found, wanted);
        assert_eq!(world.outcomes.woke, 0);
    }
}

#[test]
fn a_late_record_of_either_side_tells_the_row_again_and_takes_it_away_where_it_matches_no_more() {
    let sql = "INSERT INTO hubs SELECT a.window, a.airport, a.n AS departures, b.n AS arrivals
        FROM departures a JOIN arrivals b ON a.window = b.w AND a.airport = b.place WHERE a.n < 3;
      INSERT INTO leaving SELECT a.window, a.airport, a.n AS departures, b.n AS arrivals
        FROM departures a LEFT JOIN arrivals b ON a.window = b.w AND a.airport = b.place;";
    let mut world = World::new(&format!("{STREAMS}{TABLES}{sql}"), 1);
    let step = |world: &mut World, id: &str, minutes: i64, from: &str, to: &str| {
        world.send(0, &flight(id, minutes, from, to, 1));
        world.run(1, 3, 9, true);
        world.run(1, 5, 9, true);
    };
    step(&mut world, "a", 1, "SFO", "ORD");
    step(&mut world, "b", 72, "DEN", "DEN");
    assert_eq!(told(&world, "demo.hubs"), [] as [&str; 0]);
    assert_eq!(told(&world, "demo.leaving"), ["[SFO] 12:00 13:00 SFO 1 NULL r0"]);
    step(&mut world, "lands", 2, "ORD", "SFO");
    // Now each airport has both; the row of ORD was not there, that of SFO was told of the left join.
    let mut all = told(&world, "demo.hubs");
    all.sort();
    assert_eq!(all, ["[ORD] 12:00 13:00 ORD 1 1 r0", "[SFO] 12:00 13:00 SFO 1 1 r0"]);
    let mut all = told(&world, "demo.leaving")[1..].to_vec();
    all.sort();
    assert_eq!(all, ["[ORD] 12:00 13:00 ORD 1 1 r0", "[SFO] 12:00 13:00 SFO 1 1 r1"]);
    step(&mut world, "c", 3, "SFO", "DEN");
    assert_eq!(told(&world, "demo.hubs")[2..], ["[SFO] 12:00 13:00 SFO 2 1 r1"]);
    step(&mut world, "d", 4, "SFO", "DEN");
    assert_eq!(
        told(&world, "demo.hubs")[3..],
        ["[SFO] 12:00 13:00 SFO 2 1 r2 deleted"],
        "three are too many"
    );
    assert_eq!(
        told(&world, "demo.leaving").last().unwrap(),
        "[SFO] 12:00 13:00 SFO 3 1 r3"
    );
    step(&mut world, "far", 500, "DEN", "DEN");
    step(&mut world, "too late", 5, "SFO", "SFO");
    assert_eq!(
        world.late[0].headers.text("soma-late-views"),
        Some("hubs.left,hubs.right,leaving.left,leaving.right")
    );
    assert_eq!(told(&world, "demo.hubs").len(), 5, "the four, and DEN's at one o'clock");
}

#[test]
fn keys_that_are_null_equal_nothing_and_have_names_of_their_own() {
    let sql = "INSERT INTO either SELECT coalesce(a.window, b.window) AS window, a.n AS left, b.n AS right FROM
       (SELECT tumble(INTERVAL '1 hour') AS window, nullif(origin, 'SFO') AS k, count(*) AS n FROM flights GROUP BY window, k) a FULL JOIN
       (SELECT tumble(INTERVAL '1 hour') AS window, nullif(destination, 'SFO') AS k, count(*) AS n FROM flights GROUP BY window, k) b
       ON a.window = b.window AND a.k = b.k;";
    let mut world = World::new(&format!("{STREAMS}{TABLES}{sql}"), 2);
    world.send(0, &flight("a", 1, "SFO", "", 1));
    world.send(1, &flight("b", 2, "", "SFO", 1));
    world.send(0, &flight("end", 100, "DEN", "DEN", 1));
    world.send(1, &flight("end too", 100, "DEN", "DEN", 1));
    world.run(2, 3, 9, true);
    let mut all = told(&world, "demo.either");
    all.sort();
    assert_eq!(
        all,
        [
            "[\\N] 12:00 13:00 1 NULL r0",
            "[\\N|right] 12:00 13:00 NULL 1 r0",
            "[] 12:00 13:00 1 1 r0"
        ]
    );
}

#[test]
fn a_side_that_is_idle_everywhere_does_not_hold_the_other_back() {
    let sql = "INSERT INTO leaving SELECT a.window, a.airport, a.n AS departures, b.n AS arrivals FROM departures a LEFT JOIN
       (SELECT tumble(INTERVAL '1 hour') AS window, destination AS airport, count(*) AS n FROM landings GROUP BY window, airport) b
       ON a.window = b.window AND a.airport = b.airport;";
    let mut world = World::new(&format!("{STREAMS}{TABLES}{sql}"), 1);
    world.send(0, &flight("a", 1, "SFO", "ORD", 1));
    world.send(0, &flight("b", 90, "SFO", "ORD", 1));
    world.run(1, 1, 9, false);
    assert_eq!(
        told(&world, "demo.leaving"),
        [] as [&str; 0],
        "of landings nothing was heard"
    );
    world.idle(&[], 11_000_000);
    assert_eq!(told(&world, "demo.leaving"), ["[SFO] 12:00 13:00 SFO 1 NULL r0"]);
    world.other[0].push(encode(&flight("c", 30, "ORD", "SFO", 1)));
    world.run(1, 1, 9, false);
    assert_eq!(
        told(&world, "demo.leaving")[1..],
        ["[SFO] 12:00 13:00 SFO 1 1 r1"],
        "it wakes, and corrects"
    );
}

#[test]
fn what_is_kept_of_a_join_goes_when_its_windows_do() {
    let mut world = World::new(&format!("{STREAMS}{TABLES}{SQL}"), 2);
    fill(&mut world, 5);
    world.run(2, 11, 60, true);
    forgotten(&world);
}

#[test]
fn what_joins_cannot_do_is_said_with_what_to_write_instead() {
    let plan = |select: &str| Program::plan(&format!("{STREAMS}{TABLES}INSERT INTO hubs {select};"), &schemas());
    let hour = "(SELECT tumble(INTERVAL '1 hour') AS window, destination AS place, origin, count(*) AS n FROM flights GROUP BY window, place, origin)";
    for (select, says) in [
        ("SELECT a.window, a.n FROM departures a JOIN arrivals b ON a.airport = b.place".to_owned(), "the windows are not compared"),
        ("SELECT a.window, a.n FROM departures a JOIN arrivals b ON a.window = b.w".to_owned(), "compared are 0 of its keys"),
        (format!("SELECT a.window, a.n FROM departures a JOIN {hour} AS b ON a.window = b.window AND a.airport = b.place"), "the right side is grouped by"),
        ("SELECT a.window, a.n FROM departures a JOIN arrivals b ON a.window = b.w AND a.airport = b.place AND a.n = b.n".to_owned(), "not both group keys"),
        ("SELECT a.window, a.n FROM departures a LEFT JOIN arrivals b ON a.window = b.w AND a.airport = b.place AND a.n < b.n".to_owned(), "move other conditions into WHERE"),
        ("SELECT a.window, a.n FROM departures a CROSS JOIN arrivals b".to_owned(), "ON a.window = b.window"),
        ("SELECT * FROM departures a JOIN arrivals b ON a.window = b.w AND a.airport = b.place".to_owned(), "write the columns of a join out"),
        ("SELECT a.window, b.w, a.n FROM departures a JOIN arrivals b ON a.window = b.w AND a.airport = b.place".to_owned(), "named once"),
        ("SELECT a.window, count(*) AS n FROM departures a JOIN arrivals b ON a.window = b.w AND a.airport = b.place GROUP BY a.window".to_owned(), "not aggregated again"),
        ("SELECT a.window, a.n FROM departures a JOIN flights f ON a.airport = f.origin".to_owned(), "`flights` is a stream without a window"),
        ("SELECT a.window, a.n FROM departures a JOIN arrivals b ON a.window = b.w JOIN arrivals c ON a.window = c.w".to_owned(), "more than two"),
        ("SELECT a.window, a.n FROM departures a JOIN (SELECT tumble(INTERVAL '2 hours') AS w, origin AS place, count(*) AS n FROM flights GROUP BY w, place) AS b ON a.window = b.w AND a.airport = b.place".to_owned(), "the windows differ, tumble 1 hour and tumble 2 hours"),
        ("SELECT a.w, a.n FROM (SELECT session(INTERVAL '1 hour') AS w, origin, count(*) AS n FROM flights GROUP BY w, origin) AS a JOIN (SELECT session(INTERVAL '1 hour') AS w, origin, count(*) AS n FROM flights GROUP BY w, origin) AS b ON a.w = b.w AND a.origin = b.origin".to_owned(), "sessions are each key's own"),
        ("SELECT a.window, a.n FROM departures a JOIN (SELECT tumble(INTERVAL '1 hour') AS w, distance AS place, count(*) AS n FROM flights GROUP BY w, place) AS b ON a.window = b.w AND a.airport = b.place".to_owned(), "line"),
    ] {
        let faults = plan(&select).map(|_| ()).unwrap_err();
        let said = faults[0].to_string();
        assert!(said.starts_with("line ") && said.contains(says), "{select}: {said}");
    }
}

#[test]
fn a_plan_says_how_sides_are_joined() {
    let program = super::world::program(&format!("{STREAMS}{TABLES}{SQL}"));
    let declared = program.results();
    assert_eq!(declared[0].key, ["origin"]);
    let text = program.explain();
    for says in [
        "view hubs.left over flights",
        "view hubs, inner join of hubs.left and hubs.right",
        "view either, full join of either.left and either.right",
        "  sink       demo.hubs <- window_start, window_end, airport, departures, arrivals, balance, miles, revision, deleted",
    ] {
        assert!(text.contains(says), "{says} is not in\n{text}");
    }
}

#[test]
fn keys_that_a_cast_makes_of_others_are_not_taken_for_them() {
    // Every flight of the day has its own minute: by days they meet, by minutes they do not.
    let at = |name: &str| {
        format!(
            "SELECT tumble(INTERVAL '1 hour') AS window, {name} AS at, count(*) AS n FROM flights GROUP BY window, {name}"
        )
    };
    let plan = |left: &str, right: &str, on: &str| {
        let sql = format!(
            "INSERT INTO hubs SELECT a.window, a.n FROM ({left}) AS a JOIN ({right}) AS b ON a.window = b.window AND {on};"
        );
        Program::plan(&format!("{STREAMS}{TABLES}{sql}"), &schemas())
            .map(|_| ())
            .map_err(|faults| faults[0].to_string())
    };
    let by_date = at("date");
    let day = by_date.replace("date AS at", "CAST(date AS DATE) AS at");
    for (left, right, on) in [
        (&by_date, &by_date, "CAST(a.at AS DATE) = CAST(b.at AS DATE)"),
        (&day, &day, "a.at = b.at"),
    ] {
        let said = plan(left, right, on).unwrap_err();
        assert!(said.contains("not both group keys"), "{on}: {said}");
    }
    assert_eq!(plan(&by_date, &by_date, "a.at = b.at"), Ok(()));
    // A wider number is equal exactly when the number is.
    let (long, short) = (at("delay"), at("CAST(distance AS INT)"));
    assert_eq!(plan(&long, &short, "a.at = b.at"), Ok(()));
}
