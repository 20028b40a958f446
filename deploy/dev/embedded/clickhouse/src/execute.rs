//! One request, start to end, on a blocking thread: read the statement, open a session of its own, run it, answer.
//! A session per statement (0.2 ms) means no setting, database or lock of one request is ever seen by another.

use crate::coding::{self, Encoder, Input};
use crate::failure::Failure;
use crate::ffi::{Chdb, Connection, Counts, Params, QueryResult};
use crate::formats::Pieces;
use crate::reply::{Gone, Identity, Reply};
use crate::request::{self, Request};
use crate::sql::{self, Statement};
use std::io::{self, Cursor, Read};

/// The longest statement text, not counting INSERT data: `max_query_size` of the server.
const QUERY_BYTES_MAX: usize = 256 * 1024;
const FORM_BYTES_MAX: u64 = 8 << 20;
const APPEND_BYTES: usize = 256 * 1024;
const DEFAULT_FORMAT: &str = "TabSeparated";

/// The running engine. `_anchor` keeps it running between requests.
pub struct Engine {
    chdb: Chdb,
    arguments: Vec<String>,
    pub identity: Identity,
    _anchor: std::sync::Mutex<Connection>,
}

enum Stop {
    Failed(Failure),
    Gone,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Stop::Failed(failure)
    }
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Self {
        Stop::Gone
    }
}

impl Engine {
    /// Starts the engine over `arguments` (`--path=...`, memory limits).
    pub fn start(chdb: Chdb, arguments: Vec<String>) -> Result<Engine, String> {
        let mut anchor = chdb
            .connect(&arguments)
            .ok_or("the engine did not start; its log is above")?;
        let facts = anchor.query(b"SELECT version(), timezone(), hostName()", DEFAULT_FORMAT, &[]);
        if let Some(error) = facts.error() {
            return Err(error);
        }
        let line = String::from_utf8_lossy(facts.bytes()).trim_end().to_owned();
        let mut columns = line.split('\t').map(str::to_owned);
        let mut column = || columns.next().unwrap_or_default();
        let identity = Identity {
            version: column(),
            timezone: column(),
            display_name: column(),
        };
        drop(facts);
        Ok(Engine {
            chdb,
            arguments,
            identity,
            _anchor: std::sync::Mutex::new(anchor),
        })
    }

    fn session(&self, request: &Request) -> Result<Connection, Failure> {
        let mut session = self
            .chdb
            .connect(&self.arguments)
            .ok_or_else(|| Failure::new(1002, "UNKNOWN_EXCEPTION", "the engine opened no session"))?;
        for statement in request.preparation() {
            if let Some(error) = session.query(statement.as_bytes(), "Null", &[]).error() {
                return Err(Failure::engine(&error));
            }
        }
        Ok(session)
    }

    /// Runs a request and answers it, whatever happens.
    pub fn serve(&self, request: Request, body: Input, mut reply: Reply) {
        let answered = match self.run(request, body, &mut reply) {
            Ok(()) => reply.finish(),
            Err(Stop::Failed(failure)) => reply.fail(&failure),
            Err(Stop::Gone) => Err(Gone),
        };
        // Gone: the client left before the end, and its statement was cancelled. Nobody is left to tell.
        answered.unwrap_or(());
    }

    fn run(&self, mut request: Request, body: Input, reply: &mut Reply) -> Result<(), Stop> {
        let mut input = coding::decode(body, request.content_encoding.as_deref(), request.decompress)?;
        if let Some(boundary) = request.multipart_boundary.take() {
            read_form(&mut request, input, &boundary)?;
            input = Box::new(io::empty());
        }
        if request.read_only {
            input = Box::new(io::empty());
        }
        let accept = request.accept_encoding.as_deref().filter(|_| request.http_compression);
        reply.pack_with(Encoder::choose(request.compress, accept).map_err(Failure::from)?);

        let (text, statement) = read_statement(&request, &mut input)?;
        let default_format = request.default_format.as_deref().unwrap_or(DEFAULT_FORMAT).to_owned();
        match statement {
            Statement::Insert { head, format, data_at } => {
                let data = Cursor::new(text).read_from(data_at).chain(input);
                let mut session = self.session(&request)?;
                let counts = insert(&mut session, &head, &format, &request.params, data)?;
                drop(session);
                Ok(reply.begin(None, counts)?)
            }
            Statement::Select { text, format } => {
                let format = format.unwrap_or(default_format);
                let array = |t: &str| t.contains("array_of_rows");
                let held = request.wait_end_of_query
                    || array(&String::from_utf8_lossy(&text))
                    || request.settings.iter().any(|(name, _)| array(name));
                let mut session = self.session(&request)?;
                match Pieces::of(&format) {
                    Pieces::Whole => whole(&mut session, &text, &format, &request.params, reply),
                    _ if held => whole(&mut session, &text, &format, &request.params, reply),
                    pieces => stream(&mut session, &text, (&format, pieces), &request.params, reply),
                }
            }
            Statement::Other {
                session_bound: true, ..
            } if request.session_id.is_some() => {
                let detail = "SET and USE would be forgotten: sessions are not kept. Give settings in the URL";
                Err(Failure::not_supported(detail).into())
            }
            Statement::Other { text, format, .. } => {
                let mut session = self.session(&request)?;
                whole(
                    &mut session,
                    &text,
                    &format.unwrap_or(default_format),
                    &request.params,
                    reply,
                )
            }
        }
    }
}

trait ReadFrom {
    fn read_from(self, at: usize) -> Self;
}

impl ReadFrom for Cursor<Vec<u8>> {
    fn read_from(mut self, at: usize) -> Self {
        self.set_position(at as u64);
        self
    }
}

fn read_form(request: &mut Request, input: Input, boundary: &str) -> Result<(), Failure> {
    let mut form = Vec::new();
    input.take(FORM_BYTES_MAX + 1).read_to_end(&mut form)?;
    if form.len() as u64 > FORM_BYTES_MAX {
        return Err(Failure::bad_request("the form is larger than 8 MiB").with_status(413));
    }
    for (name, value) in request::multipart(&form, boundary)? {
        let value = String::from_utf8(value);
        let value = value.map_err(|_| Failure::bad_request(format_args!("form field {name} is not UTF-8")))?;
        request.take(&name, value)?;
    }
    Ok(())
}

/// The statement is the URL's `query`, a line end, and the body, as the server puts them together.
fn read_statement(request: &Request, input: &mut Input) -> Result<(Vec<u8>, Statement), Failure> {
    let mut text = request.query.clone().unwrap_or_default().into_bytes();
    if !text.is_empty() {
        text.push(b'\n');
        if let Ok(statement @ Statement::Insert { .. }) = sql::read(&text)
            && explicit(&statement, &text)
        {
            return Ok((text, statement));
        }
    }
    let room = (QUERY_BYTES_MAX + 1).saturating_sub(text.len()) as u64;
    input.take(room).read_to_end(&mut text)?;
    let statement = sql::read(&text)?;
    match &statement {
        insert @ Statement::Insert { .. } if !explicit(insert, &text) => Err(Failure::new(
            108,
            "NO_DATA_TO_INSERT",
            "INSERT has no FORMAT, no VALUES and no SELECT",
        )
        .with_status(400)),
        Statement::Insert { .. } => Ok((text, statement)),
        _ if text.len() > QUERY_BYTES_MAX => Err(Failure::syntax(format_args!(
            "Max query size exceeded ({QUERY_BYTES_MAX} bytes)"
        ))),
        _ => Ok((text, statement)),
    }
}

/// Whether an INSERT says where its data begins.
fn explicit(statement: &Statement, text: &[u8]) -> bool {
    matches!(statement, Statement::Insert { head, .. } if head.len() < text.len())
}

fn insert(
    session: &mut Connection,
    head: &[u8],
    format: &str,
    params: &Params,
    mut data: impl Read,
) -> Result<Counts, Failure> {
    let mut insert = session.insert(head, format, params).map_err(|e| Failure::engine(&e))?;
    let mut buffer = vec![0_u8; APPEND_BYTES];
    loop {
        // An error here drops the insert, which cancels it: a cut upload is never taken for a whole one.
        let n = match data.read(&mut buffer) {
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        if n == 0 || !insert.append(&buffer[..n]) {
            break;
        }
    }
    insert.done().map_err(|e| Failure::engine(&e))
}

fn whole(session: &mut Connection, text: &[u8], format: &str, params: &Params, reply: &mut Reply) -> Result<(), Stop> {
    let result = session.query(text, format, params);
    if let Some(error) = result.error() {
        return Err(Failure::engine(&error).into());
    }
    reply.begin(Some(format), result.counts())?;
    for piece in result.bytes().chunks(1 << 20) {
        reply.piece(piece)?;
    }
    Ok(())
}

fn stream(
    session: &mut Connection,
    text: &[u8],
    (format, pieces): (&str, Pieces),
    params: &Params,
    reply: &mut Reply,
) -> Result<(), Stop> {
    let failed = |error: String| Failure::engine(&error);
    let started = session.stream(text, format, params);
    // Said before anything ran, of statements that only look like a SELECT.
    if started
        .as_ref()
        .is_err_and(|error| error.contains("Streaming query is not supported"))
    {
        drop(started);
        return whole(session, text, format, params, reply);
    }
    let mut stream = started.map_err(failed)?;
    // Two pieces are read before the head is sent: most results then come with their full summary, and most
    // errors with their status.
    let first = stream.next().map_err(failed)?;
    let mut ahead = if first.is_some() {
        stream.next().map_err(failed)?
    } else {
        None
    };
    let mut counts = Counts::default();
    for piece in [&first, &ahead].into_iter().flatten() {
        counts.add(piece.counts());
    }
    reply.begin(Some(format), counts)?;
    let Some(first) = first else { return Ok(()) };
    let header = first.bytes()[..pieces.header_len(first.bytes())].to_vec();
    reply.piece(first.bytes())?;
    drop(first);
    while let Some(piece) = ahead.take() {
        reply.piece(without_header(&piece, &header)?)?;
        drop(piece);
        ahead = stream.next().map_err(failed)?;
    }
    Ok(())
}

fn without_header<'p>(piece: &'p QueryResult, header: &[u8]) -> Result<&'p [u8], Failure> {
    let rest = piece.bytes().strip_prefix(header);
    rest.ok_or_else(|| Failure::new(49, "LOGICAL_ERROR", "the engine changed the header within one result"))
}
