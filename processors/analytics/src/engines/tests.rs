//! Rendering, and what is refused. That Flink takes the text and computes the same windows, `make verify-flink` shows.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;

use super::*;
use crate::streaming::Declared;

const FLIGHTS: &str = "CREATE TABLE flights (
  id TEXT NOT NULL, date TIMESTAMP NOT NULL, delay BIGINT NOT NULL, distance BIGINT NOT NULL, origin TEXT NOT NULL, destination TEXT NOT NULL,
  WATERMARK FOR date AS date - INTERVAL '10 minutes'
) WITH (connector = 'kafka', type = 'source', topic = 'demo.flights', format = 'avro', 'avro.confluent_schema_registry' = 'true',
  'soma.unique' = 'id', 'soma.allowed_lateness' = '1 hour', 'soma.idle' = '10 seconds');
CREATE TABLE out (a TEXT) WITH (connector = 'kafka', type = 'sink', topic = 'demo.out', format = 'avro', 'avro.confluent_schema_registry' = 'true');
";

const FLIGHT: &str = r#"{"type":"record","name":"Flight","namespace":"demo","fields":[
  {"name":"id","type":"string"},
  {"name":"date","type":{"type":"long","logicalType":"timestamp-micros"}},
  {"name":"delay","type":"long"},{"name":"distance","type":"long"},
  {"name":"origin","type":"string"},{"name":"destination","type":"string"},
  {"name":"not taken, and of a type Flink's tables have not","type":{"type":"map","values":"string"}}]}"#;

/// The result's schema with these columns of its own.
fn declared(own: &[(&str, &str)]) -> Declared {
    let time = r#"{"type":"long","logicalType":"timestamp-micros"}"#;
    let mut fields = vec![
        format!(r#"{{"name":"window_start","type":{time}}}"#),
        format!(r#"{{"name":"window_end","type":{time}}}"#),
    ];
    for (name, kind) in own {
        fields.push(format!(r#"{{"name":"{name}","type":["null",{kind}],"default":null}}"#));
    }
    fields.push(r#"{"name":"revision","type":"int"}"#.to_owned());
    fields.push(r#"{"name":"deleted","type":"boolean"}"#.to_owned());
    Declared {
        topic: "demo.out".to_owned(),
        subject: "demo.out-value".to_owned(),
        avro_json: format!(
            r#"{{"type":"record","name":"Out","namespace":"demo","fields":[{}]}}"#,
            fields.join(",")
        ),
        key: Vec::new(),
    }
}

fn render(insert: &str, own: &[(&str, &str)]) -> Script {
    let results = [declared(own)];
    let sources = BTreeMap::from([("demo.flights".to_owned(), FLIGHT.to_owned())]);
    let flink = Flink {
        job: "demo.views",
        brokers: "b:1",
        registry: "http://r",
        parallelism: 4,
        bounded: true,
        sources: &sources,
        results: &results,
    };
    flink.render(&format!("{FLIGHTS}{insert}")).unwrap()
}

fn last(script: &Script) -> &str {
    assert_eq!(script.left_out, []);
    script.statements.last().unwrap()
}

#[test]
fn a_source_is_a_kafka_table_and_a_view_without_duplicates() {
    let script = render(
        "INSERT INTO out SELECT tumble(INTERVAL '1 hour') AS window, count(*) AS n FROM flights GROUP BY window",
        &[("n", "\"long\"")],
    );
    let log = script.statements.iter().find(|s| s.contains("`flights__log`")).unwrap();
    for part in [
        "`date` BIGINT NOT NULL",
        "`soma_time` AS CAST(TO_TIMESTAMP_LTZ(`date` / 1000, 3) AS TIMESTAMP(3))",
        "WATERMARK FOR `soma_time` AS `soma_time` - INTERVAL '0 00:10:00.000' DAY TO SECOND(3)",
        "'format' = 'avro-confluent'",
        "'avro-confluent.url' = 'http://r'",
        "'scan.bounded.mode' = 'latest-offset'",
    ] {
        assert!(log.contains(part), "{part} in {log}");
    }
    assert!(
        !script.statements.concat().contains("soma.unique"),
        "our options stay here"
    );
    let view = script
        .statements
        .iter()
        .find(|s| s.starts_with("CREATE TEMPORARY VIEW `flights` "))
        .unwrap();
    assert!(
        view.contains("ROW_NUMBER() OVER (PARTITION BY `id` ORDER BY `soma_seen` ASC)"),
        "{view}"
    );
    assert!(
        script
            .statements
            .iter()
            .any(|s| s == "SET 'table.exec.state.ttl' = '15600000 ms'"),
        "{:?}",
        script.statements
    );
}

#[test]
fn windows_become_table_functions() {
    let of = |window: &str| {
        let script = render(
            &format!(
                "INSERT INTO out SELECT {window} AS window, origin, count(*) AS n FROM flights GROUP BY window, origin"
            ),
            &[("origin", "\"string\""), ("n", "\"long\"")],
        );
        last(&script).to_owned()
    };
    for (window, wanted) in [
        (
            "tumble(INTERVAL '1 hour')",
            "TUMBLE(TABLE `flights`, DESCRIPTOR(`soma_time`), INTERVAL '0 01:00:00.000' DAY TO SECOND(3))",
        ),
        (
            "hop(INTERVAL '15 minutes', INTERVAL '1 day')",
            "HOP(TABLE `flights`, DESCRIPTOR(`soma_time`), INTERVAL '0 00:15:00.000' DAY TO SECOND(3), INTERVAL '1 00:00:00.000' DAY TO SECOND(3))",
        ),
        (
            "session(INTERVAL '20 minutes')",
            "SESSION(TABLE `flights` PARTITION BY (`origin`), DESCRIPTOR(`soma_time`), INTERVAL '0 00:20:00.000' DAY TO SECOND(3))",
        ),
    ] {
        let text = of(window);
        assert!(text.contains(wanted), "{text}");
        assert!(
            text.contains("GROUP BY `window_start`, `window_end`, `origin`"),
            "{text}"
        );
    }
}

#[test]
fn a_result_has_our_schema_and_our_key() {
    let script = render(
        "INSERT INTO out SELECT tumble(INTERVAL '6 hours') AS window, origin, approx_percentile_cont(delay, 0.95) AS p, avg(delay) AS a, count(DISTINCT destination) AS d FROM flights WHERE delay > 0 GROUP BY window, origin",
        &[
            ("origin", "\"string\""),
            ("p", "\"long\""),
            ("a", "\"double\""),
            ("d", "\"long\""),
        ],
    );
    let sink = script
        .statements
        .iter()
        .find(|s| s.starts_with("CREATE TEMPORARY TABLE `out`"))
        .unwrap();
    assert!(
        sink.contains("`soma_key` STRING NOT NULL,\n  `window_start` BIGINT NOT NULL"),
        "{sink}"
    );
    assert!(
        sink.contains(r#"{"name":"window_start","type":{"type":"long"}}"#),
        "times are counted: {sink}"
    );
    assert!(
        sink.contains("'sink.transactional-id-prefix' = 'demo.views.flink.out'"),
        "{sink}"
    );
    let text = last(&script);
    for part in [
        "PERCENTILE(`delay`, 0.95) AS `soma_1`",
        "CAST(`soma_1` AS BIGINT)",
        "AVG(CAST(`delay` AS DOUBLE)) AS `soma_2`",
        "COUNT(DISTINCT `destination`) AS `soma_3`",
        "TUMBLE(TABLE `out__in`",
        "CONCAT_WS('|', REPLACE(REPLACE(CAST(`soma_key_0` AS STRING), '\\', '\\\\'), '|', '\\|'), DATE_FORMAT(`soma_start`",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(
        script
            .statements
            .iter()
            .any(|s| s == "CREATE TEMPORARY VIEW `out__in` AS SELECT * FROM `flights` WHERE `delay` > 0")
    );
}

#[test]
fn views_carry_the_event_time_and_computed_keys_are_columns() {
    let script = render(
        "CREATE VIEW late AS SELECT upper(origin) AS place, delay FROM flights WHERE delay > 15;
         INSERT INTO out SELECT session(INTERVAL '1 hour') AS window, lower(place) AS place, sum(delay * 2) AS s FROM late GROUP BY 1, 2",
        &[("place", "\"string\""), ("s", "\"long\"")],
    );
    assert!(script.statements.iter().any(|s| s == "CREATE TEMPORARY VIEW `late` AS SELECT UPPER(`origin`) AS `place`, `delay` AS `delay`, `soma_time` FROM `flights` WHERE `delay` > 15"), "{:#?}", script.statements);
    assert!(
        script
            .statements
            .iter()
            .any(|s| s == "CREATE TEMPORARY VIEW `out__in` AS SELECT *, LOWER(`place`) AS `soma_by_0` FROM `late`")
    );
    let text = last(&script);
    assert!(
        text.contains("PARTITION BY (`soma_by_0`)") && text.contains("`soma_by_0` AS `soma_0`"),
        "{text}"
    );
    assert!(text.contains("SUM(CAST(`delay` * 2 AS BIGINT))"), "{text}");
}

#[test]
fn what_flink_has_no_counterpart_of_is_left_out_with_the_reason() {
    for (select, why) in [
        (
            "tumble(INTERVAL '1 hour') AS window, risk_band(delay) AS n FROM flights GROUP BY window, risk_band(delay)",
            "risk_band() is not rendered",
        ),
        (
            "tumble(INTERVAL '1 hour') AS window, array_agg(delay) AS n FROM flights GROUP BY window",
            "depends on the order",
        ),
        (
            "hop(INTERVAL '7 minutes', INTERVAL '1 hour') AS window, count(*) AS n FROM flights GROUP BY window",
            "multiple of the slide",
        ),
        (
            "tumble(INTERVAL '1 hour') AS window, count(*) AS n FROM flights JOIN out ON true GROUP BY window",
            "`flights` has no window",
        ),
        (
            "tumble(INTERVAL '1 hour') AS window, count(*) AS n, now() AS t FROM flights GROUP BY window",
            "not repeatable",
        ),
    ] {
        let script = render(&format!("INSERT INTO out SELECT {select}"), &[("n", "\"long\"")]);
        let [(name, said)] = script.left_out.as_slice() else {
            panic!("{select}: {:?}", script.left_out)
        };
        assert!(
            name == "out" && said.starts_with("line ") && said.contains(why),
            "{said}"
        );
        assert!(
            !script.statements.iter().any(|s| s.contains("STATEMENT SET")),
            "nothing is left to start"
        );
        let verdicts = support(&format!("{FLIGHTS}INSERT INTO out SELECT {select}")).unwrap();
        let verdict = verdicts
            .iter()
            .find(|(s, e, _)| s == "insert into out" && *e == Engine::Flink)
            .unwrap();
        assert!(
            matches!(&verdict.2, Verdict::No(said) if said.contains(why)),
            "{verdict:?}"
        );
    }
}

#[test]
fn what_differs_is_said() {
    let all = support(&format!("{FLIGHTS}INSERT INTO out SELECT session(INTERVAL '1 hour') AS window, approx_percentile_cont(delay, 0.5) AS n FROM flights GROUP BY window")).unwrap();
    let of = |statement: &str, engine| {
        all.iter()
            .find(|(s, e, _)| s == statement && *e == engine)
            .map(|(_, _, v)| format!("{v:?}"))
            .unwrap()
    };
    assert!(of("table flights", Engine::Flink).contains("late record is dropped"));
    assert!(of("table flights", Engine::Arroyo).contains("soma.unique is left out"));
    assert!(of("insert into out", Engine::Flink).contains("percentiles are exact"));
    assert!(of("insert into out", Engine::Arroyo).contains("a gap apart"));
    assert_eq!(of("table out", Engine::Flink), "Same");
}

#[test]
fn lookups_stay_here_and_say_why() {
    let sql = format!(
        "{FLIGHTS}CREATE TABLE airports (code TEXT PRIMARY KEY, state TEXT) WITH (connector = 'kafka', type = 'source', topic = 'demo.airports', format = 'avro', 'soma.lookup' = 'true');
         CREATE VIEW placed AS SELECT f.date, a.state FROM flights f LEFT JOIN airports a ON f.origin = a.code;
         INSERT INTO out SELECT tumble(INTERVAL '1 hour') AS window, state, count(*) AS n FROM placed GROUP BY window, state;"
    );
    let all = support(&sql).unwrap();
    for (statement, engine, why) in [
        ("table airports", Engine::Flink, "such as JDBC"),
        ("view placed", Engine::Flink, "it asks lookup airports"),
        ("insert into out", Engine::Flink, "view placed"),
        ("table airports", Engine::Arroyo, "lookups ask a store there"),
        ("view placed", Engine::Arroyo, "it asks lookup airports"),
        ("insert into out", Engine::Arroyo, "it asks lookup airports"),
    ] {
        let found = all.iter().find(|(s, e, _)| s == statement && *e == engine).unwrap();
        assert!(matches!(&found.2, Verdict::No(said) if said.contains(why)), "{found:?}");
    }
    let arroyo = Arroyo {
        name: "demo",
        brokers: "b:1",
        registry: "http://r",
        parallelism: 2,
        udfs: &[],
    };
    let faults = arroyo.render(&sql).unwrap_err();
    assert!(
        faults[0].to_string().starts_with("line 7") && faults[0].detail.contains("lookup `airports`"),
        "{faults:?}"
    );
}

const HOURLY: &str = "
  CREATE VIEW hourly AS SELECT tumble(INTERVAL '1 hour') AS window, date, origin, destination, delay FROM flights;
  CREATE VIEW leaving AS SELECT tumble(INTERVAL '1 hour') AS w, origin AS place, count(*) AS n FROM flights WHERE delay > 0 GROUP BY w, origin;
  CREATE VIEW coming AS SELECT tumble(INTERVAL '1 hour') AS window, count(*) AS n, destination FROM flights GROUP BY window, destination;
";

#[test]
fn a_join_of_rows_is_a_window_join_and_an_aggregate_over_its_window() {
    let script = render(
        &format!(
            "{HOURLY} INSERT INTO out SELECT back.window, there.origin, count(*) AS n, sum(there.delay - back.delay) AS wait
             FROM hourly there RIGHT JOIN (SELECT * FROM hourly WHERE delay > 5) back ON back.window = there.window
             AND there.origin = back.destination AND back.date > there.date WHERE there.delay > 1
             GROUP BY back.window, there.origin HAVING count(*) > 1"
        ),
        &[("origin", "\"string\""), ("n", "\"long\""), ("wait", "\"long\"")],
    );
    assert_eq!(script.left_out, []);
    let text = last(&script);
    for says in [
        "SELECT `window_start` AS `soma_l_start`, `window_end` AS `soma_l_end`, `date` AS `soma_l__date`",
        "FROM TABLE(TUMBLE(TABLE `flights`, DESCRIPTOR(`soma_time`), INTERVAL '0 01:00:00.000' DAY TO SECOND(3)))",
        "WHERE `soma_r_in__delay` > 5)",
        "RIGHT JOIN",
        "ON `soma_l_start` = `soma_r_start` AND `soma_l_end` = `soma_r_end` AND (`soma_l__origin` = `soma_r__destination`) AND (`soma_r__date` > `soma_l__date`)",
        "WHERE `soma_l__delay` > 1",
        "SUM(CAST(`soma_l__delay` - `soma_r__delay` AS BIGINT)) AS `soma_2`",
        "GROUP BY `soma_r_start`, `soma_r_end`, `soma_l__origin` HAVING COUNT(*) > 1",
    ] {
        assert!(text.contains(says), "{says} is not in\n{text}");
    }
}

#[test]
fn a_join_of_aggregates_has_the_window_and_the_keys_that_are_there() {
    let script = render(
        &format!(
            "{HOURLY} INSERT INTO out SELECT coalesce(a.w, b.window) AS window, coalesce(place, destination) AS place, a.n AS left, b.n AS right
             FROM leaving a FULL JOIN coming b ON b.destination = a.place AND a.w = b.window"
        ),
        &[("place", "\"string\""), ("left", "\"long\""), ("right", "\"long\"")],
    );
    assert_eq!(script.left_out, []);
    let text = last(&script);
    for says in [
        "COUNT(*) AS `soma_l__n` FROM TABLE(TUMBLE(",
        "WHERE `delay` > 0 GROUP BY `window_start`, `window_end`, `origin`)",
        "SELECT COALESCE(`soma_l_start`, `soma_r_start`) AS `soma_start`",
        "COALESCE(`soma_l__place`, `soma_r__destination`) AS `soma_key_0`",
        "`soma_l__n` AS `soma_1`, `soma_r__n` AS `soma_2`",
        "FULL JOIN",
    ] {
        assert!(text.contains(says), "{says} is not in\n{text}");
    }
    assert!(!text.contains("soma_key_1") && !text.contains("HAVING"), "{text}");
}

#[test]
fn joins_that_flink_would_answer_otherwise_are_left_out_with_the_reason() {
    let by = "ON a.window = b.window AND a.origin = b.destination";
    for (select, why) in [
        (
            format!(
                "SELECT coalesce(a.window, b.window) AS window, count(*) AS n FROM hourly a FULL JOIN hourly b {by} GROUP BY 1"
            ),
            "change its rows for ever",
        ),
        (
            format!("SELECT a.window, count(*) AS n FROM hourly a JOIN coming b {by} GROUP BY a.window"),
            "one side is rows and the other an aggregate",
        ),
        (
            "SELECT window, count(*) AS n FROM hourly a JOIN hourly b USING (window) GROUP BY window".to_owned(),
            "write ON a.window = b.window",
        ),
        (
            format!("SELECT a.window, count(*) AS n, now() AS t FROM hourly a JOIN hourly b {by} GROUP BY a.window"),
            "not repeatable",
        ),
    ] {
        let sql = format!("{HOURLY} INSERT INTO out {select}");
        let script = render(&sql, &[("n", "\"long\"")]);
        assert!(
            matches!(script.left_out.as_slice(), [(_, said)] if said.contains(why)),
            "{select}: {:?}",
            script.left_out
        );
        let all = support(&format!("{FLIGHTS}{sql}")).unwrap();
        let of = |statement: &str| {
            all.iter()
                .find(|(s, e, _)| s == statement && *e == Engine::Flink)
                .unwrap()
        };
        assert!(
            matches!(&of("insert into out").2, Verdict::No(said) if said.contains(why)),
            "{select}"
        );
        assert_eq!(of("view hourly").2, Verdict::Same);
        assert_eq!(of("view coming").2, Verdict::Same);
    }
}

#[test]
fn joins_of_two_streams_do_not_run_on_arroyo() {
    let sql = format!(
        "{FLIGHTS}{HOURLY} INSERT INTO out SELECT a.window, a.origin, count(*) AS n FROM hourly a JOIN hourly b
           ON a.window = b.window AND a.origin = b.origin GROUP BY a.window, a.origin;"
    );
    let all = support(&sql).unwrap();
    let of = |statement: &str, engine| all.iter().find(|(s, e, _)| s == statement && *e == engine).unwrap();
    assert_eq!(of("insert into out", Engine::Flink).2, Verdict::Same);
    for statement in ["view hourly", "insert into out"] {
        let found = of(statement, Engine::Arroyo);
        assert!(
            matches!(&found.2, Verdict::No(said) if said.contains("windows only in aggregates")),
            "{found:?}"
        );
    }
    let arroyo = Arroyo {
        name: "demo",
        brokers: "b:1",
        registry: "http://r",
        parallelism: 2,
        udfs: &[],
    };
    let faults = arroyo.render(&sql).unwrap_err();
    assert!(
        faults[0].detail.contains("insert into out") && faults[0].detail.contains("another result"),
        "{faults:?}"
    );
}

#[test]
fn arroyo_gets_the_text_without_our_options() {
    let sql = format!(
        "-- a comment\n{FLIGHTS}INSERT INTO out SELECT tumble(INTERVAL '1 hour') AS window, count(*) AS n FROM flights GROUP BY window;"
    );
    let posts = Arroyo {
        name: "demo",
        brokers: "b:1",
        registry: "http://r",
        parallelism: 2,
        udfs: &["fn x() {}".to_owned()],
    }
    .render(&sql)
    .unwrap();
    assert_eq!(
        posts.iter().map(|p| p.path).collect::<Vec<_>>(),
        ["/api/v1/connection_profiles", "/api/v1/pipelines"]
    );
    assert_eq!(posts[0].body["config"]["schemaRegistryEnum"]["endpoint"], "http://r");
    let query = posts[1].body["query"].as_str().unwrap();
    assert!(!query.contains("soma."), "{query}");
    assert!(
        query.contains("-- a comment\n") && query.contains("'avro.confluent_schema_registry' = 'true');"),
        "{query}"
    );
    assert_eq!(
        query
            .matches("WITH (connection_profile = 'demo', connector = 'kafka'")
            .count(),
        2,
        "{query}"
    );
    assert_eq!(
        (
            posts[1].body["parallelism"].as_u64(),
            posts[1].body["udfs"][0]["language"].as_str()
        ),
        (Some(2), Some("rust"))
    );
    // Without our options it is what was written.
    let plain = query.replace("connection_profile = 'demo', ", "");
    let strip = |text: &str| text.replace([' ', '\n'], "");
    let wanted = sql.replace(
        ",\n  'soma.unique' = 'id', 'soma.allowed_lateness' = '1 hour', 'soma.idle' = '10 seconds'",
        "",
    );
    assert_eq!(strip(&plain), strip(&wanted));
}

#[test]
fn faults_of_the_text_are_the_dialects_own() {
    let faults =
        support("CREATE TABLE t (a TEXT) WITH (connector = 'kafka', type = 'source', topic = 'x', 'soma.uniqe' = 'a')")
            .unwrap_err();
    assert!(faults.iter().any(|f| f.detail.contains("soma.unique")), "{faults:?}");
}
