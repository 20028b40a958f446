//! The text of a streaming query, parsed and planned once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use kernel::{ConfigFault, Fault};

use super::dialect::{self, File, Table, at};
use super::joined::Join;
use super::lookups::Lookup;
use super::options::Role;
use super::plan::View;
use super::results::Rows;
use super::source::{self, Source};
use super::views::{Planned, Planner};
use super::{Declared, Schemas, Settings, Streaming, explain};
use crate::udf::Udfs;

/// The suffix of the one topic between the halves.
pub(crate) const PARTIALS: &str = "partials";
/// The suffix of the topic of records that came too late.
pub(crate) const LATE: &str = "late";

/// A file of streaming SQL: sources, views, and the result topics they go to.
#[derive(Clone, Debug, Default)]
pub struct Program {
    pub(crate) sources: Vec<Source>,
    pub(crate) views: Vec<View>,
    pub(crate) rows: Vec<Rows>,
    pub(crate) joins: Vec<Join>,
    pub(crate) lookups: Vec<Lookup>,
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
            let lookup = table.options.role == Role::Lookup;
            let checked = |columns: SchemaRef| match lookup {
                true => Lookup::check(table, &columns).map(|()| columns),
                false => Ok(columns),
            };
            match source::columns(table, sources).and_then(checked) {
                Ok(columns) => tables.push((table, columns)),
                Err(found) => faults.extend(found),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let planner = Planner::new(&file, &tables, udfs);
        let mut program = Self::default();
        for insert in &file.inserts {
            match planner.insert(insert) {
                Ok(Planned::View(view, form)) => {
                    program.views.push(*view);
                    program.rows.push(form);
                }
                Ok(Planned::Join(join)) => program.joins.push(*join),
                Err(fault) => faults.push(fault),
            }
        }
        faults.extend(doubled(&file, &program));
        for (table, columns) in &tables {
            if let Err(found) = program.reads(table, columns, sources) {
                faults.extend(found);
            }
        }
        if faults.is_empty() { Ok(program) } else { Err(faults) }
    }

    /// What its views take of a table, if anything.
    fn reads(
        &mut self,
        table: &Table,
        columns: &SchemaRef,
        sources: &BTreeMap<String, String>,
    ) -> Result<(), Vec<ConfigFault>> {
        let lookups = self.halves().flat_map(|v| v.before.lookups());
        let asked: Vec<_> = lookups.filter(|l| l.table == table.name).map(|l| &l.leaf).collect();
        if !asked.is_empty() {
            let lookup = Lookup::of(table, columns, &asked, sources)?;
            self.lookups.push(lookup);
        }
        let read = self.halves().filter(|v| v.source == table.name);
        let takes: Vec<_> = read.map(|v| &v.takes).collect();
        if !takes.is_empty() {
            let source = Source::of(table, columns, &takes, sources)?;
            self.sources.push(source);
        }
        Ok(())
    }

    /// Everything that has a local half: views, and the sides of joins.
    pub(crate) fn halves(&self) -> impl Iterator<Item = &View> {
        self.views.iter().chain(self.joins.iter().flat_map(|j| &j.sides))
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
        self.lookups.iter().map(|l| l.topic.to_string()).collect()
    }

    /// Topics it writes rows to, with their schemas.
    pub fn results(&self) -> Vec<Declared> {
        let declared = |(topic, keys, rows): (&String, &Vec<String>, &Rows)| Declared {
            topic: topic.clone(),
            subject: subject(topic),
            avro_json: rows.avro.clone(),
            key: keys.clone(),
        };
        let views = self.views.iter().zip(&self.rows);
        let views = views.map(|(view, rows)| (&view.topic, &view.keys, rows));
        let joined = self.joins.iter().map(|j| (&j.topic, &j.keys, &j.rows));
        views.chain(joined).map(declared).collect()
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
fn doubled(file: &File, program: &Program) -> Vec<ConfigFault> {
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
        .filter(|t| program.halves().any(|v| v.source == t.name))
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

/// A schema of some columns of another, in its order.
pub(crate) fn some(columns: &Schema, wanted: &dyn Fn(&str) -> bool) -> SchemaRef {
    let fields: Vec<_> = columns.fields().iter().filter(|f| wanted(f.name())).cloned().collect();
    Arc::new(Schema::new(fields))
}
