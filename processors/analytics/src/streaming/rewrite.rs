//! Makes a view's SELECT one that DataFusion plans: the window function becomes the hidden column [`PANE`], views without a window
//! are put in place, and what streams cannot do is refused by name.

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, Ident, Query, Select, SelectItem, SetExpr,
    Spanned, TableAlias, TableFactor,
};
use datafusion::sql::sqlparser::tokenizer::Location;
use kernel::ConfigFault;

use super::dialect::{File, at, length, name};
use super::joins::{self, Side};
use super::options::Role;
use super::windows::Window;

/// Start of a record's pane, microseconds: a column every source has, first among the group keys.
pub(crate) const PANE: &str = "__pane";

/// What a query turned out to be.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) source: String,
    /// The window and the name its column was given.
    pub(crate) window: Option<(Window, String)>,
    /// Two windowed aggregates that are joined; `source` is the first one's.
    pub(crate) sides: Option<Box<[Side; 2]>>,
    /// Two streams that are joined within a window: their sources; `source` is the first one's.
    pub(crate) streams: Option<[String; 2]>,
    /// Rows with their window, not aggregated yet.
    pub(crate) open: bool,
}

fn fault<T>(place: Location, detail: impl Into<String>) -> Result<T, ConfigFault> {
    Err(ConfigFault::new(at(place), detail))
}

/// Rewrites `query` in place.
pub(crate) fn rewrite(query: &mut Query, file: &File, depth: usize) -> Result<Found, ConfigFault> {
    let place = query.span().start;
    if depth > 16 {
        return fault(place, "views are nested more than 16 deep; does one read itself?");
    }
    if query.order_by.is_some() || query.limit_clause.is_some() || query.fetch.is_some() {
        return fault(place, "a stream has no last row: take ORDER BY and LIMIT out");
    }
    if query.with.is_some() {
        return fault(place, "WITH is not supported; write CREATE VIEW before the statement");
    }
    let SetExpr::Select(select) = &mut *query.body else {
        return fault(
            place,
            "UNION and the like are not supported; write one INSERT per SELECT",
        );
    };
    let inner = relation(select, file, depth)?;
    let own = window(select)?;
    match (inner.window.clone(), own) {
        (Some(_), Some(_)) => fault(
            place,
            "a window over a window is not supported; write its result to a topic and read that",
        ),
        (None, None) if depth > 0 => {
            if grouped(select) || select.distinct.is_some() {
                return fault(
                    place,
                    "this view aggregates without a window; add tumble, hop or session to its SELECT and GROUP BY",
                );
            }
            let lookups = joins::lookup_names(select);
            if !select.projection.iter().any(|item| joins::takes_all(item, &lookups)) {
                select.projection.push(SelectItem::UnnamedExpr(pane()));
            }
            Ok(Found { window: None, ..inner })
        }
        (Some(_), None) if inner.sides.is_some() && (grouped(select) || select.distinct.is_some()) => fault(
            place,
            "a join of windows is not aggregated again; write its rows to a topic and read that",
        ),
        (window, own) => {
            let told = grouped(select) || select.distinct.is_some();
            let open = !told && (inner.open || window.is_none() && own.is_some());
            let window = match window {
                // Of a view of rows with their window, under the name it has here.
                Some((window, named)) if inner.open && !joins::has_joins(select) => {
                    Some((window, joins::carried(select, &named)))
                }
                window => window.or(own),
            };
            Ok(Found { window, open, ..inner })
        }
    }
}

fn pane() -> Expr {
    Expr::Identifier(Ident::new(PANE))
}

fn grouped(select: &Select) -> bool {
    !matches!(&select.group_by, GroupByExpr::Expressions(by, _) if by.is_empty())
}

/// What it reads; a view's own query is put there.
fn relation(select: &mut Select, file: &File, depth: usize) -> Result<Found, ConfigFault> {
    let place = select.span().start;
    let [from] = select.from.as_mut_slice() else {
        return fault(place, "FROM names one source or view; write joins as JOIN ... ON");
    };
    if !joins::are_lookups(from, file)? {
        return joins::windowed(select, file, depth);
    }
    let [from] = select.from.as_mut_slice() else {
        return fault(place, "FROM names one source or view");
    };
    let found = one_relation(&mut from.relation, file, depth)?;
    match from.joins.first() {
        Some(join) if found.window.is_some() => {
            let detail = format!("`{join}`: a lookup is joined before the window, inside the view");
            fault(join.relation.span().start, detail)
        }
        _ => Ok(found),
    }
}

fn one_relation(relation: &mut TableFactor, file: &File, depth: usize) -> Result<Found, ConfigFault> {
    let (found, alias) = match &mut *relation {
        TableFactor::Table { name: table, alias, .. } => (name(table), alias.clone()),
        TableFactor::Derived { subquery, .. } => return rewrite(subquery, file, depth + 1),
        other => return fault(other.span().start, format!("`{other}` is no source and no view")),
    };
    if let Some(table) = file.tables.get(&found) {
        if table.options.role == Role::Lookup {
            let detail = format!("`{found}` is a lookup: it has no time of its own; join a stream with it");
            return fault(relation.span().start, detail);
        }
        return Ok(Found {
            source: found,
            window: None,
            sides: None,
            streams: None,
            open: false,
        });
    }
    let Some(view) = file.views.get(&found) else {
        let known: Vec<_> = file
            .tables
            .keys()
            .chain(file.views.keys())
            .map(String::as_str)
            .collect();
        let detail = format!("`{found}` is not declared; declared are {}", known.join(", "));
        return fault(relation.span().start, detail);
    };
    let mut subquery = Box::new(view.clone());
    let inner = rewrite(&mut subquery, file, depth + 1)?;
    *relation = TableFactor::Derived {
        lateral: false,
        subquery,
        alias: alias.or_else(|| {
            Some(TableAlias {
                explicit: true,
                name: Ident::new(found),
                columns: Vec::new(),
                at: None,
            })
        }),
        sample: None,
    };
    Ok(inner)
}

/// Takes the window function out of SELECT and GROUP BY.
fn window(select: &mut Select) -> Result<Option<(Window, String)>, ConfigFault> {
    let mut found: Option<(Window, String, Expr)> = None;
    for item in &mut select.projection {
        let (expr, alias) = match &*item {
            SelectItem::UnnamedExpr(expr) => (expr.clone(), Ident::new("window")),
            SelectItem::ExprWithAlias { expr, alias } => (expr.clone(), alias.clone()),
            _ => continue,
        };
        let Some(window) = call(&expr)? else { continue };
        if found.is_some() {
            return fault(expr.span().start, "there is one window in a SELECT");
        }
        found = Some((window, alias.value.clone(), expr));
        *item = SelectItem::ExprWithAlias { expr: pane(), alias };
    }
    let GroupByExpr::Expressions(by, _) = &mut select.group_by else {
        return fault(select.span().start, "write out what is grouped by");
    };
    for expr in by {
        let is_alias =
            matches!((&*expr, &found), (Expr::Identifier(ident), Some((_, alias, _))) if ident.value == *alias);
        if is_alias {
            *expr = pane();
        } else if let Some(window) = call(expr)? {
            match &found {
                Some((known, ..)) if *known != window => {
                    return fault(expr.span().start, "this is not the window of the SELECT list");
                }
                Some(_) => {}
                None => found = Some((window, "window".to_owned(), expr.clone())),
            }
            *expr = pane();
        }
    }
    Ok(found.map(|(window, alias, _)| (window, alias)))
}

/// `tumble(width)`, `hop(slide, width)`, `session(gap)`.
fn call(expr: &Expr) -> Result<Option<Window>, ConfigFault> {
    let Expr::Function(function) = expr else {
        return Ok(None);
    };
    let called = name(&function.name).to_lowercase();
    let wants = match called.as_str() {
        "tumble" => "tumble(INTERVAL '1 hour')",
        "hop" => "hop(INTERVAL '15 minutes', INTERVAL '1 hour'): how often, then how wide",
        "session" => "session(INTERVAL '20 minutes')",
        _ => return Ok(None),
    };
    let place = expr.span().start;
    let mut lengths = Vec::new();
    if let FunctionArguments::List(list) = &function.args {
        for arg in &list.args {
            let FunctionArg::Unnamed(FunctionArgExpr::Expr(arg)) = arg else {
                return fault(place, format!("a window is written {wants}"));
            };
            match length(arg) {
                Ok(micros) if micros > 0 => lengths.push(micros),
                Ok(_) => return fault(place, "a window's length is above zero"),
                Err(says) => return fault(place, says),
            }
        }
    }
    match (called.as_str(), lengths.as_slice()) {
        ("tumble", [width]) => Ok(Some(Window::Tumble { width: *width })),
        ("hop", [slide, width]) if slide <= width => Ok(Some(Window::Hop {
            slide: *slide,
            width: *width,
        })),
        ("hop", [_, _]) => fault(
            place,
            "a hop as wide as it is seldom leaves records out: the first length is not above the second",
        ),
        ("session", [gap]) => Ok(Some(Window::Session { gap: *gap })),
        _ => fault(place, format!("a window is written {wants}")),
    }
}
