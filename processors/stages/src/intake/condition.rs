//! The small expression language of `when`, `rules` and flags: comparisons over inputs, `and`, `or`, `not`, `in`, parentheses.
//! Checked against the declared inputs when the catalogue is read, so that it cannot fail while a request is planned.

use std::collections::BTreeMap;

use serde_json::Value;

use super::field::{Field, Kind};

/// Values of the inputs by name; an input that was not given is absent and reads as null.
pub(super) type Values = BTreeMap<String, Value>;

/// A parsed expression whose value is true or false.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expr {
    Literal(Value),
    Input(String),
    List(Vec<Expr>),
    Not(Box<Expr>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Compare(Box<Expr>, Op, Box<Expr>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    In,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Text,
    Number,
    Boolean,
    List,
    Null,
}

impl Expr {
    /// Reads an expression and checks it against the inputs.
    pub(super) fn parse(text: &str, fields: &[Field]) -> Result<Expr, String> {
        let mut parser = Parser {
            tokens: tokens(text)?,
            next: 0,
            depth: 0,
        };
        let expr = parser.or()?;
        if let Some(extra) = parser.tokens.get(parser.next) {
            return Err(format!("`{text}`: unexpected {extra:?} after the expression"));
        }
        match expr.type_of(fields).map_err(|e| format!("`{text}`: {e}"))? {
            Type::Boolean => Ok(expr),
            _ => Err(format!(
                "`{text}` is not a condition: compare it with something, for example inputs.x == \"y\""
            )),
        }
    }

    /// Whether the condition holds for these inputs.
    pub(super) fn holds(&self, inputs: &Values) -> bool {
        self.value(inputs) == Value::Bool(true)
    }

    fn value(&self, inputs: &Values) -> Value {
        match self {
            Expr::Literal(value) => value.clone(),
            Expr::Input(name) => inputs.get(name).cloned().unwrap_or(Value::Null),
            Expr::List(items) => items.iter().map(|i| i.value(inputs)).collect(),
            Expr::Not(inner) => Value::Bool(!inner.holds(inputs)),
            Expr::And(a, b) => Value::Bool(a.holds(inputs) && b.holds(inputs)),
            Expr::Or(a, b) => Value::Bool(a.holds(inputs) || b.holds(inputs)),
            Expr::Compare(a, op, b) => Value::Bool(compare(&a.value(inputs), *op, &b.value(inputs))),
        }
    }

    fn type_of(&self, fields: &[Field]) -> Result<Type, String> {
        Ok(match self {
            Expr::Literal(Value::String(_)) => Type::Text,
            Expr::Literal(Value::Number(_)) => Type::Number,
            Expr::Literal(Value::Bool(_)) | Expr::Not(_) | Expr::And(..) | Expr::Or(..) | Expr::Compare(..) => {
                self.check_parts(fields)?;
                Type::Boolean
            }
            Expr::Literal(_) => Type::Null,
            Expr::List(_) => Type::List,
            Expr::Input(name) => match fields.iter().find(|f| &f.name == name).map(|f| f.kind) {
                None => return Err(format!("inputs.{name} is not declared")),
                Some(Kind::Boolean) => Type::Boolean,
                Some(Kind::Integer | Kind::Number) => Type::Number,
                Some(Kind::List) => Type::List,
                Some(_) => Type::Text,
            },
        })
    }

    fn check_parts(&self, fields: &[Field]) -> Result<(), String> {
        let boolean = |e: &Expr| match e.type_of(fields)? {
            Type::Boolean => Ok(()),
            other => Err(format!("`and`, `or` and `not` join conditions, not {other:?}")),
        };
        match self {
            Expr::Not(inner) => boolean(inner),
            Expr::And(a, b) | Expr::Or(a, b) => boolean(a).and_then(|()| boolean(b)),
            Expr::Compare(a, op, b) => {
                let (left, right) = (a.type_of(fields)?, b.type_of(fields)?);
                let fits = match op {
                    Op::Eq | Op::Ne => left == right || left == Type::Null || right == Type::Null,
                    Op::In => right == Type::List,
                    _ => left == Type::Number && right == Type::Number || left == Type::Text && right == Type::Text,
                };
                if fits {
                    Ok(())
                } else {
                    Err(format!("{left:?} cannot be compared with {right:?} by {op:?}"))
                }
            }
            _ => Ok(()),
        }
    }
}

fn compare(a: &Value, op: Op, b: &Value) -> bool {
    let equal = |a: &Value, b: &Value| match (a.as_f64(), b.as_f64()) {
        (Some(x), Some(y)) => x == y,
        _ => a == b,
    };
    let order = match (a, b) {
        (Value::String(x), Value::String(y)) => Some(x.cmp(y)),
        _ => a.as_f64().zip(b.as_f64()).and_then(|(x, y)| x.partial_cmp(&y)),
    };
    match op {
        Op::Eq => equal(a, b),
        Op::Ne => !equal(a, b),
        Op::Lt => order.is_some_and(std::cmp::Ordering::is_lt),
        Op::Le => order.is_some_and(std::cmp::Ordering::is_le),
        Op::Gt => order.is_some_and(std::cmp::Ordering::is_gt),
        Op::Ge => order.is_some_and(std::cmp::Ordering::is_ge),
        Op::In => b.as_array().is_some_and(|items| items.iter().any(|i| equal(a, i))),
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Number(f64),
    Sign(&'static str),
}

const SIGNS: [&str; 11] = ["==", "!=", "<=", ">=", "<", ">", "(", ")", "[", "]", ","];

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let used = if let Some(sign) = SIGNS.iter().find(|s| rest.starts_with(**s)) {
            found.push(Token::Sign(sign));
            sign.len()
        } else if first == '"' || first == '\'' {
            let end = rest[1..]
                .find(first)
                .ok_or_else(|| format!("`{text}`: a text has no closing {first}"))?;
            found.push(Token::Text(rest[1..=end].to_owned()));
            end + 2
        } else if first.is_ascii_alphabetic() {
            let end = rest
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '.')
                .unwrap_or(rest.len());
            found.push(Token::Word(rest[..end].to_owned()));
            end
        } else if first.is_ascii_digit() || first == '-' {
            let end = rest[1..]
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .map_or(rest.len(), |at| at + 1);
            let number = rest[..end]
                .parse::<f64>()
                .map_err(|_| format!("`{text}`: `{}` is not a number", &rest[..end]))?;
            found.push(Token::Number(number));
            end
        } else {
            return Err(format!("`{text}`: `{first}` means nothing here"));
        };
        rest = rest[used..].trim_start();
    }
    Ok(found)
}

/// Deepest nesting an expression may have; a person writes two or three.
const DEPTH_MAX: usize = 32;

struct Parser {
    tokens: Vec<Token>,
    next: usize,
    depth: usize,
}

impl Parser {
    fn take(&mut self, wanted: &Token) -> bool {
        let hit = self.tokens.get(self.next) == Some(wanted);
        self.next += usize::from(hit);
        hit
    }

    fn word(&mut self, word: &str) -> bool {
        self.take(&Token::Word(word.to_owned()))
    }

    fn or(&mut self) -> Result<Expr, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("nested deeper than {DEPTH_MAX}"));
        }
        let mut left = self.and()?;
        while self.word("or") {
            left = Expr::Or(Box::new(left), Box::new(self.and()?));
        }
        self.depth -= 1;
        Ok(left)
    }

    fn and(&mut self) -> Result<Expr, String> {
        let mut left = self.not()?;
        while self.word("and") {
            left = Expr::And(Box::new(left), Box::new(self.not()?));
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Expr, String> {
        let mut nots = 0;
        while self.word("not") {
            nots += 1;
        }
        let inner = self.comparison()?;
        Ok(if nots % 2 == 1 {
            Expr::Not(Box::new(inner))
        } else {
            inner
        })
    }

    fn comparison(&mut self) -> Result<Expr, String> {
        let left = self.operand()?;
        let op = match self.tokens.get(self.next) {
            Some(Token::Sign("==")) => Op::Eq,
            Some(Token::Sign("!=")) => Op::Ne,
            Some(Token::Sign("<")) => Op::Lt,
            Some(Token::Sign("<=")) => Op::Le,
            Some(Token::Sign(">")) => Op::Gt,
            Some(Token::Sign(">=")) => Op::Ge,
            Some(Token::Word(word)) if word == "in" => Op::In,
            _ => return Ok(left),
        };
        self.next += 1;
        Ok(Expr::Compare(Box::new(left), op, Box::new(self.operand()?)))
    }

    fn operand(&mut self) -> Result<Expr, String> {
        let token = self
            .tokens
            .get(self.next)
            .cloned()
            .ok_or("the expression ends too early")?;
        self.next += 1;
        match token {
            Token::Text(text) => Ok(Expr::Literal(Value::from(text))),
            Token::Number(number) => Ok(Expr::Literal(Value::from(number))),
            Token::Sign("(") => {
                let inner = self.or()?;
                if self.take(&Token::Sign(")")) {
                    Ok(inner)
                } else {
                    Err("a `)` is missing".into())
                }
            }
            Token::Sign("[") => self.list(),
            Token::Word(word) => match word.as_str() {
                "true" => Ok(Expr::Literal(Value::Bool(true))),
                "false" => Ok(Expr::Literal(Value::Bool(false))),
                "null" => Ok(Expr::Literal(Value::Null)),
                other => match other.strip_prefix("inputs.") {
                    Some(name) => Ok(Expr::Input(name.to_owned())),
                    None => Err(format!(
                        "`{other}` is not known here: write inputs.<name> or a text in quotes"
                    )),
                },
            },
            Token::Sign(sign) => Err(format!("`{sign}` cannot stand here")),
        }
    }

    fn list(&mut self) -> Result<Expr, String> {
        let mut items = Vec::new();
        while !self.take(&Token::Sign("]")) {
            items.push(self.operand()?);
            if !self.take(&Token::Sign(",")) && self.tokens.get(self.next) != Some(&Token::Sign("]")) {
                return Err("items of a list are separated by `,` and closed by `]`".into());
            }
        }
        Ok(Expr::List(items))
    }
}
