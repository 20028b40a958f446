//! The text of a streaming query, parsed and planned once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use kernel::{ConfigFault, Fault};
use xxhash_rust::xxh3::xxh3_64;

use super::dialect::{self, File, Insert, at};
use super::options::Role;
use super::plan::{View, parts, physical};
use super::results::Rows;
use super::rewrite::{PANE, rewrite};
use super::source::{self, Source};
use super::{Declared, Schemas, Settings, Streaming, explain};
use crate::udf::Udfs;

/// The suffix of the one topic between the halves.
pub(crate) const PARTIALS: &str = "partials";
/// The suffix of the topic of records that came too late.
pub(crate) const LATE: &str = "late";

/// A file of streaming SQL: sources, views, and the result topics they go to.
#[derive(Clone, Debug)]
pub struct Program {
    pub(crate) sources: Vec<Source>,
    pub(crate) views: Vec<View>,
    pub(crate) rows: Vec<Rows>,
}

impl Program {
    /// Parses and plans. `sources`: Avro JSON by source topic.
    ///
    /// # Errors
    /// Every problem at once, with line and column.
    pub fn plan(sql: &str, sources: &BTreeMap<String, String>) -> Result<Self, Vec<ConfigFault>> {
        Self::plan_with(sql, sources, &Udfs::default())
    }

    /// As [`Program::plan`], for a text that calls UDFs.
    ///
    /// # Errors
    /// As [`Program::plan`].
    pub fn plan_with(sql: &str, sources: &BTreeMap<String, String>, udfs: &Udfs) -> Result<Self, Vec<ConfigFault>> {
        let file = dialect::read(sql)?;
        let mut faults = Vec::new();
        let mut tables = Vec::new();
        for table in file.tables.values().filter(|t| t.options.role != Role::Sink) {
            match source::columns(table, sources) {
                Ok(columns) => tables.push((table.name.clone(), columns)),
                Err(found) => faults.extend(found),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let (mut views, mut rows) = (Vec::new(), Vec::new());
        for insert in &file.inserts {
            match view(insert, &file, &tables, udfs) {
                Ok((view, form)) => {
                    views.push(view);
                    rows.push(form);
                }
                Err(fault) => faults.push(fault),
            }
        }
        faults.extend(doubled(&file, &views));
        let mut read = Vec::new();
        for (name, columns) in &tables {
            let takes: Vec<_> = views.iter().filter(|v| v.source == *name).map(|v| &v.takes).collect();
            if takes.is_empty() {
                continue;
            }
            if let Some(table) = file.tables.get(name) {
                match Source::of(table, columns, &takes, sources) {
                    Ok(source) => read.push(source),
                    Err(found) => faults.extend(found),
                }
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Self {
            sources: read,
            views,
            rows,
        })
    }

    /// Topics that a text reads, known before their schemas are: what to ask the registry for.
    ///
    /// # Errors
    /// As [`Program::plan`].
    pub fn topics(sql: &str) -> Result<Vec<String>, Vec<ConfigFault>> {
        let file = dialect::read(sql)?;
        let reads = file.tables.values().filter(|t| t.options.role != Role::Sink);
        Ok(reads.map(|t| t.options.topic.clone()).collect())
    }

    /// Topics it reads.
    pub fn sources(&self) -> Vec<String> {
        self.sources.iter().map(|s| s.topic.to_string()).collect()
    }

    /// Topics it reads as a whole in every instance, to look keys up in.
    pub fn lookups(&self) -> Vec<String> {
        Vec::new()
    }

    /// Topics it writes rows to, with their schemas.
    pub fn results(&self) -> Vec<Declared> {
        let declared = |(view, rows): (&View, &Rows)| Declared {
            topic: view.topic.clone(),
            subject: subject(&view.topic),
            avro_json: rows.avro.clone(),
            key: view.keys.clone(),
        };
        self.views.iter().zip(&self.rows).map(declared).collect()
    }

    /// Its own topics between the halves: each `<pipeline>.<stage>.<suffix>`, partitioned as the sources are.
    pub fn repartitions(&self) -> Vec<String> {
        vec![PARTIALS.to_owned()]
    }

    /// The streaming plan, for people.
    pub fn explain(&self) -> String {
        explain::text(self)
    }

    /// Makes the part of it that one instance runs. `ids`: schema id by subject of [`Program::results`].
    ///
    /// # Errors
    /// `CONFIG_INVALID` when an id is missing.
    pub fn start(
        &self,
        settings: Settings,
        schemas: Arc<dyn Schemas>,
        ids: BTreeMap<String, i32>,
    ) -> Result<Streaming, Fault> {
        Streaming::new(self, settings, &schemas, &ids)
    }
}

/// What two statements both claim.
fn doubled(file: &File, views: &[View]) -> Vec<ConfigFault> {
    let (mut names, mut topics, mut faults) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for insert in &file.inserts {
        if !names.insert(&insert.into) {
            let detail = format!("two INSERTs go into `{}`; give each a table of its own", insert.into);
            faults.push(ConfigFault::new(at(insert.at), detail));
        }
    }
    for table in file
        .tables
        .values()
        .filter(|t| views.iter().any(|v| v.source == t.name))
    {
        if !topics.insert(&table.options.topic) {
            let detail = format!(
                "two tables read topic `{}`; read it once and write views",
                table.options.topic
            );
            faults.push(ConfigFault::new(at(table.at), detail));
        }
    }
    faults
}

/// Subject of a topic's values.
pub(crate) fn subject(topic: &str) -> String {
    format!("{topic}-value")
}

fn view(
    insert: &Insert,
    file: &File,
    sources: &[(String, SchemaRef)],
    udfs: &Udfs,
) -> Result<(View, Rows), ConfigFault> {
    let fault = |detail: String| ConfigFault::new(at(insert.at), detail);
    let sink = file
        .tables
        .get(&insert.into)
        .filter(|t| t.options.role == Role::Sink)
        .ok_or_else(|| fault(format!("`{}` is no declared table of type 'sink'", insert.into)))?;
    let mut query = insert.query.clone();
    let found = rewrite(&mut query, file, 0)?;
    let Some((window, window_name)) = found.window else {
        return Err(fault(
            "the SELECT has no window; add tumble, hop or session to its list and GROUP BY".to_owned(),
        ));
    };
    if file
        .tables
        .get(&found.source)
        .is_none_or(|t| t.options.role != Role::Source)
    {
        return Err(fault(format!("`{}` is not of type 'source'", found.source)));
    }
    let text = query.to_string();
    let plan = physical(query, sources, udfs).map_err(|e| fault(e.strip_backtrace()))?;
    let parts = parts(&plan, window).map_err(fault)?;
    let gives: Vec<(usize, Field)> = parts
        .answer
        .fields()
        .iter()
        .enumerate()
        .filter(|(_, field)| field.name() != &window_name && field.name() != PANE)
        .map(|(i, field)| (i, field.as_ref().clone()))
        .collect();
    let own: Vec<Field> = gives.iter().map(|(_, field)| field.clone()).collect();
    let rows = Rows::of(&sink.options.topic, &own).map_err(fault)?;
    let kept = format!("{text} {window:?} {:?}", parts.aggregate.state_schema);
    let view = View {
        name: insert.into.clone(),
        topic: sink.options.topic.clone(),
        source: found.source,
        window,
        takes: parts.takes,
        before: parts.before,
        aggregate: parts.aggregate,
        after: parts.after,
        gives,
        keys: parts.keys,
        mark: xxh3_64(kept.as_bytes()),
    };
    Ok((view, rows))
}

/// A schema of some columns of another, in its order.
pub(crate) fn some(columns: &Schema, wanted: &dyn Fn(&str) -> bool) -> SchemaRef {
    let fields: Vec<_> = columns.fields().iter().filter(|f| wanted(f.name())).cloned().collect();
    Arc::new(Schema::new(fields))
}
