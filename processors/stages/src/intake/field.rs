//! Typed inputs: what a capsule's input or a wizard's question accepts, and how text becomes a value of that type.

use regex::Regex;
use schemas::Timestamp;
use serde_json::Value;

use super::node::{Faults, Node, is_name};

/// Type of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Integer,
    Number,
    Boolean,
    Select,
    List,
    Url,
    Date,
}

const KINDS: &[(&str, Kind)] = &[
    ("text", Kind::Text),
    ("integer", Kind::Integer),
    ("number", Kind::Number),
    ("boolean", Kind::Boolean),
    ("select", Kind::Select),
    ("list", Kind::List),
    ("url", Kind::Url),
    ("date", Kind::Date),
];

/// One declared input.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) kind: Kind,
    required: bool,
    default: Option<Value>,
    options: Vec<String>,
    limits: Limits,
}

#[derive(Clone, Debug, Default)]
struct Limits {
    min: Option<f64>,
    max: Option<f64>,
    length_min: Option<i64>,
    length_max: Option<i64>,
    pattern: Option<Regex>,
}

const LIMIT_KEYS: [&str; 5] = ["min", "max", "min_length", "max_length", "pattern"];

impl Limits {
    fn read(node: &Node<'_>, faults: &mut Faults) -> Self {
        let pattern = node
            .text("pattern", faults)
            .and_then(|text| match Regex::new(&format!("^(?:{text})$")) {
                Ok(regex) => Some(regex),
                Err(error) => {
                    node.fault(faults, format!("`pattern` is not a regular expression: {error}"));
                    None
                }
            });
        let limits = Self {
            min: node.number("min", faults),
            max: node.number("max", faults),
            length_min: node.integer("min_length", faults),
            length_max: node.integer("max_length", faults),
            pattern,
        };
        if limits.min.zip(limits.max).is_some_and(|(a, b)| a > b) {
            node.fault(faults, "`min` is larger than `max`: no value fits");
        }
        if limits.length_min.zip(limits.length_max).is_some_and(|(a, b)| a > b) {
            node.fault(faults, "`min_length` is larger than `max_length`: no value fits");
        }
        limits
    }

    fn check_number(&self, number: f64) -> Result<(), String> {
        match (self.min, self.max) {
            (Some(min), _) if number < min => Err(format!("{number} is below the least allowed, {min}")),
            (_, Some(max)) if number > max => Err(format!("{number} is above the most allowed, {max}")),
            _ => Ok(()),
        }
    }

    fn check_length(&self, length: usize, unit: &str) -> Result<(), String> {
        let length = i64::try_from(length).unwrap_or(i64::MAX);
        match (self.length_min, self.length_max) {
            (Some(min), _) if length < min => Err(format!("has {length} {unit}, at least {min} are needed")),
            (_, Some(max)) if length > max => Err(format!("has {length} {unit}, at most {max} are allowed")),
            _ => Ok(()),
        }
    }

    fn check_text(&self, text: &str) -> Result<(), String> {
        self.check_length(text.chars().count(), "characters")?;
        match &self.pattern {
            Some(regex) if !regex.is_match(text) => Err(format!("`{text}` does not match {}", regex.as_str())),
            _ => Ok(()),
        }
    }
}

impl Field {
    /// An entry of a capsule's `inputs`.
    pub(super) fn input(node: &Node<'_>, faults: &mut Faults) -> Option<Self> {
        let mut known = vec!["name", "type", "title", "description", "required", "default", "options"];
        known.extend(LIMIT_KEYS);
        node.keys(&known, faults)
            .then(|| Self::read(node, "name", node, faults))
    }

    /// An entry of a wizard's `questions`; its limits stand under `validation`.
    pub(super) fn question(node: &Node<'_>, faults: &mut Faults) -> Option<Self> {
        let known = [
            "id",
            "prompt",
            "type",
            "description",
            "required",
            "default",
            "options",
            "validation",
        ];
        if !node.keys(&known, faults) {
            return None;
        }
        node.required_text("prompt", faults);
        let limits = node.get("validation");
        if let Some(limits) = &limits {
            limits.keys(&LIMIT_KEYS, faults);
        }
        Some(Self::read(node, "id", limits.as_ref().unwrap_or(node), faults))
    }

    fn read(node: &Node<'_>, name_key: &str, limits: &Node<'_>, faults: &mut Faults) -> Self {
        let name = node.required_text(name_key, faults);
        if !name.is_empty() && !is_name(&name) {
            node.fault(
                faults,
                format!("`{name}`: a name is a-z first, then a-z, 0-9 and `_`, at most 48 in all"),
            );
        }
        let word = node.required_text("type", faults);
        let kind = KINDS.iter().find(|(known, _)| *known == word).map(|(_, kind)| *kind);
        if kind.is_none() && !word.is_empty() {
            let known: Vec<_> = KINDS.iter().map(|(word, _)| *word).collect();
            node.fault(faults, format!("unknown type `{word}`; known are {}", known.join(", ")));
        }
        let mut field = Self {
            name,
            kind: kind.unwrap_or(Kind::Text),
            required: node.flag("required", false, faults),
            default: None,
            options: node.texts("options", faults),
            limits: Limits::read(limits, faults),
        };
        if (field.kind == Kind::Select) == field.options.is_empty() {
            node.fault(faults, "`options` belong to the type select, which needs at least one");
        }
        if let Some(default) = node.get("default") {
            match field.check(default.value.clone()) {
                Ok(value) => field.default = Some(value),
                Err(detail) => default.fault(faults, format!("bad default: {detail}")),
            }
        }
        field
    }

    /// The value of this input. `None` when it was not given, is not required and has no default.
    pub(super) fn value(&self, given: Option<&str>) -> Result<Option<Value>, String> {
        match given {
            Some(text) => self.parse(text).and_then(|value| self.check(value)).map(Some),
            None if self.default.is_some() => Ok(self.default.clone()),
            None if self.required => Err(format!("is required: give a {}", self.kind_word())),
            None => Ok(None),
        }
    }

    fn parse(&self, text: &str) -> Result<Value, String> {
        let wrong = |hint: &str| format!("`{text}` is not a {}{hint}", self.kind_word());
        match self.kind {
            Kind::Integer => text
                .trim()
                .parse::<i64>()
                .map(Value::from)
                .map_err(|_| wrong(" such as 3")),
            Kind::Number => match text.trim().parse::<f64>() {
                Ok(number) if number.is_finite() => Ok(Value::from(number)),
                _ => Err(wrong(" such as 2.5")),
            },
            Kind::Boolean => match text.trim() {
                "true" => Ok(Value::Bool(true)),
                "false" => Ok(Value::Bool(false)),
                _ => Err(wrong(": write true or false")),
            },
            Kind::List => {
                let items = serde_json::from_str::<Vec<String>>(text);
                items
                    .map(Value::from)
                    .map_err(|_| wrong(" of texts as JSON, such as [\"a\", \"b\"]"))
            }
            _ => Ok(Value::from(text)),
        }
    }

    /// Checks a value of any JSON type against this field.
    fn check(&self, value: Value) -> Result<Value, String> {
        let wrong = || format!("{value} is not a {}", self.kind_word());
        match self.kind {
            Kind::Text => self.limits.check_text(value.as_str().ok_or_else(wrong)?)?,
            Kind::Integer => self.limits.check_number(value.as_i64().ok_or_else(wrong)? as f64)?,
            Kind::Number => self.limits.check_number(value.as_f64().ok_or_else(wrong)?)?,
            Kind::Boolean => drop(value.as_bool().ok_or_else(wrong)?),
            Kind::Select => {
                let text = value.as_str().ok_or_else(wrong)?;
                if !self.options.iter().any(|o| o == text) {
                    return Err(format!("`{text}` is not one of {}", self.options.join(", ")));
                }
            }
            Kind::List => {
                let items = value.as_array().ok_or_else(wrong)?;
                self.limits.check_length(items.len(), "items")?;
                for item in items {
                    let text = item.as_str().ok_or_else(|| format!("item {item} is not text"))?;
                    if self.limits.pattern.as_ref().is_some_and(|regex| !regex.is_match(text)) {
                        return Err(format!("item `{text}` does not match the pattern"));
                    }
                }
            }
            Kind::Url => {
                let text = value.as_str().ok_or_else(wrong)?;
                check_url(text)?;
                self.limits.check_text(text)?;
            }
            Kind::Date => check_date(value.as_str().ok_or_else(wrong)?)?,
        }
        Ok(value)
    }

    fn kind_word(&self) -> &'static str {
        KINDS
            .iter()
            .find(|(_, kind)| *kind == self.kind)
            .map_or("text", |(word, _)| word)
    }
}

fn check_url(text: &str) -> Result<(), String> {
    let url = url::Url::parse(text).map_err(|e| format!("`{text}` is not a URL: {e}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(format!("`{text}` must begin with http:// or https:// and name a host"));
    }
    Ok(())
}

fn check_date(text: &str) -> Result<(), String> {
    let midnight = format!("{text}T00:00:00Z").parse::<Timestamp>();
    match midnight {
        Ok(_) if text.len() == 10 => Ok(()),
        _ => Err(format!("`{text}` is not a date such as 2026-01-31")),
    }
}
