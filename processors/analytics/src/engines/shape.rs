//! A SELECT of the dialect taken apart: what it reads, its window, its group keys, its columns.

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, Query, Select, SelectItem, SetExpr, TableFactor,
};

use crate::streaming::dialect::{length, name, string};

/// A window of event time; microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Window {
    Tumble { width: i64 },
    Hop { slide: i64, width: i64 },
    Session { gap: i64 },
}

impl Window {
    /// How long one window may be before its end is known.
    pub(super) fn width(self) -> i64 {
        match self {
            Self::Tumble { width } | Self::Hop { width, .. } => width,
            Self::Session { gap } => gap,
        }
    }
}

/// A column of the answer.
pub(super) struct Item<'a> {
    pub(super) expr: &'a Expr,
    /// The name it was given, or its own where it is a column.
    pub(super) name: Option<String>,
}

/// The parts.
pub(super) struct Shape<'a> {
    /// Table or view.
    pub(super) from: String,
    pub(super) filter: Option<&'a Expr>,
    pub(super) window: Option<Window>,
    pub(super) keys: Vec<&'a Expr>,
    /// Without the window.
    pub(super) items: Vec<Item<'a>>,
    /// `SELECT *`.
    pub(super) all: bool,
    pub(super) having: Option<&'a Expr>,
}

type Found<T> = Result<T, String>;

/// Takes a query apart; says what it cannot.
pub(super) fn of(query: &Query) -> Found<Shape<'_>> {
    if query.with.is_some() || query.order_by.is_some() || query.limit_clause.is_some() || query.fetch.is_some() {
        return Err("WITH, ORDER BY and LIMIT have no place in a stream".to_owned());
    }
    let SetExpr::Select(select) = query.body.as_ref() else {
        return Err("UNION and the like are not rendered".to_owned());
    };
    if select.distinct.is_some() {
        return Err("SELECT DISTINCT is not rendered; use GROUP BY".to_owned());
    }
    let mut shape = Shape {
        from: relation(select)?,
        filter: select.selection.as_ref(),
        window: None,
        keys: Vec::new(),
        items: Vec::new(),
        all: false,
        having: select.having.as_ref(),
    };
    let alias = items(select, &mut shape)?;
    keys(select, &mut shape, alias.as_deref())?;
    Ok(shape)
}

fn relation(select: &Select) -> Found<String> {
    match select.from.as_slice() {
        [one] if one.joins.is_empty() => match &one.relation {
            TableFactor::Table { name: table, .. } => Ok(name(table)),
            other => Err(format!("`{other}` is not rendered; make it a CREATE VIEW")),
        },
        [one] => Err(format!(
            "`{}` is not rendered here: of joins only an INSERT's own are",
            one.joins[0]
        )),
        _ => Err("FROM names one table or view".to_owned()),
    }
}

/// Fills the columns and the window; gives the window's name.
fn items<'a>(select: &'a Select, shape: &mut Shape<'a>) -> Found<Option<String>> {
    let mut alias = None;
    for item in &select.projection {
        let (expr, named) = match item {
            SelectItem::UnnamedExpr(expr) => (expr, column(expr)),
            SelectItem::ExprWithAlias { expr, alias } => (expr, Some(alias.value.clone())),
            SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..) => {
                shape.all = true;
                continue;
            }
            other @ SelectItem::ExprWithAliases { .. } => return Err(format!("`{other}` is not rendered")),
        };
        match window(expr)? {
            Some(found) => {
                shape.window = Some(found);
                alias = named.or_else(|| Some("window".to_owned()));
            }
            None => shape.items.push(Item { expr, name: named }),
        }
    }
    Ok(alias)
}

/// The column that an expression is, if it is one.
pub(super) fn column(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(ident) => Some(ident.value.clone()),
        Expr::CompoundIdentifier(parts) => parts.last().map(|last| last.value.clone()),
        _ => None,
    }
}

fn keys<'a>(select: &'a Select, shape: &mut Shape<'a>, alias: Option<&str>) -> Found<()> {
    let GroupByExpr::Expressions(by, modifiers) = &select.group_by else {
        return Err("GROUP BY ALL is not rendered; name the keys".to_owned());
    };
    if !modifiers.is_empty() {
        return Err("ROLLUP, CUBE and the like are not rendered".to_owned());
    }
    for expr in by {
        if let Some(found) = window(expr)? {
            shape.window = Some(found);
        } else if alias.is_none_or(|alias| column(expr).as_deref() != Some(alias)) {
            shape.keys.push(resolved(expr, select)?);
        }
    }
    // A number or an alias may have meant the window.
    shape.keys.retain(|key| !matches!(window(key), Ok(Some(_))));
    Ok(())
}

/// What a number or an alias in GROUP BY stands for.
pub(super) fn resolved<'a>(by: &'a Expr, select: &'a Select) -> Found<&'a Expr> {
    if let Expr::Value(_) = by {
        let number: usize = string(by).and_then(|text| text.parse().ok()).unwrap_or_default();
        return match number.checked_sub(1).and_then(|i| select.projection.get(i)) {
            Some(SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) => Ok(expr),
            _ => Err(format!("GROUP BY {by} names no column")),
        };
    }
    let named = column(by);
    let aliased = select.projection.iter().find_map(|item| match item {
        SelectItem::ExprWithAlias { expr, alias } if Some(&alias.value) == named.as_ref() => Some(expr),
        _ => None,
    });
    Ok(aliased.unwrap_or(by))
}

/// `tumble(width)`, `hop(slide, width)`, `session(gap)`.
pub(super) fn window(expr: &Expr) -> Found<Option<Window>> {
    let Expr::Function(function) = expr else {
        return Ok(None);
    };
    let called = name(&function.name).to_lowercase();
    if !["tumble", "hop", "session"].contains(&called.as_str()) {
        return Ok(None);
    }
    let FunctionArguments::List(list) = &function.args else {
        return Err(format!("`{expr}` is no window"));
    };
    let mut lengths = Vec::new();
    for argument in &list.args {
        let FunctionArg::Unnamed(FunctionArgExpr::Expr(argument)) = argument else {
            return Err(format!("`{expr}` is no window"));
        };
        lengths.push(length(argument)?);
    }
    match (called.as_str(), lengths.as_slice()) {
        ("tumble", [width]) => Ok(Some(Window::Tumble { width: *width })),
        ("hop", [slide, width]) => Ok(Some(Window::Hop {
            slide: *slide,
            width: *width,
        })),
        ("session", [gap]) => Ok(Some(Window::Session { gap: *gap })),
        _ => Err(format!("`{expr}` is no window")),
    }
}
