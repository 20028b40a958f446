//! A YAML value and where it stands, read by hand so that every fault of a file is listed at once with its path.
//! Not a schema language: each reader says what it wants.

use kernel::ConfigFault;
use serde_json::Value;

/// Faults found so far.
pub(super) type Faults = Vec<ConfigFault>;

/// A value and its path, for example `capsules/x.yaml: steps[2].needs[0]`.
#[derive(Clone)]
pub(super) struct Node<'a> {
    file: &'a str,
    at: String,
    /// The value itself.
    pub(super) value: &'a Value,
}

impl<'a> Node<'a> {
    /// The whole file.
    pub(super) fn root(file: &'a str, value: &'a Value) -> Self {
        Self {
            file,
            at: String::new(),
            value,
        }
    }

    /// Path as printed.
    pub(super) fn path(&self) -> String {
        if self.at.is_empty() {
            self.file.to_owned()
        } else {
            format!("{}: {}", self.file, self.at)
        }
    }

    /// Notes a fault here.
    pub(super) fn fault(&self, faults: &mut Faults, detail: impl Into<String>) {
        faults.push(ConfigFault::new(self.path(), detail));
    }

    /// Notes every key that is not one of `known`, and that this is an object at all.
    pub(super) fn keys(&self, known: &[&str], faults: &mut Faults) -> bool {
        let Value::Object(object) = self.value else {
            self.fault(faults, format!("expected an object with {}", known.join(", ")));
            return false;
        };
        for key in object.keys().filter(|k| !known.contains(&k.as_str())) {
            self.child(key, self.value)
                .fault(faults, format!("unknown key; known are {}", known.join(", ")));
        }
        true
    }

    /// The entry of that name; null counts as absent.
    pub(super) fn get(&self, key: &str) -> Option<Node<'a>> {
        let value = self.value.get(key).filter(|v| !v.is_null())?;
        Some(self.child(key, value))
    }

    fn child(&self, key: &str, value: &'a Value) -> Node<'a> {
        let at = if self.at.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.at)
        };
        Node {
            file: self.file,
            at,
            value,
        }
    }

    /// Text that must be there.
    pub(super) fn required_text(&self, key: &str, faults: &mut Faults) -> String {
        match self.get(key) {
            Some(_) => self.text(key, faults).unwrap_or_default(),
            None => {
                self.fault(faults, format!("`{key}` is missing: add it as text"));
                String::new()
            }
        }
    }

    /// Text, or a number written where text is wanted (`version: 1`).
    pub(super) fn text(&self, key: &str, faults: &mut Faults) -> Option<String> {
        let node = self.get(key)?;
        match node.value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => {
                node.fault(faults, "expected text");
                None
            }
        }
    }

    /// A whole number.
    pub(super) fn integer(&self, key: &str, faults: &mut Faults) -> Option<i64> {
        let node = self.get(key)?;
        node.value.as_i64().or_else(|| {
            node.fault(faults, "expected a whole number");
            None
        })
    }

    /// A number.
    pub(super) fn number(&self, key: &str, faults: &mut Faults) -> Option<f64> {
        let node = self.get(key)?;
        node.value.as_f64().or_else(|| {
            node.fault(faults, "expected a number");
            None
        })
    }

    /// True or false; `default` when absent.
    pub(super) fn flag(&self, key: &str, default: bool, faults: &mut Faults) -> bool {
        let Some(node) = self.get(key) else { return default };
        node.value.as_bool().unwrap_or_else(|| {
            node.fault(faults, "expected true or false");
            default
        })
    }

    /// The items of a list; none when absent.
    pub(super) fn list(&self, key: &str, faults: &mut Faults) -> Vec<Node<'a>> {
        let Some(node) = self.get(key) else { return Vec::new() };
        let Value::Array(items) = node.value else {
            node.fault(faults, "expected a list");
            return Vec::new();
        };
        let item = |(i, value)| Node {
            file: self.file,
            at: format!("{}[{i}]", node.at),
            value,
        };
        items.iter().enumerate().map(item).collect()
    }

    /// A list of texts.
    pub(super) fn texts(&self, key: &str, faults: &mut Faults) -> Vec<String> {
        let mut texts = Vec::new();
        for node in self.list(key, faults) {
            match node.value {
                Value::String(text) => texts.push(text.clone()),
                _ => node.fault(faults, "expected text; put it in quotes"),
            }
        }
        texts
    }

    /// Every text below this node, with its own path.
    pub(super) fn strings(&self, visit: &mut dyn FnMut(&Node<'_>, &str)) {
        match self.value {
            Value::String(text) => visit(self, text),
            Value::Array(items) => items.iter().enumerate().for_each(|(i, value)| {
                Node {
                    file: self.file,
                    at: format!("{}[{i}]", self.at),
                    value,
                }
                .strings(visit);
            }),
            Value::Object(object) => object.iter().for_each(|(k, v)| self.child(k, v).strings(visit)),
            _ => {}
        }
    }
}

/// A YAML file as a value. Keys given twice are refused, which plain conversion to JSON would hide.
pub(super) fn read(file: &str, text: &str, faults: &mut Faults) -> Option<Value> {
    let yaml = serde_yaml_ng::from_str::<serde_yaml_ng::Value>(text).map_err(|e| e.to_string());
    match yaml.and_then(|y| serde_json::to_value(y).map_err(|e| e.to_string())) {
        Ok(value) => Some(value),
        Err(error) => {
            faults.push(ConfigFault::new(file, format!("not readable as YAML: {error}")));
            None
        }
    }
}

/// Whether a name may stand in a reference: a-z first, then a-z, 0-9 and `_`, at most 48.
pub(super) fn is_name(text: &str) -> bool {
    let tail = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    text.len() <= 48 && text.bytes().next().is_some_and(|b| b.is_ascii_lowercase()) && text.bytes().all(tail)
}
