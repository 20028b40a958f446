//! The only unsafe code of the crate: chDB's C interface (`chdb.h` of libchdb 26.7), opened at run time, behind
//! safe types. It knows nothing of HTTP or of statements; what may be called in which order is its whole concern.

use libloading::Library;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;

type Handle = *mut c_void;
type QueryFn = unsafe extern "C" fn(
    Handle,
    *const c_char,
    usize,
    *const c_char,
    usize,
    *const *const c_char,
    *const usize,
    *const *const c_char,
    *const usize,
    usize,
) -> Handle;
type CountFn = unsafe extern "C" fn(Handle) -> u64;

/// Name and value of the `{name:Type}` placeholders of a statement.
pub type Params = [(String, String)];

struct Api {
    connect: unsafe extern "C" fn(c_int, *mut *mut c_char) -> *mut Handle,
    close: unsafe extern "C" fn(*mut Handle),
    query: QueryFn,
    stream_query: QueryFn,
    stream_fetch: unsafe extern "C" fn(Handle, Handle) -> Handle,
    stream_cancel: unsafe extern "C" fn(Handle, Handle),
    destroy_result: unsafe extern "C" fn(Handle),
    insert: QueryFn,
    append: unsafe extern "C" fn(Handle, *const c_void, usize) -> c_int,
    insert_done: unsafe extern "C" fn(Handle) -> Handle,
    insert_cancel: unsafe extern "C" fn(Handle),
    insert_error: unsafe extern "C" fn(Handle) -> *const c_char,
    destroy_insert: unsafe extern "C" fn(Handle),
    buffer: unsafe extern "C" fn(Handle) -> *mut c_char,
    length: unsafe extern "C" fn(Handle) -> usize,
    error: unsafe extern "C" fn(Handle) -> *const c_char,
    result_rows: CountFn,
    read_rows: CountFn,
    read_bytes: CountFn,
    written_rows: CountFn,
    written_bytes: CountFn,
}

/// The loaded library. Never unloaded: its threads live as long as the process.
#[derive(Clone, Copy)]
pub struct Chdb(&'static Api);

/// Counts the engine reports with a result.
#[derive(Clone, Copy, Default)]
pub struct Counts {
    pub result_rows: u64,
    pub read_rows: u64,
    pub read_bytes: u64,
    pub written_rows: u64,
    pub written_bytes: u64,
}

impl Counts {
    pub fn add(&mut self, other: Counts) {
        self.result_rows += other.result_rows;
        self.read_rows += other.read_rows;
        self.read_bytes += other.read_bytes;
        self.written_rows += other.written_rows;
        self.written_bytes += other.written_bytes;
    }
}

impl Chdb {
    /// Opens the library and switches its signal handlers off, which must happen before the first connection.
    pub fn open(path: &Path) -> Result<Chdb, String> {
        // SAFETY: loading runs the library's initialisers; the operator named this file as libchdb.
        let lib: &'static Library = Box::leak(Box::new(unsafe { Library::new(path) }.map_err(|e| e.to_string())?));
        macro_rules! symbol {
            // SAFETY: names and signatures are those of chdb.h 26.7; the library is leaked, so they stay valid.
            ($name:literal) => {
                *unsafe { lib.get($name.as_bytes()) }
                    .map_err(|_| format!("it has no symbol {} (libchdb 26.7 or newer is needed)", $name))?
            };
        }
        let signal_handlers: unsafe extern "C" fn(c_int) = symbol!("chdb_set_signal_handlers_enabled");
        let api = Api {
            connect: symbol!("chdb_connect"),
            close: symbol!("chdb_close_conn"),
            query: symbol!("chdb_query_with_params_n"),
            stream_query: symbol!("chdb_stream_query_with_params_n"),
            stream_fetch: symbol!("chdb_stream_fetch_result"),
            stream_cancel: symbol!("chdb_stream_cancel_query"),
            destroy_result: symbol!("chdb_destroy_query_result"),
            insert: symbol!("chdb_stream_insert_with_params_n"),
            append: symbol!("chdb_stream_append"),
            insert_done: symbol!("chdb_stream_done"),
            insert_cancel: symbol!("chdb_stream_cancel_insert"),
            insert_error: symbol!("chdb_stream_insert_error"),
            destroy_insert: symbol!("chdb_destroy_insert_stream"),
            buffer: symbol!("chdb_result_buffer"),
            length: symbol!("chdb_result_length"),
            error: symbol!("chdb_result_error"),
            result_rows: symbol!("chdb_result_rows_read"),
            read_rows: symbol!("chdb_result_storage_rows_read"),
            read_bytes: symbol!("chdb_result_storage_bytes_read"),
            written_rows: symbol!("chdb_result_rows_written"),
            written_bytes: symbol!("chdb_result_bytes_written"),
        };
        // SAFETY: takes an int; no connection exists yet.
        unsafe { signal_handlers(0) };
        Ok(Chdb(Box::leak(Box::new(api))))
    }

    /// Opens one session. The engine starts with the first and stops with the last.
    pub fn connect(self, arguments: &[String]) -> Option<Connection> {
        let owned: Vec<CString> = arguments.iter().filter_map(|a| CString::new(a.as_str()).ok()).collect();
        let mut argv: Vec<*mut c_char> = owned.iter().map(|a| a.as_ptr().cast_mut()).collect();
        // SAFETY: argv holds argc NUL-terminated strings that outlive the call; the engine only reads them.
        let handle = unsafe { (self.0.connect)(argv.len() as c_int, argv.as_mut_ptr()) };
        (!handle.is_null()).then_some(Connection { api: self.0, handle })
    }
}

/// One session of the engine; runs one statement at a time, which `&mut self` holds.
pub struct Connection {
    api: &'static Api,
    handle: *mut Handle,
}

// SAFETY: the C interface may be called from any thread, one at a time per connection: `&mut self` sees to that.
unsafe impl Send for Connection {}

impl Connection {
    fn inner(&self) -> Handle {
        // SAFETY: handle came from chdb_connect and is closed only in drop.
        unsafe { *self.handle }
    }

    fn call(&self, function: QueryFn, sql: &[u8], format: &str, params: &Params) -> Handle {
        let names: Vec<*const c_char> = params.iter().map(|(n, _)| n.as_ptr().cast()).collect();
        let name_lens: Vec<usize> = params.iter().map(|(n, _)| n.len()).collect();
        let values: Vec<*const c_char> = params.iter().map(|(_, v)| v.as_ptr().cast()).collect();
        let value_lens: Vec<usize> = params.iter().map(|(_, v)| v.len()).collect();
        // SAFETY: every pointer goes with its length and outlives the call, which copies what it keeps.
        unsafe {
            function(
                self.inner(),
                sql.as_ptr().cast(),
                sql.len(),
                format.as_ptr().cast(),
                format.len(),
                names.as_ptr(),
                name_lens.as_ptr(),
                values.as_ptr(),
                value_lens.as_ptr(),
                params.len(),
            )
        }
    }

    /// Runs a statement to its end and holds the whole result.
    pub fn query(&mut self, sql: &[u8], format: &str, params: &Params) -> QueryResult {
        QueryResult {
            api: self.api,
            handle: self.call(self.api.query, sql, format, params),
        }
    }

    /// Starts a SELECT whose result is fetched piece by piece.
    pub fn stream(&mut self, sql: &[u8], format: &str, params: &Params) -> Result<Stream<'_>, String> {
        let first = QueryResult {
            api: self.api,
            handle: self.call(self.api.stream_query, sql, format, params),
        };
        match first.error() {
            Some(error) => Err(error),
            None => Ok(Stream {
                connection: self,
                state: first,
                ended: false,
            }),
        }
    }

    /// Starts an INSERT whose rows follow in pieces of `format`.
    pub fn insert(&mut self, sql: &[u8], format: &str, params: &Params) -> Result<Insert<'_>, String> {
        let insert = Insert {
            handle: self.call(self.api.insert, sql, format, params),
            connection: self,
            open: true,
        };
        match insert.error() {
            Some(error) => Err(error),
            None => Ok(insert),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: streams and inserts borrow the connection, so none is open; closed once.
        unsafe { (self.api.close)(self.handle) }
    }
}

/// A result and its counts.
pub struct QueryResult {
    api: &'static Api,
    handle: Handle,
}

impl QueryResult {
    pub fn error(&self) -> Option<String> {
        // SAFETY: handle is live; the text is copied at once.
        unsafe { text((self.api.error)(self.handle)) }
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the buffer belongs to the result, is `length` long, and the slice borrows the result.
        unsafe {
            let (pointer, length) = ((self.api.buffer)(self.handle), (self.api.length)(self.handle));
            if pointer.is_null() || length == 0 {
                &[]
            } else {
                std::slice::from_raw_parts(pointer.cast(), length)
            }
        }
    }

    pub fn counts(&self) -> Counts {
        // SAFETY: plain getters on a live handle.
        unsafe {
            Counts {
                result_rows: (self.api.result_rows)(self.handle),
                read_rows: (self.api.read_rows)(self.handle),
                read_bytes: (self.api.read_bytes)(self.handle),
                written_rows: (self.api.written_rows)(self.handle),
                written_bytes: (self.api.written_bytes)(self.handle),
            }
        }
    }
}

impl Drop for QueryResult {
    fn drop(&mut self) {
        // SAFETY: the handle is destroyed once; the library accepts a null handle.
        unsafe { (self.api.destroy_result)(self.handle) }
    }
}

/// A running SELECT. Dropping it before its end cancels it.
pub struct Stream<'c> {
    connection: &'c mut Connection,
    state: QueryResult,
    ended: bool,
}

impl Stream<'_> {
    /// The next piece, `None` at the end.
    pub fn next(&mut self) -> Result<Option<QueryResult>, String> {
        if self.ended {
            return Ok(None);
        }
        let api = self.connection.api;
        // SAFETY: connection and stream are live and used by this thread alone.
        let handle = unsafe { (api.stream_fetch)(self.connection.inner(), self.state.handle) };
        let piece = QueryResult { api, handle };
        if let Some(error) = piece.error() {
            self.ended = true;
            return Err(error);
        }
        self.ended = piece.bytes().is_empty();
        Ok((!self.ended).then_some(piece))
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        if !self.ended {
            // SAFETY: the stream is live; the result is destroyed after this by its own drop.
            unsafe { (self.connection.api.stream_cancel)(self.connection.inner(), self.state.handle) }
        }
    }
}

/// A running INSERT. Dropping it before `done` cancels it: blocks not yet written are not written.
pub struct Insert<'c> {
    connection: &'c mut Connection,
    handle: Handle,
    open: bool,
}

impl Insert<'_> {
    fn error(&self) -> Option<String> {
        // SAFETY: handle is live; the text is copied at once.
        unsafe { text((self.connection.api.insert_error)(self.handle)) }
    }

    /// Hands bytes to the engine; false when it has already failed (then `done` says why).
    pub fn append(&mut self, data: &[u8]) -> bool {
        // SAFETY: the engine copies `len` bytes from a live slice.
        unsafe { (self.connection.api.append)(self.handle, data.as_ptr().cast(), data.len()) == 0 }
    }

    /// Ends the data and waits until the rows are written.
    pub fn done(mut self) -> Result<Counts, String> {
        self.open = false;
        let api = self.connection.api;
        // SAFETY: called once on a live handle; the result is destroyed by its drop.
        let result = QueryResult {
            api,
            handle: unsafe { (api.insert_done)(self.handle) },
        };
        match result.error().or_else(|| self.error()) {
            Some(error) => Err(error),
            None => Ok(result.counts()),
        }
    }
}

impl Drop for Insert<'_> {
    fn drop(&mut self) {
        // SAFETY: cancel is allowed on an unfinished stream, destroy is needed exactly once for every handle.
        unsafe {
            if self.open {
                (self.connection.api.insert_cancel)(self.handle);
            }
            (self.connection.api.destroy_insert)(self.handle);
        }
    }
}

/// SAFETY: `pointer` is null or a NUL-terminated string that stays alive during the call.
unsafe fn text(pointer: *const c_char) -> Option<String> {
    // SAFETY: by the contract above.
    (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned())
}

unsafe extern "C" {
    safe fn _exit(status: c_int) -> !;
}

/// Ends the process without running the engine's global destructors, which race its own threads.
pub fn exit_now(status: i32) -> ! {
    _exit(status)
}
