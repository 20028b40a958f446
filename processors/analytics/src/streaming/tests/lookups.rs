//! Streams enriched from a compacted topic: the same as a batch join, however cut; which version applies; what is refused.

use kernel::{Dataflow, FaultCode};
use schemas::Timestamp;

use super::exact::{counted, fill, same};
use super::followed::{AIRPORTS, KNOWN, airport, airports};
use super::world::{Chance, Flight, MINUTE, World, batch_of, flights, schemas, table};
use crate::streaming::Program;

const TABLES: &str = "
CREATE TABLE flights (
  id TEXT NOT NULL, date TIMESTAMP NOT NULL, delay BIGINT, distance BIGINT, origin TEXT NOT NULL, destination TEXT NOT NULL,
  WATERMARK FOR date AS date - INTERVAL '10 minutes'
) WITH (connector = 'kafka', type = 'source', topic = 'demo.flights', format = 'avro', 'soma.unique' = 'id',
        'soma.allowed_lateness' = '1 hour', 'soma.idle' = '10 seconds');
CREATE TABLE airports (code TEXT PRIMARY KEY, state TEXT, feet INT)
  WITH (connector = 'kafka', type = 'source', topic = 'demo.airports', format = 'avro', 'soma.lookup' = 'true');
CREATE TABLE per_state WITH (connector = 'kafka', type = 'sink', topic = 'demo.per_state', format = 'avro');
CREATE TABLE known WITH (connector = 'kafka', type = 'sink', topic = 'demo.known', format = 'avro');
CREATE TABLE climbs WITH (connector = 'kafka', type = 'sink', topic = 'demo.climbs', format = 'avro');
";

const SQL: &str = "
CREATE VIEW from_states AS SELECT f.date, f.delay, a.state, a.feet, f.destination FROM flights f LEFT JOIN airports a ON f.origin = a.code;
INSERT INTO per_state SELECT tumble(INTERVAL '1 hour') AS window, state, count(*) AS n, sum(delay) AS delay FROM from_states
  GROUP BY window, state;
INSERT INTO known SELECT hop(INTERVAL '30 minutes', INTERVAL '2 hours') AS window, a.state, count(*) AS n
  FROM flights f JOIN airports a ON a.code = upper(f.destination) WHERE a.feet < 1000 AND f.delay > 0 GROUP BY window, a.state;
INSERT INTO climbs SELECT session(INTERVAL '3 hours') AS window, s.state, count(*) AS n, max(b.feet - s.feet) AS climb
  FROM from_states s JOIN airports b ON s.destination = b.code GROUP BY window, s.state;
";

const VIEWS: &[(&str, &str, &str)] = &[
    (
        "demo.per_state",
        "per_state",
        "SELECT date_bin(INTERVAL '1 hour', date) s, date_bin(INTERVAL '1 hour', date) + INTERVAL '1 hour', state, count(*), sum(delay)
         FROM flights LEFT JOIN airports ON origin = code GROUP BY s, state",
    ),
    (
        "demo.known",
        "known",
        "SELECT s - back a, s - back + INTERVAL '2 hours', state, count(*) FROM
         (SELECT date_bin(INTERVAL '30 minutes', date) s, state FROM flights JOIN airports ON destination = code
          WHERE feet < 1000 AND delay > 0) CROSS JOIN
         (VALUES (INTERVAL '0 minutes'), (INTERVAL '30 minutes'), (INTERVAL '60 minutes'), (INTERVAL '90 minutes')) k(back)
         GROUP BY a, state",
    ),
    (
        "demo.climbs",
        "climbs",
        "WITH rows AS (SELECT date, a.state, b.feet - a.feet climb FROM flights LEFT JOIN airports a ON origin = a.code
           JOIN airports b ON destination = b.code)
         SELECT min(date), max(date) + INTERVAL '3 hours', state, count(*), max(climb) FROM
         (SELECT *, sum(fresh) OVER (PARTITION BY state ORDER BY date ROWS UNBOUNDED PRECEDING) n FROM
          (SELECT *, CASE WHEN date - lag(date) OVER (PARTITION BY state ORDER BY date) <= INTERVAL '3 hours' THEN 0 ELSE 1 END fresh
           FROM rows)) GROUP BY state, n",
    ),
];

fn check(world: &World, sent: &[Vec<Flight>]) -> usize {
    let mut windows = 0;
    for (topic, view, sql) in VIEWS {
        let found = world.rows(topic).into_values().collect();
        let tables = [
            ("flights", table(&counted(world, sent, view))),
            ("airports", airports(KNOWN)),
        ];
        let wanted = batch_of(&tables, sql);
        windows += same(view, found, &wanted);
    }
    windows
}

#[test]
fn enriched_windows_equal_a_batch_join_however_they_are_cut() {
    for (instances, seed, most, crashes) in [
        (1, 1, 100_000, false),
        (1, 3, 300, true),
        (4, 5, 40, true),
        (2, 7, 25, true),
    ] {
        let mut world = World::new(&format!("{TABLES}{SQL}"), 4);
        world.airports.write_all(KNOWN);
        let sent = fill(&mut world, 99);
        // Of the last flight, which closes windows, the airport is not known: it opens a session of its own, days later.
        world.run(instances, seed, most, crashes);
        let windows = check(&world, &sent);
        assert!(windows > 500, "{windows}");
        assert_eq!((world.outcomes.woke, world.refused.len()), (0, 0));
    }
}

const HOURLY: &str = "INSERT INTO per_state SELECT tumble(INTERVAL '1 hour') AS window, a.state, count(*) AS n
  FROM flights f LEFT JOIN airports a ON f.origin = a.code GROUP BY window, a.state;
INSERT INTO known SELECT tumble(INTERVAL '1 hour') AS window, a.state, count(*) AS n
  FROM flights f JOIN airports a ON f.origin = a.code GROUP BY window, a.state;";

fn flight(id: &str, minutes: i64) -> Flight {
    Flight {
        id: id.to_owned(),
        date: Some("2001-02-09T12:00:00Z".parse::<Timestamp>().unwrap().0 + minutes * MINUTE),
        delay: None,
        distance: 100,
        origin: "SFO".to_owned(),
        destination: "ORD".to_owned(),
    }
}

fn told(world: &World, topic: &str) -> Vec<String> {
    let short = |row: &str| row.replace("2001-02-09T", "").replace(":00Z", "");
    let line = |(_, row, revision, _): (String, String, i32, bool)| format!("{} r{revision}", short(&row));
    world.told(topic).into_iter().map(line).collect()
}

#[test]
fn the_row_that_stands_when_a_record_is_processed_applies_and_what_was_counted_stays() {
    let mut world = World::new(&format!("{TABLES}{HOURLY}"), 1);
    let mut step = |airports: Option<Option<&str>>, id: &str, minutes: i64| {
        if let Some(state) = airports {
            world.airports.write("SFO", state.map(|s| airport(Some("SFO"), s, 13)));
        }
        world.send(0, &flight(id, minutes));
        world.run(1, 3, 9, true);
        world.run(1, 5, 9, true);
    };
    step(None, "before it is known", 1);
    step(Some(Some("CA")), "known", 2);
    step(Some(Some("NV")), "known anew", 3);
    step(Some(None), "gone", 4);
    step(Some(Some("CA")), "known again", 5);
    step(None, "end", 100);
    let mut all = told(&world, "demo.per_state");
    all.sort();
    assert_eq!(
        all,
        ["12:00 13:00 CA 2 r0", "12:00 13:00 NULL 2 r0", "12:00 13:00 NV 1 r0"]
    );
    let mut inner = told(&world, "demo.known");
    inner.sort();
    assert_eq!(
        inner,
        ["12:00 13:00 CA 2 r0", "12:00 13:00 NV 1 r0"],
        "without a row it is left out"
    );
}

#[test]
fn while_rows_change_each_record_is_counted_once_over_any_crash() {
    let mut world = World::new(&format!("{TABLES}{HOURLY}"), 4);
    let mut chance = Chance(77);
    for (i, flight) in flights().iter().enumerate() {
        world.send(i % 4, flight);
        if i % 200 == 0 {
            for (code, state, feet) in KNOWN {
                let version = format!("{state}{}", chance.below(3));
                world.airports.write(
                    code,
                    (chance.below(5) > 0).then(|| airport(Some(code), &version, *feet)),
                );
            }
            world.run(2, i as u64 + 1, 60, true);
        }
    }
    world.send_last();
    world.run(4, 9, 60, true);
    let count = |row: String| row.rsplit_once(' ').unwrap().1.parse::<usize>().unwrap();
    let total: usize = world.rows("demo.per_state").into_values().map(count).sum();
    assert_eq!((total, world.outcomes.late), (flights().len(), 0));
    let states: std::collections::BTreeSet<_> = world
        .rows("demo.known")
        .into_keys()
        .map(|k| k[..3].to_owned())
        .collect();
    assert!(states.len() > 10, "versions were met: {states:?}");
}

#[test]
fn records_nobody_can_read_are_dead_letters_once_and_hide_nothing() {
    let mut world = World::new(&format!("{TABLES}{HOURLY}"), 2);
    world.airports.write("SFO", Some(airport(Some("SFO"), "CA", 13)));
    world.airports.write("SFO", Some(b"no frame".to_vec()));
    world.airports.write("BOS", Some(airport(None, "MA", 20)));
    let whole = airport(Some("SFO"), "NV", 13);
    world.airports.write("SFO", Some(whole[..whole.len() - 1].to_vec()));
    for seed in 0..4 {
        for partition in 0..2 {
            world.send(partition, &flight(&format!("{seed} {partition}"), seed));
        }
        world.run(2, seed as u64 + 1, 5, true);
    }
    world.airports.write("ATL", Some(Vec::new()));
    for partition in 0..2 {
        world.send(partition, &flight(&format!("end {partition}"), 100));
    }
    world.run(1, 8, 5, true);
    world.run(2, 9, 5, true);
    let mut said: Vec<_> = world
        .refused
        .iter()
        .map(|r| (r.partition, r.offset, r.fault.code))
        .collect();
    said.sort_by_key(|s| (s.0, s.1));
    let (frame, bytes, null) = (
        FaultCode::RecordNotFramed,
        FaultCode::RecordUnreadable,
        FaultCode::RecordInvalid,
    );
    assert_eq!(said, [(0, 0, null), (1, 1, frame), (1, 2, bytes), (1, 3, frame)]);
    assert!(world.refused.iter().all(|r| &*r.topic == AIRPORTS));
    let detail = |code| {
        world
            .refused
            .iter()
            .find(|r| r.fault.code == code)
            .unwrap()
            .fault
            .detail
            .clone()
    };
    assert!(
        detail(null).contains("field `code` is null: a primary key"),
        "{}",
        detail(null)
    );
    assert!(detail(bytes).contains("field `feet`"), "{}", detail(bytes));
    assert_eq!(told(&world, "demo.per_state"), ["12:00 13:00 CA 8 r0"]);
}

#[test]
fn of_two_records_with_one_primary_key_the_newest_applies_while_it_stands() {
    let mut world = World::new(&format!("{TABLES}{HOURLY}"), 1);
    world.airports.write("a", Some(airport(Some("SFO"), "CA", 13)));
    world.airports.write("b", Some(airport(Some("SFO"), "NV", 13)));
    world.send(0, &flight("1", 1));
    world.run(1, 1, 5, false);
    world.airports.write("b", None);
    world.send(0, &flight("2", 2));
    world.run(1, 2, 5, true);
    world.airports.write("a", Some(airport(Some("OAK"), "CA", 9)));
    world.send(0, &flight("3", 3));
    world.send(0, &flight("end", 100));
    world.run(1, 2, 5, true);
    let mut all = told(&world, "demo.per_state");
    all.sort();
    assert_eq!(
        all,
        ["12:00 13:00 CA 1 r0", "12:00 13:00 NULL 1 r0", "12:00 13:00 NV 1 r0"]
    );
}

#[test]
fn many_versions_take_no_more_than_the_last_ones_and_too_many_rows_halt() {
    let mut world = World::new(&format!("{TABLES}{HOURLY}"), 1);
    for nth in 0..3_000 {
        let (code, state, feet) = KNOWN[nth % KNOWN.len()];
        world.airports.write(
            code,
            Some(airport(
                Some(code),
                &format!("{state} {nth}, a name that does not fit into a view"),
                feet,
            )),
        );
    }
    world.send(0, &flight("1", 1));
    let start = |world: &World| {
        let subjects = world.program.results().into_iter().map(|d| d.subject);
        let query = world
            .program
            .start(world.settings.clone(), world.registry(), subjects.zip(1..).collect());
        let mut query = query
            .unwrap()
            .following(Box::new(super::followed::Follower::of(&world.airports)));
        query.begin(0);
        query
    };
    let mut query = start(&world);
    query.on_batch(&[world.slab_of(0)], Timestamp(world.now)).unwrap();
    let gauges = query.gauges();
    let of = |name: &str| gauges.iter().find(|g| g.0 == name).unwrap().1;
    assert_eq!((of("lookup_rows"), of("unmatched")), (8, 2));
    assert!(of("lookup_bytes") < 600_000, "{gauges:?}");
    world.settings.lookup_bytes_max = 1_000;
    let fault = start(&world)
        .on_batch(&[world.slab_of(0)], Timestamp(world.now))
        .unwrap_err();
    assert!(
        fault.detail.contains("lookup_bytes_max (1000): raise lookup_mb_max"),
        "{}",
        fault.detail
    );
}

#[test]
fn what_a_lookup_cannot_do_is_said_with_what_to_write_instead() {
    let plan = |sql: &str| Program::plan(sql, &schemas()).map_err(|faults| faults[0].to_string());
    let select = |from: &str| {
        plan(&format!(
            "{TABLES}INSERT INTO known SELECT tumble(INTERVAL '1 hour') AS window, count(*) AS n {from} GROUP BY window;"
        ))
    };
    for (from, says) in [
        (
            "FROM airports a JOIN flights f ON f.origin = a.code",
            "name the stream first",
        ),
        ("FROM airports", "it has no time of its own"),
        (
            "FROM flights f RIGHT JOIN airports a ON f.origin = a.code",
            "JOIN or LEFT JOIN",
        ),
        ("FROM flights f CROSS JOIN airports a", "JOIN or LEFT JOIN"),
        (
            "FROM flights f JOIN airports a ON f.origin = a.state",
            "ON its primary key alone (code)",
        ),
        (
            "FROM flights f LEFT JOIN airports a ON f.origin = a.code AND f.distance > a.feet",
            "move other conditions into WHERE",
        ),
        (
            "FROM flights f LEFT JOIN airports a ON f.origin = a.code AND f.destination = a.state",
            "ON its primary key alone",
        ),
        (
            "FROM flights f JOIN airports a ON f.origin > a.code",
            "its primary key = a column of the stream",
        ),
        ("FROM flights f, airports a", "JOIN ... ON"),
        (
            "FROM flights f JOIN per_state p ON f.origin = p.state",
            "`flights` is a stream without a window",
        ),
    ] {
        let said = select(from).unwrap_err();
        assert!(said.starts_with("line ") && said.contains(says), "{from}: {said}");
    }
    for (from, to, says) in [
        ("code TEXT PRIMARY KEY", "code TEXT", "has no primary key"),
        (
            "TEXT PRIMARY KEY, state TEXT, feet INT",
            "TEXT, state TEXT, feet DOUBLE PRIMARY KEY",
            "is Float64: a key is",
        ),
        (
            "feet INT",
            "feet INT, PRIMARY KEY (runway)",
            "names `runway`, which is not a column",
        ),
        (
            "'soma.lookup' = 'true'",
            "'soma.lookup' = 'false'",
            "`flights` is a stream without a window",
        ),
    ] {
        let said = plan(&format!("{}{HOURLY}", TABLES.replace(from, to))).unwrap_err();
        assert!(said.contains(says), "{to}: {said}");
    }
    let after = format!("{TABLES}CREATE VIEW hourly AS SELECT tumble(INTERVAL '1 hour') AS window, origin, count(*) AS n FROM flights GROUP BY window, origin;
      INSERT INTO known SELECT h.window, a.state, h.n FROM hourly h JOIN airports a ON h.origin = a.code;");
    assert!(
        plan(&after)
            .unwrap_err()
            .contains("a lookup is joined before the window")
    );
}

#[test]
fn a_plan_says_what_it_looks_up() {
    let program = super::world::program(&format!("{TABLES}{HOURLY}"));
    assert_eq!(
        (program.sources(), program.lookups()),
        (vec!["demo.flights".to_owned()], vec![AIRPORTS.to_owned()])
    );
    let text = program.explain();
    for says in [
        "lookup airports <- topic demo.airports, held whole by every instance",
        "  decode     code, state\n",
        "  key        code; the newest row that is read when a record is processed",
        "  lookup     airports by its primary key; without a row: nulls",
        "  lookup     airports by its primary key; without a row: left out",
    ] {
        assert!(text.contains(says), "{says} is not in\n{text}");
    }
    // Arroyo's word for it.
    let arroyo = TABLES.replace(
        "type = 'source', topic = 'demo.airports'",
        "type = 'lookup', topic = 'demo.airports'",
    );
    let other = super::world::program(&format!("{}{HOURLY}", arroyo.replace(", 'soma.lookup' = 'true'", "")));
    assert_eq!(other.explain(), text);
}
