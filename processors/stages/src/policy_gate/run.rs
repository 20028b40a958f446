//! One evaluation of a bundle's bytecode: its registers, loops and comprehensions, and every instruction that calls nothing.

use std::sync::Arc;
use std::time::Instant;

use regorus::Value;
use regorus::rvm::instructions::GuardMode;
use regorus::value::Set;

use super::bytecode::{Comparison, Key, Op, Register, Rule};
use super::document::filled;
use super::rego::EVALUATION_MAX;
use super::walks::{Comprehension, Loop};

/// Calls and turns of loops between looks at the clock.
const CHECK_INTERVAL: u32 = 1024;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Halt {
    /// A builtin failed, or it took too long.
    Failed(String),
    /// Something this runner does not know: the machine is asked.
    Unknown,
}

/// A function's answer to arguments.
pub(super) struct Answered {
    pub(super) rule: usize,
    pub(super) arguments: Vec<Value>,
    pub(super) answer: Value,
}

/// One evaluation.
pub(super) struct Run {
    pub(super) input: Value,
    /// A text in the input that nothing may look at.
    pub(super) unasked: Option<Arc<str>>,
    pub(super) registers: Vec<Value>,
    /// Where the registers of the rule under way begin.
    pub(super) window: usize,
    pub(super) loops: Vec<Loop>,
    pub(super) comprehensions: Vec<Comprehension>,
    /// Where those of the rule under way begin.
    pub(super) outer: (usize, usize),
    /// Values of rules that were asked for.
    pub(super) known: Vec<Option<Value>>,
    pub(super) answered: Vec<Answered>,
    /// Sets that were gone through, as lists.
    pub(super) listed: Vec<(Arc<Set>, Arc<[Value]>)>,
    pub(super) ran: u32,
    pub(super) until: Option<Instant>,
    /// Whether the rule under way is at its first body.
    pub(super) first: bool,
}

impl Run {
    pub(super) fn new() -> Self {
        Self {
            input: Value::Undefined,
            unasked: None,
            registers: Vec::new(),
            window: 0,
            loops: Vec::new(),
            comprehensions: Vec::new(),
            outer: (0, 0),
            known: Vec::new(),
            answered: Vec::new(),
            listed: Vec::new(),
            ran: 0,
            until: None,
            first: true,
        }
    }

    /// The registers behind the first few are undefined; most are still.
    pub(super) fn clear(&mut self, retained: usize, all: usize) {
        self.registers.resize(self.window + all, Value::Undefined);
        for register in &mut self.registers[self.window + retained..] {
            if !matches!(register, Value::Undefined) {
                *register = Value::Undefined;
            }
        }
    }

    pub(super) fn register(&self, register: Register) -> &Value {
        &self.registers[self.window + usize::from(register)]
    }

    pub(super) fn set(&mut self, register: Register, value: Value) -> bool {
        match std::mem::replace(&mut self.registers[self.window + usize::from(register)], value) {
            // Most registers hold nothing that has to be given back: said here, where it costs no call.
            Value::Undefined | Value::Null | Value::Bool(_) => {}
            held => drop(held),
        }
        true
    }

    pub(super) fn take_out(&mut self, register: Register) -> Value {
        std::mem::replace(
            &mut self.registers[self.window + usize::from(register)],
            Value::Undefined,
        )
    }

    /// Whether a value shows what was not asked for to who looks at all of it.
    pub(super) fn shows(&self, value: &Value) -> bool {
        fn holds(value: &Value, unasked: &Arc<str>) -> bool {
            match value {
                Value::String(text) => Arc::ptr_eq(text, unasked),
                Value::Array(items) => items.iter().any(|v| holds(v, unasked)),
                Value::Set(items) => items.iter().any(|v| holds(v, unasked)),
                Value::Object(fields) => fields.iter().any(|(k, v)| holds(v, unasked) || holds(k, unasked)),
                _ => false,
            }
        }
        self.unasked.as_ref().is_some_and(|unasked| holds(value, unasked))
    }

    /// Whether a comparison would come to what was not asked for. Against what is no collection it does not.
    fn compares(&self, a: &Value, b: &Value) -> bool {
        let collection = |v: &Value| matches!(v, Value::Array(_) | Value::Set(_) | Value::Object(_));
        collection(a) && collection(b) && (self.shows(a) || self.shows(b))
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "a limit on a broken policy: it changes no answer that is given"
    )]
    pub(super) fn tick(&mut self) -> Result<(), Halt> {
        self.ran += 1;
        if self.ran < CHECK_INTERVAL {
            return Ok(());
        }
        self.ran = 0;
        let now = Instant::now();
        let until = *self.until.get_or_insert(now + EVALUATION_MAX);
        if now < until {
            return Ok(());
        }
        let limit = EVALUATION_MAX.as_millis();
        Err(Halt::Failed(format!("it exceeded its time limit of {limit} ms")))
    }

    /// An instruction that goes on to the next one, or whose condition fails: false.
    pub(super) fn perform(&mut self, op: &Op) -> Result<bool, Halt> {
        match op {
            Op::Set(dest, value) => Ok(self.set(*dest, value.clone())),
            Op::Input(dest) => {
                let input = self.input.clone();
                Ok(self.set(*dest, input))
            }
            Op::Move(dest, from) => {
                let value = self.register(*from).clone();
                Ok(self.set(*dest, value))
            }
            Op::Compare(how, dest, left, right) => {
                let (a, b) = (self.register(*left), self.register(*right));
                if self.compares(a, b) {
                    return Err(Halt::Unknown);
                }
                let value = compared(*how, a, b);
                Ok(self.set(*dest, value))
            }
            Op::Not(dest, operand) => {
                let not = is_not(self.register(*operand));
                Ok(self.set(*dest, Value::Bool(not)))
            }
            Op::Equal(left, right) => {
                let (a, b) = (self.register(*left), self.register(*right));
                if self.compares(a, b) {
                    return Err(Halt::Unknown);
                }
                Ok(!matches!(a, Value::Undefined) && !matches!(b, Value::Undefined) && a == b)
            }
            Op::Guard(register, mode) => {
                let value = self.register(*register);
                Ok(match mode {
                    GuardMode::Not => is_not(value),
                    GuardMode::Condition => !matches!(value, Value::Bool(false) | Value::Undefined),
                    GuardMode::NotUndefined => !matches!(value, Value::Undefined),
                })
            }
            Op::Path(dest, root, path) => {
                let value = self.path(*root, path)?;
                Ok(self.set(*dest, value))
            }
            Op::Contains(dest, collection, value) => {
                let (collection, value) = (self.register(*collection), self.register(*value));
                if self.compares(collection, value) {
                    return Err(Halt::Unknown);
                }
                let contains = match collection {
                    Value::Set(items) => items.contains(value),
                    Value::Array(items) => items.contains(value),
                    Value::Object(fields) => fields.values().any(|v| v == value),
                    _ => false,
                };
                Ok(self.set(*dest, Value::Bool(contains)))
            }
            other => self.build(other),
        }
    }

    /// What stands at a path.
    fn path(&self, root: Register, path: &[Key]) -> Result<Value, Halt> {
        let mut value = self.register(root);
        for key in path {
            value = match key {
                Key::Is(key) => &value[key],
                Key::In(register) => {
                    let key = self.register(*register);
                    if self.compares(key, key) {
                        return Err(Halt::Unknown);
                    }
                    &value[key]
                }
            };
            if matches!(value, Value::String(_)) && self.shows(value) {
                return Err(Halt::Unknown);
            }
        }
        Ok(value.clone())
    }

    /// Instructions that make collections.
    fn build(&mut self, op: &Op) -> Result<bool, Halt> {
        match op {
            Op::Count(dest, collection) => {
                let count = length(self.register(*collection));
                Ok(self.set(*dest, count.map_or(Value::Undefined, Value::from)))
            }
            Op::Push(array, value) => {
                let value = self.register(*value).clone();
                let mut items = self.take_out(*array);
                items.as_array_mut().map_err(|_| Halt::Unknown)?.push(value);
                Ok(self.set(*array, items))
            }
            Op::Add(set, value) => {
                let value = self.register(*value).clone();
                let mut items = self.take_out(*set);
                let into = items.as_set_mut().map_err(|_| Halt::Unknown)?;
                if value != Value::Undefined {
                    into.insert(value);
                }
                Ok(self.set(*set, items))
            }
            Op::Array(dest, from) => {
                let items: Option<Vec<_>> = from.iter().map(|r| self.defined(*r)).collect();
                Ok(self.set(*dest, items.map_or(Value::Undefined, Value::from)))
            }
            Op::Items(dest, from) => {
                let items: Option<std::collections::BTreeSet<_>> = from.iter().map(|r| self.defined(*r)).collect();
                Ok(self.set(*dest, items.map_or(Value::Undefined, Value::from)))
            }
            Op::Form(dest, form, from) => {
                let defined = from.iter().all(|r| !matches!(self.register(*r), Value::Undefined));
                let object = if defined {
                    filled(form, from.iter().map(|r| self.register(*r).clone()))
                } else {
                    Value::Undefined
                };
                Ok(self.set(*dest, object))
            }
            Op::Object(dest, from) => {
                let field = |(key, value): &(Key, Register)| {
                    let key = match key {
                        Key::Is(key) => key.clone(),
                        Key::In(register) => self.defined(*register)?,
                    };
                    Some((key, self.defined(*value)?))
                };
                let fields: Option<std::collections::BTreeMap<_, _>> = from.iter().map(field).collect();
                Ok(self.set(*dest, fields.map_or(Value::Undefined, Value::from)))
            }
            _ => Err(Halt::Unknown),
        }
    }

    fn defined(&self, register: Register) -> Option<Value> {
        let value = self.register(register);
        (!matches!(value, Value::Undefined)).then(|| value.clone())
    }

    pub(super) fn begin(&mut self, rule: &Rule, result: Register) -> bool {
        match (rule.is_set, self.first) {
            (false, _) => self.set(result, Value::Undefined),
            (true, true) => self.set(result, Value::new_set()),
            (true, false) => true,
        }
    }
}

fn is_not(value: &Value) -> bool {
    matches!(value, Value::Undefined | Value::Bool(false))
}

fn compared(how: Comparison, a: &Value, b: &Value) -> Value {
    if matches!(a, Value::Undefined) || matches!(b, Value::Undefined) {
        return Value::Undefined;
    }
    Value::Bool(match how {
        Comparison::Equal => a == b,
        Comparison::Unequal => a != b,
        Comparison::Less => a < b,
        Comparison::AtMost => a <= b,
        Comparison::Greater => a > b,
        Comparison::AtLeast => a >= b,
    })
}

/// How many items a collection has.
pub(super) fn length(collection: &Value) -> Option<usize> {
    match collection {
        Value::Array(items) => Some(items.len()),
        Value::Object(fields) => Some(fields.len()),
        Value::Set(items) => Some(items.len()),
        _ => None,
    }
}
