//! Joins within a window as Flink writes them: each side by itself over a window table function, put together where window and keys are
//! equal, its window's start and end carried along so that Flink's planner sees a window join and nothing that changes later. What
//! Flink would answer with changing rows, or with other ones, is refused.

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, Join, JoinConstraint,
    JoinOperator, Query, Select, SelectItem, SetExpr, TableFactor,
};

use super::expr::{self, Scope, quoted};
use super::shape::{self, Window};
use super::sides::{Relations, Side, beside, know, written};
use super::support::LOOKUP_ON_FLINK;
use crate::streaming::dialect::{File, name};
use crate::streaming::options::Role;

type Did<T> = Result<T, String>;

const FULL: &str = "Flink takes the window of a FULL JOIN of rows, coalesce(a.window, b.window), for a column like any other: its aggregate would change its rows for ever, which a Kafka result has no place for; join aggregates, or LEFT JOIN both ways";

/// The rows of an INSERT: `soma_start`, `soma_end`, `soma_key_0`, .., `soma_0`, ..
pub(super) struct Rows {
    pub(super) text: String,
    pub(super) keys: usize,
    pub(super) items: usize,
}

/// How two sides meet.
struct Met<'a> {
    kind: &'static str,
    on: &'a Expr,
}

/// The one join of a query, if it has one.
fn join(query: &Query) -> Option<(&Select, &TableFactor, &Join)> {
    let SetExpr::Select(select) = query.body.as_ref() else {
        return None;
    };
    let [from] = select.from.as_slice() else { return None };
    Some((select, &from.relation, from.joins.first()?))
}

/// Whether a query joins in its own FROM.
pub(super) fn has_join(query: &Query) -> bool {
    join(query).is_some()
}

/// Writes a join within a window.
pub(super) fn rows(query: &Query, file: &File, relations: &mut Relations<'_>) -> Did<Rows> {
    let (select, first, met) = join(query).ok_or("it joins nothing")?;
    if select.from.iter().any(|from| from.joins.len() > 1) {
        let lookup = select
            .from
            .iter()
            .flat_map(|from| &from.joins)
            .find_map(|j| lookup(&j.relation, file));
        return Err(lookup.unwrap_or_else(|| "more than two are joined".to_owned()));
    }
    if let Some(why) = lookup(&met.relation, file) {
        return Err(why);
    }
    let left = beside(first, file, "soma_l", relations)?;
    let right = beside(&met.relation, file, "soma_r", relations)?;
    let how = how(met)?;
    let scope = scope(&left, &right);
    let on = conditions(how.on, [&left, &right], &scope)?;
    let filter = select.selection.as_ref().map(|f| expr::text(f, &scope)).transpose()?;
    let filter = filter.map(|f| format!("\n  WHERE {f}")).unwrap_or_default();
    let from = format!(
        "FROM ({})\n  {} JOIN ({})\n  ON {}{filter}",
        left.text,
        how.kind,
        right.text,
        on.join(" AND ")
    );
    match (&left.keys, &right.keys) {
        (Some(keys), Some(_)) => {
            let keys = keys
                .iter()
                .map(|key| compared(key, how.on, [&left, &right], how.kind))
                .collect::<Did<Vec<_>>>()?;
            selected(select, [&left, &right], how.kind, &scope, (Some(keys), &from))
        }
        (None, None) if how.kind == "FULL" => Err(FULL.to_owned()),
        (None, None) => selected(select, [&left, &right], how.kind, &scope, (None, &from)),
        _ => Err("one side is rows and the other an aggregate of them".to_owned()),
    }
}

/// Why a view with a window is not rendered where it is joined; `Ok` when it is.
pub(super) fn side_of(query: &Query, file: &File, relations: &mut Relations<'_>) -> Did<()> {
    written(query, file, ("side", "soma_l"), relations, 0).map(drop)
}

fn lookup(factor: &TableFactor, file: &File) -> Option<String> {
    let TableFactor::Table { name: table, .. } = factor else {
        return None;
    };
    let table = file
        .tables
        .get(&name(table))
        .filter(|t| t.options.role == Role::Lookup)?;
    Some(format!("it asks lookup {}: {LOOKUP_ON_FLINK}", table.name))
}

fn how(join: &Join) -> Did<Met<'_>> {
    let (kind, constraint) = match &join.join_operator {
        JoinOperator::Join(on) | JoinOperator::Inner(on) => ("INNER", on),
        JoinOperator::Left(on) | JoinOperator::LeftOuter(on) => ("LEFT", on),
        JoinOperator::Right(on) | JoinOperator::RightOuter(on) => ("RIGHT", on),
        JoinOperator::FullOuter(on) => ("FULL", on),
        _ => return Err(format!("`{join}` is not rendered")),
    };
    match constraint {
        JoinConstraint::On(on) => Ok(Met { kind, on }),
        _ => Err(format!(
            "`{join}` is not rendered: write ON a.window = b.window AND a.key = b.key"
        )),
    }
}

/// Columns of both sides: by their side's name, and by their own where only one side has it.
fn scope<'a>(left: &Side, right: &Side) -> Scope<'a> {
    let mut scope = Scope::default();
    know(&mut scope, left, true);
    know(&mut scope, right, true);
    let times = |name: &Vec<String>, all: &[(Vec<String>, String)]| all.iter().filter(|(n, _)| n == name).count();
    let all = scope.named.clone();
    scope.named.retain(|(name, _)| times(name, &all) == 1);
    scope
}

/// What ON says, the windows' ends beside their starts.
fn conditions(on: &Expr, sides: [&Side; 2], scope: &Scope<'_>) -> Did<Vec<String>> {
    let mut all = Vec::new();
    for one in parts(on) {
        let windows = equal(one).is_some_and(|(a, b)| is_window(a, sides) && is_window(b, sides));
        if !windows {
            all.push(format!("({})", expr::text(one, scope)?));
        }
    }
    let [left, right] = sides;
    let ends = [(&left.start, &right.start), (&left.end, &right.end)];
    let windows = ends.map(|(l, r)| format!("{} = {}", quoted(l), quoted(r)));
    Ok(windows.into_iter().chain(all).collect())
}

fn parts(on: &Expr) -> Vec<&Expr> {
    match on {
        Expr::Nested(inner) => parts(inner),
        Expr::BinaryOp {
            left,
            op: BinaryOperator::And,
            right,
        } => [parts(left), parts(right)].concat(),
        one => vec![one],
    }
}

fn equal(expr: &Expr) -> Option<(&Expr, &Expr)> {
    match expr {
        Expr::BinaryOp {
            left,
            op: BinaryOperator::Eq,
            right,
        } => Some((left, right)),
        _ => None,
    }
}

/// Whether it is a side's window, or the one that is there of both.
fn is_window(expr: &Expr, sides: [&Side; 2]) -> bool {
    match expr {
        Expr::Identifier(one) => sides.iter().any(|s| s.window == one.value),
        Expr::CompoundIdentifier(names) => {
            let is =
                |side: &&Side| matches!(names.as_slice(), [a, w] if a.value == side.alias && w.value == side.window);
            sides.iter().any(is)
        }
        Expr::Function(function) if name(&function.name).eq_ignore_ascii_case("coalesce") => {
            let FunctionArguments::List(list) = &function.args else {
                return false;
            };
            let is = |arg: &FunctionArg| matches!(arg, FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) if is_window(e, sides));
            list.args.iter().all(is)
        }
        _ => false,
    }
}

/// A key of the left side's, or what it is compared with, whichever is there.
fn compared(key: &str, on: &Expr, sides: [&Side; 2], kind: &str) -> Did<String> {
    let [left, right] = sides;
    let of = |side: &Side, expr: &Expr| -> Option<(String, String)> {
        let (alias, named) = match expr {
            Expr::Identifier(one) => (None, &one.value),
            Expr::CompoundIdentifier(names) => match names.as_slice() {
                [alias, named] => (Some(&alias.value), &named.value),
                _ => return None,
            },
            _ => return None,
        };
        let own = side.columns.iter().find(|(n, ..)| n == named)?;
        let is = alias.is_none_or(|alias| *alias == side.alias);
        is.then(|| (own.0.clone(), quoted(&own.1)))
    };
    let found = parts(on).into_iter().filter_map(equal).find_map(|(a, b)| {
        let pair = |a, b| Some((of(left, a)?, of(right, b)?));
        pair(a, b).or_else(|| pair(b, a)).filter(|(l, _)| l.0 == key)
    });
    let ((_, l), (_, r)) = found.ok_or_else(|| format!("`{key}` is not compared in ON"))?;
    Ok(match kind {
        "RIGHT" => r,
        "FULL" => format!("COALESCE({l}, {r})"),
        _ => l,
    })
}

/// Start and end of the window that is there.
fn present(sides: [&Side; 2], kind: &str) -> [String; 2] {
    let [left, right] = sides;
    let of = |l: &str, r: &str| match kind {
        "RIGHT" => quoted(r),
        "FULL" => format!("COALESCE({}, {})", quoted(l), quoted(r)),
        _ => quoted(l),
    };
    [of(&left.start, &right.start), of(&left.end, &right.end)]
}

/// The columns of a SELECT over a join, its window left out.
fn items<'a>(select: &'a Select, sides: [&Side; 2]) -> Did<Vec<&'a Expr>> {
    let mut items = Vec::new();
    for item in &select.projection {
        let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = item else {
            return Err(format!("`{item}` is not rendered: write the columns of a join out"));
        };
        if !is_window(expr, sides) {
            items.push(expr);
        }
    }
    Ok(items)
}

/// The rows: window, keys and columns, from what is joined. Rows that meet are aggregated by them; aggregates are rows as they are.
fn selected(
    select: &Select,
    sides: [&Side; 2],
    kind: &str,
    scope: &Scope<'_>,
    (keys, from): (Option<Vec<String>>, &str),
) -> Did<Rows> {
    let grouped = keys.is_none();
    let keys = match keys {
        Some(keys) => keys,
        None => grouped_by(select, sides, scope)?,
    };
    let items = items(select, sides)?;
    let [start, end] = present(sides, kind);
    let mut parts = vec![format!("{start} AS `soma_start`"), format!("{end} AS `soma_end`")];
    parts.extend(
        keys.iter()
            .enumerate()
            .map(|(i, key)| format!("{key} AS `soma_key_{i}`")),
    );
    for (i, item) in items.iter().enumerate() {
        parts.push(format!("{} AS `soma_{i}`", expr::text(item, scope)?));
    }
    let mut text = format!("SELECT {}\n  {from}", parts.join(", "));
    let count = keys.len();
    if grouped {
        let by = [start, end].into_iter().chain(keys).collect::<Vec<_>>();
        text += &format!("\n  GROUP BY {}", by.join(", "));
    }
    if let Some(having) = &select.having {
        text += &format!(" HAVING {}", expr::text(having, scope)?);
    }
    Ok(Rows {
        text,
        keys: count,
        items: items.len(),
    })
}

/// What a SELECT over a join is grouped by, its window left out.
fn grouped_by(select: &Select, sides: [&Side; 2], scope: &Scope<'_>) -> Did<Vec<String>> {
    let GroupByExpr::Expressions(by, modifiers) = &select.group_by else {
        return Err("GROUP BY ALL is not rendered; name the keys".to_owned());
    };
    if !modifiers.is_empty() {
        return Err("ROLLUP, CUBE and the like are not rendered".to_owned());
    }
    let keys = by.iter().map(|by| shape::resolved(by, select));
    let keys = keys.collect::<Did<Vec<_>>>()?.into_iter();
    keys.filter(|key| !is_window(key, sides))
        .map(|key| expr::text(key, scope))
        .collect()
}

/// The widest window that a query names itself, in microseconds.
pub(super) fn width(query: &Query) -> i64 {
    let SetExpr::Select(select) = query.body.as_ref() else {
        return 0;
    };
    let by = match &select.group_by {
        GroupByExpr::Expressions(by, _) => by.as_slice(),
        GroupByExpr::All(_) => &[],
    };
    let items = select.projection.iter().filter_map(|item| match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => Some(expr),
        _ => None,
    });
    let own = items
        .chain(by)
        .filter_map(|expr| shape::window(expr).ok()?)
        .map(Window::width);
    let factors = select
        .from
        .iter()
        .flat_map(|from| std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation)));
    let below = factors.map(|factor| match factor {
        TableFactor::Derived { subquery, .. } => width(subquery),
        _ => 0,
    });
    own.chain(below).max().unwrap_or_default()
}
