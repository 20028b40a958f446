//! The answer as it leaves the blocking side: a head once, then packed pieces. A failure after the head is written as
//! the server writes it (tagged text) and the connection is broken, so it can never look like success.

use crate::coding::Encoder;
use crate::failure::Failure;
use crate::ffi::Counts;
use crate::formats::content_type;
use bytes::Bytes;
use std::io;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Status and headers.
pub struct Head {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
}

/// Facts every answer repeats.
#[derive(Clone)]
pub struct Identity {
    pub display_name: String,
    pub timezone: String,
    pub version: String,
}

pub struct Reply {
    head: Option<oneshot::Sender<Head>>,
    body: mpsc::Sender<io::Result<Bytes>>,
    encoder: Encoder,
    identity: Identity,
    query_id: String,
    tag: String,
    started: Instant,
}

/// The client went away: nobody is left to tell.
#[derive(Debug)]
pub struct Gone;

impl Reply {
    pub fn new(
        head: oneshot::Sender<Head>,
        body: mpsc::Sender<io::Result<Bytes>>,
        identity: Identity,
        query_id: String,
    ) -> Self {
        let tag: String = random_hex().chars().take(16).collect();
        Reply {
            head: Some(head),
            body,
            encoder: Encoder::Plain,
            identity,
            query_id,
            tag,
            started: Instant::now(),
        }
    }

    pub fn pack_with(&mut self, encoder: Encoder) {
        self.encoder = encoder;
    }

    fn send_head(&mut self, status: u16, extra: Vec<(&'static str, String)>) -> Result<(), Gone> {
        let Some(sender) = self.head.take() else { return Ok(()) };
        let mut headers = vec![
            ("x-clickhouse-server-display-name", self.identity.display_name.clone()),
            ("x-clickhouse-query-id", self.query_id.clone()),
            ("x-clickhouse-timezone", self.identity.timezone.clone()),
        ];
        headers.extend(extra);
        sender.send(Head { status, headers }).map_err(|_| Gone)
    }

    /// Begins a good answer. `counts` is what is known now: all of it unless the result is still being read.
    pub fn begin(&mut self, format: Option<&str>, counts: Counts) -> Result<(), Gone> {
        let elapsed_ns = self.started.elapsed().as_nanos();
        let Counts {
            result_rows,
            read_rows,
            read_bytes,
            written_rows,
            written_bytes,
        } = counts;
        let mut headers = vec![
            (
                "x-clickhouse-summary",
                format!(
                    "{{\"read_rows\":\"{read_rows}\",\"read_bytes\":\"{read_bytes}\",\
                     \"written_rows\":\"{written_rows}\",\"written_bytes\":\"{written_bytes}\",\
                     \"total_rows_to_read\":\"0\",\"result_rows\":\"{}\",\"result_bytes\":\"0\",\
                     \"elapsed_ns\":\"{elapsed_ns}\"}}",
                    result_rows.max(written_rows)
                ),
            ),
            ("x-clickhouse-exception-tag", self.tag.clone()),
        ];
        if let Some(format) = format {
            headers.push(("x-clickhouse-format", format.to_owned()));
            headers.push(("content-type", content_type(format).to_owned()));
        } else {
            headers.push(("content-type", "text/plain; charset=UTF-8".to_owned()));
        }
        if let Some(encoding) = self.encoder.content_encoding() {
            headers.push(("content-encoding", encoding.to_owned()));
        }
        self.send_head(200, headers)
    }

    pub fn piece(&mut self, data: &[u8]) -> Result<(), Gone> {
        if data.is_empty() {
            return Ok(());
        }
        let packed = self.encoder.push(data).map_err(|_| Gone)?;
        self.raw(packed)
    }

    fn raw(&self, data: Vec<u8>) -> Result<(), Gone> {
        if data.is_empty() {
            return Ok(());
        }
        self.body.blocking_send(Ok(Bytes::from(data))).map_err(|_| Gone)
    }

    /// Ends a good answer.
    pub fn finish(self) -> Result<(), Gone> {
        let Reply { encoder, body, .. } = self;
        let rest = encoder.finish().map_err(|_| Gone)?;
        if !rest.is_empty() {
            body.blocking_send(Ok(Bytes::from(rest))).map_err(|_| Gone)?;
        }
        Ok(())
    }

    /// Says no: with a status while that is possible, else inside the body and by breaking the connection off.
    pub fn fail(mut self, failure: &Failure) -> Result<(), Gone> {
        let bare = failure
            .text
            .trim_end_matches(&format!(" (version {})", self.identity.version));
        let text = format!("{bare} (version {} (chDB))\n", self.identity.version);
        if self.head.is_some() {
            let mut headers = vec![
                ("x-clickhouse-exception-code", failure.code.to_string()),
                ("content-type", "text/plain; charset=UTF-8".to_owned()),
            ];
            if failure.status() == 401 {
                headers.push((
                    "www-authenticate",
                    "Basic realm=\"ClickHouse server HTTP API\"".to_owned(),
                ));
            }
            self.send_head(failure.status(), headers)?;
            return self.raw(text.into_bytes());
        }
        let tag = self.tag.clone();
        let marked = format!(
            "\r\n__exception__\r\n{tag}\r\n{text}{} {tag}\r\n__exception__\r\n",
            text.len()
        );
        self.piece(marked.as_bytes())?;
        // Let the text reach the socket before the connection is broken off.
        std::thread::sleep(Duration::from_millis(100));
        self.body
            .blocking_send(Err(io::Error::other("the statement failed")))
            .map_err(|_| Gone)
    }
}

/// 32 hex digits of the kernel's randomness.
pub fn random_hex() -> String {
    use std::io::Read;
    let mut bytes = [0_u8; 16];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    if read.is_err() {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        bytes = now.as_nanos().to_le_bytes();
    }
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A query id in the usual form of a UUID.
pub fn new_query_id() -> String {
    let h = random_hex();
    format!("{}-{}-{}-{}-{}", &h[..8], &h[8..12], &h[12..16], &h[16..20], &h[20..])
}
