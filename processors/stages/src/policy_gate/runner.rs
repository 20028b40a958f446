//! Runs a bundle's bytecode. regorus' own machine copies a rule's description at every call, counts memory and time at every
//! instruction and asks for a lock at every pattern; this one does the same steps in the same order, and leaves what it does not know to it.
//! An error of a builtin ends it, as with the interpreter.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use regex::{Regex, RegexBuilder};
use regorus::Value;
use regorus::rvm::instructions::{GuardMode, LoopMode};
use regorus::unstable::{Expr, Ref, Source, Span};

use super::bytecode::{Code, Comparison, Key, Op, Register, Rule, Walk};
use super::rego::EVALUATION_MAX;

/// Instructions between looks at the clock.
const CHECK_INTERVAL: u32 = 1024;
/// Answers of functions that are kept within one evaluation.
const ANSWERS_MAX: usize = 64;
/// Largest compiled pattern, as regorus has it.
const PATTERN_BYTES_MAX: usize = 100 * 1024;
/// Patterns kept by a runner.
const PATTERNS_MAX: usize = 256;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Halt {
    /// A builtin failed, or it took too long.
    Failed(String),
    /// Something this runner does not know: the machine is asked.
    Unknown,
}

/// What a rule's body came to.
enum Came {
    ToItsEnd,
    ToNothing,
}

/// Items a loop goes through.
enum Items {
    Array(Value, usize),
    Pairs(std::vec::IntoIter<(Value, Value)>),
}

struct Loop {
    mode: LoopMode,
    walk: Walk,
    items: Items,
    succeeded: usize,
    gone_through: usize,
    failed: bool,
}

struct Comprehension {
    is_set: bool,
    walk: Walk,
    items: Option<Items>,
}

/// A function's answer to arguments.
struct Answered {
    rule: usize,
    arguments: Vec<Value>,
    answer: Value,
}

/// Program and what an evaluation needs.
pub(super) struct Runner {
    code: Arc<Code>,
    /// What builtins are told of where they are called from.
    place: Span,
    places: Vec<Ref<Expr>>,
    patterns: RefCell<Vec<(Value, Regex)>>,
    run: Run,
}

/// One evaluation.
struct Run {
    input: Value,
    registers: Vec<Value>,
    /// Where the registers of the rule under way begin.
    window: usize,
    loops: Vec<Loop>,
    comprehensions: Vec<Comprehension>,
    /// Where those of the rule under way begin.
    outer: (usize, usize),
    /// Values of rules that were asked for.
    known: Vec<Option<Value>>,
    answered: Vec<Answered>,
    ran: u32,
    until: Option<Instant>,
    /// Whether the rule under way is at its first body.
    first: bool,
}

impl Runner {
    pub(super) fn new(code: Code) -> Option<Self> {
        let source = Source::from_contents("<builtin>".to_owned(), String::new()).ok()?;
        let place = Span {
            source,
            line: 1,
            col: 1,
            start: 0,
            end: 0,
        };
        let null = || {
            Ref::new(Expr::Null {
                span: place.clone(),
                value: Value::Null,
                eidx: 0,
            })
        };
        Some(Self {
            code: Arc::new(code),
            places: (0..8).map(|_| null()).collect(),
            place,
            patterns: RefCell::default(),
            run: Run::new(),
        })
    }

    /// The value of the rule that is asked for.
    ///
    /// # Errors
    /// A builtin fails, it takes too long, or it comes to something unknown.
    pub(super) fn ask(&mut self, input: Value) -> Result<Value, Halt> {
        let code = Arc::clone(&self.code);
        let run = &mut self.run;
        run.input = input;
        run.registers.clear();
        run.registers.resize(1, Value::Undefined);
        run.loops.clear();
        run.comprehensions.clear();
        run.known.clear();
        run.known.resize(code.rules.len(), None);
        run.answered.clear();
        (run.window, run.outer, run.ran, run.until) = (0, (0, 0), 0, None);
        self.rule(&code, code.asked)
    }

    /// The value of a rule, worked out once.
    fn rule(&mut self, code: &Code, index: usize) -> Result<Value, Halt> {
        if let Some(known) = self.run.known.get(index).ok_or(Halt::Unknown)? {
            return Ok(known.clone());
        }
        let rule = &code.rules[index];
        let value = match self.define(code, rule, &[])? {
            Value::Undefined if rule.is_set => Value::new_set(),
            Value::Undefined => rule.default.clone().unwrap_or(Value::Undefined),
            value => value,
        };
        self.run.known[index] = Some(value.clone());
        Ok(value)
    }

    /// A function's value, worked out once for the same arguments.
    fn function(&mut self, code: &Code, index: usize, from: &[Register]) -> Result<Value, Halt> {
        let rule = code.rules.get(index).ok_or(Halt::Unknown)?;
        let run = &self.run;
        let alike = |known: &&Answered| {
            known.rule == index && known.arguments.iter().zip(from).all(|(k, r)| same(k, run.register(*r)))
        };
        if let Some(known) = run.answered.iter().find(alike) {
            return Ok(known.answer.clone());
        }
        let arguments: Vec<_> = from.iter().map(|r| run.register(*r).clone()).collect();
        let answer = match self.define(code, rule, &arguments)? {
            Value::Undefined => rule.default.clone().unwrap_or(Value::Undefined),
            value => value,
        };
        if self.run.answered.len() < ANSWERS_MAX {
            self.run.answered.push(Answered {
                rule: index,
                arguments,
                answer: answer.clone(),
            });
        }
        Ok(answer)
    }

    /// Goes through the definitions of a rule, in registers of its own.
    fn define(&mut self, code: &Code, rule: &Rule, arguments: &[Value]) -> Result<Value, Halt> {
        let outer = (self.run.window, self.run.outer, self.run.first);
        let window = self.run.registers.len();
        self.run.window = window;
        self.run.outer = (self.run.loops.len(), self.run.comprehensions.len());
        self.run.registers.push(Value::Undefined);
        self.run.registers.extend(arguments.iter().cloned());
        let retained = match (rule.is_function, rule.is_set) {
            (true, _) => arguments.len() + 1,
            (false, true) => 1,
            (false, false) => 0,
        };
        let value = self.definitions(code, rule, retained);
        self.run.registers.truncate(window);
        self.run.loops.truncate(self.run.outer.0);
        self.run.comprehensions.truncate(self.run.outer.1);
        (self.run.window, self.run.outer, self.run.first) = outer;
        value
    }

    fn definitions(&mut self, code: &Code, rule: &Rule, retained: usize) -> Result<Value, Halt> {
        let mut found: Option<Value> = None;
        for (n, definition) in rule.definitions.iter().enumerate() {
            for (i, (body, next_is_else)) in definition.bodies.iter().enumerate() {
                self.run.first = n == 0 && i == 0;
                let window = self.run.window;
                self.run.registers.truncate(window + retained);
                self.run.registers.resize(window + rule.registers, Value::Undefined);
                if let Some(arguments) = definition.arguments
                    && let Came::ToNothing = self.go(code, rule, arguments)?
                {
                    break;
                }
                if let Came::ToNothing = self.go(code, rule, *body)? {
                    continue;
                }
                if !rule.is_set || rule.is_function {
                    let value = self.run.register(rule.result).clone();
                    match (&found, value) {
                        (_, Value::Undefined) => {}
                        (None, value) => {
                            found = Some(value);
                            if rule.first_is_enough {
                                return Ok(found.unwrap_or(Value::Undefined));
                            }
                        }
                        // Two values of one rule: what comes of it is not for us to say.
                        (Some(one), other) if *one != other => return Err(Halt::Unknown),
                        _ => {}
                    }
                }
                if !rule.is_set || *next_is_else {
                    break;
                }
            }
        }
        Ok(found.unwrap_or_else(|| self.run.register(rule.result).clone()))
    }

    /// Runs from a place to the end of the body.
    fn go(&mut self, code: &Code, rule: &Rule, from: usize) -> Result<Came, Halt> {
        let mut at = from;
        loop {
            let op = code.ops.get(at).ok_or(Halt::Unknown)?;
            self.run.tick()?;
            let passes = match op {
                Op::Return => return Ok(Came::ToItsEnd),
                Op::Rule(dest, index) => {
                    let value = self.rule(code, *index)?;
                    self.run.set(*dest, value)
                }
                Op::Function(dest, index, from) => {
                    let value = self.function(code, *index, from)?;
                    self.run.set(*dest, value)
                }
                Op::Builtin(dest, index, from) => {
                    let value = self.builtin(code, *index, from)?;
                    self.run.set(*dest, value)
                }
                Op::Begin(result) => self.run.begin(rule, *result),
                Op::Loop(mode, walk) => {
                    at = self.run.start(*mode, *walk);
                    continue;
                }
                Op::Next => {
                    at = self.run.next()?;
                    continue;
                }
                Op::Comprehend(is_set, walk) => {
                    at = self.run.comprehend(*is_set, *walk).unwrap_or(at + 1);
                    continue;
                }
                Op::Yield(value) => {
                    at = self.run.take(*value)?.unwrap_or(at + 1);
                    continue;
                }
                Op::Comprehended => {
                    if self.run.comprehensions.len() <= self.run.outer.1 {
                        return Err(Halt::Unknown);
                    }
                    self.run.comprehensions.pop();
                    true
                }
                op => self.run.perform(op)?,
            };
            if passes {
                at += 1;
                continue;
            }
            match self.run.fail() {
                Some(on) => at = on,
                None => return Ok(Came::ToNothing),
            }
        }
    }

    fn builtin(&self, code: &Code, index: usize, from: &[Register]) -> Result<Value, Halt> {
        let (name, builtin) = code.builtins.get(index).ok_or(Halt::Unknown)?;
        let run = &self.run;
        if from.iter().any(|r| *run.register(*r) == Value::Undefined) {
            return Ok(Value::Undefined);
        }
        if name == "regex.match"
            && let [pattern, text] = from
            && let Some(matches) = self.matches(run.register(*pattern), run.register(*text))
        {
            return Ok(Value::Bool(matches));
        }
        let arguments: Vec<_> = from.iter().map(|r| run.register(*r).clone()).collect();
        let places = self.places.get(..arguments.len()).ok_or(Halt::Unknown)?;
        (builtin.0)(&self.place, places, &arguments, true).map_err(|error| Halt::Failed(error.to_string()))
    }

    /// Whether a pattern occurs, for patterns that compile: regorus' builtin makes the space a match needs anew each time.
    fn matches(&self, pattern: &Value, text: &Value) -> Option<bool> {
        let Value::String(text) = text else { return None };
        let mut patterns = self.patterns.borrow_mut();
        if let Some((_, compiled)) = patterns.iter().find(|(known, _)| same(known, pattern)) {
            return Some(compiled.is_match(text));
        }
        let Value::String(wanted) = pattern else { return None };
        let compiled = RegexBuilder::new(wanted).size_limit(PATTERN_BYTES_MAX).build().ok()?;
        let matches = compiled.is_match(text);
        if patterns.len() < PATTERNS_MAX {
            patterns.push((pattern.clone(), compiled));
        }
        Some(matches)
    }
}

impl Run {
    fn new() -> Self {
        Self {
            input: Value::Undefined,
            registers: Vec::new(),
            window: 0,
            loops: Vec::new(),
            comprehensions: Vec::new(),
            outer: (0, 0),
            known: Vec::new(),
            answered: Vec::new(),
            ran: 0,
            until: None,
            first: true,
        }
    }

    fn register(&self, register: Register) -> &Value {
        &self.registers[self.window + usize::from(register)]
    }

    fn set(&mut self, register: Register, value: Value) -> bool {
        self.registers[self.window + usize::from(register)] = value;
        true
    }

    fn take_out(&mut self, register: Register) -> Value {
        std::mem::replace(
            &mut self.registers[self.window + usize::from(register)],
            Value::Undefined,
        )
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "a limit on a broken policy: it changes no answer that is given"
    )]
    fn tick(&mut self) -> Result<(), Halt> {
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
    fn perform(&mut self, op: &Op) -> Result<bool, Halt> {
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
                let value = compared(*how, self.register(*left), self.register(*right));
                Ok(self.set(*dest, value))
            }
            Op::Not(dest, operand) => {
                let not = is_not(self.register(*operand));
                Ok(self.set(*dest, Value::Bool(not)))
            }
            Op::Equal(left, right) => {
                let (a, b) = (self.register(*left), self.register(*right));
                Ok(*a != Value::Undefined && *b != Value::Undefined && a == b)
            }
            Op::Guard(register, mode) => {
                let value = self.register(*register);
                Ok(match mode {
                    GuardMode::Not => is_not(value),
                    GuardMode::Condition => !matches!(value, Value::Bool(false) | Value::Undefined),
                    GuardMode::NotUndefined => *value != Value::Undefined,
                })
            }
            Op::Path(dest, root, path) => {
                let mut value = self.register(*root);
                for key in path {
                    value = match key {
                        Key::Is(key) => &value[key],
                        Key::In(register) => &value[self.register(*register)],
                    };
                }
                let value = value.clone();
                Ok(self.set(*dest, value))
            }
            Op::Contains(dest, collection, value) => {
                let (collection, value) = (self.register(*collection), self.register(*value));
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
                let count = match self.register(*collection) {
                    Value::Array(items) => Value::from(items.len()),
                    Value::Object(fields) => Value::from(fields.len()),
                    Value::Set(items) => Value::from(items.len()),
                    _ => Value::Undefined,
                };
                Ok(self.set(*dest, count))
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
        (*value != Value::Undefined).then(|| value.clone())
    }

    fn begin(&mut self, rule: &Rule, result: Register) -> bool {
        match (rule.is_set, self.first) {
            (false, _) => self.set(result, Value::Undefined),
            (true, true) => self.set(result, Value::new_set()),
            (true, false) => true,
        }
    }

    /// Begins a loop: where to go on.
    fn start(&mut self, mode: LoopMode, walk: Walk) -> usize {
        self.set(walk.result, Value::Bool(false));
        let collection = self.register(walk.collection);
        let is_collection = matches!(collection, Value::Array(_) | Value::Object(_) | Value::Set(_));
        let Some(mut items) = items(collection) else {
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

    /// Puts the next item in its registers; false when there is none.
    fn item(&mut self, items: &mut Items, walk: &Walk) -> bool {
        let next = match items {
            Items::Array(array, at) => {
                let Value::Array(all) = array else { return false };
                let item = all.get(*at).cloned().map(|value| (Value::from(*at), value));
                *at += 1;
                item
            }
            Items::Pairs(pairs) => pairs.next(),
        };
        let Some((key, value)) = next else { return false };
        if walk.key != walk.value {
            self.set(walk.key, key);
        }
        self.set(walk.value, value)
    }

    /// Ends a turn of the innermost loop: where to go on.
    fn next(&mut self) -> Result<usize, Halt> {
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
    fn comprehend(&mut self, is_set: bool, walk: Walk) -> Option<usize> {
        let empty = if is_set { Value::new_set() } else { Value::new_array() };
        self.set(walk.result, empty);
        let walks = walk.collection != walk.result;
        let mut found = if walks {
            items(self.register(walk.collection))
        } else {
            None
        };
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
    fn take(&mut self, value: Register) -> Result<Option<usize>, Halt> {
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
    fn fail(&mut self) -> Option<usize> {
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

/// Whether two values are known to be the same without a look into them.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => Arc::ptr_eq(a, b),
        (Value::Object(a), Value::Object(b)) => Arc::ptr_eq(a, b),
        (Value::Set(a), Value::Set(b)) => Arc::ptr_eq(a, b),
        (Value::String(a), Value::String(b)) => a == b,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Null, Value::Null) | (Value::Undefined, Value::Undefined) => true,
        // Not numbers: 1 and 1.0 are equal and print differently.
        _ => false,
    }
}

fn is_not(value: &Value) -> bool {
    matches!(value, Value::Undefined | Value::Bool(false))
}

fn compared(how: Comparison, a: &Value, b: &Value) -> Value {
    if *a == Value::Undefined || *b == Value::Undefined {
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

/// The items of a collection; none when it is empty or none at all.
fn items(collection: &Value) -> Option<Items> {
    let pairs = |pairs: Vec<(Value, Value)>| (!pairs.is_empty()).then(|| Items::Pairs(pairs.into_iter()));
    match collection {
        Value::Array(array) => (!array.is_empty()).then(|| Items::Array(collection.clone(), 0)),
        Value::Object(fields) => pairs(fields.iter().map(|(k, v)| (k.clone(), v.clone())).collect()),
        Value::Set(set) => pairs(set.iter().map(|v| (v.clone(), v.clone())).collect()),
        _ => None,
    }
}
