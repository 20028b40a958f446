//! Which statement runs on which engine, and with what difference: said before anything is sent.

use std::collections::BTreeMap;

use datafusion::sql::sqlparser::ast::{GroupByExpr, Query, SelectItem, SetExpr, TableFactor, TableWithJoins};
use kernel::ConfigFault;

use super::expr::{self, Kind, Scope};
use super::joins;
use super::shape::{self, Shape, Window};
use crate::streaming::dialect::{self, File, Table, name};
use crate::streaming::options::Role;

/// A distributed engine that the same file can run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Engine {
    /// Apache Flink, through its SQL gateway.
    Flink,
    /// Arroyo, through its REST API; not yet run against a live cluster.
    Arroyo,
}

impl Engine {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Flink, Self::Arroyo];

    /// Its name, as `--engine` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flink => "flink",
            Self::Arroyo => "arroyo",
        }
    }
}

/// Whether an engine runs a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It does, and gives the same rows.
    Same,
    /// It does; what is different.
    Differs(Vec<String>),
    /// It does not; why. Results that need the statement are left out.
    No(String),
}

/// (Statement, engine, verdict) for every statement of a file.
///
/// # Errors
/// What is wrong with the text itself, with line and column.
pub fn support(sql: &str) -> Result<Vec<(String, Engine, Verdict)>, Vec<ConfigFault>> {
    let file = dialect::read(sql)?;
    let mut all = Vec::new();
    for table in file.tables.values() {
        let statement = format!("table {}", table.name);
        all.push((statement.clone(), Engine::Flink, table_on_flink(table)));
        all.push((statement, Engine::Arroyo, table_on_arroyo(table)));
    }
    for (name, query) in &file.views {
        let verdict = view_on_flink(&file, query);
        all.push((format!("view {name}"), Engine::Flink, verdict_of(verdict)));
        let arroyo = query_on_arroyo(&file, query, Vec::new());
        all.push((format!("view {name}"), Engine::Arroyo, arroyo));
    }
    for insert in &file.inserts {
        let statement = format!("insert into {}", insert.into);
        let shape = shape::of(&insert.query);
        let session = matches!(
            &shape,
            Ok(Shape {
                window: Some(Window::Session { .. }),
                ..
            })
        );
        let flink = match shape {
            _ if joins::has_join(&insert.query) => join_on_flink(&file, &insert.query),
            shape => shape.and_then(|shape| insert_on_flink(&file, &shape)),
        };
        all.push((statement.clone(), Engine::Flink, verdict_of(flink)));
        let touching = "records exactly a gap apart may be one session or two, by how they are batched".to_owned();
        let differs = if session { vec![touching] } else { Vec::new() };
        all.push((
            statement,
            Engine::Arroyo,
            query_on_arroyo(&file, &insert.query, differs),
        ));
    }
    Ok(all)
}

/// Why a lookup stays here.
pub(super) const LOOKUP_ON_FLINK: &str = "Flink joins what stands now only with stores it can ask, such as JDBC; with a Kafka topic it joins what stood at the event time, which is another result, and is not rendered";
pub(super) const LOOKUP_ON_ARROYO: &str = "lookups ask a store there; a Kafka topic is not rendered as one";

/// Why two streams are joined here, not there.
pub(super) const ROWS_ON_ARROYO: &str = "Arroyo has windows only in aggregates: of two streams without one it joins rows of any two times within its time to live, inner alone, and counts a pair at the later of both, which is another result";

/// A view with a window runs where it is joined; one without anywhere.
fn view_on_flink(file: &File, query: &Query) -> Result<Vec<String>, String> {
    if joins::has_join(query) {
        return Err(format!(
            "a join as a view; put it into the INSERT's FROM{}",
            asks(file, query)
        ));
    }
    let shape = shape::of(query)?;
    if shape.window.is_some() || has_rows(file, query, 0) {
        return joins::side_of(query, file, &mut |name| relation(file, name)).map(|()| Vec::new());
    }
    query_on_flink(&shape).map(|_| Vec::new())
}

fn join_on_flink(file: &File, query: &Query) -> Result<Vec<String>, String> {
    let rows = joins::rows(query, file, &mut |name| relation(file, name))?;
    Ok(exact_percentiles(rows.text.contains("PERCENTILE(")))
}

/// What a relation's columns are, as far as the file says it; why it is not rendered.
fn relation(file: &File, name: &str) -> Result<BTreeMap<String, Kind>, String> {
    reads(file, name, 0)?;
    let table = file.tables.get(name).into_iter().flat_map(|table| &table.columns);
    table
        .map(|column| Ok((column.name.clone(), expr::kind(&column.kind)?.1)))
        .collect()
}

fn asks(file: &File, query: &Query) -> String {
    let lookup = lookup_of(file, query, 0).map(|lookup| format!("; it asks lookup {lookup}: {LOOKUP_ON_FLINK}"));
    lookup.unwrap_or_default()
}

fn exact_percentiles(there: bool) -> Vec<String> {
    let note = "percentiles are exact there: every value of an open window is kept".to_owned();
    if there { vec![note] } else { Vec::new() }
}

/// Whether a query is rows with their window, or reads a view of such.
pub(super) fn has_rows(file: &File, query: &Query, depth: usize) -> bool {
    let SetExpr::Select(select) = query.body.as_ref() else {
        return false;
    };
    let windowed = select.projection.iter().any(|item| match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => {
            matches!(shape::window(expr), Ok(Some(_)))
        }
        _ => false,
    });
    let grouped = !matches!(&select.group_by, GroupByExpr::Expressions(by, _) if by.is_empty());
    let read = |factor: &TableFactor| match factor {
        TableFactor::Derived { subquery, .. } => has_rows(file, subquery, depth + 1),
        TableFactor::Table { name: table, .. } => {
            let view = file.views.get(&name(table)).filter(|_| depth < 16);
            view.is_some_and(|view| has_rows(file, view, depth + 1))
        }
        _ => false,
    };
    let factors = |from: &TableWithJoins| {
        std::iter::once(&from.relation)
            .chain(from.joins.iter().map(|join| &join.relation))
            .any(read)
    };
    windowed && !grouped || select.from.iter().any(factors)
}

/// The first lookup that a query asks, itself or through views.
fn lookup_of(file: &File, query: &Query, depth: usize) -> Option<String> {
    let SetExpr::Select(select) = query.body.as_ref() else {
        return None;
    };
    let factors = select
        .from
        .iter()
        .flat_map(|from| std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation)));
    let asked = |factor: &TableFactor| match factor {
        TableFactor::Derived { subquery, .. } => lookup_of(file, subquery, depth + 1),
        TableFactor::Table { name: table, .. } => {
            let table = name(table);
            let lookup = file.tables.get(&table).is_some_and(|t| t.options.role == Role::Lookup);
            let view = || file.views.get(&table).filter(|_| depth < 16);
            lookup
                .then(|| table.clone())
                .or_else(|| lookup_of(file, view()?, depth + 1))
        }
        _ => None,
    };
    factors.into_iter().find_map(asked)
}

/// What Arroyo does with a query.
fn query_on_arroyo(file: &File, query: &Query, differs: Vec<String>) -> Verdict {
    if has_rows(file, query, 0) {
        return Verdict::No(ROWS_ON_ARROYO.to_owned());
    }
    match lookup_of(file, query, 0) {
        Some(lookup) => Verdict::No(format!("it asks lookup {lookup}: {LOOKUP_ON_ARROYO}")),
        None => verdict_of(Ok(differs)),
    }
}

fn verdict_of(found: Result<Vec<String>, String>) -> Verdict {
    match found {
        Ok(notes) if notes.is_empty() => Verdict::Same,
        Ok(notes) => Verdict::Differs(notes),
        Err(why) => Verdict::No(why),
    }
}

fn table_on_flink(table: &Table) -> Verdict {
    let mut notes = match table.options.role {
        Role::Sink => return Verdict::Same,
        Role::Lookup => return Verdict::No(LOOKUP_ON_FLINK.to_owned()),
        Role::Source => vec![
            "a late record is dropped: no revision, no late topic".to_owned(),
            "a record that cannot be read, or has no event time, stops the job: no dead letter".to_owned(),
        ],
    };
    if table.watermark.is_none() {
        return Verdict::No("it has no WATERMARK FOR a column".to_owned());
    }
    if table.options.unique.is_some() {
        notes.push("duplicates are dropped over all partitions, by when they are read".to_owned());
    }
    Verdict::Differs(notes)
}

fn table_on_arroyo(table: &Table) -> Verdict {
    let mut notes = match table.options.role {
        Role::Sink => return Verdict::Same,
        Role::Lookup => return Verdict::No(LOOKUP_ON_ARROYO.to_owned()),
        Role::Source => vec!["a late record is dropped: no revision, no late topic".to_owned()],
    };
    if table.options.unique.is_some() {
        notes.push("soma.unique is left out: duplicates are counted".to_owned());
    }
    Verdict::Differs(notes)
}

/// Writes every expression for its faults alone.
fn query_on_flink<'a>(shape: &Shape<'a>) -> Result<Shape<'a>, String> {
    let scope = Scope::default();
    let items = shape.items.iter().map(|item| item.expr);
    let all = items
        .chain(shape.keys.iter().copied())
        .chain(shape.filter)
        .chain(shape.having);
    all.map(|e| expr::text(e, &scope)).collect::<Result<Vec<_>, _>>()?;
    Ok(Shape {
        from: shape.from.clone(),
        filter: shape.filter,
        window: shape.window,
        keys: shape.keys.clone(),
        items: Vec::new(),
        all: shape.all,
        having: shape.having,
    })
}

fn insert_on_flink(file: &File, shape: &Shape<'_>) -> Result<Vec<String>, String> {
    let checked = query_on_flink(shape)?;
    match checked.window {
        None => return Err("it has no window".to_owned()),
        Some(Window::Hop { slide, width }) if width % slide != 0 => {
            return Err("Flink's HOP wants a width that is a multiple of the slide".to_owned());
        }
        Some(_) => {}
    }
    reads(file, &shape.from, 0)?;
    let percentile = shape
        .items
        .iter()
        .any(|item| item.expr.to_string().to_lowercase().contains("approx_percentile_cont"));
    Ok(exact_percentiles(percentile))
}

/// Whether what it reads is rendered.
fn reads(file: &File, from: &str, depth: usize) -> Result<(), String> {
    if let Some(table) = file.tables.get(from) {
        return match table_on_flink(table) {
            Verdict::No(why) => Err(format!("it reads table {from}: {why}")),
            _ => Ok(()),
        };
    }
    let Some(query) = file.views.get(from).filter(|_| depth < 16) else {
        return Err(format!("`{from}` is not declared"));
    };
    let inner = shape::of(query)
        .and_then(|shape| query_on_flink(&shape))
        .map_err(|why| format!("it reads view {from}: {why}"))?;
    reads(file, &inner.from, depth + 1)
}
