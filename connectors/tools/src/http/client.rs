//! The HTTP client: its limits, its TLS and its rule for redirects. Others who need one make it with [`client`].

use std::time::Duration;

use kernel::{ConfigFault, Fault, FaultCode};
use reqwest::redirect::{Attempt, Policy};
use serde::{Deserialize, Serialize};

/// Limits of every HTTP call. The time limit is the call's own.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpLimits {
    /// Longest wait for a connection with TLS, milliseconds.
    pub connect_timeout_ms: u64,
    /// Most bytes of a body that are read; a call may ask for fewer.
    pub response_bytes_max: usize,
    /// Redirects followed within one host; to another host none is.
    pub redirects_max: usize,
    /// Characters of an unexpected answer shown in the fault.
    pub excerpt_chars_max: usize,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connect_timeout_ms: 5_000,
            response_bytes_max: 1024 * 1024,
            redirects_max: 5,
            excerpt_chars_max: 512,
        }
    }
}

impl HttpLimits {
    /// Everything wrong with them, at `path` + field.
    pub fn check(&self, path: &str) -> Vec<ConfigFault> {
        let mut faults = Vec::new();
        if self.connect_timeout_ms == 0 {
            faults.push(ConfigFault::new(
                format!("{path}connect_timeout_ms"),
                "must be at least 1 millisecond",
            ));
        }
        if self.response_bytes_max == 0 {
            faults.push(ConfigFault::new(
                format!("{path}response_bytes_max"),
                "must be at least 1 byte",
            ));
        }
        faults
    }
}

/// A client with our TLS provider (ring), connect timeout and redirect rule.
///
/// # Errors
/// `TOOL_UNREACHABLE` when TLS cannot be set up, for example without any root certificates on the machine.
pub fn client(limits: &HttpLimits) -> Result<reqwest::Client, Fault> {
    // An error means that a provider is installed already, which is as good.
    rustls::crypto::ring::default_provider().install_default().ok();
    let redirects_max = limits.redirects_max;
    reqwest::Client::builder()
        .user_agent(concat!("soma/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_millis(limits.connect_timeout_ms))
        .redirect(Policy::custom(move |attempt| redirect(attempt, redirects_max)))
        .build()
        .map_err(|e| {
            Fault::new(
                FaultCode::ToolUnreachable,
                format!("the HTTP client cannot be set up: {}", chain(&e)),
            )
        })
}

/// Headers carry credentials under many names, so no redirect leaves the origin: the 3xx itself is then the answer.
fn redirect(attempt: Attempt<'_>, redirects_max: usize) -> reqwest::redirect::Action {
    let same_origin = attempt
        .previous()
        .last()
        .is_some_and(|from| from.origin() == attempt.url().origin());
    if same_origin && attempt.previous().len() <= redirects_max {
        attempt.follow()
    } else {
        attempt.stop()
    }
}

/// An error with its causes: reqwest's own text names only the outermost. The URL is left out, it may hold a token.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

/// Text as it stands in a query or a form (RFC 3986: everything but unreserved characters is escaped).
pub(crate) fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push_str(&hex::encode_upper([byte]));
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_for_a_query() {
        assert_eq!(percent_encoded("a b&é~"), "a%20b%26%C3%A9~");
    }
}
