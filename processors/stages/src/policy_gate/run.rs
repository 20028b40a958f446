//! One evaluation of a bundle's bytecode: its registers, loops and comprehensions, and every instruction that calls nothing.

use std::sync::Arc;
use std::time::Instant;

use regorus::Value;
use regorus::rvm::instructions::{GuardMode, LoopMode};
use regorus::value::Set;

use super::bytecode::{Comparison, Key, Op, Register, Rule, Walk};
use super::document::filled;
use super::rego::EVALUATION_MAX;

/// Calls and turns of loops between looks at the clock.
const CHECK_INTERVAL: u32 = 1024;
/// Sets that are kept as lists within one evaluation.
const LISTS_MAX: usize = 32;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Halt {
    /// A builtin failed, or it took too long.
    Failed(String),
    /// Something this runner does not know: the machine is asked.
    Unknown,
}

/// Items a loop goes through.
enum Items {
    Array(Value, usize),
    List(Arc<[Value]>, usize),
    Pairs(std::vec::IntoIter<(Value, Value)>),
}

pub(super) struct Loop {
    mode: LoopMode,
    walk: Walk,
    items: Items,
    succeeded: usize,
    gone_through: usize,
    failed: bool,
}

pub(super) struct Comprehension {
    is_set: bool,
    walk: Walk,
    items: Option<Items>,
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
        self.registers[self.window + usize::from(register)] = value;
        true
    }

    fn take_out(&mut self, register: Register) -> Value {
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
                let mut value = self.register(*root);
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
                let value = value.clone();
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

    /// What was not asked for may not be an item of what is gone through.
    pub(super) fn goes_through(&self, walk: &Walk) -> Result<(), Halt> {
        let shown = |item: &Value| matches!(item, Value::String(_)) && self.shows(item);
        let shows = match self.register(walk.collection) {
            Value::Array(items) => items.iter().any(shown),
            Value::Set(items) => items.iter().any(shown),
            Value::Object(fields) => fields.values().any(shown),
            _ => false,
        };
        if shows { Err(Halt::Unknown) } else { Ok(()) }
    }

    /// Begins a loop: where to go on.
    pub(super) fn start(&mut self, mode: LoopMode, walk: Walk) -> usize {
        self.set(walk.result, Value::Bool(false));
        let collection = self.register(walk.collection);
        let is_collection = matches!(collection, Value::Array(_) | Value::Object(_) | Value::Set(_));
        let collection = collection.clone();
        let Some(mut items) = self.items(&collection) else {
            let nothing = match (mode, is_collection) {
                (LoopMode::Every, true) => Value::Bool(true),
                (LoopMode::Every, false) => Value::Undefined,
                _ => Value::Bool(false),
            };
            self.set(walk.result, nothing);
            return walk.end;
        };
        self.item(&mut items, &walk);
        self.loops.push(Loop {
            mode,
            walk,
            items,
            succeeded: 0,
            gone_through: 0,
            failed: false,
        });
        walk.body
    }

    /// The items of a collection; none when it is empty or none at all. A set's are listed once: most rules go through the same.
    fn items(&mut self, collection: &Value) -> Option<Items> {
        if length(collection).is_none_or(|length| length == 0) {
            return None;
        }
        match collection {
            Value::Array(_) => Some(Items::Array(collection.clone(), 0)),
            Value::Set(set) => {
                let listed = self.listed.iter().find(|(of, _)| Arc::ptr_eq(of, set));
                let list = match listed {
                    Some((_, list)) => Arc::clone(list),
                    None => {
                        let list: Arc<[Value]> = set.iter().cloned().collect();
                        if self.listed.len() < LISTS_MAX {
                            self.listed.push((Arc::clone(set), Arc::clone(&list)));
                        }
                        list
                    }
                };
                Some(Items::List(list, 0))
            }
            Value::Object(fields) => {
                let pairs: Vec<_> = fields.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
                Some(Items::Pairs(pairs.into_iter()))
            }
            _ => None,
        }
    }

    /// Puts the next item in its registers; false when there is none.
    fn item(&mut self, items: &mut Items, walk: &Walk) -> bool {
        let (key, value) = match items {
            Items::Array(array, at) => {
                let Value::Array(all) = array else { return false };
                let Some(value) = all.get(*at).cloned() else {
                    return false;
                };
                *at += 1;
                (
                    if walk.key == walk.value {
                        Value::Undefined
                    } else {
                        Value::from(*at - 1)
                    },
                    value,
                )
            }
            Items::List(all, at) => {
                let Some(value) = all.get(*at).cloned() else {
                    return false;
                };
                *at += 1;
                (
                    if walk.key == walk.value {
                        Value::Undefined
                    } else {
                        value.clone()
                    },
                    value,
                )
            }
            Items::Pairs(pairs) => match pairs.next() {
                Some(pair) => pair,
                None => return false,
            },
        };
        if walk.key != walk.value {
            self.set(walk.key, key);
        }
        self.set(walk.value, value)
    }

    /// Ends a turn of the innermost loop: where to go on.
    pub(super) fn next(&mut self) -> Result<usize, Halt> {
        if self.loops.len() <= self.outer.0 {
            return Err(Halt::Unknown);
        }
        let Some(mut turn) = self.loops.pop() else {
            return Err(Halt::Unknown);
        };
        turn.gone_through += 1;
        turn.succeeded += usize::from(!turn.failed);
        let decided = match (turn.mode, turn.failed) {
            (LoopMode::Any, false) => Some(true),
            (LoopMode::Every, true) => Some(false),
            _ => None,
        };
        let result = match decided {
            Some(result) => result,
            None if self.item(&mut turn.items, &turn.walk) => {
                turn.failed = false;
                let body = turn.walk.body;
                self.loops.push(turn);
                return Ok(body);
            }
            None if turn.mode == LoopMode::Every => turn.succeeded == turn.gone_through,
            None => turn.succeeded > 0,
        };
        self.set(turn.walk.result, Value::Bool(result));
        Ok(turn.walk.end)
    }

    /// Begins a comprehension: where to go on, none for the next instruction.
    pub(super) fn comprehend(&mut self, is_set: bool, walk: Walk) -> Option<usize> {
        let empty = if is_set { Value::new_set() } else { Value::new_array() };
        self.set(walk.result, empty);
        let walks = walk.collection != walk.result;
        let collection = self.register(walk.collection).clone();
        let mut found = if walks { self.items(&collection) } else { None };
        let begins = found.as_mut().is_some_and(|items| self.item(items, &walk));
        self.comprehensions.push(Comprehension {
            is_set,
            walk,
            items: found,
        });
        match (walks, begins) {
            (false, _) => None,
            (true, true) => Some(walk.body),
            (true, false) => Some(walk.end),
        }
    }

    /// Takes a value into the innermost comprehension: where to go on, none for the next instruction.
    pub(super) fn take(&mut self, value: Register) -> Result<Option<usize>, Halt> {
        if self.comprehensions.len() <= self.outer.1 {
            return Err(Halt::Unknown);
        }
        let value = self.register(value).clone();
        let Some(mut of) = self.comprehensions.pop() else {
            return Err(Halt::Unknown);
        };
        let mut result = self.take_out(of.walk.result);
        if !of.is_set {
            result.as_array_mut().map_err(|_| Halt::Unknown)?.push(value);
        } else if value != Value::Undefined {
            result.as_set_mut().map_err(|_| Halt::Unknown)?.insert(value);
        }
        self.set(of.walk.result, result);
        let on = self.onward(&mut of);
        self.comprehensions.push(of);
        Ok(on)
    }

    /// The next item of a comprehension that goes through something itself.
    fn onward(&mut self, of: &mut Comprehension) -> Option<usize> {
        let walk = of.walk;
        let items = of.items.as_mut()?;
        if self.item(items, &walk) {
            return Some(walk.body);
        }
        of.items = None;
        Some(walk.end)
    }

    /// A condition failed: where to go on; none when the body came to nothing.
    pub(super) fn fail(&mut self) -> Option<usize> {
        if self.loops.len() > self.outer.0 {
            let innermost = self.loops.last_mut()?;
            if innermost.mode != LoopMode::Every {
                innermost.failed = true;
                return Some(innermost.walk.end - 1);
            }
            let walk = innermost.walk;
            self.loops.pop();
            self.set(walk.result, Value::Bool(false));
            return Some(walk.end);
        }
        if self.comprehensions.len() > self.outer.1 {
            let mut of = self.comprehensions.pop()?;
            let on = self.onward(&mut of).unwrap_or(of.walk.end);
            self.comprehensions.push(of);
            return Some(on);
        }
        None
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
