//! Starts the real binary over the real library, and speaks to it in plain HTTP/1.1: no client library stands between
//! a test and the bytes. SOMA_CHDB_LIB names libchdb.so; without it a test fails, it never skips.

// Each test binary compiles this file and uses its own part of it; a test may panic, that is how it fails.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

pub const USER: &str = "soma:pass'word";

pub struct Server {
    pub child: Child,
    pub address: String,
    stdout: BufReader<ChildStdout>,
}

pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
    pub complete: bool,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub fn library() -> String {
    std::env::var("SOMA_CHDB_LIB")
        .expect("SOMA_CHDB_LIB must name libchdb.so (npm @chdb/lib-linux-x64-gnu 26.7.3-stable.1)")
}

/// A folder of this test alone, emptied.
pub fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("soma-dev-clickhouse-{}-{name}", std::process::id()));
    if path.exists() {
        std::fs::remove_dir_all(&path).unwrap();
    }
    std::fs::create_dir_all(&path).unwrap();
    std::fs::write(path.join("password"), "pass'word\n").unwrap();
    path
}

fn command(folder: &Path, listen: &str, lib: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_soma-dev-clickhouse"));
    command.args([
        "--listen",
        listen,
        "--lib",
        lib,
        "--user",
        "soma",
        "--max-memory-mb",
        "1200",
        "--path",
    ]);
    command
        .arg(folder.join("data"))
        .arg("--password-file")
        .arg(folder.join("password"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Starts a server that is expected to refuse, and returns its exit code and what it said.
pub fn refused(folder: &Path, listen: &str, lib: &str) -> (Option<i32>, String) {
    let mut child = command(folder, listen, lib).spawn().unwrap();
    let mut said = String::new();
    let mut stderr: ChildStderr = child.stderr.take().unwrap();
    stderr.read_to_string(&mut said).unwrap();
    (child.wait().unwrap().code(), said)
}

impl Server {
    pub fn start(folder: &Path) -> Server {
        let mut child = command(folder, "127.0.0.1:0", &library())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let address = line.trim().rsplit("http://").next().unwrap().to_owned();
        assert!(line.contains("is ready"), "the server did not start: {line}");
        Server { child, address, stdout }
    }

    /// Asks for a stop and returns the exit code.
    pub fn stop(&mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let deadline = Instant::now() + Duration::from_secs(15);
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                let mut rest = String::new();
                self.stdout.read_to_string(&mut rest).unwrap();
                assert!(rest.contains("stopped"), "{rest}");
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the server did not stop in 15 s");
    }

    pub fn post(&self, query: &str, body: &[u8]) -> Answer {
        self.send("POST", query, &[], body)
    }

    /// Runs a statement that must succeed.
    pub fn sql(&self, sql: &str) -> String {
        let answer = self.post("", sql.as_bytes());
        assert_eq!(answer.status, 200, "{sql}: {}", answer.text());
        assert!(answer.complete);
        answer.text()
    }

    pub fn send(&self, method: &str, query: &str, headers: &[&str], body: &[u8]) -> Answer {
        use base64::Engine as _;
        let basic = base64::engine::general_purpose::STANDARD.encode(USER);
        let credentials = format!("Authorization: Basic {basic}");
        let mut all = vec![credentials.as_str()];
        all.extend(headers);
        self.raw(method, query, &all, body)
    }

    pub fn raw(&self, method: &str, query: &str, headers: &[&str], body: &[u8]) -> Answer {
        let mut socket = TcpStream::connect(&self.address).unwrap();
        let mut head = format!("{method} /{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        for header in headers {
            head.push_str(&format!("{header}\r\n"));
        }
        socket.write_all(format!("{head}\r\n").as_bytes()).unwrap();
        socket.write_all(body).unwrap();
        let mut all = Vec::new();
        socket.read_to_end(&mut all).unwrap();
        read_answer(&all)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}

fn read_answer(all: &[u8]) -> Answer {
    let split = all
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .expect("no head came back");
    let head = String::from_utf8_lossy(&all[..split]).to_lowercase();
    let status = head[9..12].parse().unwrap();
    let mut rest = &all[split + 4..];
    if !head.contains("transfer-encoding: chunked") {
        return Answer {
            status,
            head,
            body: rest.to_vec(),
            complete: true,
        };
    }
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|w| w == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return Answer {
                status,
                head,
                body,
                complete: true,
            };
        }
        let piece = &rest[end + 2..];
        body.extend_from_slice(&piece[..size.min(piece.len())]);
        rest = piece.get(size + 2..).unwrap_or_default();
    }
    Answer {
        status,
        head,
        body,
        complete: false,
    }
}
