//! The HTTP interface as clients use it: statements, formats, packing, credentials, errors.

// A test may panic, that is how it fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

#[allow(dead_code)]
#[path = "../src/blocks.rs"]
mod blocks;
#[allow(dead_code)]
#[path = "../src/failure.rs"]
mod failure;

use std::io::Read;
use support::{Server, folder};

const EVENTS: &str = "CREATE TABLE ev (id UInt64, s String) ENGINE = MergeTree ORDER BY id";

#[test]
fn statements_settings_and_parameters() {
    let server = Server::start(&folder("statements"));
    assert_eq!(server.raw("GET", "ping", &[], b"").text(), "Ok.\n");
    assert_eq!(server.send("GET", "?query=SELECT%201", &[], b"").text(), "1\n");
    let select = b"SELECT currentDatabase(), getSetting('max_threads'), {x:String}, {x:String} = char(97, 9, 39)";
    let answer = server.post("?database=system&max_threads=1&param_x=a%5Ct%27", select);
    assert_eq!(answer.text(), "system\t1\ta\\t\\'\t1\n");
    assert!(answer.head.contains("x-clickhouse-format: tabseparated") && answer.head.contains("x-clickhouse-query-id"));
    let form = b"--B\r\nContent-Disposition: form-data; name=\"query\"\r\n\r\nSELECT {y:UInt8} + 1\r\n--B\r\nContent-Disposition: form-data; name=\"param_y\"\r\n\r\n4\r\n--B--\r\n";
    let answer = server.send("POST", "", &["Content-Type: multipart/form-data; boundary=B"], form);
    assert_eq!(answer.text(), "5\n");
    // Nothing of one request is seen by the next.
    assert_eq!(
        server.sql("SELECT currentDatabase(), getSetting('max_threads') = 1"),
        "default\t0\n"
    );
    let json = server.send("POST", "", &["X-ClickHouse-Format: JSONEachRow"], b"SELECT 1 AS a");
    assert_eq!(json.text(), "{\"a\":1}\n");
}

#[test]
fn errors_carry_code_and_status() {
    let server = Server::start(&folder("errors"));
    server.sql(EVENTS);
    let get = server.send("GET", "?query=DROP%20TABLE%20ev", &[], b"");
    assert!(
        get.text().starts_with("Code: 164. DB::Exception"),
        "GET must not write: {}",
        get.text()
    );
    for (query, sql, status, code) in [
        ("", "SELECT * FROM nope", 404, "60"),
        ("?database=nope", "SELECT 1", 404, "81"),
        ("?nosuch=1", "SELECT 1", 404, "115"),
        ("", "SELEC 1", 400, "62"),
        ("", "SELECT 1; SELECT 2", 400, "62"),
        ("", "INSERT INTO ev FORMAT CSV\n\"x\",1", 400, "27"),
        ("", "INSERT INTO ev (id)", 400, "108"),
        ("", "SELECT throwIf(1)", 500, "395"),
        ("?decompress=1", "this is no compressed block at all", 400, "246"),
        ("?session_check=1&session_id=a", "SELECT 1", 404, "372"),
    ] {
        let answer = server.post(query, sql.as_bytes());
        assert_eq!(answer.status, status, "{sql}: {}", answer.text());
        assert!(
            answer.text().starts_with(&format!("Code: {code}. DB::")),
            "{sql}: {}",
            answer.text()
        );
        assert!(
            answer.head.contains(&format!("x-clickhouse-exception-code: {code}")),
            "{}",
            answer.head
        );
    }
    let brotli = server.send("POST", "", &["Content-Encoding: br"], b"SELECT 1");
    assert_eq!(brotli.status, 415);
    // A failure after the first bytes: tagged, and the body never ends well.
    let late = server.post("", b"SELECT number, throwIf(number = 900000) FROM numbers(1000000)");
    assert!(late.status == 200 && !late.complete && late.text().contains("Code: 395. DB::Exception"));
    assert!(late.text().ends_with("__exception__\r\n"));
}

#[test]
fn credentials() {
    let server = Server::start(&folder("credentials"));
    let sql = b"SELECT 1";
    assert_eq!(server.raw("POST", "", &[], sql).status, 401);
    assert_eq!(
        server.raw("POST", "?user=soma&password=pass%27word", &[], sql).status,
        200
    );
    assert_eq!(
        server
            .raw(
                "POST",
                "",
                &["X-ClickHouse-User: soma", "X-ClickHouse-Key: pass'word"],
                sql
            )
            .status,
        200
    );
    for wrong in [
        &["X-ClickHouse-User: soma"][..],
        &["X-ClickHouse-User: x", "X-ClickHouse-Key: pass'word"],
    ] {
        let answer = server.raw("POST", "", wrong, sql);
        assert_eq!(answer.status, 403);
        assert!(answer.head.contains("x-clickhouse-exception-code: 516"));
    }
    assert_eq!(
        server.send("POST", "?user=soma&password=pass%27word", &[], sql).status,
        403
    );
}

#[test]
fn every_insert_format_keeps_every_byte() {
    let server = Server::start(&folder("formats"));
    server.sql(EVENTS);
    server.sql("CREATE TABLE copy AS ev");
    server.sql(
        "INSERT INTO ev SELECT number, concat(char(0, 10, 39, 255, number % 256), '; FORMAT x') FROM numbers(70000)",
    );
    let digest = "SELECT count(), sum(cityHash64(id, s))";
    let expected = server.sql(&format!("{digest} FROM ev"));
    let formats = [
        "RowBinary",
        "RowBinaryWithNamesAndTypes",
        "Native",
        "JSONEachRow",
        "CSV",
        "TSV",
        "Parquet",
        "ArrowStream",
        "Values",
    ];
    for format in formats {
        let data = server.post(&format!("?default_format={format}"), b"SELECT * FROM ev ORDER BY id");
        assert_eq!(data.status, 200, "{format}");
        for in_body in [true, false] {
            server.sql("TRUNCATE TABLE copy");
            let answer = if in_body {
                let mut body = format!("INSERT INTO copy FORMAT {format}\n").into_bytes();
                body.extend_from_slice(&data.body);
                server.post("", &body)
            } else {
                server.post(&format!("?query=INSERT%20INTO%20copy%20FORMAT%20{format}"), &data.body)
            };
            assert_eq!(answer.status, 200, "{format}: {}", answer.text());
            assert!(
                answer.head.contains("\"written_rows\":\"70000\""),
                "{format}: {}",
                answer.head
            );
            assert_eq!(server.sql(&format!("{digest} FROM copy")), expected, "{format}");
        }
    }
}

#[test]
fn packing_both_ways() {
    let server = Server::start(&folder("packing"));
    server.sql(EVENTS);
    let answer = server.post("?compress=1", b"SELECT number FROM numbers(200000)");
    let mut plain = String::new();
    blocks::BlockReader::new(answer.body.as_slice())
        .read_to_string(&mut plain)
        .unwrap();
    assert_eq!(plain.lines().count(), 200_000);

    let csv: String = (0..100_000).map(|n| format!("{n},x\n")).collect();
    let mut packed = Vec::new();
    blocks::compress(csv.as_bytes(), &mut packed);
    let insert = "?decompress=1&query=INSERT%20INTO%20ev%20FORMAT%20CSV";
    assert_eq!(server.post(insert, &packed).status, 200);
    assert_eq!(server.sql("SELECT count() FROM ev"), "100000\n");
    packed[40] ^= 1;
    let refused = server.post(insert, &packed);
    assert!(
        refused.status == 400 && refused.text().contains("CHECKSUM_DOESNT_MATCH"),
        "{}",
        refused.text()
    );
    assert_eq!(server.sql("SELECT count() FROM ev"), "100000\n");

    let zstd = zstd::bulk::compress(b"INSERT INTO ev FORMAT CSV\n1,z\n", 1).unwrap();
    assert_eq!(server.send("POST", "", &["Content-Encoding: zstd"], &zstd).status, 200);
    let answer = server.send(
        "POST",
        "?enable_http_compression=1",
        &["Accept-Encoding: gzip"],
        b"SELECT count() FROM ev",
    );
    let mut plain = String::new();
    flate2::read::GzDecoder::new(answer.body.as_slice())
        .read_to_string(&mut plain)
        .unwrap();
    assert_eq!(plain, "100001\n");
}
