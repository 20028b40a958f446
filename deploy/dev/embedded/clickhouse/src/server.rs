//! The HTTP side: routes, credentials, the queue in front of the engine, and bodies crossing from async to blocking.

use crate::coding::{ChannelReader, Input};
use crate::execute::Engine;
use crate::failure::Failure;
use crate::reply::{Head, Reply, new_query_id};
use crate::request::{Credentials, Request};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::{Method, Response, StatusCode};
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Statements at once; further requests wait. More than the cores could use, because a client that holds an INSERT open
/// while it collects rows keeps its place; memory is bounded by the engine's cap, not by this.
pub const STATEMENTS_MAX: usize = 16;
const WAITING_MAX: usize = 128;
/// Frames in flight between the network and a statement.
const FRAMES: usize = 8;
/// What is read and thrown away of an upload that was refused, so that the client reads the refusal.
const DISCARD_BYTES_MAX: usize = 64 << 20;

pub struct Server {
    engine: Arc<Engine>,
    credentials: Credentials,
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// A body fed from the blocking side.
pub struct Feed(mpsc::Receiver<io::Result<Bytes>>);

impl Body for Feed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0
            .poll_recv(cx)
            .map(|piece| piece.map(|result| result.map(Frame::data)))
    }
}

impl Server {
    pub fn new(engine: Engine, credentials: Credentials) -> Self {
        let permits = Arc::new(Semaphore::new(STATEMENTS_MAX));
        Server {
            engine: Arc::new(engine),
            credentials,
            permits,
            waiting: AtomicUsize::new(0),
        }
    }

    /// Resolves when no statement is running; none can start afterwards.
    pub async fn idle(&self) {
        let all = self.permits.acquire_many(STATEMENTS_MAX as u32).await;
        self.permits.close();
        drop(all);
    }

    pub async fn handle(self: Arc<Self>, request: hyper::Request<Incoming>) -> Result<Response<Feed>, Infallible> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path();
        if matches!(path, "/ping" | "/replicas_status") {
            return Ok(plain(200, "Ok.\n"));
        }
        if path != "/" {
            return Ok(plain(
                404,
                &format!("There is no handle {path}. Use / with query, or /ping.\n"),
            ));
        }
        if !matches!(parts.method, Method::GET | Method::POST | Method::HEAD) {
            return Ok(plain(405, "Only GET and POST are known.\n"));
        }
        if parts.method != Method::POST && parts.uri.query().is_none() {
            return Ok(plain(200, "Ok.\n"));
        }
        let (head_tx, head_rx) = oneshot::channel();
        let (body_tx, body_rx) = mpsc::channel(FRAMES);
        let parsed = Request::parse(&parts.method, &parts.uri, &parts.headers).and_then(|request| {
            request.authenticate(&parts.headers, &self.credentials)?;
            Ok(request)
        });
        let query_id = parsed
            .as_ref()
            .ok()
            .and_then(|r| r.query_id.clone())
            .unwrap_or_else(new_query_id);
        let reply = Reply::new(head_tx, body_tx, self.engine.identity.clone(), query_id);
        match parsed {
            Ok(request) => self.start(request, body, reply).await,
            Err(failure) => refuse(reply, failure),
        }
        Ok(match head_rx.await {
            Ok(head) => build(head, body_rx),
            Err(_) => plain(
                500,
                "Code: 1002. DB::Exception: the statement ended without an answer.\n",
            ),
        })
    }

    /// Waits for a free place, then hands the request to a blocking thread.
    async fn start(&self, request: Request, body: Incoming, reply: Reply) {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            let detail = format!("{STATEMENTS_MAX} statements run and {WAITING_MAX} wait: try again later");
            return refuse(
                reply,
                Failure::new(202, "TOO_MANY_SIMULTANEOUS_QUERIES", detail).with_status(503),
            );
        }
        let place = Place(&self.waiting);
        let permit = self.permits.clone().acquire_owned().await;
        drop(place);
        let Ok(permit) = permit else {
            return refuse(
                reply,
                Failure::new(236, "ABORTED", "the server is stopping").with_status(503),
            );
        };
        let engine = self.engine.clone();
        let input: Input = Box::new(ChannelReader::new(pump(body)));
        tokio::task::spawn_blocking(move || {
            engine.serve(request, input, reply);
            drop(permit);
        });
    }
}

/// Gives the place in the queue back also when the client leaves while waiting.
struct Place<'s>(&'s AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn refuse(reply: Reply, failure: Failure) {
    tokio::task::spawn_blocking(move || reply.fail(&failure).unwrap_or(()));
}

fn pump(mut body: Incoming) -> mpsc::Receiver<io::Result<Bytes>> {
    let (tx, rx) = mpsc::channel(FRAMES);
    tokio::spawn(async move {
        let mut unread = 0;
        while let Some(frame) = body.frame().await {
            let piece = match frame.map(Frame::into_data) {
                Ok(Ok(data)) => Ok(data),
                Ok(Err(_trailers)) => continue,
                Err(error) => Err(io::Error::other(error)),
            };
            let (length, failed) = (piece.as_ref().map_or(0, Bytes::len), piece.is_err());
            if tx.send(piece).await.is_err() {
                unread += length;
            }
            if failed || unread > DISCARD_BYTES_MAX {
                return;
            }
        }
    });
    rx
}

fn build(head: Head, body: mpsc::Receiver<io::Result<Bytes>>) -> Response<Feed> {
    let mut response = Response::builder().status(head.status);
    for (name, value) in head.headers {
        response = response.header(name, value);
    }
    // A query id with bytes that no header may hold is the only way to get here with an error.
    response
        .body(Feed(body))
        .unwrap_or_else(|_| plain(400, "Code: 36. DB::Exception: query_id cannot be a header.\n"))
}

fn plain(status: u16, text: &str) -> Response<Feed> {
    let (tx, rx) = mpsc::channel(1);
    // One free slot in a channel made here: it cannot be full or closed.
    tx.try_send(Ok(Bytes::copy_from_slice(text.as_bytes()))).unwrap_or(());
    let mut response = Response::new(Feed(rx));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}
