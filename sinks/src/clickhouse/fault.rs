//! What ClickHouse's errors mean to us: wait, or halt because our statement is wrong.

use clickhouse::error::Error;
use kernel::{Fault, FaultCode};

/// ClickHouse exception codes that pass with time: timeouts, overload, memory, disk, connections, too many parts, shutting down.
const PASSING: &[u32] = &[
    159, 160, 173, 198, 202, 203, 209, 210, 236, 241, 242, 243, 252, 279, 285, 319, 394, 425, 439, 473, 999,
];

/// The fault of a failed statement.
pub(crate) fn of(what: &str, error: &Error) -> Fault {
    let code = if passes(error) {
        FaultCode::StoreUnavailable
    } else {
        FaultCode::StoreRefused
    };
    let hint = match error {
        Error::BadResponse(text) => hint(exception(text)),
        _ => "",
    };
    Fault::new(code, format!("ClickHouse, {what}: {}{hint}", with_sources(error)))
}

fn passes(error: &Error) -> bool {
    match error {
        Error::Network(_) | Error::TimedOut | Error::Decompression(_) | Error::InvalidColumnsHeader(_) => true,
        // Without an exception code it was not ClickHouse that answered but something in front of it.
        Error::BadResponse(text) => exception(text).is_none_or(|code| PASSING.contains(&code)),
        _ => false,
    }
}

/// The number in `Code: 60. DB::Exception: ...`.
fn exception(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once("Code: ")?;
    rest.chars()
        .take_while(char::is_ascii_digit)
        .collect::<String>()
        .parse()
        .ok()
}

fn hint(code: Option<u32>) -> &'static str {
    match code {
        Some(16 | 60 | 81) => " (apply the migrations: `soma deploy`)",
        Some(193 | 192 | 516) => " (check user and password in the sink's configuration)",
        Some(497) => " (grant the sink's user what deploy/runbooks/STORE_REFUSED.md lists)",
        _ => "",
    }
}

fn with_sources(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        let words = inner.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = inner.source();
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn overload_passes_and_a_wrong_statement_does_not() {
        let bad = |text: &str| of("INSERT INTO events", &Error::BadResponse(text.to_owned()));
        assert_eq!(
            bad("Code: 252. DB::Exception: Too many parts").code,
            FaultCode::StoreUnavailable
        );
        assert_eq!(bad("502 Bad Gateway").code, FaultCode::StoreUnavailable);
        let refused = bad("Code: 60. DB::Exception: Unknown table");
        assert_eq!(refused.code, FaultCode::StoreRefused);
        assert!(refused.detail.contains("INSERT INTO events") && refused.detail.contains("soma deploy"));
        assert_eq!(
            bad("Code: 516. DB::Exception: Authentication failed").code,
            FaultCode::StoreRefused
        );
        let ungranted = bad("Code: 497. DB::Exception: sink: Not enough privileges");
        assert_eq!(ungranted.code, FaultCode::StoreRefused);
        assert!(ungranted.detail.contains("STORE_REFUSED.md"));
        assert_eq!(of("x", &Error::TimedOut).code, FaultCode::StoreUnavailable);
        assert_eq!(
            of("x", &Error::SchemaMismatch("n".into())).code,
            FaultCode::StoreRefused
        );
    }
}
