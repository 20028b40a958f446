//! Where each record went: late, early, twice, idle, null, garbage, from the future.

use kernel::{Dataflow, FaultCode};
use schemas::Timestamp;

use super::world::{Flight, HOUR, MINUTE, World, encode};

const SQL: &str = "
CREATE TABLE flights (
  id TEXT NOT NULL, date TIMESTAMP, distance BIGINT, origin TEXT,
  WATERMARK FOR date AS date - INTERVAL '10 minutes'
) WITH (connector = 'kafka', type = 'source', topic = 'demo.flights', format = 'avro', 'soma.unique' = 'id',
        'soma.allowed_lateness' = '30 minutes', 'soma.idle' = '10 seconds');
CREATE TABLE hourly WITH (connector = 'kafka', type = 'sink', topic = 'demo.hourly', format = 'avro');
CREATE TABLE visits WITH (connector = 'kafka', type = 'sink', topic = 'demo.visits', format = 'avro');
INSERT INTO hourly SELECT tumble(INTERVAL '1 hour') AS window, origin, count(*) AS n FROM flights GROUP BY window, origin;
INSERT INTO visits SELECT session(INTERVAL '20 minutes') AS window, origin, count(*) AS n FROM flights GROUP BY window, origin;
";

const START: &str = "2001-02-09T12:00:00Z";

/// Minutes after the start.
fn at(minutes: i64) -> Option<i64> {
    Some(START.parse::<Timestamp>().unwrap().0 + minutes * MINUTE)
}

fn flight(id: &str, date: Option<i64>) -> Flight {
    Flight {
        id: id.to_owned(),
        date,
        delay: None,
        distance: 100,
        origin: "SFO".to_owned(),
        destination: "ORD".to_owned(),
    }
}

fn world(partitions: usize, records: &[(usize, &str, i64)]) -> World {
    let mut world = World::new(SQL, partitions);
    for (partition, id, minutes) in records {
        world.send(*partition, &flight(id, at(*minutes)));
    }
    world
}

/// Rows of a view as told: window start, count, revision, deleted.
fn told(world: &World, topic: &str) -> Vec<String> {
    let short = |row: &str| row.replace("2001-02-09T", "").replace(":00Z", "");
    let line = |(_, row, revision, deleted): (String, String, i32, bool)| {
        format!("{} r{revision}{}", short(&row), if deleted { " deleted" } else { "" })
    };
    world.told(topic).into_iter().map(line).collect()
}

#[test]
fn a_late_record_corrects_its_window_and_a_later_one_goes_to_the_late_topic() {
    // The window 12:00 to 13:00 closes at 13:10 and is gone at 13:40.
    let mut world = world(1, &[(0, "a", 5), (0, "b", 75)]);
    world.run(1, 1, 9, false);
    for (id, minutes) in [("late", 7), ("c", 100), ("too late", 8)] {
        world.send(0, &flight(id, at(minutes)));
    }
    world.run(1, 1, 9, false);
    assert_eq!(
        told(&world, "demo.hourly"),
        ["12:00 13:00 SFO 1 r0", "12:00 13:00 SFO 2 r1"]
    );
    // The first is in time for the hour and too late for the session of 12:05; the second is too late for both.
    assert_eq!(world.late.len(), 2);
    assert_eq!(world.late[0].headers.text("soma-late-views"), Some("visits"));
    let late = &world.late[1];
    assert_eq!(**late.value.as_ref().unwrap(), encode(&flight("too late", at(8)))[..]);
    assert_eq!(late.headers.text("soma-late-offset"), Some("4"));
    assert_eq!(late.headers.text("soma-late-views"), Some("hourly,visits"));
    assert_eq!((world.outcomes.counted, world.outcomes.late), (4, 2));
}

#[test]
fn late_for_one_view_and_in_time_for_another() {
    // The session of 12:05 may be corrected until 12:55, the hour until 13:30.
    let mut world = world(1, &[(0, "a", 5), (0, "b", 66), (0, "late", 5)]);
    world.run(1, 1, 9, false);
    world.send(0, &flight("end", at(200)));
    world.run(1, 1, 9, false);
    assert_eq!(world.late[0].headers.text("soma-late-views"), Some("visits"));
    assert_eq!(told(&world, "demo.hourly")[0], "12:00 13:00 SFO 2 r0");
    assert_eq!(
        told(&world, "demo.visits"),
        ["12:05 12:25 SFO 1 r0", "13:06 13:26 SFO 1 r0"]
    );
}

#[test]
fn sessions_that_grow_together_leave_one_row() {
    let mut world = world(1, &[(0, "a", 0), (0, "b", 30), (0, "c", 61)]);
    world.run(1, 1, 9, false);
    assert_eq!(
        told(&world, "demo.visits"),
        ["12:00 12:20 SFO 1 r0", "12:30 12:50 SFO 1 r0"]
    );
    world.send(0, &flight("between", at(15)));
    world.run(1, 1, 9, false);
    assert_eq!(
        told(&world, "demo.visits")[2..],
        [
            "12:30 12:50 SFO 2 r1 deleted".replace("SFO 2", "SFO 3"),
            "12:00 12:50 SFO 3 r1".to_owned()
        ]
    );
    assert_eq!(world.rows("demo.visits").len(), 1);
}

#[test]
fn an_early_record_waits_and_one_of_the_future_is_refused() {
    let mut world = world(
        1,
        &[
            (0, "a", 5),
            (0, "tomorrow", 24 * 60 - 1),
            (0, "next month", 31 * 24 * 60),
        ],
    );
    // The clock stands at noon of the next day: `future_max_ms` is a day.
    world.now = at(0).unwrap();
    world.run(1, 1, 9, false);
    assert_eq!(
        told(&world, "demo.hourly"),
        ["12:00 13:00 SFO 1 r0"],
        "what came early closes what is before it"
    );
    assert_eq!(world.refused.len(), 1);
    let refused = &world.refused[0];
    assert_eq!((refused.offset, refused.fault.code), (2, FaultCode::RecordInvalid));
    assert!(
        refused.fault.detail.contains("field `date`"),
        "{}",
        refused.fault.detail
    );
    assert!(
        refused.fault.detail.contains("further ahead of now"),
        "{}",
        refused.fault.detail
    );
}

#[test]
fn null_and_garbage_times_are_refused_and_move_nothing() {
    let mut world = world(1, &[(0, "a", 5)]);
    world.send(0, &flight("null", None));
    world.send(0, &flight("before years", Some(i64::MIN)));
    world.send(0, &flight("after years", Some(i64::MAX)));
    world.send(0, &flight("b", at(6)));
    world.run(1, 1, 9, false);
    let said: Vec<_> = world
        .refused
        .iter()
        .map(|r| (r.offset, r.fault.detail.as_str()))
        .collect();
    assert_eq!(said.iter().map(|s| s.0).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(
        said[0].1.contains("field `date` has no time") && said[1].1.contains("no time between"),
        "{said:?}"
    );
    assert!(told(&world, "demo.hourly").is_empty());
    assert_eq!((world.outcomes.counted, world.outcomes.refused), (2, 3));
}

#[test]
fn values_that_cannot_be_read_are_refused_one_by_one_and_the_rest_is_taken() {
    let mut world = world(1, &[(0, "a", 5), (0, "b", 6)]);
    let whole = encode(&flight("c", at(7)));
    world.source[0].push(b"not avro".to_vec());
    world.source[0].push(whole[..whole.len() - 2].to_vec());
    world.source[0].push([&whole[..], b"x"].concat());
    world.source[0].push([&[0, 0, 0, 0, 9], &whole[5..]].concat());
    world.source[0].push(Vec::new());
    let mut long = whole;
    long[5] = 0x7f;
    world.source[0].push(long);
    world.send(0, &flight("d", at(90)));
    world.run(1, 1, 99, false);
    let said: Vec<_> = world
        .refused
        .iter()
        .map(|r| (r.offset, r.fault.code, r.fault.detail.as_str()))
        .collect();
    for (offset, code, detail) in [
        (2, FaultCode::RecordNotFramed, "zero byte"),
        (3, FaultCode::RecordUnreadable, "field `destination`"),
        (4, FaultCode::RecordUnreadable, "left over"),
        (5, FaultCode::SchemaUnknown, "no schema 9"),
        (6, FaultCode::RecordNotFramed, "zero byte"),
        (7, FaultCode::RecordUnreadable, "field `id`"),
    ] {
        let found = said.iter().find(|s| s.0 == offset);
        assert!(
            found.is_some_and(|s| s.1 == code && s.2.contains(detail)),
            "{offset}: {found:?}"
        );
    }
    assert_eq!(said.len(), 6);
    assert_eq!(told(&world, "demo.hourly"), ["12:00 13:00 SFO 2 r0"]);
}

#[test]
fn duplicates_are_dropped_also_across_a_restore() {
    let mut world = world(1, &[(0, "a", 5), (0, "a", 5), (0, "b", 6)]);
    world.run(1, 1, 9, true);
    world.send(0, &flight("a", at(5)));
    world.send(0, &flight("end", at(200)));
    world.run(1, 3, 9, true);
    assert_eq!(told(&world, "demo.hourly")[0], "12:00 13:00 SFO 2 r0");
    assert_eq!(world.outcomes.duplicate, 2);
}

#[test]
fn an_idle_partition_does_not_hold_windows_back_and_a_woken_one_corrects_or_is_told_late() {
    let mut world = world(2, &[(0, "a", 5), (1, "b", 6), (0, "c", 75)]);
    world.run(2, 1, 9, false);
    assert!(told(&world, "demo.hourly").is_empty(), "partition 1 stands at 12:06");
    idle_for(&mut world, 11);
    assert_eq!(told(&world, "demo.hourly"), ["12:00 13:00 SFO 2 r0"]);
    // Partition 1 wakes: not late by its own watermark.
    world.send(1, &flight("woke", at(20)));
    world.run(2, 1, 9, false);
    assert_eq!(told(&world, "demo.hourly")[1..], ["12:00 13:00 SFO 3 r1"]);
    world.send(0, &flight("far", at(300)));
    world.run(2, 1, 9, false);
    idle_for(&mut world, 11);
    world.send(1, &flight("gone", at(21)));
    world.run(2, 1, 9, false);
    let reasons: Vec<_> = world.late.iter().map(|l| l.headers.text("soma-late-reason")).collect();
    assert_eq!(
        reasons,
        [Some("woke"), Some("woke")],
        "the hour's row and the session's"
    );
    let text = String::from_utf8(world.late[0].value.as_ref().unwrap().to_vec()).unwrap();
    assert!(text.contains("\"view\":\"hourly\"") && text.contains("SFO"), "{text}");
    assert_eq!(world.outcomes.woke, 2);
}

#[test]
fn a_stage_that_stood_still_takes_no_partition_for_idle() {
    let mut world = world(2, &[(0, "a", 5), (1, "b", 6), (0, "c", 75)]);
    world.run(2, 1, 9, false);
    // What partition 1 got meanwhile is not fetched yet when the stage goes on.
    world.stall(&[1], 60_000_000);
    assert!(told(&world, "demo.hourly").is_empty(), "partition 1 stands at 12:06");
    idle_for(&mut world, 9);
    assert!(told(&world, "demo.hourly").is_empty(), "nine seconds of ten");
    idle_for(&mut world, 11);
    assert_eq!(told(&world, "demo.hourly"), ["12:00 13:00 SFO 2 r0"]);
}

#[test]
fn a_partition_that_wakes_in_the_transaction_in_which_another_goes_far_is_not_late() {
    // By the instance that has seen it idle, and by one that has taken over since.
    for again in [false, true] {
        let mut world = world(2, &[(0, "a", 5), (1, "b", 6), (0, "c", 75)]);
        world.run(2, 1, 9, false);
        if again {
            idle_for(&mut world, 11);
        }
        let silence = if again { 0 } else { 11_000_000 };
        world.at_once(silence, &[(0, flight("far", at(600))), (1, flight("woke", at(80)))]);
        assert_eq!((world.outcomes.woke, world.late.len()), (0, 0), "taken over: {again}");
        world.at_once(0, &[(1, flight("end", at(600)))]);
        let hour: Vec<_> = told(&world, "demo.hourly");
        assert!(hour.iter().any(|row| row.starts_with("13:00 14:00 SFO 2")), "{hour:?}");
    }
}

/// Lets time pass without records: only partition 0 stays awake, by a record that changes no closed window.
fn idle_for(world: &mut World, seconds: i64) {
    world.idle(&[1], seconds * 1_000_000);
}

#[test]
fn too_much_state_halts_and_says_what_to_do() {
    let mut world = world(1, &[(0, "a", 5)]);
    world.settings.state_bytes_max = 10;
    let subjects = world.program.results().into_iter().map(|d| d.subject);
    let ids = subjects.zip(1..).collect();
    let mut query = world
        .program
        .start(world.settings.clone(), world.registry(), ids)
        .unwrap();
    query.begin(0);
    let slab = world.slab_of(0);
    query.on_batch(&[slab], Timestamp(at(0).unwrap() + HOUR)).unwrap();
    let fault = query.flush(Timestamp(at(0).unwrap() + HOUR)).unwrap_err();
    assert!(fault.detail.contains("state_bytes_max"), "{}", fault.detail);
}

#[test]
fn udfs_are_called_and_one_that_fails_is_named() {
    use std::sync::Arc;

    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::{DataType, Int64Type};
    use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};

    let body = |args: &[ColumnarValue]| {
        let miles = args[0].to_array(1)?;
        let miles = miles.as_primitive::<Int64Type>();
        if miles.iter().any(|m| m == Some(13)) {
            return Err(datafusion::error::DataFusionError::Execution(
                "udf `halved`: thirteen".to_owned(),
            ));
        }
        let halved = miles.iter().map(|m| m.map(|m| m / 2));
        Ok(ColumnarValue::Array(Arc::new(halved.collect::<Int64Array>())))
    };
    let halved = create_udf(
        "halved",
        vec![DataType::Int64],
        DataType::Int64,
        Volatility::Immutable,
        Arc::new(body),
    );
    let udfs = crate::udf::Udfs {
        scalars: vec![halved],
        ..crate::udf::Udfs::default()
    };
    let (tables, _) = SQL.split_once("INSERT").unwrap();
    let sql = format!(
        "{tables}INSERT INTO hourly SELECT tumble(INTERVAL '1 hour') AS window, sum(halved(distance)) AS half FROM flights GROUP BY window;"
    );
    let mut world = world(1, &[(0, "a", 5), (0, "b", 90)]);
    let schemas = [("demo.flights".to_owned(), super::world::AVRO.to_owned())].into();
    assert!(
        crate::streaming::Program::plan(&sql, &schemas).unwrap_err()[0]
            .detail
            .contains("halved")
    );
    world.program = crate::streaming::Program::plan_with(&sql, &schemas, &udfs).unwrap();
    world.run(1, 1, 9, false);
    assert_eq!(told(&world, "demo.hourly"), ["12:00 13:00 50 r0"]);
    let mut broken = flight("c", at(91));
    broken.distance = 13;
    world.send(0, &broken);
    let ids = [("demo.hourly-value".to_owned(), 1)].into();
    let mut query = world
        .program
        .start(world.settings.clone(), world.registry(), ids)
        .unwrap();
    let fault = query.on_batch(&[world.slab_of(0)], Timestamp(world.now)).unwrap_err();
    assert!(fault.detail.contains("udf `halved`: thirteen"), "{}", fault.detail);
}
