//! Expressions of the dialect as Flink writes them. Every form is named here; one that is not is refused rather than passed on.

use std::collections::BTreeMap;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CastKind, CeilFloorKind, DataType, DateTimeField, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArguments, Ident, UnaryOperator, Value,
};

use super::functions::{self, Form};
use crate::streaming::dialect::{length, name};

/// What a column or an expression is, as far as Flink's arithmetic cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Whole,
    Real,
    Other,
}

/// What is known while an expression is written.
#[derive(Default)]
pub(super) struct Scope<'a> {
    /// Columns by name.
    pub(super) kinds: BTreeMap<String, Kind>,
    /// Expressions that were computed before, and the column that holds them.
    pub(super) known: Vec<(&'a Expr, String)>,
    /// Columns that are called otherwise there: a name in its parts, and the column.
    pub(super) named: Vec<(Vec<String>, String)>,
}

impl Scope<'_> {
    /// The column that a name, in its parts, stands for.
    fn column<'s>(&'s self, parts: &'s [Ident]) -> Option<&'s String> {
        let is = |name: &Vec<String>| name.iter().eq(parts.iter().map(|part| &part.value));
        let found = self.named.iter().find(|(name, _)| is(name));
        found
            .map(|(_, column)| column)
            .or_else(|| parts.last().map(|last| &last.value))
    }

    fn kind(&self, parts: &[Ident]) -> Kind {
        let found = self.column(parts).and_then(|column| self.kinds.get(column));
        found.copied().unwrap_or(Kind::Other)
    }
}

type Text = Result<String, String>;

/// A name, quoted so that no word of Flink's is in the way.
pub(super) fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A text.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A length of time, in microseconds.
pub(super) fn interval(micros: i64) -> Text {
    if micros % 1000 != 0 {
        return Err("Flink's event time has milliseconds: make the interval a multiple of one".to_owned());
    }
    let (ms, day) = (micros / 1000, 86_400_000);
    if ms / day > 99 {
        return Err("an interval of Flink's has 99 days at most".to_owned());
    }
    let (s, rest) = (ms / 1000, ms % 1000);
    Ok(format!(
        "INTERVAL '{} {:02}:{:02}:{:02}.{rest:03}' DAY TO SECOND(3)",
        ms / day,
        s / 3600 % 24,
        s / 60 % 60,
        s % 60
    ))
}

/// A type of the dialect.
pub(super) fn kind(data: &DataType) -> Result<(&'static str, Kind), String> {
    Ok(match data {
        DataType::TinyInt(_) => ("TINYINT", Kind::Whole),
        DataType::SmallInt(_) | DataType::Int2(_) => ("SMALLINT", Kind::Whole),
        DataType::Int(_) | DataType::Integer(_) | DataType::Int4(_) => ("INT", Kind::Whole),
        DataType::BigInt(_) | DataType::Int8(_) => ("BIGINT", Kind::Whole),
        DataType::Real | DataType::Float4 => ("FLOAT", Kind::Real),
        DataType::Float(_) | DataType::Double(_) | DataType::DoublePrecision | DataType::Float8 => {
            ("DOUBLE", Kind::Real)
        }
        DataType::Boolean | DataType::Bool => ("BOOLEAN", Kind::Other),
        DataType::Text | DataType::String(_) | DataType::Varchar(_) | DataType::Char(_) => ("STRING", Kind::Other),
        DataType::Bytea | DataType::Bytes(_) => ("BYTES", Kind::Other),
        DataType::Date => ("DATE", Kind::Other),
        DataType::Timestamp(..) => ("TIMESTAMP(3)", Kind::Other),
        other => return Err(format!("type {other} is not rendered for Flink")),
    })
}

/// Writes an expression.
pub(super) fn text(expr: &Expr, scope: &Scope<'_>) -> Text {
    if let Some((_, column)) = scope.known.iter().find(|(known, _)| *known == expr) {
        return Ok(quoted(column));
    }
    let of = |e: &Expr| text(e, scope);
    Ok(match expr {
        Expr::Identifier(one) => scope
            .column(std::slice::from_ref(one))
            .map(|c| quoted(c))
            .unwrap_or_default(),
        Expr::CompoundIdentifier(parts) => scope.column(parts).map(|c| quoted(c)).unwrap_or_default(),
        Expr::Value(value) => self::value(&value.value)?,
        Expr::Nested(inner) => format!("({})", of(inner)?),
        Expr::Interval(_) => interval(length(expr)?)?,
        Expr::BinaryOp { left, op, right } => {
            format!("{} {} {}", operand(left, scope)?, operator(op)?, operand(right, scope)?)
        }
        Expr::UnaryOp {
            op: UnaryOperator::Not,
            expr,
        } => format!("NOT {}", operand(expr, scope)?),
        Expr::UnaryOp {
            op: UnaryOperator::Minus,
            expr,
        } => format!("-{}", operand(expr, scope)?),
        Expr::UnaryOp {
            op: UnaryOperator::Plus,
            expr,
        } => of(expr)?,
        Expr::Cast {
            kind: how,
            expr,
            data_type,
            format: None,
            ..
        } => {
            let call = if *how == CastKind::TryCast { "TRY_CAST" } else { "CAST" };
            format!("{call}({} AS {})", of(expr)?, kind(data_type)?.0)
        }
        Expr::Extract { field, expr, .. } => format!("EXTRACT({} FROM {})", unit(field)?, of(expr)?),
        Expr::Ceil {
            expr,
            field: CeilFloorKind::DateTimeField(DateTimeField::NoDateTime),
        } => format!("CEIL({})", of(expr)?),
        Expr::Floor {
            expr,
            field: CeilFloorKind::DateTimeField(DateTimeField::NoDateTime),
        } => format!("FLOOR({})", of(expr)?),
        Expr::Position { expr, r#in } => format!("POSITION({} IN {})", of(expr)?, of(r#in)?),
        Expr::Trim {
            trim_where: None,
            trim_what: None,
            expr,
            trim_characters: None,
        } => format!("TRIM({})", of(expr)?),
        Expr::Substring {
            expr,
            substring_from: Some(from),
            substring_for,
            ..
        } => match substring_for {
            Some(count) => format!("SUBSTRING({} FROM {} FOR {})", of(expr)?, of(from)?, of(count)?),
            None => format!("SUBSTRING({} FROM {})", of(expr)?, of(from)?),
        },
        Expr::Case { .. } => case(expr, scope)?,
        Expr::Function(function) => call(function, scope)?,
        other => return test(other, scope),
    })
}

fn case(expr: &Expr, scope: &Scope<'_>) -> Text {
    let of = |e: &Expr| text(e, scope);
    let Expr::Case {
        operand,
        conditions,
        else_result,
        ..
    } = expr
    else {
        return Err(format!("`{expr}` is no CASE"));
    };
    let mut case = "CASE".to_owned();
    if let Some(operand) = operand {
        case += &format!(" {}", of(operand)?);
    }
    for when in conditions {
        case += &format!(" WHEN {} THEN {}", of(&when.condition)?, of(&when.result)?);
    }
    if let Some(other) = else_result {
        case += &format!(" ELSE {}", of(other)?);
    }
    Ok(case + " END")
}

/// Writes an expression that is true or false.
fn test(expr: &Expr, scope: &Scope<'_>) -> Text {
    let of = |e: &Expr| text(e, scope);
    let not = |negated: &bool| if *negated { "NOT " } else { "" };
    Ok(match expr {
        Expr::IsNull(inner) => format!("{} IS NULL", operand(inner, scope)?),
        Expr::IsNotNull(inner) => format!("{} IS NOT NULL", operand(inner, scope)?),
        Expr::IsTrue(inner) => format!("{} IS TRUE", operand(inner, scope)?),
        Expr::IsNotTrue(inner) => format!("{} IS NOT TRUE", operand(inner, scope)?),
        Expr::IsFalse(inner) => format!("{} IS FALSE", operand(inner, scope)?),
        Expr::IsNotFalse(inner) => format!("{} IS NOT FALSE", operand(inner, scope)?),
        Expr::IsDistinctFrom(a, b) => format!("{} IS DISTINCT FROM {}", operand(a, scope)?, operand(b, scope)?),
        Expr::IsNotDistinctFrom(a, b) => format!("{} IS NOT DISTINCT FROM {}", operand(a, scope)?, operand(b, scope)?),
        Expr::Between {
            expr,
            negated,
            low,
            high,
        } => {
            format!(
                "{} {}BETWEEN {} AND {}",
                operand(expr, scope)?,
                not(negated),
                operand(low, scope)?,
                operand(high, scope)?
            )
        }
        Expr::InList { expr, list, negated } => {
            let list = list.iter().map(of).collect::<Result<Vec<_>, _>>()?.join(", ");
            format!("{} {}IN ({list})", operand(expr, scope)?, not(negated))
        }
        Expr::Like {
            negated,
            any: false,
            expr,
            pattern,
            escape_char: None,
        } => {
            format!("{} {}LIKE {}", operand(expr, scope)?, not(negated), of(pattern)?)
        }
        Expr::ILike {
            negated,
            any: false,
            expr,
            pattern,
            escape_char: None,
        } => {
            format!("LOWER({}) {}LIKE LOWER({})", of(expr)?, not(negated), of(pattern)?)
        }
        other => return Err(format!("`{other}` is not rendered for Flink")),
    })
}

/// An operand, in brackets where it is an operation itself: precedences need not be the same.
fn operand(expr: &Expr, scope: &Scope<'_>) -> Text {
    let text = text(expr, scope)?;
    let simple = matches!(
        expr,
        Expr::Identifier(_)
            | Expr::CompoundIdentifier(_)
            | Expr::Value(_)
            | Expr::Nested(_)
            | Expr::Function(_)
            | Expr::Cast { .. }
            | Expr::Interval(_)
    );
    Ok(if simple { text } else { format!("({text})") })
}

fn value(value: &Value) -> Text {
    Ok(match value {
        Value::Number(number, _) => number.clone(),
        Value::SingleQuotedString(text) => literal(text),
        Value::Boolean(yes) => if *yes { "TRUE" } else { "FALSE" }.to_owned(),
        Value::Null => "NULL".to_owned(),
        other => return Err(format!("`{other}` is not rendered for Flink")),
    })
}

fn operator(op: &BinaryOperator) -> Text {
    use BinaryOperator as B;
    Ok(match op {
        B::NotEq => "<>".to_owned(),
        B::Plus
        | B::Minus
        | B::Multiply
        | B::Divide
        | B::Modulo
        | B::Gt
        | B::Lt
        | B::GtEq
        | B::LtEq
        | B::Eq
        | B::And
        | B::Or
        | B::StringConcat => op.to_string(),
        other => return Err(format!("operator {other} is not rendered for Flink")),
    })
}

fn unit(field: &DateTimeField) -> Text {
    use DateTimeField as D;
    Ok(match field {
        D::Year | D::Quarter | D::Month | D::Day | D::Hour | D::Minute => field.to_string().to_uppercase(),
        other => return Err(format!("{other} of a time is not rendered for Flink")),
    })
}

/// A function call; windows are not expressions and do not come here.
fn call(function: &Function, scope: &Scope<'_>) -> Text {
    let called = name(&function.name).to_lowercase();
    let refused = |why: &str| format!("{called}() is not rendered for Flink: {why}");
    if function.over.is_some() || function.null_treatment.is_some() {
        return Err(refused("OVER and NULLS have no place in a window of time"));
    }
    let FunctionArguments::List(list) = &function.args else {
        return Err(refused("its arguments are not a list"));
    };
    if !list.clauses.is_empty() {
        return Err(refused("its result depends on the order records are read in"));
    }
    let distinct = if list.duplicate_treatment.is_some_and(|d| d.to_string() == "DISTINCT") {
        "DISTINCT "
    } else {
        ""
    };
    let mut given: Vec<&Expr> = function.within_group.iter().map(|by| &by.expr).collect();
    let mut arguments = given.iter().map(|e| text(e, scope)).collect::<Result<Vec<_>, _>>()?;
    for argument in &list.args {
        match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => {
                arguments.push(text(expr, scope)?);
                given.push(expr);
            }
            FunctionArg::Unnamed(FunctionArgExpr::Wildcard) => arguments.push("*".to_owned()),
            other => return Err(refused(&format!("`{other}` is no argument there"))),
        }
    }
    let written = match (called.as_str(), functions::of(&called)) {
        ("sum", _) => match (given.as_slice(), arguments.as_slice()) {
            ([expr], [argument]) => functions::sum(argument, distinct, kind_of(expr, scope)),
            _ => return Err(refused("it takes one argument")),
        },
        ("date_trunc" | "date_part", _) => time_part(&called, &given, scope).map_err(|why| refused(&why))?,
        (_, Some(Form::Name(name))) => format!("{name}({distinct}{})", arguments.join(", ")),
        (_, Some(Form::Text(template))) => {
            functions::filled(template, &arguments, distinct).map_err(|why| refused(&why))?
        }
        (_, Some(Form::None(why))) => return Err(refused(why)),
        (_, None) => return Err(refused("Flink has no counterpart of that name known here")),
    };
    match &function.filter {
        Some(filter) => Ok(format!("{written} FILTER (WHERE {})", text(filter, scope)?)),
        None => Ok(written),
    }
}

/// `date_trunc('hour', t)` and `date_part('hour', t)`.
fn time_part(called: &str, given: &[&Expr], scope: &Scope<'_>) -> Text {
    let [Expr::Value(what), time] = given else {
        return Err("its first argument is a text such as 'hour'".to_owned());
    };
    let what = what.value.clone().into_string().unwrap_or_default().to_uppercase();
    if !["YEAR", "QUARTER", "MONTH", "DAY", "HOUR", "MINUTE", "SECOND"].contains(&what.as_str()) {
        return Err(format!("'{what}' is not known there"));
    }
    let time = text(time, scope)?;
    Ok(match called {
        "date_trunc" => format!("FLOOR({time} TO {what})"),
        _ if what == "SECOND" => return Err("seconds have a fraction here".to_owned()),
        _ => format!("EXTRACT({what} FROM {time})"),
    })
}

/// What an expression gives, where that can be seen.
pub(super) fn kind_of(expr: &Expr, scope: &Scope<'_>) -> Kind {
    match expr {
        Expr::Identifier(one) => scope.kind(std::slice::from_ref(one)),
        Expr::CompoundIdentifier(parts) => scope.kind(parts),
        Expr::Value(value) => match &value.value {
            Value::Number(number, _) if number.contains(['.', 'e', 'E']) => Kind::Real,
            Value::Number(..) => Kind::Whole,
            _ => Kind::Other,
        },
        Expr::Nested(inner) | Expr::UnaryOp { expr: inner, .. } => kind_of(inner, scope),
        Expr::Cast { data_type, .. } => kind(data_type).map_or(Kind::Other, |(_, kind)| kind),
        Expr::BinaryOp {
            left,
            op:
                BinaryOperator::Plus
                | BinaryOperator::Minus
                | BinaryOperator::Multiply
                | BinaryOperator::Divide
                | BinaryOperator::Modulo,
            right,
        } => match (kind_of(left, scope), kind_of(right, scope)) {
            (Kind::Real, Kind::Real | Kind::Whole) | (Kind::Whole, Kind::Real) => Kind::Real,
            (Kind::Whole, Kind::Whole) => Kind::Whole,
            _ => Kind::Other,
        },
        Expr::Case {
            conditions,
            else_result,
            ..
        } => {
            let mut kinds = conditions
                .iter()
                .map(|when| kind_of(&when.result, scope))
                .chain(else_result.iter().map(|e| kind_of(e, scope)));
            let first = kinds.next().unwrap_or(Kind::Other);
            if kinds.all(|kind| kind == first) {
                first
            } else {
                Kind::Other
            }
        }
        _ => Kind::Other,
    }
}
