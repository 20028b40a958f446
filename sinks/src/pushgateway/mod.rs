//! Pushgateway: the latest closed window of every metric, where Prometheus can scrape it. One group per pipeline and view, so
//! that nothing overwrites a neighbour; `soma.metrics` has one partition, so one instance at a time puts a view as a whole, and a label
//! for the instance would only leave the former's last words behind. Not here: history, which is ClickHouse's.

mod board;
mod restore;
mod sink;
mod text;

use std::time::Duration;

use kernel::{ConfigFault, Fault, FaultCode};
use reqwest::{Client, Response, StatusCode};
use serde::Deserialize;

use crate::checks;

pub use sink::PushgatewaySink;

/// Where Pushgateway is and how much is pushed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `http://HOST:PORT` or `https://HOST:PORT`, with the route prefix if it has one.
    pub url: String,
    /// User for basic authentication; empty for none.
    #[serde(default)]
    pub user: String,
    /// Its password.
    #[serde(default)]
    pub password: String,
    /// Value of the grouping label `pipeline`.
    pub pipeline: String,
    /// Label sets pushed per metric; the rest is summed under `overflow="true"`.
    #[serde(default = "label_sets_max")]
    pub label_sets_max: u64,
    /// A label set whose last window ended this long before the newest one is no longer pushed, seconds.
    #[serde(default = "stale_after_s")]
    pub stale_after_s: u64,
    /// A group of this pipeline whose newest window ended this long before the newest of all is deleted, seconds: nobody computes
    /// that view any more.
    #[serde(default = "forget_after_s")]
    pub forget_after_s: u64,
    /// Time limit of one request, milliseconds.
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
}

fn label_sets_max() -> u64 {
    500
}

fn stale_after_s() -> u64 {
    300
}

fn forget_after_s() -> u64 {
    3_600
}

fn timeout_ms() -> u64 {
    checks::TIMEOUT_MS
}

/// Everything wrong with a configuration; paths are relative to it.
pub fn check(config: &Config) -> Vec<ConfigFault> {
    let mut faults = Vec::new();
    checks::url("url", &config.url, &["http", "https"], &mut faults);
    checks::name("pipeline", &config.pipeline, &mut faults);
    checks::range("label_sets_max", config.label_sets_max, 1, 10_000, &mut faults);
    checks::range("stale_after_s", config.stale_after_s, 60, 86_400, &mut faults);
    checks::range(
        "forget_after_s",
        config.forget_after_s,
        config.stale_after_s,
        604_800,
        &mut faults,
    );
    checks::timeout("timeout_ms", config.timeout_ms, &mut faults);
    faults
}

/// The HTTP client and where it goes. Cheap to clone.
#[derive(Clone)]
struct Server {
    client: Client,
    config: Config,
}

impl Server {
    /// # Errors
    /// `CONFIG_INVALID` with everything that is wrong.
    fn new(mut config: Config) -> Result<Self, Fault> {
        checks::refuse("pushgateway", &check(&config))?;
        // reqwest is built without a provider of its own. Whoever comes first installs it; ring is the only one we build.
        let provider = rustls::crypto::ring::default_provider();
        if rustls::crypto::CryptoProvider::get_default().is_none() && provider.install_default().is_err() {
            tracing::debug!("another thread installed the TLS provider first");
        }
        config.url.truncate(config.url.trim_end_matches('/').len());
        let limit = Duration::from_millis(config.timeout_ms);
        let client = Client::builder()
            .timeout(limit)
            .connect_timeout(limit)
            .build()
            .map_err(|e| Fault::new(FaultCode::ConfigInvalid, format!("pushgateway: {e}")))?;
        Ok(Self { client, config })
    }

    /// Sends a request; any status is an answer.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Response, Fault> {
        let signed = match self.config.user.as_str() {
            "" => request,
            user => request.basic_auth(user, Some(&self.config.password)),
        };
        signed.send().await.map_err(|e| silent(&e))
    }

    /// # Errors
    /// `STORE_UNAVAILABLE` when it is not ready, `STORE_REFUSED` when it does not know us.
    async fn probe(&self) -> Result<(), Fault> {
        let what = "GET /-/ready";
        let answer = self
            .send(self.client.get(format!("{}/-/ready", self.config.url)))
            .await?;
        if answer.status().is_success() {
            Ok(())
        } else {
            Err(refused(what, answer).await)
        }
    }
}

fn silent(error: &reqwest::Error) -> Fault {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    Fault::new(FaultCode::StoreUnavailable, format!("Pushgateway: {text}"))
}

/// The fault of an answer that is not a success.
async fn refused(what: &str, answer: Response) -> Fault {
    let status = answer.status();
    let passes =
        status.is_server_error() || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
    let code = if passes {
        FaultCode::StoreUnavailable
    } else {
        FaultCode::StoreRefused
    };
    let words: String = answer.text().await.unwrap_or_default().chars().take(300).collect();
    Fault::new(code, format!("Pushgateway, {what}: {status}: {}", words.trim()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_of_a_configuration_is_named() {
        let good: Config = serde_json::from_value(serde_json::json!({"url": "http://h:1", "pipeline": "p"})).unwrap();
        assert_eq!(check(&good), []);
        let bad = Config {
            url: "h".into(),
            pipeline: "a/b".into(),
            label_sets_max: 0,
            stale_after_s: 1,
            ..good
        };
        let paths: Vec<_> = check(&bad).into_iter().map(|f| f.path).collect();
        assert_eq!(paths, ["url", "pipeline", "label_sets_max", "stale_after_s"]);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod live_tests;
