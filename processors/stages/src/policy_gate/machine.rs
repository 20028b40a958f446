//! A bundle as bytecode: several times as fast as the interpreter. The machine takes an error inside a rule for an answer that is not
//! there, so a rule that errs would say nothing and what it should deny would pass. Two things make it safe: every builtin is watched
//! from outside the machine, and one error of one of them fails the whole judgement, as with the interpreter; and a bundle with
//! anything else that can err (`unseen` lists it) is left to the interpreter.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use regorus::languages::rego::compiler::Compiler;
use regorus::rvm::instructions::{ComprehensionMode, Instruction, LoopMode};
use regorus::rvm::program::{Program, RuleInfo, RuleType};
use regorus::rvm::vm::{ExecutionMode, RegoVM};
use regorus::unstable::{BuiltinFcn, Expr, Ref, Rule, RuleHead, Span};
use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, Value};
use serde_json::Value as Json;

use super::bytecode::Code;
use super::rego::timer;
use super::runner::{Halt, Runner};

/// The module that asks for everything at once: rules that several entry points rest on are evaluated once.
const QUESTION: &str = "data.soma_question.answers";
/// The timer is what bounds an evaluation.
const INSTRUCTIONS_MAX: usize = usize::MAX;

type Builtin = fn(&Span, &[Ref<Expr>], &[Value], bool) -> anyhow::Result<Value>;

/// Builtins that can be watched at once in a process. A bundle that needs one more is left to the interpreter.
const SLOTS: usize = 128;
static ORIGINALS: [OnceLock<Builtin>; SLOTS] = [const { OnceLock::new() }; SLOTS];
/// Slot by the builtin's name.
static NAMES: Mutex<BTreeMap<String, usize>> = Mutex::new(BTreeMap::new());

thread_local! {
    /// The first error of a builtin in the evaluation under way.
    static ERRED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Calls a builtin strictly and notes its error. The machine knows functions alone, nothing that could carry the one that is watched:
/// hence a function for each slot.
fn watched<const SLOT: usize>(
    span: &Span,
    expressions: &[Ref<Expr>],
    arguments: &[Value],
    _strict: bool,
) -> anyhow::Result<Value> {
    let original = ORIGINALS[SLOT]
        .get()
        .ok_or_else(|| anyhow::anyhow!("no builtin is watched here"));
    let answer = original.and_then(|original| original(span, expressions, arguments, true));
    if let Err(error) = &answer {
        ERRED.with_borrow_mut(|erred| {
            erred.get_or_insert_with(|| error.to_string());
        });
    }
    answer
}

macro_rules! watchers {
    ($($tens:literal)*) => {
        [$(watched::<{ $tens }>, watched::<{ $tens + 1 }>, watched::<{ $tens + 2 }>, watched::<{ $tens + 3 }>,
           watched::<{ $tens + 4 }>, watched::<{ $tens + 5 }>, watched::<{ $tens + 6 }>, watched::<{ $tens + 7 }>),*]
    };
}
const WATCHERS: [Builtin; SLOTS] = watchers!(0 8 16 24 32 40 48 56 64 72 80 88 96 104 112 120);

/// The watched form of a builtin.
fn watch(name: &str, builtin: Builtin) -> Option<Builtin> {
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    let next = names.len();
    let slot = *names.entry(name.to_owned()).or_insert(next);
    if slot >= SLOTS {
        names.remove(name);
        return None;
    }
    ORIGINALS[slot].get_or_init(|| builtin);
    Some(WATCHERS[slot])
}

/// A bundle, compiled.
pub(super) struct Machine {
    /// What runs it; none when it holds something only the machine knows.
    runner: Option<Runner>,
    vm: RegoVM,
    program: Arc<Program>,
    data: Value,
}

impl Machine {
    /// The bundle of an engine with these entry points.
    ///
    /// # Errors
    /// Why it is left to the interpreter.
    pub(super) fn of(engine: &Engine, entries: &[&str]) -> Result<Self, String> {
        let mut engine = engine.clone();
        if let Some(what) = misread(&mut engine) {
            return Err(what);
        }
        let constant = constant(&mut engine);
        let text = format!("package soma_question\n\nanswers := [{}]\n", entries.join(", "));
        let file = "question.rego".to_owned();
        engine.add_policy(file, text).map_err(|e| e.to_string())?;
        let policy = engine
            .compile_with_entrypoint(&QUESTION.into())
            .map_err(|e| e.to_string())?;
        let program = Compiler::compile_from_policy(&policy, &[QUESTION]).map_err(|e| e.to_string())?;
        let mut program = Arc::into_inner(program).ok_or("its program is held elsewhere")?;
        if let Some(why) = unseen(&program, &constant) {
            return Err(why);
        }
        let data = engine.get_data();
        let entry = program
            .get_entry_point(QUESTION)
            .ok_or("its entry point is not there")?;
        let runner = Code::of(&program, entry, &data).and_then(Runner::new);
        let names: Vec<_> = program.builtin_info_table.iter().map(|b| b.name.clone()).collect();
        for (name, builtin) in names.iter().zip(&mut program.resolved_builtins) {
            let original: BuiltinFcn = *builtin;
            let watched = watch(name, original.0).ok_or("too many different builtins are watched already")?;
            *builtin = (watched, original.1);
        }
        if names.len() != program.resolved_builtins.len() {
            return Err("a builtin is not resolved".to_owned());
        }
        let program = Arc::new(program);
        let vm = ready(&program, &data)?;
        Ok(Self {
            runner,
            vm,
            program,
            data,
        })
    }

    /// The values of the entry points for an input, in their order. One that is undefined makes the whole undefined: an error.
    ///
    /// # Errors
    /// A builtin failed, or it took too long.
    pub(super) fn ask(&mut self, input: Value) -> Result<Value, String> {
        match self.ask_runner(input.clone(), None) {
            Some(answer) => answer,
            None => self.ask_machine(input),
        }
    }

    /// The same from the runner alone; none when it comes to something it does not know, or looks at `unasked`.
    pub(super) fn ask_runner(&mut self, input: Value, unasked: Option<&Arc<str>>) -> Option<Result<Value, String>> {
        match self.runner.as_mut()?.ask(input, unasked) {
            Ok(answer) => Some(Ok(answer)),
            Err(Halt::Failed(error)) => Some(Err(error)),
            Err(Halt::Unknown) => None,
        }
    }

    /// The same from regorus' machine.
    pub(super) fn ask_machine(&mut self, input: Value) -> Result<Value, String> {
        ERRED.take();
        self.vm.set_input(input);
        let answer = self.vm.execute_entry_point_by_index(0).map_err(|e| e.to_string());
        match ERRED.take() {
            Some(error) => Err(error),
            None => answer,
        }
    }

    /// Another machine of the same program.
    ///
    /// # Errors
    /// Its data does not fit.
    pub(super) fn another(&self) -> Result<Self, String> {
        Ok(Self {
            runner: self.runner.as_ref().and_then(Runner::another),
            vm: ready(&self.program, &self.data)?,
            program: Arc::clone(&self.program),
            data: self.data.clone(),
        })
    }

    /// Begins anew after the machine broke down.
    pub(super) fn reset(&mut self) {
        if let Ok(vm) = ready(&self.program, &self.data) {
            self.vm = vm;
        }
    }
}

fn ready(program: &Arc<Program>, data: &Value) -> Result<RegoVM, String> {
    let mut vm = RegoVM::new();
    vm.load_program(Arc::clone(program));
    vm.set_max_instructions(INSTRUCTIONS_MAX);
    vm.set_execution_mode(ExecutionMode::RunToCompletion);
    let config: ExecutionTimerConfig = timer();
    vm.set_execution_timer_config(Some(config));
    // Not strict: what can err is watched, and a comparison of unlike things has an answer in Rego.
    vm.set_strict_builtin_errors(false);
    vm.set_data(data.clone()).map_err(|e| e.to_string())?;
    Ok(vm)
}

/// What in a program, beside its builtins, can err and would go unseen: the machine takes it for undefined, OPA and the interpreter
/// for an error.
fn unseen(program: &Program, constant: &BTreeSet<String>) -> Option<String> {
    let of = |instruction: &Instruction| match instruction {
        Instruction::Add { .. } | Instruction::Sub { .. } | Instruction::Mul { .. } => Some("arithmetic"),
        Instruction::Div { .. } | Instruction::Mod { .. } => Some("a division"),
        Instruction::And { .. } | Instruction::Or { .. } => Some("`&` or `|`"),
        Instruction::HostAwait { .. } | Instruction::PolicyCondition { .. } => Some("something that is not Rego"),
        Instruction::VirtualDataDocumentLookup { .. } => Some("a rule that is looked up by a name computed"),
        Instruction::ComprehensionBegin { params_index } => {
            let params = program.instruction_data.get_comprehension_begin_params(*params_index);
            let object = params.is_none_or(|p| matches!(p.mode, ComprehensionMode::Object));
            object.then_some("an object built from pairs")
        }
        _ => None,
    };
    let code = program.instructions.iter().find_map(of).map(str::to_owned);
    let contradicts = |rule: &RuleInfo| contradicts(program, rule, constant.contains(&rule.name));
    code.or_else(|| program.rule_infos.iter().find_map(contradicts))
}

/// Whether a rule may give two values, which is an error.
fn contradicts(program: &Program, rule: &RuleInfo, constant: bool) -> Option<String> {
    let name = &rule.name;
    match rule.rule_type {
        RuleType::PartialSet => None,
        RuleType::PartialObject => Some(format!("{name} builds an object from pairs")),
        RuleType::Complete if rule.definitions.len() > 1 && !rule.early_exit_on_first_success => {
            Some(format!("{name} has several definitions: join them with `else`"))
        }
        RuleType::Complete if constant => None,
        RuleType::Complete => {
            let mut bodies = rule.definitions.iter().flatten();
            let many = bodies.any(|entry| goes_through_all(program, *entry));
            many.then(|| format!("{name} has a value for each of several things it goes through"))
        }
    }
}

/// Whether a body goes through a collection and takes a value from each item, outside of a comprehension.
fn goes_through_all(program: &Program, entry: u32) -> bool {
    let from = usize::try_from(entry).unwrap_or(usize::MAX);
    let mut within = 0_usize;
    for instruction in program.instructions.iter().skip(from) {
        match instruction {
            Instruction::RuleReturn {} => return false,
            Instruction::ComprehensionBegin { .. } => within += 1,
            Instruction::ComprehensionEnd {} => within = within.saturating_sub(1),
            Instruction::LoopStart { params_index } if within == 0 => {
                let params = program.instruction_data.get_loop_params(*params_index);
                if params.is_none_or(|p| !matches!(p.mode, LoopMode::Every)) {
                    return true;
                }
            }
            _ => {}
        }
    }
    // A body without an end is not understood.
    true
}

/// What in the text of a bundle the machine reads otherwise than the interpreter: `make opa` found each.
fn misread(engine: &mut Engine) -> Option<String> {
    let tree = engine.get_ast_as_json().map_err(|e| e.to_string());
    let tree = tree.and_then(|text| serde_json::from_str::<Json>(&text).map_err(|e| e.to_string()));
    let lookup = match &tree {
        Ok(tree) => looks_up(tree),
        Err(error) => Some(format!("its tree cannot be looked through: {error}")),
    };
    if lookup.is_some() {
        return lookup;
    }
    for module in engine.get_modules() {
        let of_data = |import: &regorus::unstable::Import| import.refr.span().text().starts_with("data");
        if module.imports.iter().any(of_data) {
            return Some("an import of data: name it in full".to_owned());
        }
        if module.policy.is_empty() {
            return Some("a module without a rule".to_owned());
        }
        for rule in &module.policy {
            let (span, what) = match rule.as_ref() {
                Rule::Default { span, args, .. } if !args.is_empty() => (span, "a default of a function"),
                Rule::Default { span, value, .. } if !is_constant(value) => (span, "a default that is computed"),
                Rule::Default { .. } => continue,
                Rule::Spec { span, head, .. } => {
                    let (RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. } | RuleHead::Func { refr, .. }) =
                        head;
                    if matches!(refr.as_ref(), Expr::Var { .. }) {
                        continue;
                    }
                    (span, "a rule with a path for a name")
                }
            };
            return Some(format!("{what}, line {}", span.line));
        }
    }
    None
}

/// Data looked up by something computed: where that is a number and the name in the data is its digits, interpreter and OPA find it.
fn looks_up(node: &Json) -> Option<String> {
    fn is_data(refr: &Json) -> bool {
        let inner = refr.as_object().and_then(|o| o.iter().next());
        inner.is_some_and(|(kind, node)| match kind.as_str() {
            "Var" => node["value"] == "data",
            "RefDot" | "RefBrack" => is_data(&node["refr"]),
            _ => false,
        })
    }
    match node {
        Json::Object(fields) => {
            let lookup = fields.get("RefBrack");
            let computed = lookup.filter(|l| l["index"]["String"].is_null() && is_data(&l["refr"]));
            let here = computed.map(|l| {
                let line = &l["span"]["line"];
                format!("data looked up by something computed, line {line}: use object.get")
            });
            here.or_else(|| fields.values().find_map(looks_up))
        }
        Json::Array(items) => items.iter().find_map(looks_up),
        _ => None,
    }
}

/// Rules each of whose definitions gives one value, whatever its body goes through.
fn constant(engine: &mut Engine) -> BTreeSet<String> {
    let (mut constant, mut computed) = (BTreeSet::new(), BTreeSet::new());
    for module in engine.get_modules() {
        for rule in &module.policy {
            let Rule::Spec { head, bodies, .. } = rule.as_ref() else {
                continue;
            };
            let (refr, assign) = match head {
                RuleHead::Compr { refr, assign, .. } | RuleHead::Func { refr, assign, .. } => (refr, assign),
                RuleHead::Set { .. } => continue,
            };
            let name = format!("data.{}.{}", module.package.refr.span().text(), refr.span().text());
            let mut values = bodies.iter().filter_map(|b| b.assign.as_ref()).chain(assign);
            let all = values.all(|a| is_constant(&a.value));
            let into = if all { &mut constant } else { &mut computed };
            into.insert(name);
        }
    }
    &constant - &computed
}

fn is_constant(value: &Expr) -> bool {
    match value {
        Expr::String { .. } | Expr::RawString { .. } | Expr::Number { .. } | Expr::Bool { .. } | Expr::Null { .. } => {
            true
        }
        Expr::Array { items, .. } | Expr::Set { items, .. } => items.iter().all(|i| is_constant(i)),
        Expr::Object { fields, .. } => fields.iter().all(|(_, k, v)| is_constant(k) && is_constant(v)),
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use serde_json::json;

    use super::super::rego::engine;
    use super::*;

    fn compiled(text: &str) -> Result<Machine, String> {
        let mut engine = engine();
        engine
            .add_policy("m.rego".to_owned(), format!("package t\n\n{text}\n"))
            .unwrap();
        Machine::of(&engine, &["data.t.p"])
    }

    fn asked(text: &str, input: serde_json::Value) -> Result<serde_json::Value, String> {
        let answers = compiled(text).expect(text).ask(Value::from(input))?;
        Ok(serde_json::to_value(&answers).unwrap()[0].clone())
    }

    #[test]
    fn an_error_of_a_builtin_fails_the_judgement_wherever_it_happens() {
        for text in [
            "p contains 1 if to_number(input.x) > 1",
            "p contains 1 if not to_number(input.x)",
            "p contains 1 if not f(input.x)\nf(x) if to_number(x) > 1",
            "p contains x if some x in [y | some z in [input.x]; y := to_number(z)]",
            "p contains 1 if every z in [input.x] { to_number(z) > 1 }",
            "p contains 1 if q\nq if to_number(input.x) > 1",
            "default q := false\nq if to_number(input.x) > 1\np contains 1 if not q",
            "p contains 1 if 1 == 1\np contains 2 if regex.match(\"(\", input.x)",
        ] {
            let answer = asked(text, json!({"x": "seven"}));
            assert!(answer.is_err(), "{text}: {answer:?}");
            // The next question is answered as if nothing had been.
            let mut machine = compiled(text).unwrap();
            assert!(machine.ask(Value::from(json!({"x": "seven"}))).is_err());
            if !text.contains("regex") {
                assert!(machine.ask(Value::from(json!({"x": "7"}))).is_ok(), "{text}");
            }
        }
        assert_eq!(
            asked("p contains 1 if to_number(input.x) > 1", json!({"x": "7"})),
            Ok(json!([1]))
        );
        assert_eq!(
            asked("p contains 1 if input.x < 1", json!({"x": "seven"})),
            Ok(json!([]))
        );
        assert_eq!(asked("p contains 1 if input.x", json!({"x": null})), Ok(json!([1])));
    }

    #[test]
    fn what_could_err_unseen_is_left_to_the_interpreter() {
        for text in [
            "p contains 1 if input.x + 1 > 2",
            "p contains 1 if 1 / input.x > 2",
            "p contains 1 if f(input.x) == 1\nf(x) := 1 if x > 1\nf(x) := 2 if x > 2",
            "p contains 1 if q == 1\nq := 1 if input.x\nq := 2 if input.y",
            "p contains 1 if {k: v | some k, v in input}.a == 1",
            "p contains 1 if q.a == 1\nq[k] := v if some k, v in input",
            "p contains 1 if q == 1\nq := x if some x in input",
            "p contains 1 if f(input) == 1\nf(x) := y if some y in x",
            "p contains 1 if f(input) == 1\ndefault f(_) := 1\nf(x) := 2 if x.a",
            "p contains 1 if q == {1}\ndefault q := {x | some x in data.a}\nq := 1 if input.x",
            "p contains 1 if q.a.b\nq.a.b if input.x",
            "p contains 1 if data.limits[input.x] > 1",
            "p contains 1 if data[\"limits\"][2] > 1",
            "import data.limits\np contains 1 if limits[input.x] > 1",
        ] {
            assert!(compiled(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_shipped_bundle_runs_as_bytecode() {
        let bundle = super::super::tests::gate_bundle();
        assert_eq!(Machine::of(&bundle.engine, &bundle.entries()).err(), None);
    }

    #[test]
    fn an_evaluation_without_end_is_ended() {
        let many = "p contains [a, b, c, d] if { some a in numbers.range(1, 2000); some b in numbers.range(1, 2000); some c in numbers.range(1, 2000); some d in numbers.range(1, 2000); a + b + c == d }";
        assert!(compiled(many).is_err(), "it adds");
        let many = many.replace("a + b + c == d", "sprintf(\"%d%d%d%d\", [a, b, c, d]) == \"no\"");
        let error = asked(&many, json!({})).unwrap_err();
        assert!(error.contains("limit") || error.contains("time"), "{error}");
    }
}
