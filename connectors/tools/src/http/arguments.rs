//! Arguments of the `http` tool, read and checked into a request.

use std::collections::BTreeMap;

use kernel::Fault;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};
use serde::Deserialize;
use serde_json::Value;

use super::driver::{Auth, Body, Outgoing};
use super::expect::Expect;
use crate::faults::{invalid, read};

/// What a plan may say.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default = "get")]
    method: String,
    url: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    query: BTreeMap<String, Value>,
    json: Option<Value>,
    body: Option<String>,
    form: Option<BTreeMap<String, Value>>,
    auth: Option<Auth>,
    #[serde(default)]
    expect: Expect,
    #[serde(default)]
    idempotent: bool,
    max_bytes: Option<usize>,
}

fn get() -> String {
    "GET".to_owned()
}

/// A request and what is expected of its answer.
pub(super) struct Arguments {
    pub(super) out: Outgoing,
    pub(super) expect: Expect,
    /// It changes nothing, or the receiver is declared to act once per idempotency key: it may be sent again.
    pub(super) safe: bool,
    /// It changes nothing, by its method. Who wrote the arguments cannot declare that.
    pub(super) reads: bool,
}

impl Arguments {
    pub(super) fn read(arguments: &Value) -> Result<Self, Fault> {
        let raw: Raw = read(arguments)?;
        raw.expect.check()?;
        let method = method(&raw.method)?;
        let bodies = [raw.json.is_some(), raw.body.is_some(), raw.form.is_some()];
        if bodies.into_iter().filter(|b| *b).count() > 1 {
            return Err(invalid("give one of `json`, `body` and `form`, not several"));
        }
        let body = match (raw.json, raw.body, raw.form) {
            (Some(value), _, _) => Body::Json(value),
            (_, Some(text), _) => Body::Text(text),
            (_, _, Some(form)) => Body::Form(pairs("form", form)?),
            _ => Body::Empty,
        };
        let reads = method.is_safe();
        let safe = raw.idempotent || reads;
        let out = Outgoing {
            url: url(&raw.url)?,
            headers: headers(raw.headers)?,
            query: pairs("query", raw.query)?,
            body,
            auth: raw.auth,
            response_bytes_max: raw.max_bytes,
            method,
        };
        Ok(Self {
            out,
            expect: raw.expect,
            safe,
            reads,
        })
    }
}

fn method(name: &str) -> Result<Method, Fault> {
    const KNOWN: [&str; 7] = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"];
    let upper = name.to_ascii_uppercase();
    match Method::from_bytes(upper.as_bytes()) {
        Ok(method) if KNOWN.contains(&upper.as_str()) => Ok(method),
        _ => Err(invalid(format!("method `{name}` is not one of {}", KNOWN.join(", ")))),
    }
}

/// An http or https URL without credentials in it.
pub(crate) fn url(text: &str) -> Result<Url, Fault> {
    // The text is not shown: it may hold a token.
    let url = Url::parse(text).map_err(|e| invalid(format!("url is not a URL: {e}")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(invalid(format!(
            "url must begin with http:// or https://, not {}:",
            url.scheme()
        )));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid(
            "url holds a user or password; use `auth` with a secret reference",
        ));
    }
    Ok(url)
}

/// Header names and values as the protocol has them.
pub(crate) fn headers(headers: BTreeMap<String, String>) -> Result<HeaderMap, Fault> {
    headers
        .into_iter()
        .map(|(name, value)| {
            let key =
                HeaderName::try_from(&name).map_err(|_| invalid(format!("headers: `{name}` is not a header name")))?;
            let value = HeaderValue::try_from(value)
                .map_err(|_| invalid(format!("headers.{name} holds characters a header cannot carry")))?;
            Ok((key, value))
        })
        .collect()
}

fn pairs(field: &str, map: BTreeMap<String, Value>) -> Result<Vec<(String, String)>, Fault> {
    map.into_iter()
        .map(|(name, value)| match value {
            Value::String(text) => Ok((name, text)),
            Value::Number(_) | Value::Bool(_) => Ok((name, value.to_string())),
            _ => Err(invalid(format!(
                "{field}.{name} must be text, a number or a truth value"
            ))),
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reading_methods_and_declared_ones_are_safe() {
        let safe = |v: Value| Arguments::read(&v).unwrap().safe;
        assert!(safe(json!({"url": "http://h/"})));
        assert!(safe(json!({"url": "http://h/", "method": "head"})));
        assert!(!safe(json!({"url": "http://h/", "method": "PUT"})));
        assert!(safe(json!({"url": "http://h/", "method": "POST", "idempotent": true})));
    }

    #[test]
    fn bad_arguments_name_the_field() {
        for (bad, says) in [
            (json!({}), "url"),
            (json!({"url": "ftp://h/"}), "http://"),
            (json!({"url": "http://u:p@h/"}), "auth"),
            (json!({"url": "http://h/", "method": "BREW"}), "method"),
            (json!({"url": "http://h/", "methd": "GET"}), "methd"),
            (json!({"url": "http://h/", "json": 1, "body": ""}), "one of"),
            (json!({"url": "http://h/", "headers": {"a b": ""}}), "a b"),
            (json!({"url": "http://h/", "query": {"q": []}}), "query.q"),
            (
                json!({"url": "http://h/", "expect": {"status": "9xx"}}),
                "expect.status",
            ),
        ] {
            let fault = Arguments::read(&bad).err().unwrap();
            assert!(fault.detail.contains(says), "{bad}: {fault}");
        }
    }
}
