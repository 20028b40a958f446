//! One side of a join as Flink writes it: a SELECT over a window table function, or over a view of rows with their window. Start and end
//! of the window are the first columns; all have names that no other side has.

use std::collections::BTreeMap;

use datafusion::sql::sqlparser::ast::{GroupByExpr, Query, SelectItem, SetExpr, TableFactor};

use super::expr::{self, Kind, Scope, quoted};
use super::joins::has_join;
use super::shape::{self, Item, Shape, Window};
use super::windows;
use crate::streaming::dialect::{File, name};

type Did<T> = Result<T, String>;
/// Columns that a table, or a view without a window, has; why it is not rendered.
pub(super) type Relations<'a> = dyn FnMut(&str) -> Did<BTreeMap<String, Kind>> + 'a;

const NESTED: u32 = 8;

/// A side, written.
pub(super) struct Side {
    pub(super) text: String,
    pub(super) alias: String,
    /// What its columns are called, and what here; and what they are.
    pub(super) columns: Vec<(String, String, Kind)>,
    pub(super) start: String,
    pub(super) end: String,
    /// The window's name in it.
    pub(super) window: String,
    /// Of an aggregate: its group keys' names, the window left out.
    pub(super) keys: Option<Vec<String>>,
}

/// A side while it is written.
struct Writing<'p> {
    prefix: &'p str,
    parts: Vec<String>,
    columns: Vec<(String, String, Kind)>,
}

impl<'p> Writing<'p> {
    fn of(prefix: &'p str, start: &str, end: &str) -> Self {
        let times = [(start, "start"), (end, "end")];
        Self {
            prefix,
            parts: times
                .map(|(text, what)| format!("{} AS {}", quoted(text), quoted(&format!("{prefix}_{what}"))))
                .into(),
            columns: Vec::new(),
        }
    }

    fn take(&mut self, named: &str, text: &str, kind: Kind) {
        // What a column of the stream is called cannot be what the window's are.
        let own = format!("{}__{named}", self.prefix);
        self.parts.push(format!("{text} AS {}", quoted(&own)));
        self.columns.push((named.to_owned(), own, kind));
    }

    /// An item of the SELECT.
    fn item(&mut self, item: &Item<'_>, scope: &Scope<'_>) -> Did<()> {
        let Some(named) = &item.name else {
            return Err(format!("`{}` has no name; give it one with AS", item.expr));
        };
        self.take(named, &expr::text(item.expr, scope)?, expr::kind_of(item.expr, scope));
        Ok(())
    }

    fn done(self, alias: &str, window: String, keys: Option<Vec<String>>, rest: &str) -> Side {
        Side {
            text: format!("SELECT {} FROM {rest}", self.parts.join(", ")),
            alias: alias.to_owned(),
            columns: self.columns,
            start: format!("{}_start", self.prefix),
            end: format!("{}_end", self.prefix),
            window,
            keys,
        }
    }
}

/// A side where it stands in FROM.
pub(super) fn beside(factor: &TableFactor, file: &File, prefix: &str, relations: &mut Relations<'_>) -> Did<Side> {
    match factor {
        TableFactor::Table { name: table, alias, .. } => {
            let table = name(table);
            let Some(query) = file.views.get(&table) else {
                return Err(format!("`{table}` has no window"));
            };
            let alias = alias.as_ref().map_or(table.clone(), |alias| alias.name.value.clone());
            written(query, file, (&alias, prefix), relations, 0).map_err(|why| format!("view {table}: {why}"))
        }
        TableFactor::Derived {
            subquery,
            alias: Some(alias),
            ..
        } => written(subquery, file, (&alias.name.value, prefix), relations, 0),
        other => Err(format!("`{other}` is not rendered in a join")),
    }
}

/// Writes a side: its window's start and end and its columns, all under names that begin with the prefix.
pub(super) fn written(
    query: &Query,
    file: &File,
    (alias, prefix): (&str, &str),
    relations: &mut Relations<'_>,
    depth: u32,
) -> Did<Side> {
    if has_join(query) {
        return Err("a join of joins, or one that asks a lookup, is not rendered".to_owned());
    }
    let shape = shape::of(query)?;
    let Some(window) = shape.window else {
        return carried(&shape, file, (alias, prefix), relations, depth);
    };
    let kinds = relations(&shape.from)?;
    let scope = Scope {
        kinds,
        ..Scope::default()
    };
    if matches!(window, Window::Session { .. }) {
        return Err("sessions are each key's own and are not joined".to_owned());
    }
    let function = windows::function(window, &shape.from, &[])?;
    let mut writing = Writing::of(prefix, "window_start", "window_end");
    let aggregated = is_grouped(query);
    if shape.all && aggregated {
        return Err("SELECT * has no meaning over a window".to_owned());
    }
    if shape.all {
        let all = scope.kinds.iter();
        all.for_each(|(named, kind)| writing.take(named, &quoted(named), *kind));
    }
    for item in &shape.items {
        writing.item(item, &scope)?;
    }
    let mut text = format!("TABLE({function})");
    if let Some(filter) = shape.filter {
        text += &format!(" WHERE {}", expr::text(filter, &scope)?);
    }
    if aggregated {
        let by = ["`window_start`", "`window_end`"].map(|column| Ok(column.to_owned()));
        let by = by
            .into_iter()
            .chain(shape.keys.iter().map(|key| expr::text(key, &scope)));
        text += &format!(" GROUP BY {}", by.collect::<Did<Vec<_>>>()?.join(", "));
    }
    if let Some(having) = shape.having {
        text += &format!(" HAVING {}", expr::text(having, &scope)?);
    }
    let keys = shape.keys.iter().map(|key| {
        let item = shape.items.iter().find(|item| item.expr == *key);
        let named = item.and_then(|item| item.name.clone());
        named.ok_or_else(|| format!("`{key}` is grouped by and not selected"))
    });
    let keys = if aggregated {
        Some(keys.collect::<Did<_>>()?)
    } else {
        None
    };
    Ok(writing.done(alias, window_name(query), keys, &text))
}

/// A SELECT over a view of rows with their window.
fn carried(
    shape: &Shape<'_>,
    file: &File,
    (alias, prefix): (&str, &str),
    relations: &mut Relations<'_>,
    depth: u32,
) -> Did<Side> {
    let inner = file.views.get(&shape.from).filter(|_| depth < NESTED);
    let inner = inner.ok_or_else(|| format!("`{}` has no window", shape.from))?;
    let below = format!("{prefix}_in");
    let inner = written(inner, file, (&shape.from, &below), relations, depth + 1)?;
    if inner.keys.is_some() || !shape.keys.is_empty() || shape.having.is_some() {
        return Err("an aggregate of an aggregate, or a SELECT over one, is not rendered".to_owned());
    }
    let mut scope = Scope::default();
    know(&mut scope, &inner, true);
    let mut writing = Writing::of(prefix, &inner.start, &inner.end);
    let mut window = inner.window.clone();
    if shape.all {
        let all = inner.columns.iter();
        all.for_each(|(named, own, kind)| writing.take(named, &quoted(own), *kind));
    }
    for item in &shape.items {
        match &item.name {
            Some(named) if shape::column(item.expr).as_ref() == Some(&inner.window) => window.clone_from(named),
            _ => writing.item(item, &scope)?,
        }
    }
    let filter = shape.filter.map(|f| expr::text(f, &scope)).transpose()?;
    let filter = filter.map(|f| format!(" WHERE {f}")).unwrap_or_default();
    let rest = format!("({}){filter}", inner.text);
    Ok(writing.done(alias, window, None, &rest))
}

fn is_grouped(query: &Query) -> bool {
    let SetExpr::Select(select) = query.body.as_ref() else {
        return false;
    };
    !matches!(&select.group_by, GroupByExpr::Expressions(by, _) if by.is_empty())
}

/// What a side's window is called.
fn window_name(query: &Query) -> String {
    let SetExpr::Select(select) = query.body.as_ref() else {
        return String::new();
    };
    let named = select.projection.iter().find_map(|item| match item {
        SelectItem::ExprWithAlias { expr, alias } if matches!(shape::window(expr), Ok(Some(_))) => Some(&alias.value),
        _ => None,
    });
    named.cloned().unwrap_or_else(|| "window".to_owned())
}

/// Puts a side's columns into a scope, by their own names too where `plain`.
pub(super) fn know(scope: &mut Scope<'_>, side: &Side, plain: bool) {
    let names = side.columns.iter().map(|(named, own, kind)| (named, own, Some(*kind)));
    for (named, own, kind) in names.chain([(&side.window, &side.start, None)]) {
        scope.named.push((vec![side.alias.clone(), named.clone()], own.clone()));
        if plain {
            scope.named.push((vec![named.clone()], own.clone()));
        }
        scope.kinds.extend(kind.map(|kind| (own.clone(), kind)));
    }
}
