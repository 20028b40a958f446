//! ClickHouse's way to say no: `Code: N. DB::Exception: ...`, and the HTTP status that belongs to each code
//! (the table of the server's `exceptionCodeToHTTPStatus`).

use std::fmt;

/// An error of the engine or of this server, always with one of ClickHouse's codes.
#[derive(Debug, Clone)]
pub struct Failure {
    pub code: u32,
    pub text: String,
    status: Option<u16>,
}

impl Failure {
    /// An error found by this server; `name` is ClickHouse's name of the code.
    pub fn new(code: u32, name: &str, detail: impl fmt::Display) -> Failure {
        Failure {
            code,
            text: format!("Code: {code}. DB::Exception: {detail}. ({name})"),
            status: None,
        }
    }

    pub fn with_status(mut self, status: u16) -> Failure {
        self.status = Some(status);
        self
    }

    /// An error text of the engine. Without a code it is ours to name: 1002, UNKNOWN_EXCEPTION.
    pub fn engine(text: &str) -> Failure {
        let code = text.find("Code: ").and_then(|at| {
            let digits: String = text[at + 6..].chars().take_while(char::is_ascii_digit).collect();
            digits.parse().ok()
        });
        match code {
            Some(code) => Failure {
                code,
                text: text.trim_end().to_owned(),
                status: None,
            },
            None => Failure::new(1002, "UNKNOWN_EXCEPTION", text.trim_end()),
        }
    }

    pub fn bad_request(detail: impl fmt::Display) -> Failure {
        Failure::new(36, "BAD_ARGUMENTS", detail)
    }

    pub fn not_supported(detail: impl fmt::Display) -> Failure {
        Failure::new(48, "NOT_IMPLEMENTED", detail)
    }

    pub fn syntax(detail: impl fmt::Display) -> Failure {
        Failure::new(62, "SYNTAX_ERROR", detail)
    }

    pub fn status(&self) -> u16 {
        self.status.unwrap_or(match self.code {
            194 => 401,
            192 | 193 | 497 | 512 | 516 => 403,
            // Parsing and bad values, in the server's own list.
            6 | 8 | 15 | 25 | 26 | 27 | 36 | 37 | 38 | 41 | 44 | 53 | 62 | 72 | 117 | 123 | 167 | 168 | 223 | 321
            | 376 | 427 | 441 | 675 | 676 => 400,
            // Unknown table, function, identifier, type, storage, format, database, setting, ...
            46 | 47 | 50 | 56 | 60 | 63 | 73 | 78 | 81 | 115 | 152 | 336 | 511 => 404,
            159 => 408,
            381 => 411,
            229 => 413,
            779 => 415,
            48 => 501,
            76 | 209 | 439 => 503,
            _ => 500,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

/// So that a refusal found deep inside a `Read` keeps its code on the way out.
impl From<Failure> for std::io::Error {
    fn from(failure: Failure) -> Self {
        std::io::Error::other(failure)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Failure>()) {
            Some(failure) => failure.clone(),
            None => Failure::new(
                271,
                "CANNOT_DECOMPRESS",
                format_args!("cannot read the request body: {error}"),
            )
            .with_status(400),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Failure;

    #[test]
    fn the_code_of_an_engine_error_decides_the_status() {
        let unknown = Failure::engine("Code: 60. DB::Exception: Table default.x does not exist. (UNKNOWN_TABLE)");
        assert_eq!((unknown.code, unknown.status()), (60, 404));
        assert_eq!(Failure::engine("something else").status(), 500);
        assert_eq!(Failure::syntax("x").status(), 400);
    }

    #[test]
    fn a_failure_survives_the_trip_through_an_io_error() {
        let back = Failure::from(std::io::Error::from(
            Failure::new(40, "CHECKSUM_DOESNT_MATCH", "x").with_status(400),
        ));
        assert_eq!((back.code, back.status()), (40, 400));
    }
}
