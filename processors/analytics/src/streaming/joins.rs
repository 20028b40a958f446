//! What may stand behind FROM beside one stream: lookups, to be asked row by row before the window, or a second windowed aggregate with
//! the same window. Everything else is refused with what to write instead.

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, Join, JoinConstraint, JoinOperator, ObjectName,
    Query, Select, SelectItem, SelectItemQualifiedWildcardKind, Spanned, TableAlias, TableFactor, TableWithJoins,
};
use datafusion::sql::sqlparser::tokenizer::Location;
use kernel::ConfigFault;

use super::dialect::{File, at, name, plain};
use super::options::Role;
use super::rewrite::{Found, rewrite};
use super::windows::Window;

/// The names that the two sides of a windowed join are planned under.
pub(crate) const SIDES: [&str; 2] = ["__left", "__right"];

/// One of two windowed aggregates that are joined.
#[derive(Clone, Debug)]
pub(crate) struct Side {
    pub(crate) query: Query,
    pub(crate) source: String,
}

type Checked<T> = Result<T, ConfigFault>;

fn fault<T>(place: Location, detail: impl Into<String>) -> Checked<T> {
    Err(ConfigFault::new(at(place), detail))
}

/// The table a factor names, if it is one of that role.
fn of_role(factor: &TableFactor, file: &File, role: Role) -> Option<String> {
    let TableFactor::Table { name: table, .. } = factor else {
        return None;
    };
    let named = name(table);
    file.tables.get(&named).filter(|t| t.options.role == role)?;
    Some(named)
}

/// Whether everything that is joined is a lookup; those that are, are checked.
pub(crate) fn are_lookups(from: &TableWithJoins, file: &File) -> Checked<bool> {
    if let Some(lookup) = of_role(&from.relation, file, Role::Lookup).filter(|_| !from.joins.is_empty()) {
        let detail = format!("`{lookup}` is a lookup: name the stream first, FROM stream JOIN {lookup} ON ...");
        return fault(from.relation.span().start, detail);
    }
    let mut all = true;
    for join in &from.joins {
        let Some(lookup) = of_role(&join.relation, file, Role::Lookup) else {
            all = false;
            continue;
        };
        let known = matches!(
            &join.join_operator,
            JoinOperator::Join(on) | JoinOperator::Inner(on) | JoinOperator::Left(on) | JoinOperator::LeftOuter(on)
                if matches!(on, JoinConstraint::On(_) | JoinConstraint::Using(_))
        );
        if !known {
            let key = file.tables.get(&lookup).map(|t| t.key.join(", ")).unwrap_or_default();
            let detail = format!(
                "`{join}`: a lookup is joined with JOIN or LEFT JOIN, ON a stream's column = {lookup}'s primary key ({key})"
            );
            return fault(join.relation.span().start, detail);
        }
    }
    Ok(all)
}

/// Names that lookups have in a SELECT.
pub(crate) fn lookup_names(select: &Select) -> Vec<String> {
    let joins = select.from.iter().flat_map(|from| &from.joins);
    let named = |join: &Join| match &join.relation {
        TableFactor::Table { alias: Some(alias), .. } => Some(plain(&alias.name)),
        TableFactor::Table { name: table, .. } => Some(name(table)),
        _ => None,
    };
    joins.filter_map(named).collect()
}

/// Whether an item of the SELECT list brings everything of the stream along.
pub(crate) fn takes_all(item: &SelectItem, lookups: &[String]) -> bool {
    match item {
        SelectItem::Wildcard(_) => true,
        SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(of), _) => {
            !lookups.contains(&name(of))
        }
        SelectItem::QualifiedWildcard(..) => true,
        _ => false,
    }
}

/// Two windowed aggregates: each is planned by itself, under the names of [`SIDES`] in FROM.
pub(crate) fn windowed(select: &mut Select, file: &File, depth: usize) -> Checked<Found> {
    let place = select.span().start;
    let [from] = select.from.as_mut_slice() else {
        return fault(place, "FROM names one source or view; write joins as JOIN ... ON");
    };
    let [join] = from.joins.as_mut_slice() else {
        let detail =
            "more than two are not joined at once: write the join of two to a topic, or join lookups inside the views";
        return fault(place, detail);
    };
    let known = matches!(
        &join.join_operator,
        JoinOperator::Join(on) | JoinOperator::Inner(on) | JoinOperator::Left(on) | JoinOperator::LeftOuter(on)
            | JoinOperator::Right(on) | JoinOperator::RightOuter(on) | JoinOperator::FullOuter(on)
            if matches!(on, JoinConstraint::On(_) | JoinConstraint::Using(_))
    );
    if !known {
        let detail = format!(
            "`{join}`: windows are joined with JOIN, LEFT, RIGHT or FULL JOIN, ON a.window = b.window AND a.key = b.key"
        );
        return fault(join.relation.span().start, detail);
    }
    let join_place = join.relation.span().start;
    let (left, left_window) = side(&mut from.relation, SIDES[0], file, depth)?;
    let (right, right_window) = side(&mut join.relation, SIDES[1], file, depth)?;
    if left_window.0 != right_window.0 {
        let detail = format!(
            "the windows differ, {} and {}: joined are windows that begin and end together",
            left_window.0.describe(),
            right_window.0.describe()
        );
        return fault(join_place, detail);
    }
    if matches!(left_window.0, Window::Session { .. }) {
        let detail = "sessions are each key's own and are not joined: use tumble or hop on both sides";
        return fault(join_place, detail);
    }
    let names = [left_window.1.to_lowercase(), right_window.1.to_lowercase()];
    let window = named_once(select, &names)?;
    Ok(Found {
        source: left.source.clone(),
        window: Some((left_window.0, window)),
        sides: Some(Box::new([left, right])),
    })
}

fn side(factor: &mut TableFactor, put: &str, file: &File, depth: usize) -> Checked<(Side, (Window, String))> {
    let place = factor.span().start;
    let wants = "join a stream with a lookup ('soma.lookup' = 'true'), or two windowed aggregates, each SELECT tumble(INTERVAL '1 hour') AS window, key, ... GROUP BY window, key, ON a.window = b.window AND a.key = b.key";
    let (mut query, alias) = match &*factor {
        TableFactor::Table { name: table, alias, .. } => {
            let named = name(table);
            let Some(view) = file.views.get(&named) else {
                let detail = match file.tables.get(&named).map(|t| t.options.role) {
                    Some(Role::Source) => format!("`{named}` is a stream without a window: {wants}"),
                    Some(Role::Lookup) => {
                        format!("`{named}` is a lookup: it is joined inside the view, before its window")
                    }
                    Some(Role::Sink) => format!("`{named}` is a sink: {wants}"),
                    None => format!("`{named}` is not declared"),
                };
                return fault(place, detail);
            };
            (view.clone(), alias.clone().unwrap_or_else(|| called(Ident::new(named))))
        }
        TableFactor::Derived {
            subquery,
            alias: Some(alias),
            ..
        } => ((**subquery).clone(), alias.clone()),
        TableFactor::Derived { .. } => return fault(place, "a joined SELECT has a name: write (SELECT ...) AS a"),
        other => return fault(place, format!("`{other}` is no source and no view")),
    };
    let found = rewrite(&mut query, file, depth + 1)?;
    if found.sides.is_some() {
        return fault(
            place,
            "a join of joins is not supported: write the inner one to a topic and read that",
        );
    }
    let Some(window) = found.window else {
        return fault(place, format!("`{}` has no window: {wants}", alias.name));
    };
    *factor = TableFactor::Table {
        name: ObjectName::from(vec![Ident::new(put)]),
        alias: Some(alias),
        args: None,
        with_hints: Vec::new(),
        version: None,
        with_ordinality: false,
        partitions: Vec::new(),
        json_path: None,
        sample: None,
        index_hints: Vec::new(),
    };
    let source = found.source;
    Ok((Side { query, source }, window))
}

fn called(name: Ident) -> TableAlias {
    TableAlias {
        explicit: true,
        name,
        columns: Vec::new(),
        at: None,
    }
}

/// The name that the window has in a SELECT list over a join; it is there once at most.
fn named_once(select: &mut Select, names: &[String; 2]) -> Checked<String> {
    let mut found: Option<String> = None;
    for item in &mut select.projection {
        let (expr, alias) = match &*item {
            SelectItem::UnnamedExpr(expr) => (expr.clone(), None),
            SelectItem::ExprWithAlias { expr, alias } => (expr.clone(), Some(alias.clone())),
            other => {
                let detail = format!("`{other}` would name both windows; write the columns of a join out");
                return fault(other.span().start, detail);
            }
        };
        if !is_window(&expr, names) {
            continue;
        }
        if found.is_some() {
            return fault(expr.span().start, "the window of a join is named once in its SELECT");
        }
        let named = alias.unwrap_or_else(|| match &expr {
            Expr::Identifier(ident) => ident.clone(),
            Expr::CompoundIdentifier(parts) => parts.last().cloned().unwrap_or_else(|| Ident::new("window")),
            _ => Ident::new("window"),
        });
        found = Some(plain(&named));
        *item = SelectItem::ExprWithAlias { expr, alias: named };
    }
    Ok(found.unwrap_or_else(|| "window".to_owned()))
}

/// Whether it is a side's window, or the one that is there of both.
fn is_window(expr: &Expr, names: &[String; 2]) -> bool {
    let one = |ident: &Ident| names.contains(&plain(ident));
    match expr {
        Expr::Identifier(ident) => one(ident),
        Expr::CompoundIdentifier(parts) => parts.last().is_some_and(one),
        Expr::Function(function) if name(&function.name).eq_ignore_ascii_case("coalesce") => {
            let FunctionArguments::List(list) = &function.args else {
                return false;
            };
            let is = |arg: &FunctionArg| matches!(arg, FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) if is_window(e, names));
            list.args.iter().all(is)
        }
        _ => false,
    }
}
