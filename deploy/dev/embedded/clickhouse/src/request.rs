//! A request as ClickHouse's HTTP interface defines it: reserved keys, parameters, settings, credentials. Nothing is
//! run here; what this server cannot honour is refused here.

use crate::failure::Failure;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::{HeaderMap, Method, Uri};

/// Keys that mean something on a cluster or to the server's buffers and change nothing here.
const IGNORED: [&str; 6] = [
    "quota_key",
    "stacktrace",
    "buffer_size",
    "session_timeout",
    "close_session",
    "client_protocol_version",
];

#[derive(Debug, Default)]
pub struct Request {
    pub read_only: bool,
    pub query: Option<String>,
    pub database: Option<String>,
    pub default_format: Option<String>,
    pub query_id: Option<String>,
    pub session_id: Option<String>,
    pub compress: bool,
    pub decompress: bool,
    pub wait_end_of_query: bool,
    pub http_compression: bool,
    pub accept_encoding: Option<String>,
    pub content_encoding: Option<String>,
    pub multipart_boundary: Option<String>,
    pub params: Vec<(String, String)>,
    pub settings: Vec<(String, String)>,
    url_user: Option<String>,
    url_password: Option<String>,
}

/// Who may come in.
pub struct Credentials {
    pub user: String,
    pub password: String,
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers
        .get(name)
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

fn truthy(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "1" | "true" | "on" | "yes")
}

impl Request {
    pub fn parse(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Request, Failure> {
        let mut request = Request {
            read_only: method == Method::GET || method == Method::HEAD,
            database: header(headers, "x-clickhouse-database"),
            default_format: header(headers, "x-clickhouse-format"),
            accept_encoding: header(headers, "accept-encoding"),
            content_encoding: header(headers, "content-encoding"),
            ..Request::default()
        };
        if let Some(kind) = header(headers, "content-type")
            && kind.to_ascii_lowercase().starts_with("multipart/form-data")
        {
            let boundary = kind
                .split(';')
                .filter_map(|p| p.trim().strip_prefix("boundary="))
                .next();
            let boundary = boundary.ok_or_else(|| Failure::bad_request("multipart/form-data without a boundary"))?;
            request.multipart_boundary = Some(boundary.trim_matches('"').to_owned());
        }
        for (key, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
            request.take(&key, value.into_owned())?;
        }
        Ok(request)
    }

    /// One key of the URL or of a form.
    pub fn take(&mut self, key: &str, value: String) -> Result<(), Failure> {
        match key {
            "query" => self.query = Some(value),
            "database" => self.database = Some(value),
            "default_format" => self.default_format = Some(value),
            "query_id" => self.query_id = Some(value),
            "session_id" => self.session_id = Some(value),
            "compress" => self.compress = truthy(&value),
            "decompress" => self.decompress = truthy(&value),
            "wait_end_of_query" => self.wait_end_of_query = truthy(&value),
            "user" => self.url_user = Some(value),
            "password" => self.url_password = Some(value),
            "role" => return Err(Failure::not_supported("roles are not supported: there is one user")),
            "session_check" if truthy(&value) => {
                return Err(Failure::new(372, "SESSION_NOT_FOUND", "sessions are not kept").with_status(404));
            }
            "session_check" => {}
            key if IGNORED.contains(&key) => {}
            key => match key.strip_prefix("param_") {
                Some(name) => self.params.push((name.to_owned(), value)),
                None => self.setting(key, value)?,
            },
        }
        Ok(())
    }

    fn setting(&mut self, name: &str, value: String) -> Result<(), Failure> {
        let plain = name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.');
        if !plain || !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return Err(Failure::new(
                115,
                "UNKNOWN_SETTING",
                format_args!("Unknown setting '{name}'"),
            ));
        }
        if name == "enable_http_compression" {
            self.http_compression = truthy(&value);
        }
        self.settings.push((name.to_owned(), value));
        Ok(())
    }

    /// Statements that give a fresh session this request's settings and database.
    pub fn preparation(&self) -> Vec<String> {
        let mut statements = Vec::new();
        if !self.settings.is_empty() {
            let all: Vec<String> = self
                .settings
                .iter()
                .map(|(n, v)| format!("{n} = {}", quote(v, '\'')))
                .collect();
            statements.push(format!("SET {}", all.join(", ")));
        }
        if let Some(database) = self.database.as_deref().filter(|d| !d.is_empty()) {
            statements.push(format!("USE {}", quote(database, '`')));
        }
        if self.read_only {
            // As the server does for GET: reading, and settings of the query, but no writing.
            statements.push("SET readonly = 2".to_owned());
        }
        statements
    }

    /// Basic, `X-ClickHouse-User`/`-Key`, or `user`/`password`: exactly one of them.
    pub fn authenticate(&self, headers: &HeaderMap, expected: &Credentials) -> Result<(), Failure> {
        let basic = header(headers, "authorization");
        let own = (
            header(headers, "x-clickhouse-user"),
            header(headers, "x-clickhouse-key"),
        );
        let ways = [
            basic.is_some(),
            own.0.is_some() || own.1.is_some(),
            self.url_user.is_some() || self.url_password.is_some(),
        ];
        let (user, password) = match ways {
            [false, false, false] => {
                return Err(denied("no user and password were given").with_status(401));
            }
            [true, false, false] => basic_pair(&basic.unwrap_or_default())?,
            [false, true, false] => (own.0.unwrap_or_default(), own.1.unwrap_or_default()),
            [false, false, true] => (
                self.url_user.clone().unwrap_or_default(),
                self.url_password.clone().unwrap_or_default(),
            ),
            _ => return Err(denied("credentials were given in more than one way; choose one").with_status(403)),
        };
        // Both are compared, always, so that time tells nothing.
        let user_fits = equal(user.as_bytes(), expected.user.as_bytes());
        if user_fits & equal(password.as_bytes(), expected.password.as_bytes()) {
            return Ok(());
        }
        Err(denied("password is incorrect, or there is no user with such name"))
    }
}

fn denied(why: &str) -> Failure {
    Failure::new(
        516,
        "AUTHENTICATION_FAILED",
        format_args!("Authentication failed: {why}"),
    )
}

fn basic_pair(value: &str) -> Result<(String, String), Failure> {
    let coded = value
        .strip_prefix("Basic ")
        .ok_or_else(|| denied("only Basic is known in Authorization"))?;
    let plain = STANDARD
        .decode(coded.trim())
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    let pair = plain.and_then(|p| p.split_once(':').map(|(u, k)| (u.to_owned(), k.to_owned())));
    pair.ok_or_else(|| denied("the Authorization header cannot be read"))
}

/// Compares in a time that depends on the given text's length alone.
fn equal(given: &[u8], expected: &[u8]) -> bool {
    let mut difference = given.len() ^ expected.len();
    for (n, byte) in given.iter().enumerate() {
        let other = if expected.is_empty() {
            0
        } else {
            expected[n % expected.len()]
        };
        difference |= usize::from(byte ^ other);
    }
    std::hint::black_box(difference) == 0
}

/// A string literal or quoted name of ClickHouse's SQL.
fn quote(text: &str, sign: char) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push(sign);
    for c in text.chars() {
        if c == sign || c == '\\' {
            out.push('\\');
        }
        out.push(c);
    }
    out.push(sign);
    out
}

/// The fields of a multipart/form-data body. Files would be external tables, which are refused.
pub fn multipart(body: &[u8], boundary: &str) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let broken = || Failure::bad_request("the multipart/form-data body cannot be read");
    let delimiter = format!("\r\n--{boundary}").into_bytes();
    let mut framed = b"\r\n".to_vec();
    framed.extend_from_slice(body);
    let mut fields = Vec::new();
    let mut at = find(&framed, &delimiter).ok_or_else(broken)? + delimiter.len();
    while !framed[at..].starts_with(b"--") {
        let end = at + find(&framed[at..], &delimiter).ok_or_else(broken)?;
        let part = framed[at..end].strip_prefix(b"\r\n").ok_or_else(broken)?;
        let split = find(part, b"\r\n\r\n").ok_or_else(broken)?;
        let head = String::from_utf8_lossy(&part[..split]).into_owned();
        if head.contains("filename=") {
            return Err(Failure::not_supported(
                "files in a form are external tables, which are not supported",
            ));
        }
        let name = head
            .split_once("name=\"")
            .and_then(|(_, rest)| rest.split('"').next())
            .ok_or_else(broken)?;
        fields.push((name.to_owned(), part[split + 4..].to_vec()));
        at = end + delimiter.len();
    }
    Ok(fields)
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|w| w == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_cannot_break_out_of_their_literal() {
        let mut request = Request::default();
        request.take("log_comment", "x', readonly = '0\\".to_owned()).unwrap();
        assert_eq!(request.preparation(), [r"SET log_comment = 'x\', readonly = \'0\\'"]);
        assert_eq!(request.take("a = 1, b", "1".to_owned()).unwrap_err().code, 115);
    }

    #[test]
    fn forms_are_read() {
        let body = b"--B\r\nContent-Disposition: form-data; name=\"query\"\r\n\r\nSELECT\r\n1\r\n--B\r\nContent-Disposition: form-data; name=\"param_x\"\r\n\r\n\x007\r\n--B--\r\n";
        let fields = multipart(body, "B").unwrap();
        assert_eq!(fields[0], ("query".to_owned(), b"SELECT\r\n1".to_vec()));
        assert_eq!(fields[1], ("param_x".to_owned(), b"\x007".to_vec()));
        assert!(multipart(b"--B\r\nbroken", "B").is_err());
    }

    #[test]
    fn comparison_is_exact() {
        assert!(equal(b"secret", b"secret"));
        for wrong in [&b"secre"[..], b"secrets", b"", b"Secret", b"secretsecret"] {
            assert!(!equal(wrong, b"secret"));
        }
    }
}
