//! The statements of a file: `CREATE TABLE` with a watermark and options, `CREATE VIEW`, `INSERT INTO ... SELECT`. Arroyo's dialect,
//! read with the tokenizer and the parser that DataFusion brings; only the watermark clause is cut out and read here.

use std::collections::BTreeMap;

use datafusion::sql::sqlparser::ast::{
    ColumnOption, CreateTable, CreateTableOptions, Expr, Ident, ObjectName, Query, SqlOption, Statement,
    TableConstraint, TableObject, Value,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};
use kernel::ConfigFault;

use super::options::{Options, options};
use super::span;

/// Where something stands, as `line 3, column 7`.
pub(crate) fn at(location: Location) -> String {
    format!("line {}, column {}", location.line, location.column)
}

/// A column a table declares.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) kind: datafusion::sql::sqlparser::ast::DataType,
    pub(crate) at: Location,
}

/// A table over a topic.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) at: Location,
    pub(crate) columns: Vec<Column>,
    /// Columns of its PRIMARY KEY, in the order they are declared.
    pub(crate) key: Vec<String>,
    /// Column of the event time, and how far the watermark stays behind, microseconds.
    pub(crate) watermark: Option<(String, i64)>,
    pub(crate) options: Options,
}

/// `INSERT INTO into SELECT ...`.
#[derive(Clone, Debug)]
pub(crate) struct Insert {
    pub(crate) into: String,
    pub(crate) query: Query,
    pub(crate) at: Location,
}

/// A file.
#[derive(Clone, Debug, Default)]
pub(crate) struct File {
    pub(crate) tables: BTreeMap<String, Table>,
    pub(crate) views: BTreeMap<String, Query>,
    pub(crate) inserts: Vec<Insert>,
}

/// Reads a file; every problem at once.
pub(crate) fn read(sql: &str) -> Result<File, Vec<ConfigFault>> {
    let tokens = Tokenizer::new(&GenericDialect {}, sql)
        .tokenize_with_location()
        .map_err(|e| vec![ConfigFault::new(at(e.location), e.message)])?;
    let mut file = File::default();
    let mut faults = Vec::new();
    for statement in tokens.split(|t| t.token == Token::SemiColon) {
        let Some(first) = statement.iter().find(|t| !matches!(t.token, Token::Whitespace(_))) else {
            continue;
        };
        if let Err(found) = one(&mut file, statement.to_vec(), first.span.start) {
            faults.extend(found);
        }
    }
    if faults.is_empty() && file.inserts.is_empty() {
        let detail = "nothing is written: add INSERT INTO a sink table SELECT ... GROUP BY a window";
        faults.push(ConfigFault::new("line 1, column 1", detail));
    }
    if faults.is_empty() { Ok(file) } else { Err(faults) }
}

type Found<T> = Result<T, Vec<ConfigFault>>;

fn fault<T>(location: Location, detail: impl Into<String>) -> Found<T> {
    Err(vec![ConfigFault::new(at(location), detail)])
}

fn one(file: &mut File, mut tokens: Vec<TokenWithSpan>, start: Location) -> Found<()> {
    let watermark = cut_watermark(&mut tokens)?;
    // The parser forgets where a name in quotes stands.
    let quoted = |t: &TokenWithSpan| match &t.token {
        Token::SingleQuotedString(text) => Some((text.clone(), t.span.start)),
        _ => None,
    };
    let quoted = tokens.iter().filter_map(quoted).collect();
    match parsed(tokens, start)? {
        Statement::CreateTable(create) => {
            let table = table(create, watermark, start, &quoted)?;
            file.tables.insert(table.name.clone(), table);
        }
        Statement::CreateView(view) => {
            file.views.insert(name(&view.name), *view.query);
        }
        Statement::Insert(insert) => {
            let (TableObject::TableName(into), Some(query)) = (&insert.table, insert.source) else {
                return fault(start, "an INSERT goes INTO a table and takes a SELECT");
            };
            file.inserts.push(Insert {
                into: name(into),
                query: *query,
                at: start,
            });
        }
        Statement::Query(_) => {
            return fault(
                start,
                "a SELECT alone goes nowhere; put INSERT INTO a sink table before it",
            );
        }
        _ => {
            return fault(
                start,
                "only CREATE TABLE, CREATE VIEW and INSERT INTO ... SELECT are known here",
            );
        }
    }
    Ok(())
}

fn parsed(tokens: Vec<TokenWithSpan>, start: Location) -> Found<Statement> {
    let last = tokens
        .iter()
        .rfind(|t| !matches!(t.token, Token::Whitespace(_)))
        .map_or(start, |t| t.span.end);
    let mut parser = Parser::new(&GenericDialect {}).with_tokens_with_locations(tokens);
    let read = parser.parse_statement();
    let next = parser.peek_token();
    match read {
        Ok(statement) if next.token == Token::EOF => Ok(statement),
        Ok(_) => fault(next.span.start, format!("`{}` is not expected here", next.token)),
        Err(error) => {
            let text = error.to_string();
            let text = text.strip_prefix("sql parser error: ").unwrap_or(&text).to_owned();
            let place = text.rsplit_once(" at Line: ").and_then(|(said, place)| {
                let (line, column) = place.split_once(", Column: ")?;
                Some((said.to_owned(), Location::new(line.parse().ok()?, column.parse().ok()?)))
            });
            let (said, place) = place.unwrap_or((text, last));
            fault(place, said)
        }
    }
}

/// Takes `WATERMARK FOR column [AS column - INTERVAL '...']` out of the column list.
fn cut_watermark(tokens: &mut Vec<TokenWithSpan>) -> Found<Option<(String, i64)>> {
    tokens.retain(|t| !matches!(t.token, Token::Whitespace(_)));
    let word = |i: usize, text: &str| matches!(tokens.get(i).map(|t| &t.token), Some(Token::Word(w)) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(text));
    if !word(0, "create") {
        return Ok(None);
    }
    let Some(begin) = (0..tokens.len()).find(|i| word(*i, "watermark") && word(i + 1, "for")) else {
        return Ok(None);
    };
    let (mut depth, mut end) = (0, begin);
    while let Some(found) = tokens.get(end) {
        match found.token {
            Token::LParen => depth += 1,
            Token::Comma if depth == 0 => break,
            Token::RParen if depth == 0 => break,
            Token::RParen => depth -= 1,
            _ => {}
        }
        end += 1;
    }
    // With the comma before it, or, where it comes first, the one after.
    let from = if begin > 0 && tokens[begin - 1].token == Token::Comma {
        begin - 1
    } else {
        begin
    };
    let until = if from == begin && tokens.get(end).is_some_and(|t| t.token == Token::Comma) {
        end + 1
    } else {
        end
    };
    let clause: Vec<_> = tokens[begin + 2..end].to_vec();
    let place = tokens[begin].span.start;
    tokens.drain(from..until);
    watermark(clause, place).map(Some)
}

fn watermark(clause: Vec<TokenWithSpan>, place: Location) -> Found<(String, i64)> {
    let wants = "a watermark is written WATERMARK FOR column AS column - INTERVAL '10 minutes'";
    let mut parser = Parser::new(&GenericDialect {}).with_tokens_with_locations(clause);
    let Ok(column) = parser.parse_identifier() else {
        return fault(place, wants);
    };
    if !parser.parse_keyword(Keyword::AS) {
        return if parser.peek_token().token == Token::EOF {
            Ok((plain(&column), 0))
        } else {
            fault(place, wants)
        };
    }
    let delay = match parser.parse_expr() {
        Ok(Expr::Identifier(named)) if named.value == column.value => Ok(0),
        Ok(Expr::BinaryOp { left, op, right }) if op.to_string() == "-" => match (*left, *right) {
            (Expr::Identifier(named), Expr::Interval(_)) if named.value != column.value => Err(format!(
                "the watermark is for `{}` but takes from `{}`",
                column.value, named.value
            )),
            (Expr::Identifier(_), interval @ Expr::Interval(_)) => length(&interval),
            _ => Err(wants.to_owned()),
        },
        _ => Err(wants.to_owned()),
    };
    match delay {
        Ok(micros) if micros >= 0 => Ok((plain(&column), micros)),
        Ok(_) => fault(place, "the watermark's delay is below zero"),
        Err(says) => fault(place, says),
    }
}

/// The length of `INTERVAL '10 minutes'` or `INTERVAL '10' MINUTE`.
pub(crate) fn length(expr: &Expr) -> Result<i64, String> {
    let Expr::Interval(interval) = expr else {
        return Err(format!("`{expr}` is no INTERVAL; write INTERVAL '10 minutes'"));
    };
    let Some(text) = string(&interval.value) else {
        return Err(format!("`{expr}` has no text; write INTERVAL '10 minutes'"));
    };
    match &interval.leading_field {
        Some(field) => span::micros(&format!("{text} {field}")),
        None => span::micros(&text),
    }
}

/// The text of a literal.
pub(crate) fn string(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) | Value::DoubleQuotedString(text) | Value::Number(text, _) => {
                Some(text.clone())
            }
            Value::Boolean(value) => Some(value.to_string()),
            _ => None,
        },
        Expr::Identifier(ident) => Some(ident.value.clone()),
        _ => None,
    }
}

/// The last part of a name.
pub(crate) fn name(name: &ObjectName) -> String {
    name.0
        .last()
        .and_then(|part| part.as_ident())
        .map_or_else(|| name.to_string(), plain)
}

/// An identifier as DataFusion takes it: lower case where it is not quoted.
pub(crate) fn plain(ident: &Ident) -> String {
    if ident.quote_style.is_none() {
        ident.value.to_lowercase()
    } else {
        ident.value.clone()
    }
}

/// The columns of `PRIMARY KEY (a, b)`.
fn primary(constraints: &[TableConstraint]) -> Vec<String> {
    let mut key = Vec::new();
    for constraint in constraints {
        let TableConstraint::PrimaryKey(primary) = constraint else {
            continue;
        };
        key.extend(primary.columns.iter().filter_map(|c| match &c.column.expr {
            Expr::Identifier(ident) => Some(plain(ident)),
            _ => None,
        }));
    }
    key
}

fn table(
    create: CreateTable,
    watermark: Option<(String, i64)>,
    start: Location,
    quoted: &BTreeMap<String, Location>,
) -> Found<Table> {
    let CreateTableOptions::With(with) = &create.table_options else {
        return fault(
            start,
            format!("table `{}` has no WITH (connector = 'kafka', ...)", create.name),
        );
    };
    let mut given = Vec::new();
    for option in with {
        match option {
            SqlOption::KeyValue { key, value } => {
                let place = quoted.get(&key.value).copied().filter(|_| key.span.start.line == 0);
                let place = place.unwrap_or(key.span.start);
                match string(value) {
                    Some(text) => given.push((key.value.clone(), text, place)),
                    None => return fault(place, format!("option `{}` is not a text", key.value)),
                }
            }
            other => return fault(start, format!("`{other}` is no option; write name = 'value'")),
        }
    }
    let (mut columns, mut key) = (Vec::new(), primary(&create.constraints));
    for column in create.columns {
        if column
            .options
            .iter()
            .any(|o| matches!(o.option, ColumnOption::PrimaryKey(_)))
        {
            key.push(plain(&column.name));
        }
        if let Some(computed) = column
            .options
            .iter()
            .find(|o| matches!(o.option, ColumnOption::Generated { .. }))
        {
            let detail = format!(
                "column `{}` is computed ({computed}); compute it in a view",
                column.name.value
            );
            return fault(column.name.span.start, detail);
        }
        columns.push(Column {
            name: plain(&column.name),
            kind: column.data_type,
            at: column.name.span.start,
        });
    }
    Ok(Table {
        name: name(&create.name),
        at: start,
        columns,
        key,
        watermark,
        options: options(&given, start)?,
    })
}
