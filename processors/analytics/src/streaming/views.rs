//! Plans what an INSERT computes: a view over a stream, or the join of two.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{Field, SchemaRef};
use datafusion::sql::sqlparser::ast::Query;
use kernel::ConfigFault;
use xxhash_rust::xxh3::xxh3_64;

use super::dialect::{File, Insert, Table, at};
use super::enrich::tagged;
use super::joined::{How, Join, Joined};
use super::joins::{SIDES, Side};
use super::options::Role;
use super::plan::{Parts, View, parts, physical, with_pane};
use super::results::Rows;
use super::rewrite::{PANE, rewrite};
use super::steps::Steps;
use super::streams::{Half, Streams};
use super::windows::Window;
use crate::udf::Udfs;

/// What came of an INSERT.
pub(crate) enum Planned {
    View(Box<View>, Rows),
    Join(Box<Join>),
}

/// What INSERTs are planned with.
pub(crate) struct Planner<'a> {
    file: &'a File,
    /// As DataFusion sees them.
    tables: Vec<(String, SchemaRef)>,
    /// The primary key of each lookup.
    keys: BTreeMap<String, Vec<String>>,
    udfs: &'a Udfs,
}

impl<'a> Planner<'a> {
    pub(crate) fn new(file: &'a File, tables: &[(&Table, SchemaRef)], udfs: &'a Udfs) -> Self {
        let lookup = |table: &Table| table.options.role == Role::Lookup;
        let seen = |(table, columns): &(&Table, SchemaRef)| match lookup(table) {
            true => (table.name.clone(), tagged(columns, &table.name)),
            false => (table.name.clone(), with_pane(columns)),
        };
        let keys = tables.iter().filter(|(table, _)| lookup(table));
        Self {
            file,
            tables: tables.iter().map(seen).collect(),
            keys: keys.map(|(table, _)| (table.name.clone(), table.key.clone())).collect(),
            udfs,
        }
    }

    pub(crate) fn insert(&self, insert: &Insert) -> Result<Planned, ConfigFault> {
        let fault = |detail: String| ConfigFault::new(at(insert.at), detail);
        let sink = self
            .file
            .tables
            .get(&insert.into)
            .filter(|t| t.options.role == Role::Sink)
            .ok_or_else(|| fault(format!("`{}` is no declared table of type 'sink'", insert.into)))?;
        let topic = sink.options.topic.as_str();
        let mut query = insert.query.clone();
        let found = rewrite(&mut query, self.file, 0)?;
        let Some((window, window_name)) = found.window else {
            return Err(fault(
                "the SELECT has no window; add tumble, hop or session to its list and GROUP BY".to_owned(),
            ));
        };
        if let Some(sides) = found.sides {
            let join = self.join((insert, topic), query, (window, &window_name), *sides);
            return join.map(|join| Planned::Join(Box::new(join))).map_err(fault);
        }
        if let Some(sources) = found.streams {
            let join = self.streams((insert, topic), query, (window, &window_name), sources);
            return join.map(|join| Planned::Join(Box::new(join))).map_err(fault);
        }
        if found.open {
            let detail = "rows are told per window and key: add GROUP BY the window and what tells rows apart";
            return Err(fault(detail.to_owned()));
        }
        let text = query.to_string();
        let parts = self.parts(query, window, &found.source).map_err(fault)?;
        let gives = gives(&parts.answer, &window_name);
        let own: Vec<Field> = gives.iter().map(|(_, field)| field.clone()).collect();
        let rows = Rows::of(topic, &own).map_err(fault)?;
        let mut view = view((&insert.into, topic), parts, window, found.source);
        view.mark = mark(&text, &view);
        view.gives = gives;
        Ok(Planned::View(Box::new(view), rows))
    }

    /// Plans a query of one aggregate over a stream, and takes the plan apart.
    fn parts(&self, query: Query, window: Window, source: &str) -> Result<Parts, String> {
        self.is_source(source)?;
        let plan = physical(query, &self.tables, self.udfs).map_err(|e| e.strip_backtrace())?;
        parts(&plan, window, &self.keys)
    }

    fn is_source(&self, name: &str) -> Result<(), String> {
        match self.file.tables.get(name).map(|t| t.options.role) {
            Some(Role::Source) => Ok(()),
            _ => Err(format!("`{name}` is not of type 'source'")),
        }
    }

    /// A join of two streams within a window.
    fn streams(
        &self,
        (insert, topic): (&Insert, &str),
        query: Query,
        (window, window_name): (Window, &str),
        sources: [String; 2],
    ) -> Result<Join, String> {
        sources.iter().try_for_each(|source| self.is_source(source))?;
        let text = query.to_string();
        let plan = physical(query, &self.tables, self.udfs).map_err(|e| e.strip_backtrace())?;
        let gives = gives(&plan.schema(), window_name);
        let own: Vec<Field> = gives.iter().map(|(_, field)| field.clone()).collect();
        let (streams, halves) = Streams::of(&plan, &self.keys, gives)?;
        let rows = Rows::of(topic, &own)?;
        let [left_source, right_source] = sources;
        let [left, right] = halves;
        let side = |which: &str, half: Half, source: String| {
            let mut view = View {
                name: format!("{}.{which}", insert.into),
                topic: topic.to_owned(),
                source,
                window,
                takes: half.takes,
                before: half.before,
                home: half.home,
                aggregate: half.aggregate,
                after: Steps::default(),
                gives: Vec::new(),
                keys: half.names,
                mark: 0,
            };
            view.mark = mark(&text, &view);
            view
        };
        Ok(Join {
            name: insert.into.clone(),
            topic: topic.to_owned(),
            sides: [side("left", left, left_source), side("right", right, right_source)],
            rows,
            keys: streams.names.clone(),
            how: Arc::new(How::Streams(Box::new(streams))),
        })
    }

    fn join(
        &self,
        (insert, topic): (&Insert, &str),
        query: Query,
        (window, window_name): (Window, &str),
        sides: [Side; 2],
    ) -> Result<Join, String> {
        let text = format!("{query} {} {}", sides[0].query, sides[1].query);
        let (mut views, mut answers) = (Vec::new(), Vec::new());
        for (side, which) in sides.into_iter().zip(["left", "right"]) {
            let parts = self.parts(side.query, window, &side.source)?;
            answers.push(Arc::clone(&parts.answer));
            let name = format!("{}.{which}", insert.into);
            views.push(view((&name, topic), parts, window, side.source));
        }
        let tables = answers.iter().zip(SIDES);
        let tables: Vec<_> = tables
            .map(|(answer, name)| (name.to_owned(), tagged(answer, name)))
            .collect();
        let plan = physical(query, &tables, self.udfs).map_err(|e| e.strip_backtrace())?;
        let gives = gives(&plan.schema(), window_name);
        let own: Vec<Field> = gives.iter().map(|(_, field)| field.clone()).collect();
        let rows = Rows::of(topic, &own)?;
        let [left, right] = <[View; 2]>::try_from(views).map_err(|_| "a join has two sides".to_owned())?;
        let mut sides = [left, right];
        let joined = Joined::of(&plan, &mut sides, &answers, gives)?;
        for side in &mut sides {
            side.mark = mark(&text, side);
        }
        Ok(Join {
            name: insert.into.clone(),
            topic: topic.to_owned(),
            keys: sides[0].keys.clone(),
            sides,
            rows,
            how: Arc::new(How::Windows(Box::new(joined))),
        })
    }
}

/// Columns of an answer but the window: index and name.
fn gives(answer: &SchemaRef, window: &str) -> Vec<(usize, Field)> {
    let fields = answer.fields().iter().enumerate();
    let own = fields.filter(|(_, field)| field.name() != window && field.name() != PANE);
    own.map(|(i, field)| (i, field.as_ref().clone())).collect()
}

fn view((name, topic): (&str, &str), parts: Parts, window: Window, source: String) -> View {
    let pane = parts.aggregate.pane;
    View {
        name: name.to_owned(),
        topic: topic.to_owned(),
        source,
        window,
        takes: parts.takes,
        before: parts.before,
        home: (0..parts.aggregate.keys()).filter(|i| *i != pane).collect(),
        aggregate: parts.aggregate,
        after: parts.after,
        gives: Vec::new(),
        keys: parts.keys,
        mark: 0,
    }
}

/// Tells states of another text apart.
fn mark(text: &str, view: &View) -> u64 {
    let kept = format!("{text} {:?} {:?}", view.window, view.aggregate.state_schema);
    xxh3_64(kept.as_bytes())
}
