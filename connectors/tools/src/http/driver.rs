//! Sends one request and says what is known when it fails. Knows no vendor and no expectation.

use std::collections::BTreeMap;

use kernel::{CallFault, Effect, Fault, FaultCode};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, RequestBuilder, Response, Url};
use schemas::records::Call;
use serde::Deserialize;
use serde_json::Value;

use super::client::{HttpLimits, chain, client, percent_encoded};
use crate::faults::{harmless, invalid, unknown};

/// Set by the driver itself, or by the protocol.
const HEADERS_RESERVED: [&str; 7] = [
    "idempotency-key",
    "soma-tenant",
    "soma-run",
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
];

/// Headers of an answer worth keeping.
const HEADERS_KEPT: [&str; 9] = [
    "content-type",
    "etag",
    "last-modified",
    "link",
    "location",
    "retry-after",
    "x-request-id",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
];

/// How a request proves who it is. Its texts come from secret references.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Auth {
    /// `Authorization: Bearer <token>`.
    Bearer(String),
    /// `Authorization: Basic ...`.
    Basic {
        /// User name.
        user: String,
        /// Password.
        password: String,
    },
    /// A header of its own.
    Header {
        /// Name.
        name: String,
        /// Value.
        value: String,
    },
}

/// What is sent.
#[derive(Clone, Debug, Default)]
pub enum Body {
    /// Nothing.
    #[default]
    Empty,
    /// `application/json`.
    Json(Value),
    /// As it is; `text/plain` unless a header says otherwise.
    Text(String),
    /// `application/x-www-form-urlencoded`.
    Form(Vec<(String, String)>),
}

/// A request to be sent.
#[derive(Clone)]
pub struct Outgoing {
    /// Method.
    pub method: Method,
    /// http or https, without user and password.
    pub url: Url,
    /// Further headers.
    pub headers: HeaderMap,
    /// Added to the URL's own query.
    pub query: Vec<(String, String)>,
    /// Body.
    pub body: Body,
    /// Credentials.
    pub auth: Option<Auth>,
    /// Most bytes of the answer that are read; the driver's limit holds as well.
    pub response_bytes_max: Option<usize>,
}

/// An answer, whatever its status.
#[derive(Clone, Debug, Default)]
pub struct Incoming {
    /// HTTP status.
    pub status: u16,
    /// Selected headers, lower-case names.
    pub headers: BTreeMap<String, String>,
    /// Body, up to the limit.
    pub body: Vec<u8>,
    /// The body was longer.
    pub truncated: bool,
    /// Where it came from, after redirects.
    pub url: String,
}

impl Incoming {
    /// Body as text; what is not UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Body as JSON, when it says that it is and it is.
    pub fn json(&self) -> Option<Value> {
        let kind = self.headers.get("content-type")?;
        kind.contains("json")
            .then(|| serde_json::from_slice(&self.body).ok())
            .flatten()
    }
}

/// Sends requests. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Driver {
    client: Result<Client, Fault>,
    limits: HttpLimits,
}

impl Driver {
    /// A driver with these limits. When TLS cannot be set up, every call says so.
    pub fn new(limits: HttpLimits) -> Self {
        Self {
            client: client(&limits),
            limits,
        }
    }

    /// Its limits.
    pub fn limits(&self) -> &HttpLimits {
        &self.limits
    }

    /// Sends `out` for `call`, with `Idempotency-Key`, `Soma-Tenant` and `Soma-Run`. Any status is an answer. Keeps no time: the engine does.
    ///
    /// # Errors
    /// `TOOL_UNREACHABLE`, effect none: no connection, nothing was sent. `TOOL_FAILED`, effect unknown: it broke after that.
    pub async fn send(&self, call: &Call, out: Outgoing) -> Result<Incoming, CallFault> {
        let client = self.client.as_ref().map_err(|fault| CallFault {
            fault: fault.clone(),
            effect: Effect::None,
        })?;
        let to = place(&out.url);
        let bytes_max = out
            .response_bytes_max
            .unwrap_or(usize::MAX)
            .min(self.limits.response_bytes_max);
        let request = build(client, call, out)
            .map_err(|fault| CallFault {
                fault,
                effect: Effect::None,
            })?
            .build()
            .map_err(|e| {
                harmless(
                    FaultCode::ArgumentsInvalid,
                    format!("{to}: {}", chain(&e.without_url())),
                )
            })?;
        let basic = request
            .headers()
            .get(AUTHORIZATION)
            .and_then(|v| v.to_str().ok()?.strip_prefix("Basic ").map(str::to_owned));
        let response = client.execute(request).await.map_err(|e| classify(&to, e))?;
        let mut incoming = read(response, bytes_max).await.map_err(|e| {
            unknown(
                FaultCode::ToolFailed,
                format!(
                    "{to} began to answer, then the connection broke: {}",
                    chain(&e.without_url())
                ),
            )
        })?;
        if let Some(sent) = basic {
            // The engine masks the password itself; only we know the form it was sent in.
            incoming.body = mask(incoming.body, &sent);
        }
        Ok(incoming)
    }
}

fn build(client: &Client, call: &Call, out: Outgoing) -> Result<RequestBuilder, Fault> {
    if let Some(name) = HEADERS_RESERVED.iter().find(|n| out.headers.contains_key(**n)) {
        return Err(invalid(format!("headers.{name} is set by the platform; remove it")));
    }
    let has_type = out.headers.contains_key(CONTENT_TYPE);
    let mut request = client.request(out.method, out.url).headers(out.headers);
    if !out.query.is_empty() {
        request = request.query(&out.query);
    }
    for (name, value) in [
        ("Idempotency-Key", &call.idempotency_key),
        ("Soma-Tenant", &call.tenant),
        ("Soma-Run", &call.run_id),
    ] {
        if !value.is_empty() {
            request = request.header(name, value);
        }
    }
    let typed = |request: RequestBuilder, kind: &str| {
        if has_type {
            request
        } else {
            request.header(CONTENT_TYPE, kind)
        }
    };
    request = match out.body {
        Body::Empty => request,
        Body::Json(value) => typed(request, "application/json").body(value.to_string()),
        Body::Text(text) => typed(request, "text/plain; charset=utf-8").body(text),
        Body::Form(pairs) => typed(request, "application/x-www-form-urlencoded").body(form(&pairs)),
    };
    match out.auth {
        None => Ok(request),
        Some(Auth::Bearer(token)) => {
            Ok(request.header(AUTHORIZATION, sensitive("auth.bearer", &format!("Bearer {token}"))?))
        }
        Some(Auth::Basic { user, password }) => Ok(request.basic_auth(user, Some(password))),
        Some(Auth::Header { name, value }) => {
            let name = HeaderName::try_from(name).map_err(|_| invalid("auth.header.name is not a header name"))?;
            if HEADERS_RESERVED.contains(&name.as_str()) {
                return Err(invalid(format!(
                    "auth.header.name: {name} is set by the platform; use another"
                )));
            }
            Ok(request.header(name, sensitive("auth.header.value", &value)?))
        }
    }
}

fn sensitive(path: &str, text: &str) -> Result<HeaderValue, Fault> {
    let mut value =
        HeaderValue::from_str(text).map_err(|_| invalid(format!("{path} holds characters a header cannot carry")))?;
    value.set_sensitive(true);
    Ok(value)
}

fn form(pairs: &[(String, String)]) -> String {
    let pairs: Vec<String> = pairs
        .iter()
        .map(|(k, v)| format!("{}={}", percent_encoded(k), percent_encoded(v)))
        .collect();
    pairs.join("&")
}

fn classify(to: &str, error: reqwest::Error) -> CallFault {
    let error = error.without_url();
    if error.is_connect() {
        harmless(
            FaultCode::ToolUnreachable,
            format!("{to} cannot be reached, nothing was sent: {}", chain(&error)),
        )
    } else if error.is_builder() {
        harmless(FaultCode::ArgumentsInvalid, format!("{to}: {}", chain(&error)))
    } else {
        unknown(
            FaultCode::ToolFailed,
            format!("{to}: the connection broke before an answer came: {}", chain(&error)),
        )
    }
}

async fn read(mut response: Response, bytes_max: usize) -> Result<Incoming, reqwest::Error> {
    let kept = |name: &str| Some((name.to_owned(), response.headers().get(name)?.to_str().ok()?.to_owned()));
    let mut incoming = Incoming {
        status: response.status().as_u16(),
        headers: HEADERS_KEPT.into_iter().filter_map(kept).collect(),
        url: response.url().to_string(),
        ..Incoming::default()
    };
    while let Some(chunk) = response.chunk().await? {
        let room = bytes_max - incoming.body.len();
        incoming.body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            incoming.truncated = true;
            break;
        }
    }
    Ok(incoming)
}

/// Where a request goes, without its query: that may hold a token.
pub(crate) fn place(url: &Url) -> String {
    let port = url.port().map(|p| format!(":{p}")).unwrap_or_default();
    format!(
        "{}://{}{port}{}",
        url.scheme(),
        url.host_str().unwrap_or_default(),
        url.path()
    )
}

fn mask(body: Vec<u8>, sent: &str) -> Vec<u8> {
    match std::str::from_utf8(&body) {
        Ok(text) if text.contains(sent) => text.replace(sent, "***").into_bytes(),
        _ => body,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn outgoing(header: &'static str) -> Outgoing {
        Outgoing {
            method: Method::POST,
            url: Url::parse("http://127.0.0.1/a?token=x").unwrap(),
            headers: HeaderMap::from_iter([(HeaderName::from_static(header), HeaderValue::from_static("1"))]),
            query: vec![("q".into(), "a b".into())],
            body: Body::Form(vec![("k".into(), "a&b".into())]),
            auth: Some(Auth::Bearer("t".into())),
            response_bytes_max: None,
        }
    }

    #[test]
    fn a_request_carries_our_headers_and_its_own() {
        let call = Call {
            idempotency_key: "key".into(),
            tenant: "acme".into(),
            ..Call::default()
        };
        let client = client(&HttpLimits::default()).unwrap();
        let request = build(&client, &call, outgoing("x-own")).unwrap().build().unwrap();
        let header = |name: &str| request.headers().get(name).map(|v| v.to_str().unwrap());
        assert_eq!(header("idempotency-key"), Some("key"));
        assert_eq!(header("soma-tenant"), Some("acme"));
        assert_eq!(header("soma-run"), None);
        assert_eq!(header("x-own"), Some("1"));
        assert_eq!(header("authorization"), Some("Bearer t"));
        assert_eq!(request.url().query(), Some("token=x&q=a+b"));
        assert_eq!(request.body().unwrap().as_bytes(), Some(&b"k=a%26b"[..]));
    }

    #[test]
    fn a_header_of_ours_cannot_be_replaced() {
        let client = client(&HttpLimits::default()).unwrap();
        let fault = build(&client, &Call::default(), outgoing("idempotency-key"))
            .err()
            .unwrap();
        assert!(fault.detail.contains("headers.idempotency-key"), "{fault}");
    }

    #[test]
    fn a_place_shows_no_query() {
        assert_eq!(
            place(&Url::parse("https://h:8443/p?token=x").unwrap()),
            "https://h:8443/p"
        );
    }
}
