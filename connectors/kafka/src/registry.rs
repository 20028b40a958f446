//! The schema registry and Confluent framing: magic byte 0, four bytes of schema id, Avro binary.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kernel::{Decoder, Fault, FaultCode};
use schema_registry_converter::async_impl::schema_registry::{SrSettings, get_schema_by_id_and_type, post_schema};
use schema_registry_converter::error::SRCError;
use schema_registry_converter::schema_registry_common::{SchemaType, SuppliedSchema};
use schemas::Written;

/// First byte of every framed value.
const MAGIC: u8 = 0;
/// Bytes before the Avro ones: that one and the schema's id.
const FRAME: usize = 5;

/// A client of a Confluent-compatible registry. What it has learnt is kept: an id never changes its meaning.
pub struct Registry {
    url: String,
    settings: SrSettings,
    handle: tokio::runtime::Handle,
    by_id: Mutex<HashMap<u32, Arc<Written>>>,
    ids: Mutex<HashMap<String, u32>>,
}

impl Registry {
    /// A client for the registry at `url`. Does not connect.
    ///
    /// # Errors
    /// `CONFIG_INVALID` when the URL cannot be used.
    pub fn new(url: &str, handle: tokio::runtime::Handle) -> Result<Self, Fault> {
        // The process's one TLS stack; somebody else may have installed it before.
        if rustls::crypto::ring::default_provider().install_default().is_err() {
            tracing::debug!("a TLS provider is installed already");
        }
        let settings = SrSettings::new_builder(url.trim_end_matches('/').to_owned())
            .set_timeout(Duration::from_secs(5))
            .build()
            .map_err(|e| Fault::new(FaultCode::ConfigInvalid, format!("registry.url {url}: {e}")))?;
        Ok(Self {
            url: url.to_owned(),
            settings,
            handle,
            by_id: Mutex::default(),
            ids: Mutex::default(),
        })
    }

    /// Learns beside other work, all at once, what the first records of these topics would each wait for: (topic, this build's schema).
    /// What cannot be learnt now is asked for when it is needed.
    pub fn warm(self: &Arc<Self>, topics: impl IntoIterator<Item = (String, String)>) {
        for (topic, text) in topics {
            let registry = Arc::clone(self);
            self.handle.spawn(async move {
                let supplied = SuppliedSchema::new(None, SchemaType::Avro, text);
                let posted = post_schema(&registry.settings, format!("{topic}-value"), supplied).await;
                let Ok(id) = posted.map(|registered| registered.id) else {
                    return;
                };
                registry
                    .ids
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(topic, id);
                if let Ok(found) = get_schema_by_id_and_type(id, &registry.settings, SchemaType::Avro).await {
                    drop(registry.keep(id, &found.schema));
                }
            });
        }
    }

    /// Registers a schema under a subject, or finds it, and gives its id.
    ///
    /// # Errors
    /// `REGISTRY_UNAVAILABLE`, or `CONFIG_INVALID` when the registry refuses the schema as incompatible.
    pub fn register(&self, subject: &str, schema: &str) -> Result<u32, Fault> {
        let supplied = SuppliedSchema::new(None, SchemaType::Avro, schema.to_owned());
        self.wait(post_schema(&self.settings, subject.to_owned(), supplied))
            .map(|registered| registered.id)
            .map_err(|e| {
                if is_status(&e, "409") || is_status(&e, "422") {
                    let why = self.field_of(subject, schema).or(e.cause).unwrap_or(e.error);
                    Fault::new(
                        FaultCode::ConfigInvalid,
                        format!("the registry refuses {subject}: {why}"),
                    )
                } else {
                    self.unavailable(&e)
                }
            })
    }

    /// Which field of a refused schema cannot read what an earlier version wrote: registries do not say it by name.
    fn field_of(&self, subject: &str, schema: &str) -> Option<String> {
        let new = schemas::parse_schema(schema).ok()?;
        let known = self.apart(self.versions(subject))?.ok()?;
        known.iter().enumerate().find_map(|(i, old)| {
            let why = schemas::incompatible(&schemas::parse_schema(old).ok()?, &new)?;
            Some(format!("it cannot read what version {} wrote: {why}", i + 1))
        })
    }

    /// Id under which this build's schema of a topic is registered. Asked once.
    ///
    /// # Errors
    /// As [`Registry::register`].
    pub fn id_of(&self, topic: &str, schema_text: &str) -> Result<u32, Fault> {
        let known = self
            .ids
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(topic)
            .copied();
        if let Some(id) = known {
            return Ok(id);
        }
        let id = self.register(&format!("{topic}-value"), schema_text)?;
        self.ids
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(topic.to_owned(), id);
        Ok(id)
    }

    /// Frames Avro bytes into `framed`, in place of what it holds.
    ///
    /// # Errors
    /// As [`Registry::register`].
    pub(crate) fn frame(&self, topic: &str, schema_text: &str, avro: &[u8], framed: &mut Vec<u8>) -> Result<(), Fault> {
        let id = self.id_of(topic, schema_text)?;
        framed.clear();
        framed.push(MAGIC);
        framed.extend(id.to_be_bytes());
        framed.extend(avro);
        Ok(())
    }

    /// Avro bytes in their frame.
    ///
    /// # Errors
    /// As [`Registry::register`].
    pub fn framed(&self, topic: &str, schema_text: &str, avro: &[u8]) -> Result<Vec<u8>, Fault> {
        let mut framed = Vec::with_capacity(FRAME + avro.len());
        self.frame(topic, schema_text, avro, &mut framed)?;
        Ok(framed)
    }

    /// Asks for a compatibility level on every subject.
    ///
    /// # Errors
    /// `REGISTRY_UNAVAILABLE`.
    pub async fn set_compatibility(&self, level: &str) -> Result<(), Fault> {
        let url = format!("{}/config", self.url.trim_end_matches('/'));
        let body = serde_json::json!({ "compatibility": level });
        let answer = reqwest::Client::new()
            .put(&url)
            .json(&body)
            .timeout(Duration::from_secs(10))
            .send()
            .await;
        let refused = |why: String| Fault::new(FaultCode::RegistryUnavailable, format!("PUT {url}: {why}"));
        match answer {
            Ok(response) if response.status().is_success() => Ok(()),
            Ok(response) => Err(refused(format!("status {}", response.status()))),
            Err(e) => Err(refused(e.to_string())),
        }
    }

    /// Every version of a subject, oldest first; empty when there is none.
    ///
    /// # Errors
    /// `REGISTRY_UNAVAILABLE`.
    pub async fn versions(&self, subject: &str) -> Result<Vec<String>, Fault> {
        let base = self.url.trim_end_matches('/');
        let get = async |url: String| -> Result<Option<serde_json::Value>, Fault> {
            let refused = |why: String| Fault::new(FaultCode::RegistryUnavailable, format!("GET {url}: {why}"));
            let answer = reqwest::Client::new()
                .get(&url)
                .timeout(Duration::from_secs(10))
                .send()
                .await;
            let response = answer.map_err(|e| refused(e.to_string()))?;
            match response.status().as_u16() {
                404 => Ok(None),
                200 => response.json().await.map(Some).map_err(|e| refused(e.to_string())),
                status => Err(refused(format!("status {status}"))),
            }
        };
        let Some(list) = get(format!("{base}/subjects/{subject}/versions")).await? else {
            return Ok(Vec::new());
        };
        let mut schemas = Vec::new();
        for version in list.as_array().into_iter().flatten() {
            if let Some(found) = get(format!("{base}/subjects/{subject}/versions/{version}")).await? {
                schemas.extend(found.get("schema").and_then(|s| s.as_str()).map(str::to_owned));
            }
        }
        Ok(schemas)
    }

    /// Asks the registry for its subjects.
    ///
    /// # Errors
    /// `REGISTRY_UNAVAILABLE`.
    pub fn probe(&self) -> Result<(), Fault> {
        let settings = &self.settings;
        self.wait(schema_registry_converter::async_impl::schema_registry::get_all_subjects(settings))
            .map(drop)
            .map_err(|e| self.unavailable(&e))
    }

    /// The text of a schema by id. An id never changes its meaning: ask once.
    ///
    /// # Errors
    /// `SCHEMA_UNKNOWN` when there is no such Avro schema, `REGISTRY_UNAVAILABLE`.
    pub fn text(&self, id: u32) -> Result<String, Fault> {
        let found = self.wait(get_schema_by_id_and_type(id, &self.settings, SchemaType::Avro));
        found.map(|schema| schema.schema).map_err(|e| self.unknown(id, &e))
    }

    fn unknown(&self, id: u32, e: &SRCError) -> Fault {
        if is_status(e, "404") || e.error.starts_with("type ") {
            let detail = format!("the registry at {} knows no Avro schema with id {id}", self.url);
            return Fault::new(FaultCode::SchemaUnknown, detail);
        }
        self.unavailable(e)
    }

    fn schema(&self, id: u32) -> Result<Arc<Written>, Fault> {
        if let Some(schema) = self.by_id.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return Ok(schema.clone());
        }
        let found = self
            .wait(get_schema_by_id_and_type(id, &self.settings, SchemaType::Avro))
            .map_err(|e| self.unknown(id, &e))?;
        self.keep(id, &found.schema)
    }

    fn keep(&self, id: u32, text: &str) -> Result<Arc<Written>, Fault> {
        let schema = schemas::parse_schema(text)
            .map_err(|e| Fault::new(FaultCode::SchemaUnknown, format!("schema id {id} does not parse: {e}")))?;
        let schema = Arc::new(Written::with(schema));
        self.by_id
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, schema.clone());
        Ok(schema)
    }

    /// Drives a registry call from any thread. A sink decodes inside the runtime, where blocking is not allowed, so the call
    /// runs on a thread of its own; it happens once per schema.
    fn wait<T: Send>(&self, call: impl Future<Output = Result<T, SRCError>> + Send) -> Result<T, SRCError> {
        let panicked = || Err(SRCError::new("the registry call panicked", None, false));
        self.apart(call).unwrap_or_else(panicked)
    }

    fn apart<T: Send>(&self, call: impl Future<Output = T> + Send) -> Option<T> {
        std::thread::scope(|scope| scope.spawn(|| self.handle.block_on(call)).join().ok())
    }

    fn unavailable(&self, e: &SRCError) -> Fault {
        Fault::new(
            FaultCode::RegistryUnavailable,
            format!("the schema registry at {} does not answer as it should: {e}", self.url),
        )
    }
}

fn is_status(e: &SRCError, status: &str) -> bool {
    e.error.contains(&format!("status {status}"))
}

impl Decoder for Registry {
    fn unframe<'a>(&self, value: &'a [u8]) -> Result<(Arc<Written>, &'a [u8]), Fault> {
        let [0, a, b, c, d, avro @ ..] = value else {
            let head = &value[..value.len().min(5)];
            let detail = format!(
                "{} bytes that start with {head:02x?}: a record must start with magic byte 0 and a 4-byte schema id; produce with a Confluent Avro serialiser or `soma produce`",
                value.len()
            );
            return Err(Fault::new(FaultCode::RecordNotFramed, detail));
        };
        Ok((self.schema(u32::from_be_bytes([*a, *b, *c, *d]))?, avro))
    }
}
