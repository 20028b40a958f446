//! What must never be lost or doubled: acknowledged rows over kill -9, repeated tokens, cut uploads, running
//! statements at a stop; and refusals to start.

// A test may panic, that is how it fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use support::{Server, folder, library, refused};

#[test]
fn a_token_counts_once_also_in_a_materialized_view() {
    let server = Server::start(&folder("token"));
    let window = "SETTINGS non_replicated_deduplication_window = 1000";
    server.sql(&format!(
        "CREATE TABLE ev (id UInt64, s String) ENGINE = MergeTree ORDER BY id {window}"
    ));
    server.sql(&format!(
        "CREATE TABLE sums (s String, n UInt64) ENGINE = SummingMergeTree ORDER BY s {window}"
    ));
    server.sql("CREATE MATERIALIZED VIEW mv TO sums AS SELECT s, count() AS n FROM ev GROUP BY s");
    let rows: String = (0..5000).map(|n| format!("{n},x\n")).collect();
    for (token, times) in [("a", 3), ("b", 2)] {
        for _ in 0..times {
            let query = format!(
                "?insert_deduplication_token={token}&deduplicate_blocks_in_dependent_materialized_views=1\
                 &query=INSERT%20INTO%20ev%20FORMAT%20CSV"
            );
            assert_eq!(server.post(&query, rows.as_bytes()).status, 200);
        }
    }
    assert_eq!(
        server.sql("SELECT (SELECT count() FROM ev), (SELECT sum(n) FROM sums)"),
        "10000\t10000\n"
    );
}

#[test]
fn kill_9_keeps_every_acknowledged_row() {
    let folder = folder("kill");
    let mut server = Server::start(&folder);
    server.sql("CREATE TABLE ev (id UInt64) ENGINE = MergeTree ORDER BY id");
    for round in 0..3_u64 {
        let acknowledged: Vec<AtomicU64> = (0..3).map(|_| AtomicU64::new(0)).collect();
        let address = server.address.clone();
        std::thread::scope(|scope| {
            for (writer, count) in acknowledged.iter().enumerate() {
                let address = &address;
                scope.spawn(move || {
                    for batch in 0.. {
                        let base = round * 100_000_000 + writer as u64 * 10_000_000 + batch * 100;
                        let rows: String = (base..base + 100).map(|id| format!("{id}\n")).collect();
                        if !insert(address, &rows) {
                            return;
                        }
                        count.store(batch + 1, Ordering::SeqCst);
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(1200));
            server.child.kill().unwrap();
            server.child.wait().unwrap();
        });
        server = Server::start(&folder);
        for (writer, count) in acknowledged.iter().enumerate() {
            let (base, batches) = (
                round * 100_000_000 + writer as u64 * 10_000_000,
                count.load(Ordering::SeqCst),
            );
            assert!(batches > 0, "nothing was acknowledged");
            let end = base + batches * 100;
            let found = server.sql(&format!(
                "SELECT count(), uniqExact(id) FROM ev WHERE id >= {base} AND id < {end}"
            ));
            assert_eq!(found, format!("{0}\t{0}\n", batches * 100));
        }
    }
}

/// One insert on a connection of its own; false when the server is gone.
fn insert(address: &str, rows: &str) -> bool {
    use std::io::Read;
    let Ok(mut socket) = TcpStream::connect(address) else {
        return false;
    };
    let head = format!(
        "POST /?query=INSERT+INTO+ev+FORMAT+CSV HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-ClickHouse-User: soma\r\n\
         X-ClickHouse-Key: pass'word\r\nContent-Length: {}\r\n\r\n{rows}",
        rows.len()
    );
    let mut answer = String::new();
    let sent = socket
        .write_all(head.as_bytes())
        .and_then(|()| socket.read_to_string(&mut answer));
    sent.is_ok() && answer.starts_with("HTTP/1.1 200")
}

#[test]
fn a_cut_upload_stores_nothing() {
    let server = Server::start(&folder("cut"));
    server.sql("CREATE TABLE ev (id UInt64) ENGINE = MergeTree ORDER BY id");
    let mut socket = TcpStream::connect(&server.address).unwrap();
    let head = "POST /?query=INSERT+INTO+ev+FORMAT+CSV HTTP/1.1\r\nHost: x\r\nX-ClickHouse-User: soma\r\n\
                X-ClickHouse-Key: pass'word\r\nContent-Length: 1000\r\n\r\n1\n2\n3\n";
    socket.write_all(head.as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    drop(socket);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(server.sql("SELECT count() FROM ev"), "0\n");
}

#[test]
fn a_stop_lets_statements_finish_and_many_clients_are_served() {
    let folder = folder("stop");
    let mut server = Server::start(&folder);
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..40)
            .map(|n| {
                let server = &server;
                scope.spawn(move || assert_eq!(server.sql(&format!("SELECT sleep(0.05) + {n}")), format!("{n}\n")))
            })
            .collect();
        all.into_iter().for_each(|thread| thread.join().unwrap());
    });
    let address = server.address.clone();
    let slow = std::thread::spawn(move || {
        use std::io::Read;
        let mut socket = TcpStream::connect(address).unwrap();
        let sql = "SELECT 'finished', sleep(2)";
        let head = format!(
            "POST / HTTP/1.1\r\nHost: x\r\nX-ClickHouse-User: soma\r\nX-ClickHouse-Key: pass'word\r\nContent-Length: {}\r\n\r\n{sql}",
            sql.len()
        );
        socket.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    });
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(server.stop(), Some(0));
    assert!(slow.join().unwrap().contains("finished\t0"));
}

#[test]
fn refusals_to_start_name_the_flag() {
    let folder = folder("refusals");
    let server = Server::start(&folder);
    let (code, said) = refused(&folder, &server.address, &library());
    assert!(
        code == Some(1) && said.contains("--listen") && said.contains("free port"),
        "{said}"
    );
    let (code, said) = refused(&folder, "127.0.0.1:0", &library());
    assert!(
        code == Some(1) && said.contains("--path") && said.contains("in use"),
        "{said}"
    );
    let (code, said) = refused(&support::folder("refusals-lib"), "127.0.0.1:0", "/nowhere/libchdb.so");
    assert!(
        code == Some(1) && said.contains("--lib") && said.contains("npm"),
        "{said}"
    );
    let blocked = support::folder("refusals-path");
    std::fs::write(blocked.join("data"), "a file where a folder should be").unwrap();
    let (code, said) = refused(&blocked, "127.0.0.1:0", &library());
    assert!(
        code == Some(1) && said.contains("--path") && said.contains("choose a folder"),
        "{said}"
    );
}
