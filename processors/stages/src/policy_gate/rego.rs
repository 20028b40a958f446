//! The Rego engine as the gate runs it: no clock, no network, no randomness, and an error of a builtin ends the evaluation.

use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, Value};
use serde_json::{Map, Value as Json};

use super::bundle::{Bundle, ENTRY_POINTS};
use super::machine::Machine;
use super::recursion::recursive;

/// Longest one evaluation may take. Policies take microseconds; one that takes this long is broken, and the gate denies.
pub(super) const EVALUATION_MAX: Duration = Duration::from_millis(500);
/// Work units between looks at the clock.
const CHECK_INTERVAL: NonZeroU32 = NonZeroU32::new(1024).unwrap();

/// An engine without policies.
pub(super) fn engine() -> Engine {
    let mut engine = Engine::new();
    engine.set_strict_builtin_errors(true);
    engine.set_execution_timer_config(timer());
    engine
}

/// What bounds an evaluation.
pub(super) fn timer() -> ExecutionTimerConfig {
    ExecutionTimerConfig {
        limit: EVALUATION_MAX,
        check_interval: CHECK_INTERVAL,
    }
}

/// Asks an engine. One that panics, as a builtin does on arguments it did not foresee, is replaced by a copy of `pristine`: the
/// question fails and the next one is answered.
pub(super) fn asked<T>(
    engine: &mut Engine,
    pristine: &Engine,
    question: impl FnOnce(&mut Engine) -> Result<T, String>,
) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(|| question(engine))).unwrap_or_else(|panic| {
        *engine = pristine.clone();
        Err(broke_down(&*panic))
    })
}

fn broke_down(panic: &(dyn std::any::Any + Send)) -> String {
    let said = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    let said = said
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    format!("the policy engine broke down: {said}")
}

/// A bundle's entry points, evaluated: compiled where that is safe, else interpreted.
pub(super) struct Evaluator {
    entries: Vec<&'static str>,
    machine: Option<Machine>,
    engine: Engine,
    /// What the engine is replaced by when it breaks down.
    pristine: Engine,
    /// In place of what a document leaves out.
    unasked: Arc<str>,
    /// Documents are given whole: its policies look at what is left out, or nothing here can tell.
    whole: bool,
}

impl Evaluator {
    pub(super) fn of(bundle: &Bundle) -> Self {
        let entries = bundle.entries();
        let machine = Machine::of(&bundle.engine, &entries).ok();
        Self {
            whole: machine.is_none(),
            machine,
            engine: bundle.engine.clone(),
            pristine: bundle.engine.clone(),
            entries,
            unasked: Arc::from("what the tool says was not asked for"),
        }
    }

    /// Another of the same bundle: the same bytecode, nothing evaluated yet.
    pub(super) fn another(&self) -> Self {
        Self {
            entries: self.entries.clone(),
            machine: self.machine.as_ref().and_then(|machine| machine.another().ok()),
            engine: self.pristine.clone(),
            pristine: self.pristine.clone(),
            unasked: Arc::clone(&self.unasked),
            whole: self.whole,
        }
    }

    /// What stands in a document for what it leaves out.
    pub(super) fn unasked(&self) -> &Arc<str> {
        &self.unasked
    }

    /// Each entry point and its value. `document` gives the input, whole or without what costs most: that it is asked for again when a
    /// policy looks at what is left out.
    ///
    /// # Errors
    /// The evaluation fails, takes too long or breaks down.
    pub(super) fn ask(&mut self, document: impl Fn(bool) -> Value) -> Result<Vec<(&'static str, Value)>, String> {
        if let Some(machine) = &mut self.machine {
            let (unasked, wants_whole) = (&self.unasked, &mut self.whole);
            let question = || {
                if !*wants_whole && let Some(answer) = machine.ask_runner(document(false), Some(unasked)) {
                    return answer;
                }
                // From now on at once: what policies look at, they mostly look at again.
                *wants_whole = true;
                machine.ask(document(true))
            };
            let answer = catch_unwind(AssertUnwindSafe(question)).unwrap_or_else(|panic| {
                machine.reset();
                Err(broke_down(&*panic))
            })?;
            let values = answer
                .as_array()
                .map_err(|_| "an entry point is undefined".to_owned())?;
            return Ok(self.entries.iter().copied().zip(values.iter().cloned()).collect());
        }
        asked(&mut self.engine, &self.pristine, |engine| {
            engine.set_input(document(true));
            let value = |entry: &&'static str| {
                let value = engine.eval_rule((*entry).to_owned()).map_err(|e| e.to_string())?;
                Ok((*entry, value))
            };
            self.entries.iter().map(value).collect()
        })
    }
}

/// Policies and data to ask questions of, whatever they define: for authors, and to hold this engine beside OPA.
#[derive(Clone)]
pub struct Rego(Engine);

impl std::fmt::Debug for Rego {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rego")
    }
}

impl Rego {
    /// Reads modules, as (path, text), and data.
    ///
    /// # Errors
    /// A module does not parse, uses a variable that is not bound, comes back to itself, or data is no object.
    pub fn new(modules: &[(String, String)], data: &Json) -> Result<Self, String> {
        let mut engine = engine();
        for (path, text) in modules {
            engine
                .add_policy(path.clone(), text.clone())
                .map_err(|e| e.to_string())?;
        }
        if let Some(fault) = recursive(&engine).first() {
            return Err(fault.to_string());
        }
        if !data.is_null() {
            engine.add_data(Value::from(data.clone())).map_err(|e| e.to_string())?;
        }
        // Names and variables of all modules are looked into at the first question.
        let mut rego = Self(engine);
        rego.ask("true", None)?;
        Ok(rego)
    }

    /// An engine that holds policies already.
    pub(super) fn of(engine: Engine) -> Self {
        Self(engine)
    }

    /// The value of a rule as bytecode, where everything that can err in it shows; none where it is left to the interpreter.
    /// No answer means undefined.
    ///
    /// # Errors
    /// As [`Rego::ask`].
    pub fn compiled(&self, rule: &str, input: Option<&Json>) -> Option<Result<Vec<Json>, String>> {
        let mut machine = Machine::of(&self.0, &[rule]).ok()?;
        let input = input.map_or(Value::Undefined, |i| Value::from(i.clone()));
        Some(machine.ask(input).and_then(|answers| {
            match answers.as_array() {
                Ok(answers) => answers
                    .iter()
                    .map(|v| serde_json::to_value(v).map_err(|e| e.to_string()))
                    .collect(),
                Err(_) => Ok(Vec::new()),
            }
        }))
    }

    /// Everything that the gate's entry points find in an input document.
    ///
    /// # Errors
    /// As [`Rego::ask`].
    pub fn findings(&mut self, input: &Json) -> Result<Vec<Json>, String> {
        self.0.set_input(Value::from(input.clone()));
        let mut found = Vec::new();
        for rule in ENTRY_POINTS {
            let set = self.0.eval_rule(rule.to_owned()).map_err(|e| e.to_string())?;
            for item in set.as_set().map_err(|e| e.to_string())?.iter() {
                found.push(serde_json::to_value(item).map_err(|e| e.to_string())?);
            }
        }
        Ok(found)
    }

    /// What a query gives: for each answer its bindings, or, when it binds nothing, the values of its expressions. No answer
    /// means undefined.
    ///
    /// # Errors
    /// The query does not parse, or its evaluation fails or takes too long.
    pub fn ask(&mut self, query: &str, input: Option<&Json>) -> Result<Vec<Json>, String> {
        let pristine = self.0.clone();
        let results = asked(&mut self.0, &pristine, |engine| {
            engine.set_input(input.map_or(Value::Undefined, |i| Value::from(i.clone())));
            engine.eval_query(query.to_owned(), false).map_err(|e| e.to_string())
        })?;
        let json = |v: &Value| serde_json::to_value(v).map_err(|e| e.to_string());
        let mut answers = Vec::new();
        for result in results.result {
            let Json::Object(bound) = json(&result.bindings)? else {
                continue;
            };
            if !bound.is_empty() {
                answers.push(Json::Object(bound));
                continue;
            }
            if result.expressions.iter().any(|e| e.value == Value::Undefined) {
                continue;
            }
            let values = result.expressions.iter().map(|e| json(&e.value));
            let values = values.collect::<Result<Vec<_>, _>>()?;
            answers.push(Json::Object(Map::from_iter([(
                "values".to_owned(),
                Json::Array(values),
            )])));
        }
        Ok(answers)
    }
}
