//! Runs a bundle's bytecode. regorus' own machine copies a rule's description at every call, counts memory and time at every
//! instruction and asks for a lock at every pattern; this one does the same steps in the same order, and leaves what it does not know to it.
//! An error of a builtin ends it, as with the interpreter.

use std::cell::RefCell;
use std::sync::Arc;

use regex::{Regex, RegexBuilder};
use regorus::Value;
use regorus::unstable::{Expr, Ref, Source, Span};

use super::bytecode::{Code, Kind, Op, Register, Rule};
pub(super) use super::run::Halt;
use super::run::{Answered, Run, length};

/// Answers of functions that are kept within one evaluation.
const ANSWERS_MAX: usize = 64;
/// Largest compiled pattern, as regorus has it.
const PATTERN_BYTES_MAX: usize = 100 * 1024;
/// Patterns kept by a runner.
const PATTERNS_MAX: usize = 256;

/// What a rule's body came to.
enum Came {
    ToItsEnd,
    ToNothing,
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

impl Runner {
    pub(super) fn new(code: Code) -> Option<Self> {
        Self::with(Arc::new(code))
    }

    /// Another of the same program, nothing evaluated yet.
    pub(super) fn another(&self) -> Option<Self> {
        Self::with(Arc::clone(&self.code))
    }

    fn with(code: Arc<Code>) -> Option<Self> {
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
            code,
            places: (0..8).map(|_| null()).collect(),
            place,
            patterns: RefCell::default(),
            run: Run::new(),
        })
    }

    /// The value of the rule that is asked for. A text in the input, `unasked`, stands for what is not there: coming to it is something
    /// unknown.
    ///
    /// # Errors
    /// A builtin fails, it takes too long, or it comes to something unknown.
    pub(super) fn ask(&mut self, input: Value, unasked: Option<&Arc<str>>) -> Result<Value, Halt> {
        let code = Arc::clone(&self.code);
        let run = &mut self.run;
        run.input = input;
        run.unasked = unasked.cloned();
        run.registers.clear();
        run.registers.resize(1, Value::Undefined);
        run.loops.clear();
        run.comprehensions.clear();
        run.known.clear();
        run.known.resize(code.rules.len(), None);
        run.answered.clear();
        run.listed.clear();
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
        self.run.tick()?;
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
            if let Some(over) = definition.over
                && n > 0
                && length(&self.rule(code, over)?).is_none_or(|length| length == 0)
            {
                continue;
            }
            for (i, (body, next_is_else)) in definition.bodies.iter().enumerate() {
                self.run.first = n == 0 && i == 0;
                self.run.clear(retained, rule.registers);
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
                    self.run.goes_through(walk)?;
                    at = self.run.start(*mode, *walk);
                    continue;
                }
                Op::Next => {
                    self.run.tick()?;
                    at = self.run.next()?;
                    continue;
                }
                Op::Comprehend(is_set, walk) => {
                    self.run.goes_through(walk)?;
                    at = self.run.comprehend(*is_set, *walk).unwrap_or(at + 1);
                    continue;
                }
                Op::Yield(value) => {
                    self.run.tick()?;
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
        let builtin = code.builtins.get(index).ok_or(Halt::Unknown)?;
        let run = &self.run;
        if from.iter().any(|r| matches!(run.register(*r), Value::Undefined)) {
            return Ok(Value::Undefined);
        }
        let known = match (builtin.kind, from) {
            (Kind::Matches, [pattern, text]) => {
                let matches = self.matches(run.register(*pattern), run.register(*text));
                matches.map(Value::Bool)
            }
            (Kind::IsNumber, [of]) => Some(Value::Bool(matches!(run.register(*of), Value::Number(_)))),
            (Kind::Count, [of]) => length(run.register(*of)).map(Value::from),
            _ => None,
        };
        if let Some(known) = known {
            return Ok(known);
        }
        if from.iter().any(|r| run.shows(run.register(*r))) {
            return Err(Halt::Unknown);
        }
        let arguments: Vec<_> = from.iter().map(|r| run.register(*r).clone()).collect();
        let places = self.places.get(..arguments.len()).ok_or(Halt::Unknown)?;
        (builtin.call.0)(&self.place, places, &arguments, true).map_err(|error| Halt::Failed(error.to_string()))
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
