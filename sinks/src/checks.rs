//! Checks that the configurations of all stores share, and the time limit around every call to a store.

use std::future::Future;
use std::time::Duration;

use kernel::{ConfigFault, Fault, FaultCode};

/// Time limit of one call when none is configured, milliseconds.
pub(crate) const TIMEOUT_MS: u64 = 5_000;

/// A URL must have one of these schemes and a host.
pub(crate) fn url(path: &str, url: &str, schemes: &[&str], faults: &mut Vec<ConfigFault>) {
    let host = schemes
        .iter()
        .find_map(|scheme| url.strip_prefix(scheme)?.strip_prefix("://"));
    if host.is_none_or(|rest| rest.is_empty() || rest.starts_with('/')) {
        let wanted: Vec<_> = schemes.iter().map(|scheme| format!("{scheme}://HOST:PORT")).collect();
        // The text of a wrong URL is not repeated: it may hold a password.
        faults.push(ConfigFault::new(
            path,
            format!("is not a URL of the form {}", wanted.join(" or ")),
        ));
    }
}

/// A time limit must be long enough to answer and short enough to notice an outage.
pub(crate) fn timeout(path: &str, timeout_ms: u64, faults: &mut Vec<ConfigFault>) {
    if !(100..=30_000).contains(&timeout_ms) {
        faults.push(ConfigFault::new(
            path,
            format!("is {timeout_ms}; give 100 to 30000 milliseconds"),
        ));
    }
}

/// A name that is put into statements or paths as it is.
pub(crate) fn name(path: &str, name: &str, faults: &mut Vec<ConfigFault>) {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
        faults.push(ConfigFault::new(
            path,
            format!("`{name}` is not 1 to 64 of a-z, A-Z, 0-9, `_` and `-`"),
        ));
    }
}

/// A whole number within bounds.
pub(crate) fn range(path: &str, value: u64, low: u64, high: u64, faults: &mut Vec<ConfigFault>) {
    if !(low..=high).contains(&value) {
        faults.push(ConfigFault::new(path, format!("is {value}; give {low} to {high}")));
    }
}

/// What the checks found, as one fault.
///
/// # Errors
/// `CONFIG_INVALID` with every finding.
pub(crate) fn refuse(store: &str, faults: &[ConfigFault]) -> Result<(), Fault> {
    if faults.is_empty() {
        return Ok(());
    }
    let all: Vec<_> = faults.iter().map(ToString::to_string).collect();
    Err(Fault::new(
        FaultCode::ConfigInvalid,
        format!("{store}: {}", all.join("; ")),
    ))
}

/// Waits for a store, but not for ever.
///
/// # Errors
/// `STORE_UNAVAILABLE` when time is up.
pub(crate) async fn within<T>(limit: Duration, what: &str, work: impl Future<Output = T>) -> Result<T, Fault> {
    tokio::time::timeout(limit, work).await.map_err(|_| {
        Fault::new(
            FaultCode::StoreUnavailable,
            format!("{what}: no answer within {} ms", limit.as_millis()),
        )
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn urls_need_a_known_scheme_and_a_host() {
        for (text, good) in [
            ("http://h:1", true),
            ("http://", false),
            ("https://h", false),
            ("http:///x", false),
            ("h:1", false),
        ] {
            let mut faults = Vec::new();
            url("sinks.x.url", text, &["http"], &mut faults);
            assert_eq!(faults.is_empty(), good, "{text}");
        }
    }

    #[tokio::test]
    async fn silence_is_an_outage() {
        let silent = within(Duration::from_millis(5), "store", std::future::pending::<()>()).await;
        assert_eq!(silent.unwrap_err().code, FaultCode::StoreUnavailable);
    }
}
