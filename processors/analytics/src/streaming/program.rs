//! The text of a streaming query, parsed and planned once.

use std::collections::BTreeMap;
use std::sync::Arc;

use kernel::{ConfigFault, Fault, FaultCode};

use super::{Declared, Schemas, Settings, Streaming};

/// A file of streaming SQL: sources, views, and the result topics they go to.
#[derive(Clone, Debug)]
pub struct Program {}

impl Program {
    /// Parses and plans. `sources`: Avro JSON by source topic.
    ///
    /// # Errors
    /// Every problem at once, with line and column.
    pub fn plan(_sql: &str, _sources: &BTreeMap<String, String>) -> Result<Self, Vec<ConfigFault>> {
        Err(vec![ConfigFault::new("sql", "the engine is not built yet")])
    }

    /// Topics that a text reads, known before their schemas are: what to ask the registry for.
    ///
    /// # Errors
    /// As [`Program::plan`].
    pub fn topics(_sql: &str) -> Result<Vec<String>, Vec<ConfigFault>> {
        Err(vec![ConfigFault::new("sql", "the engine is not built yet")])
    }

    /// Topics it reads.
    pub fn sources(&self) -> Vec<String> {
        Vec::new()
    }

    /// Topics it reads as a whole in every instance, to look keys up in.
    pub fn lookups(&self) -> Vec<String> {
        Vec::new()
    }

    /// Topics it writes rows to, with their schemas.
    pub fn results(&self) -> Vec<Declared> {
        Vec::new()
    }

    /// Its own topics between the halves: each `<pipeline>.<stage>.<suffix>`, partitioned as the sources are.
    pub fn repartitions(&self) -> Vec<String> {
        Vec::new()
    }

    /// The streaming plan, for people.
    pub fn explain(&self) -> String {
        String::new()
    }

    /// Makes the part of it that one instance runs. `ids`: schema id by subject of [`Program::results`].
    ///
    /// # Errors
    /// `CONFIG_INVALID` when an id is missing.
    pub fn start(
        &self,
        _settings: Settings,
        _schemas: Arc<dyn Schemas>,
        _ids: BTreeMap<String, i32>,
    ) -> Result<Streaming, Fault> {
        Err(Fault::new(FaultCode::ConfigInvalid, "the engine is not built yet"))
    }
}
