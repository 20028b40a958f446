//! What may stand behind FROM beside one stream: lookups, to be asked row by row before the window, or a second stream or windowed
//! aggregate with the same window. Everything else is refused with what to write instead.

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, Ident, Join, JoinConstraint, JoinOperator,
    ObjectName, Query, Select, SelectItem, SelectItemQualifiedWildcardKind, Spanned, TableAlias, TableFactor,
    TableWithJoins,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
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

/// Two windowed aggregates: each is planned by itself, under the names of [`SIDES`] in FROM. Or two streams, rows with their window:
/// planned where they stand.
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
    let (left, right) = (side(&from.relation, file, depth)?, side(&join.relation, file, depth)?);
    let windows = [left.window, right.window];
    if windows[0] != windows[1] {
        let detail = format!(
            "the windows differ, {} and {}: joined are windows that begin and end together",
            windows[0].describe(),
            windows[1].describe()
        );
        return fault(join_place, detail);
    }
    if matches!(windows[0], Window::Session { .. }) {
        let detail = "sessions are each key's own and are not joined: use tumble or hop on both sides";
        return fault(join_place, detail);
    }
    match (left.open, right.open) {
        (false, false) => aggregates(select, left, right),
        (true, true) => rows(select, left, right),
        (left_open, _) => {
            let which = if left_open { "left" } else { "right" };
            let detail = format!(
                "the {which} side is rows and the other an aggregate of them: aggregate both in their SELECTs (GROUP BY window, key), or neither"
            );
            fault(join_place, detail)
        }
    }
}

/// Puts relations in the place of both sides.
fn replace(select: &mut Select, left: TableFactor, right: TableFactor) {
    if let Some(from) = select.from.first_mut() {
        from.relation = left;
        if let Some(join) = from.joins.first_mut() {
            join.relation = right;
        }
    }
}

/// Two windowed aggregates, each to be planned by itself.
fn aggregates(select: &mut Select, left: Sided, right: Sided) -> Checked<Found> {
    let names = [left.name.to_lowercase(), right.name.to_lowercase()];
    let (source, window) = (left.source.clone(), left.window);
    replace(select, planned(SIDES[0], left.alias), planned(SIDES[1], right.alias));
    let sides = [(left.query, left.source), (right.query, right.source)];
    Ok(Found {
        source,
        window: Some((window, named_once(select, &names)?)),
        sides: Some(Box::new(sides.map(|(query, source)| Side { query, source }))),
        streams: None,
        open: false,
    })
}

/// Two streams' rows with their window, planned with what stands around them.
fn rows(select: &mut Select, left: Sided, right: Sided) -> Checked<Found> {
    let names = [left.name.to_lowercase(), right.name.to_lowercase()];
    let (source, window) = (left.source.clone(), left.window);
    let place = select.span().start;
    let of = |side: &Sided| format!("{}.{}", side.alias.name, Ident::new(&side.name));
    let said = match select
        .from
        .first()
        .and_then(|from| from.joins.first())
        .map(|join| &join.join_operator)
    {
        Some(JoinOperator::Right(_) | JoinOperator::RightOuter(_)) => of(&right),
        Some(JoinOperator::FullOuter(_)) => format!("coalesce({}, {})", of(&left), of(&right)),
        _ => of(&left),
    };
    let parsed = Parser::new(&GenericDialect {})
        .try_with_sql(&said)
        .and_then(|mut parser| parser.parse_expr());
    let Ok(present) = parsed else {
        return fault(
            place,
            format!("`{said}` does not name the window of the join: give it another name"),
        );
    };
    replace(
        select,
        derived(left.query, left.alias),
        derived(right.query, right.alias),
    );
    let named = named_once(select, &names)?;
    put_window(select, &names, &named, &present)?;
    Ok(Found {
        source,
        window: Some((window, named)),
        sides: None,
        streams: Some([left.source, right.source]),
        open: true,
    })
}

/// Puts the window that is there in place of whatever names the window of two joined streams: that of the side whose rows all stay, and
/// of a full join the one of both.
fn put_window(select: &mut Select, names: &[String; 2], window: &str, present: &Expr) -> Checked<()> {
    for item in &mut select.projection {
        if let SelectItem::ExprWithAlias { expr, .. } = item
            && is_window(expr, names)
        {
            *expr = present.clone();
        }
    }
    let GroupByExpr::Expressions(by, _) = &mut select.group_by else {
        return fault(select.span().start, "write out what is grouped by");
    };
    for expr in by {
        let is_alias = matches!(&*expr, Expr::Identifier(ident) if plain(ident) == *window);
        if is_alias || is_window(expr, names) {
            *expr = present.clone();
        }
    }
    Ok(())
}

/// The name that the window of a view of rows has in a SELECT over it.
pub(crate) fn carried(select: &Select, named: &str) -> String {
    let is = |expr: &Expr| match expr {
        Expr::Identifier(ident) => plain(ident) == named,
        Expr::CompoundIdentifier(parts) => parts.last().is_some_and(|last| plain(last) == named),
        _ => false,
    };
    let alias = select.projection.iter().find_map(|item| match item {
        SelectItem::ExprWithAlias { expr, alias } if is(expr) => Some(plain(alias)),
        _ => None,
    });
    alias.unwrap_or_else(|| named.to_owned())
}

/// Whether something is joined in a SELECT itself.
pub(crate) fn has_joins(select: &Select) -> bool {
    select.from.iter().any(|from| !from.joins.is_empty())
}

/// A side of a join with a window, as it was found.
struct Sided {
    query: Query,
    alias: TableAlias,
    source: String,
    window: Window,
    /// What the window is called in it.
    name: String,
    /// Its rows are not aggregated.
    open: bool,
}

fn side(factor: &TableFactor, file: &File, depth: usize) -> Checked<Sided> {
    let place = factor.span().start;
    let wants = "join a stream with a lookup ('soma.lookup' = 'true'), or two SELECTs or views that name their window, SELECT tumble(INTERVAL '1 hour') AS window, key, ... FROM a stream, aggregated (GROUP BY window, key) or not, ON a.window = b.window AND a.key = b.key";
    let (mut query, alias) = match factor {
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
    if found.sides.is_some() || found.streams.is_some() {
        return fault(
            place,
            "a join of joins is not supported: write the inner one to a topic and read that",
        );
    }
    let Some((window, name)) = found.window else {
        return fault(place, format!("`{}` has no window: {wants}", alias.name));
    };
    let (source, open) = (found.source, found.open);
    Ok(Sided {
        query,
        alias,
        source,
        window,
        name,
        open,
    })
}

/// A side that is planned by itself, under a name of ours.
fn planned(name: &str, alias: TableAlias) -> TableFactor {
    TableFactor::Table {
        name: ObjectName::from(vec![Ident::new(name)]),
        alias: Some(alias),
        args: None,
        with_hints: Vec::new(),
        version: None,
        with_ordinality: false,
        partitions: Vec::new(),
        json_path: None,
        sample: None,
        index_hints: Vec::new(),
    }
}

/// A side that is planned where it stands.
fn derived(query: Query, alias: TableAlias) -> TableFactor {
    TableFactor::Derived {
        lateral: false,
        subquery: Box::new(query),
        alias: Some(alias),
        sample: None,
    }
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
