//! The past by batch: the rows are those the stream told last; what should stand otherwise is written once, by revision.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use kernel::{EventTime, Fault, Headers};
use parquet::arrow::ArrowWriter;
use schemas::Timestamp;

use super::exact::{SQL, VIEWS, fill};
use super::world::{AVRO, Flight, HOUR, ID, MINUTE, RESULTS, World, batch, flights};
use crate::streaming::backfill::{Ask, Backfill, Comparison, Differences, Kind};
use crate::streaming::{Program, Schemas};

/// All schemas of a world: of flights, and of results.
struct All(Program);

impl Schemas for All {
    fn writer(&self, _: &str, id: i32) -> Result<String, Fault> {
        if id == ID {
            return Ok(AVRO.to_owned());
        }
        let results = self.0.results();
        Ok(results[usize::try_from(id - RESULTS).unwrap()].avro_json.clone())
    }
}

fn at(text: &str) -> i64 {
    text.parse::<Timestamp>().unwrap().0
}

fn ask(view: &str) -> Ask {
    Ask {
        view: view.to_owned(),
        from: at("2000-12-31T00:00:00Z"),
        to: at("2001-02-01T00:00:00Z"),
        nothing_late: false,
        by_columns: false,
    }
}

fn start(world: &World, ask: &Ask) -> Backfill {
    let schemas: Arc<dyn Schemas> = Arc::new(All(world.program.clone()));
    world.program.backfill(ask, &world.settings, &schemas).unwrap()
}

/// The source topic through a backfill, cut as the command cuts it.
fn read(world: &World, ask: &Ask, cut: usize) -> Backfill {
    let mut backfill = start(world, ask);
    for partition in 0..world.source.len() {
        let all = world.slab_of(partition);
        for begin in (0..all.len()).step_by(cut) {
            let mut slab = kernel::Slab {
                topic: Arc::clone(&all.topic),
                partition: all.partition,
                ..kernel::Slab::default()
            };
            for i in begin..all.len().min(begin + cut) {
                slab.push(all.value(i), all.offsets[i], Timestamp(0));
            }
            backfill.take(&slab, Timestamp(world.now)).unwrap();
        }
    }
    backfill
}

fn compare(world: &World, backfill: Backfill) -> Differences {
    let topic = backfill.topic().to_owned();
    let mut found = backfill.finish().unwrap();
    stands(world, &topic, &mut found);
    let names: Vec<_> = world.program.results().into_iter().map(|d| d.topic).collect();
    let id = RESULTS + names.iter().position(|n| *n == topic).unwrap() as i32;
    let all = [Kind::Same, Kind::Corrected, Kind::Added, Kind::Deleted];
    found.differences((id, 0), &Headers::default(), (&all, 10_000)).unwrap()
}

fn stands(world: &World, topic: &str, found: &mut Comparison) {
    for emit in world.results.iter().filter(|e| &*e.topic == topic) {
        found.stands(&emit.key, emit.value.as_ref().unwrap()).unwrap();
    }
}

fn counts(found: &Differences) -> (usize, usize, usize, usize) {
    (found.same, found.corrected, found.added, found.deleted)
}

/// A stream that ran over late, doubled and shuffled flights, with crashes.
fn told() -> (World, Vec<Vec<Flight>>) {
    let mut world = World::new(SQL, 3);
    let sent = fill(&mut world, 99);
    world.run(2, 5, 60, true);
    assert!(world.outcomes.late > 10 && world.outcomes.duplicate > 40 && world.outcomes.woke == 0);
    (world, sent)
}

#[test]
fn the_past_by_batch_gives_what_the_stream_told_last() {
    let (world, _) = told();
    let mut windows = 0;
    for (topic, view, _) in VIEWS {
        let rows = world.rows(topic).len();
        for cut in [97, 8_192] {
            let found = compare(&world, read(&world, &ask(view), cut));
            assert_eq!(counts(&found), (rows, 0, 0, 0), "{view}");
            assert!(found.emits.is_empty() && found.windows == rows && rows > 50);
        }
        windows += rows;
    }
    assert!(windows > 2_000, "{windows}");
    let spread = compare(&world, read(&world, &ask("spread"), 500));
    assert_eq!(spread.unsteady, ["half"]);
}

#[test]
fn late_records_correct_their_windows_once() {
    let (mut world, sent) = told();
    // Of a flight sent twice the first counts, in whichever order; all lie in the partition they came to first.
    let mut seen = BTreeSet::new();
    let all: Vec<Flight> = sent
        .into_iter()
        .flatten()
        .filter(|f| seen.insert(f.id.clone()))
        .collect();
    for (topic, view, sql) in VIEWS.iter().filter(|(_, view, _)| *view != "spread") {
        let ask = Ask {
            nothing_late: true,
            ..ask(view)
        };
        let found = compare(&world, read(&world, &ask, 1_000));
        assert!(found.corrected + found.added > 10, "{view}: {:?}", counts(&found));
        assert_eq!(found.emits.len(), found.windows - found.same);
        world.results.extend(found.emits);
        // `rows` asserts that revisions grow.
        let mut rows: Vec<_> = world.rows(topic).into_values().collect();
        rows.sort();
        assert!(rows == batch(&all, sql), "{view}");
        let again = compare(&world, read(&world, &ask, 1_000));
        assert_eq!(counts(&again), (rows.len(), 0, 0, 0), "{view}");
    }
}

#[test]
fn rows_that_are_wrong_missing_or_too_many_are_put_right() {
    let (mut world, _) = told();
    let topic = "demo.per_hour";
    let before = world.rows(topic);
    let of = |world: &World, key: &str| {
        world
            .results
            .iter()
            .rposition(|e| e.key == key && &*e.topic == topic)
            .unwrap()
    };
    let keys: Vec<String> = before.keys().cloned().collect();
    // The values of another window under this one's key and time cannot be made by hand: a row of a stream that saw less can.
    let mut less = World::new(SQL, 1);
    for flight in flights()
        .into_iter()
        .filter(|f| f.id.parse::<usize>().unwrap() % 2 == 0)
    {
        less.send(0, &flight);
    }
    less.send_last();
    less.run(1, 1, 100_000, false);
    let fewer = less.rows(topic);
    let wrong = keys
        .iter()
        .find(|k| fewer.get(*k).is_some_and(|row| *row != before[*k]))
        .unwrap();
    let missing = keys.iter().rfind(|k| fewer.get(*k) == Some(&before[*k])).unwrap();
    world.results.retain(|e| e.key != *missing || &*e.topic != topic);
    let worse = less.results[of(&less, wrong)].clone();
    let at = of(&world, wrong);
    world.results[at].value = worse.value;
    let found = compare(&world, read(&world, &ask("per_hour"), 1_000));
    assert_eq!(counts(&found), (before.len() - 2, 1, 1, 0));
    let corrected = found.rows.iter().find(|r| r.kind == Kind::Corrected).unwrap();
    assert!(corrected.before.contains_key("flights") && !corrected.before.contains_key("window_start"));
    assert_eq!(corrected.row.len(), 7);
    world.results.extend(found.emits);
    assert_eq!(world.rows(topic), before);
    // Every second flight alone: what stands is too much, and goes.
    world.source = less.source.clone();
    let found = compare(&world, read(&world, &ask("per_hour"), 1_000));
    assert!(found.deleted > 0 && found.corrected > 0, "{:?}", counts(&found));
    world.results.extend(found.emits);
    assert_eq!(world.rows(topic), less.rows(topic));
    // And comes back: a row that was deleted goes on with its revisions.
    let (again, _) = told();
    world.source = again.source;
    let found = compare(&world, read(&world, &ask("per_hour"), 1_000));
    assert!(found.added > 0);
    world.results.extend(found.emits);
    assert_eq!(world.rows(topic), before);
}

#[test]
fn a_range_is_widened_to_windows_and_cuts_no_session() {
    let (world, _) = told();
    let range = |view: &str, from: &str, to: &str| {
        let ask = Ask {
            from: at(from),
            to: at(to),
            ..ask(view)
        };
        let (from, to) = start(&world, &ask).range();
        (from.to_string(), to.to_string())
    };
    let wanted = |from: &str, to: &str| (at(from), at(to));
    let micros = |(from, to): (String, String)| (at(&from), at(&to));
    let given = ("2001-01-01T10:20:30Z", "2001-01-01T12:00:00Z");
    assert_eq!(
        micros(range("per_hour", given.0, given.1)),
        wanted("2001-01-01T10:00:00Z", "2001-01-01T12:00:00Z")
    );
    assert_eq!(
        micros(range("per_hour", "2001-01-01T10:00:00Z", "2001-01-01T12:00:00.000001Z")),
        wanted("2001-01-01T10:00:00Z", "2001-01-01T13:00:00Z")
    );
    assert_eq!(
        micros(range("hops", given.0, "2001-01-01T12:01:00Z")),
        wanted("2001-01-01T10:15:00Z", "2001-01-01T12:15:00Z")
    );
    assert_eq!(micros(range("busy", given.0, given.1)), wanted(given.0, given.1));
    let border = |view: &str, of: &str| start(&world, &ask(view)).border(Timestamp(at(of))).0;
    assert_eq!(border("per_hour", "2001-01-01T12:34:00Z"), at("2001-01-01T12:00:00Z"));
    assert_eq!(border("per_hour", "2001-01-01T12:00:00Z"), at("2001-01-01T12:00:00Z"));
    assert_eq!(border("hops", "2001-01-01T12:34:00Z"), at("2001-01-01T12:30:00Z"));
    assert_eq!(border("busy", "2001-01-01T12:34:00Z"), at("2001-01-01T12:34:00Z"));
    // A part of the range gives the same rows, whatever lies beside it; sessions that reach out are left.
    for (topic, view, _) in VIEWS {
        let ask = Ask {
            from: at("2001-01-02T06:00:00Z"),
            to: at("2001-01-03T18:00:00Z"),
            ..ask(view)
        };
        let backfill = read(&world, &ask, 777);
        let (from, to) = backfill.range();
        let found = compare(&world, backfill);
        assert_eq!((found.corrected, found.added, found.deleted), (0, 0, 0), "{view}");
        let inside = |row: &str| {
            let mut words = row.split(' ').map(|w| w.parse::<EventTime>());
            let mut next = || words.next().unwrap().unwrap();
            next() >= from && next() <= to
        };
        let rows = world.rows(topic).into_values().filter(|row| inside(row)).count();
        assert_eq!(found.same, rows, "{view}");
        assert_eq!(found.beyond > 0, *view == "busy");
    }
}

#[test]
fn windows_the_stage_may_tell_again_are_known() {
    let (world, _) = told();
    let newest = at("2001-02-01T00:00:00Z") - 10 * MINUTE;
    for (view, more) in [("per_hour", 0), ("hops", HOUR), ("busy", 20 * MINUTE)] {
        let backfill = start(&world, &ask(view));
        let mut progress = backfill.progress(0..3);
        assert_eq!(progress.settled(), None);
        for (partition, log) in world.state.iter().enumerate() {
            assert_eq!(progress.settled(), None);
            for (key, value) in log {
                progress.take(partition as i32, key, value.as_deref()).unwrap();
            }
        }
        assert_eq!(progress.settled(), Some(Timestamp(newest - HOUR - more)), "{view}");
    }
    let other = SQL.replace("max(delay) AS worst", "min(delay) AS worst");
    let other = World::new(&other, 3);
    let mut progress = start(&other, &ask("per_hour")).progress(0..3);
    let state = world.state.iter().flatten();
    let said: Result<Vec<()>, _> = state.map(|(k, v)| progress.take(0, k, v.as_deref())).collect();
    assert!(said.unwrap_err().detail.contains("another text of view `per_hour`"));
}

fn file(name: &str, columns: &[(&str, ArrayRef)]) -> (PathBuf, File) {
    let path = std::env::temp_dir().join(format!("soma-backfill-{}-{name}.parquet", std::process::id()));
    let batch = RecordBatch::try_from_iter(columns.iter().map(|(n, c)| (*n, Arc::clone(c)))).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let file = File::open(&path).unwrap();
    (path, file)
}

/// Columns as another tool writes them: milliseconds in UTC, narrow numbers, and more than is wanted.
fn columns(flights: &[Flight]) -> Vec<(&'static str, ArrayRef)> {
    let text = |of: &dyn Fn(&Flight) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(flights.iter().map(of)))
    };
    let dates = flights.iter().map(|f| f.date.unwrap() / 1_000);
    let dates = TimestampMillisecondArray::from_iter_values(dates).with_timezone("+00:00");
    vec![
        ("more", text(&|_| String::new())),
        ("destination", text(&|f| f.destination.clone())),
        ("origin", text(&|f| f.origin.clone())),
        ("id", text(&|f| f.id.clone())),
        ("date", Arc::new(dates)),
        (
            "delay",
            Arc::new(
                flights
                    .iter()
                    .map(|f| f.delay.map(|d| d as i32))
                    .collect::<Int32Array>(),
            ),
        ),
        (
            "distance",
            Arc::new(Int64Array::from_iter_values(flights.iter().map(|f| f.distance))),
        ),
    ]
}

#[test]
fn a_parquet_file_gives_the_rows_of_a_stream_in_time() {
    let mut world = World::new(SQL, 2);
    for (i, flight) in flights().iter().enumerate() {
        world.send(i % 2, flight);
    }
    world.send_last();
    world.run(1, 3, 500, false);
    let mut twice = flights();
    twice.extend(flights().into_iter().take(300));
    let (path, _) = file("good", &columns(&twice));
    for (topic, view, _) in VIEWS {
        let ask = Ask {
            by_columns: true,
            to: at("2001-01-31T00:00:00Z"),
            ..ask(view)
        };
        let mut backfill = start(&world, &ask);
        backfill
            .take_parquet("flights.parquet", File::open(&path).unwrap(), Timestamp(world.now))
            .unwrap();
        assert_eq!(backfill.outcomes().duplicate, 300);
        let found = compare(&world, backfill);
        assert_eq!(counts(&found), (world.rows(topic).len(), 0, 0, 0), "{view}");
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_file_that_does_not_fit_is_refused_by_name() {
    let world = World::new(SQL, 1);
    let good: BTreeMap<&str, ArrayRef> = columns(&flights()[..9]).into_iter().collect();
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["x"; 9]));
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![i64::MAX; 9]));
    let nulls: ArrayRef = Arc::new(StringArray::from(vec![None::<&str>; 9]));
    for (name, put, says) in [
        (
            "origin",
            None,
            "f.parquet has no column `origin`, which the view takes; it has date, delay,",
        ),
        ("id", None, "no column `id`"),
        (
            "delay",
            Some(&texts),
            "column `delay` of f.parquet is text; the source's table has Int64",
        ),
        (
            "date",
            Some(&numbers),
            "column `date` of f.parquet is Int64; the source's table has a time",
        ),
        ("origin", Some(&nulls), "column `origin` of f.parquet has nulls"),
    ] {
        let mut given = good.clone();
        given.remove(name);
        given.extend(put.map(|column| (name, Arc::clone(column))));
        let (path, file) = file("bad", &given.into_iter().collect::<Vec<_>>());
        let ask = Ask {
            by_columns: true,
            ..ask("per_hour")
        };
        let said = start(&world, &ask)
            .take_parquet("f.parquet", file, Timestamp(world.now))
            .unwrap_err();
        assert!(said.detail.contains(says), "{said:?}");
        std::fs::remove_file(path).unwrap();
    }
    // What this view does not take may be missing.
    let mut given = good.clone();
    given.remove("destination");
    let (path, found) = file("less", &given.into_iter().collect::<Vec<_>>());
    let ask = Ask {
        by_columns: true,
        ..ask("per_hour")
    };
    let mut backfill = start(&world, &ask);
    backfill.take_parquet("f.parquet", found, Timestamp(world.now)).unwrap();
    assert_eq!(backfill.outcomes().counted, 9);
    std::fs::write(&path, "no parquet").unwrap();
    let said = backfill
        .take_parquet("f.parquet", File::open(&path).unwrap(), Timestamp(world.now))
        .unwrap_err();
    assert!(said.detail.contains("f.parquet cannot be read"), "{said:?}");
    std::fs::remove_file(path).unwrap();
    let schemas: Arc<dyn Schemas> = Arc::new(All(world.program.clone()));
    let said = |ask: &Ask| {
        world
            .program
            .backfill(ask, &world.settings, &schemas)
            .err()
            .unwrap()
            .detail
    };
    assert!(said(&super::backfill::ask("per_our")).contains("no view `per_our`; there are per_hour, per_minute"));
    let nothing = Ask {
        to: at("2000-12-31T00:00:00Z"),
        ..super::backfill::ask("per_hour")
    };
    assert!(said(&nothing).contains("holds no window"));
}
