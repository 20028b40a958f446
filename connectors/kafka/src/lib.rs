//! Kafka and the schema registry: the only user of `rdkafka` and `schema_registry_converter`.
//!
//! [`KafkaLog`] is the log of one stage, [`Registry`] the Confluent framing, [`Admin`] topics and schemas,
//! [`Watch`] what sees to it that every partition has an
//! owner, [`Follower`] what a standby reads along, [`Tail`] and [`Writer`] what the command line reads and writes with, [`History`] and
//! [`Rewriter`] what a backfill does.

mod admin;
mod bulk;
mod changelogs;
mod config;
mod direct;
mod faults;
mod follow;
mod group;
mod headers;
mod history;
mod leaders;
mod log;
mod offsets;
mod registry;
mod rewrite;
mod send;
mod slabs;
mod tail;
mod transaction;
mod watch;
mod writer;

pub use admin::{Admin, Applied, TopicState};
pub use config::LogConfig;
pub use follow::Follower;
pub use headers::cloud_event;
pub use history::{History, Past};
pub use log::KafkaLog;
pub use offsets::{Groups, Offsets, Standing};
pub use registry::Registry;
pub use rewrite::Rewriter;
pub use tail::{From, Plain, Tail};
pub use watch::{Look, Member, Watch};
pub use writer::Writer;

/// How to reach the brokers: their addresses and any further librdkafka properties (TLS, SASL).
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct Brokers {
    /// `host:port,host:port`.
    pub bootstrap: String,
    /// Further librdkafka properties, for example `security.protocol`.
    #[serde(default)]
    pub properties: std::collections::BTreeMap<String, String>,
    /// Transactions of processors are made by our own producer, three requests each, where there are no `properties` and the brokers make
    /// transactions of the second kind (Kafka 4); `false` leaves all to librdkafka.
    #[serde(default = "yes")]
    pub direct: bool,
}

fn yes() -> bool {
    true
}

impl Default for Brokers {
    fn default() -> Self {
        Self {
            bootstrap: String::new(),
            properties: std::collections::BTreeMap::new(),
            direct: true,
        }
    }
}

impl Brokers {
    fn client(&self) -> rdkafka::ClientConfig {
        leaders::linked();
        let mut config = rdkafka::ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        // Reconnect soon after an outage: the default grows to ten seconds.
        config
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000");
        // The default of 100 ms is what a busy transaction coordinator would cost each hop.
        config.set("retry.backoff.ms", "10");
        config.set("topic.metadata.refresh.interval.ms", "30000");
        config.set("log_level", "3");
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config
    }
}
