//! What is wrong with a file, by line and column; and the plan as people see it.

use std::collections::BTreeMap;

use super::world::{AVRO, TOPIC};
use crate::streaming::Program;

const SOURCE: &str = "CREATE TABLE flights (id TEXT, date TIMESTAMP, delay BIGINT, origin TEXT,
  WATERMARK FOR date AS date - INTERVAL '10 minutes'
) WITH (connector = 'kafka', type = 'source', topic = 'demo.flights', format = 'avro');
CREATE TABLE out WITH (connector = 'kafka', type = 'sink', topic = 'demo.out', format = 'avro');
";

fn plan(sql: &str) -> Result<Program, Vec<String>> {
    let schemas = BTreeMap::from([(TOPIC.to_owned(), AVRO.to_owned())]);
    Program::plan(sql, &schemas).map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

#[test]
fn what_a_select_cannot_do_is_said_where_it_stands() {
    for (select, place, says) in [
        ("SELECT count(*) AS n FROM flights", "line 5, column 1", "has no window"),
        (
            "SELECT tumble(INTERVAL '1 hour') AS w, count(*) FROM nowhere GROUP BY w",
            "line 5",
            "declared are flights, out",
        ),
        (
            "SELECT tumble('1 hour') AS w, count(*) AS n FROM flights GROUP BY w",
            "line 5, column 24",
            "is no INTERVAL",
        ),
        (
            "SELECT hop(INTERVAL '1 hour') AS w, count(*) AS n FROM flights GROUP BY w",
            "line 5",
            "how often, then how wide",
        ),
        (
            "SELECT hop(INTERVAL '2 hours', INTERVAL '1 hour') AS w, count(*) AS n FROM flights GROUP BY w",
            "line 5",
            "leaves records out",
        ),
        (
            "SELECT tumble(INTERVAL '1 hour') AS w, colour, count(*) AS n FROM flights GROUP BY w, colour",
            "line 5",
            "colour",
        ),
        (
            "SELECT tumble(INTERVAL '1 hour') AS w, count(*) AS n FROM flights",
            "line 5",
            "",
        ),
        (
            "SELECT tumble(INTERVAL '1 hour') AS w, count(*) AS n FROM flights GROUP BY w ORDER BY n",
            "line 5",
            "ORDER BY",
        ),
        (
            "SELECT tumble(INTERVAL '1 hour') AS w, count(*) AS revision FROM flights GROUP BY w",
            "line 5",
            "name of our own",
        ),
        (
            "SELECT tumble(INTERVAL '1 hour') AS w, array_agg(delay) AS d FROM flights GROUP BY w",
            "line 5",
            "column `d` is List",
        ),
        (
            "SELECT tumble(INTERVAL '1 hour') AS w, count(*) AS n FROM flights JOIN out ON true GROUP BY w",
            "line 5",
            "`flights` is a stream without a window: join a stream with a lookup",
        ),
        (
            "SELECT tumble(INTERVAL '1 hour') AS w, count(*) AS n FROM flights WHERE false GROUP BY w",
            "line 5",
            "not something a stream can do",
        ),
        (
            "SELECT tumble(INTERVAL '1 hour') AS w, origin, count(*) AS n FROM flights GROUP BY ROLLUP (w, origin)",
            "line 5",
            "GROUP",
        ),
        ("SELEKT 1", "line 5, column 17", "SELEKT"),
    ] {
        let faults = plan(&format!("{SOURCE}INSERT INTO out {select};"))
            .map(|_| ())
            .unwrap_err();
        assert_eq!(faults.len(), 1, "{select}: {faults:?}");
        assert!(
            faults[0].starts_with(place) && faults[0].contains(says),
            "{select}: {faults:?}"
        );
    }
}

#[test]
fn what_is_wrong_with_a_table_is_said_where_it_stands_and_all_at_once() {
    let sql = "CREATE TABLE flights (id TEXT, dated TIMESTAMP, delay TIMESTAMP,
  WATERMARK FOR date AS date - INTERVAL '10 minutes'
) WITH (connector = 'kafka', type = 'source', topic = 'demo.flights', format = 'avro');
CREATE TABLE out WITH (connector = 'kafka', type = 'sink', topic = 'demo.out', format = 'avro');
INSERT INTO out SELECT tumble(INTERVAL '1 hour') AS w, count(*) AS n FROM flights GROUP BY w;";
    let faults = plan(sql).map(|_| ()).unwrap_err();
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(
        faults[0].starts_with("line 1, column 32: topic `demo.flights` has no field `dated`; did you mean \"date\"?")
    );
    assert!(faults[1].starts_with("line 1, column 49: field `delay` of topic `demo.flights` is Int64, not TIMESTAMP"));
    for (from, to, place, says) in [
        (
            "'avro')",
            "'avro', 'soma.allowd_lateness' = '1 hour')",
            "line 3",
            "did you mean `soma.allowed_lateness`?",
        ),
        (
            "'avro')",
            "'avro', 'soma.idle' = 'soon')",
            "line 3",
            "option `soma.idle`: `soon` is no length of time",
        ),
        ("'avro')", "'json')", "line 3", "format 'json'"),
        (
            "'source'",
            "'sauce'",
            "line 3",
            "neither 'source' nor 'sink' nor 'lookup'",
        ),
        (
            "date - INTERVAL",
            "delay - INTERVAL",
            "line 2, column 3",
            "is for `date` but takes from `delay`",
        ),
        (
            "WATERMARK FOR date AS date",
            "WATERMARK FOR origin AS origin",
            "line 1",
            "not a TIMESTAMP",
        ),
        (
            ",\n  WATERMARK FOR date AS date - INTERVAL '10 minutes'",
            "",
            "line 1",
            "has no watermark",
        ),
    ] {
        let insert = "INSERT INTO out SELECT tumble(INTERVAL '1 hour') AS w, count(*) AS n FROM flights GROUP BY w;";
        let sql = format!("{}{insert}", SOURCE.replacen(from, to, 1));
        let faults = plan(&sql).map(|_| ()).unwrap_err();
        assert!(
            faults.iter().any(|f| f.starts_with(place) && f.contains(says)),
            "{to}: {faults:?}"
        );
    }
}

#[test]
fn a_program_says_what_it_reads_and_writes_and_how() {
    let sql = format!(
        "{SOURCE}INSERT INTO out SELECT hop(INTERVAL '15 minutes', INTERVAL '1 hour') AS w, origin, avg(delay) AS \"meanDelay\",
         count(*) AS n FROM flights WHERE delay > 5 GROUP BY w, origin;"
    );
    let program = plan(&sql).unwrap();
    assert_eq!(Program::topics(&sql).unwrap(), ["demo.flights"]);
    assert_eq!(
        (program.sources(), program.repartitions()),
        (vec!["demo.flights".to_owned()], vec!["partials".to_owned()])
    );
    let declared = &program.results()[0];
    assert_eq!(
        (declared.topic.as_str(), declared.subject.as_str()),
        ("demo.out", "demo.out-value")
    );
    assert_eq!(declared.key, ["origin"]);
    let avro: serde_json::Value = serde_json::from_str(&declared.avro_json).unwrap();
    let names: Vec<_> = avro["fields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "window_start",
            "window_end",
            "origin",
            "meanDelay",
            "n",
            "revision",
            "deleted"
        ]
    );
    assert_eq!((&avro["namespace"], &avro["name"]), (&"demo".into(), &"Out".into()));
    let text = program.explain();
    for says in [
        "source flights <- topic demo.flights",
        "decode     date, delay, origin",
        "watermark  date - 10 minutes",
        "hop 1 hour every 15 minutes (panes of 15 minutes)",
        "repartition by hash of origin",
        "sink       demo.out <- window_start, window_end, origin, meanDelay, n, revision, deleted",
    ] {
        assert!(text.contains(says), "{says} is not in\n{text}");
    }
}
