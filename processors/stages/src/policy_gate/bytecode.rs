//! regorus' bytecode in the form our runner executes it: operands in place of indices, and what a bundle's data makes constant worked out.

use std::collections::BTreeSet;

use regorus::Value;
use regorus::rvm::instructions::{ComprehensionMode, GuardMode, Instruction, LiteralOrRegister, LoopMode};
use regorus::rvm::program::{Program, RuleInfo, RuleType};
use regorus::unstable::BuiltinFcn;

/// A register of the rule under way.
pub(super) type Register = u8;

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Unequal,
    Less,
    AtMost,
    Greater,
    AtLeast,
}

/// One piece of a path into a value.
#[derive(Clone, Debug)]
pub(super) enum Key {
    Is(Value),
    In(Register),
}

/// Where a loop or a comprehension goes, and where it puts what it takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    pub(super) collection: Register,
    pub(super) key: Register,
    pub(super) value: Register,
    pub(super) result: Register,
    pub(super) body: usize,
    pub(super) end: usize,
}

/// An instruction. Its place is that of regorus' own, so that jumps stay as they are.
#[derive(Clone)]
pub(super) enum Op {
    Set(Register, Value),
    Input(Register),
    Move(Register, Register),
    Compare(Comparison, Register, Register, Register),
    Not(Register, Register),
    Equal(Register, Register),
    Guard(Register, GuardMode),
    Path(Register, Register, Vec<Key>),
    Contains(Register, Register, Register),
    Count(Register, Register),
    Push(Register, Register),
    Add(Register, Register),
    Array(Register, Vec<Register>),
    Items(Register, Vec<Register>),
    Object(Register, Vec<(Key, Register)>),
    /// An object whose names are all known: its form, and where the values are, in the order of the names.
    Form(Register, Value, Vec<Register>),
    Builtin(Register, usize, Vec<Register>),
    Function(Register, usize, Vec<Register>),
    Rule(Register, usize),
    Begin(Register),
    Loop(LoopMode, Walk),
    Next,
    Comprehend(bool, Walk),
    Yield(Register),
    Comprehended,
    Return,
}

/// One way a rule is defined: what takes its arguments apart, and its bodies, each with whether the next is its `else`.
#[derive(Clone, Debug)]
pub(super) struct Definition {
    /// The rule whose items it goes through before anything else: where there are none it comes to nothing.
    pub(super) over: Option<usize>,
    pub(super) arguments: Option<usize>,
    pub(super) bodies: Vec<(usize, bool)>,
}

/// A rule or a function.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) is_set: bool,
    pub(super) is_function: bool,
    pub(super) definitions: Vec<Definition>,
    pub(super) default: Option<Value>,
    pub(super) result: Register,
    pub(super) registers: usize,
    /// All definitions give the same value: the first is enough.
    pub(super) first_is_enough: bool,
}

/// A builtin, and what is known of it.
pub(super) struct Builtin {
    pub(super) kind: Kind,
    pub(super) call: BuiltinFcn,
}

/// Builtins that are worked out here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `regex.match`
    Matches,
    /// `count`
    Count,
    /// `is_number`
    IsNumber,
    Other,
}

/// A program.
pub(super) struct Code {
    pub(super) ops: Vec<Op>,
    pub(super) rules: Vec<Rule>,
    /// The rule that is asked for.
    pub(super) asked: usize,
    pub(super) builtins: Vec<Builtin>,
}

impl Code {
    /// The program, unless it holds something the runner does not know. `entry` is the place where the rule that is asked for is called.
    pub(super) fn of(program: &Program, entry: usize, data: &Value) -> Option<Self> {
        let asked = match program.instructions.get(entry)? {
            Instruction::CallRule { rule_index, .. } => usize::from(*rule_index),
            _ => return None,
        };
        let names = program.builtin_info_table.iter().map(|b| match b.name.as_str() {
            "regex.match" => Kind::Matches,
            "count" => Kind::Count,
            "is_number" => Kind::IsNumber,
            _ => Kind::Other,
        });
        let builtins = names.zip(program.resolved_builtins.iter().copied());
        let mut code = Self {
            ops: Vec::with_capacity(program.instructions.len()),
            rules: program
                .rule_infos
                .iter()
                .map(|r| rule(program, r))
                .collect::<Option<_>>()?,
            asked,
            builtins: builtins.map(|(kind, call)| Builtin { kind, call }).collect(),
        };
        for instruction in &program.instructions {
            code.ops.push(op(program, *instruction, data)?);
        }
        code.fold();
        code.look_ahead();
        Some(code)
    }

    /// Notes which definitions of sets are nothing but a walk through another rule's items.
    fn look_ahead(&mut self) {
        for rule in self.rules.iter_mut().filter(|rule| rule.is_set && !rule.is_function) {
            for definition in &mut rule.definitions {
                let (None, [(body, _)]) = (definition.arguments, definition.bodies.as_slice()) else {
                    continue;
                };
                let op = |n: usize| self.ops.get(body + n);
                if let (Some(Op::Begin(_)), Some(Op::Rule(items, of)), Some(Op::Loop(LoopMode::ForEach, walk))) =
                    (op(0), op(1), op(2))
                    && walk.collection == *items
                    && matches!(self.ops.get(walk.end), Some(Op::Return))
                {
                    definition.over = Some(*of);
                }
            }
        }
    }

    /// A path into the bundle's data is a constant. Only where the two stand together and nothing jumps in between.
    fn fold(&mut self) {
        let targets = self.targets();
        for at in 1..self.ops.len() {
            let (Op::Set(from, value), Op::Path(dest, root, path)) = (&self.ops[at - 1], &self.ops[at]) else {
                continue;
            };
            if from != root || targets.contains(&at) {
                continue;
            }
            let literal = |value: &Value, key: &Key| match key {
                Key::Is(key) => Some(value[key].clone()),
                Key::In(_) => None,
            };
            let found = path.iter().try_fold(value.clone(), |value, key| literal(&value, key));
            if let Some(found) = found {
                self.ops[at] = Op::Set(*dest, found);
            }
        }
    }

    fn targets(&self) -> BTreeSet<usize> {
        let mut targets = BTreeSet::new();
        for op in &self.ops {
            if let Op::Loop(_, walk) | Op::Comprehend(_, walk) = op {
                targets.extend([walk.body, walk.end, walk.end.saturating_sub(1)]);
            }
        }
        for definition in self.rules.iter().flat_map(|r| &r.definitions) {
            targets.extend(definition.arguments);
            targets.extend(definition.bodies.iter().map(|(at, _)| *at));
        }
        targets
    }
}

fn rule(program: &Program, info: &RuleInfo) -> Option<Rule> {
    let mut definitions = Vec::new();
    for (n, bodies) in info.definitions.iter().enumerate() {
        let is_else = |body: usize| info.else_bodies.get(n).and_then(|e| e.get(body)).copied();
        let bodies = bodies.iter().enumerate();
        let bodies = bodies.map(|(i, at)| (*at as usize, is_else(i + 1).unwrap_or(false)));
        definitions.push(Definition {
            over: None,
            arguments: info
                .destructuring_blocks
                .get(n)
                .copied()
                .flatten()
                .map(|at| at as usize),
            bodies: bodies.collect(),
        });
    }
    let default = match info.default_literal_index {
        Some(index) => Some(program.literals.get(usize::from(index))?.clone()),
        None => None,
    };
    Some(Rule {
        is_set: match info.rule_type {
            RuleType::Complete => false,
            RuleType::PartialSet => true,
            RuleType::PartialObject => return None,
        },
        is_function: info.function_info.is_some(),
        definitions,
        default,
        result: info.result_reg,
        registers: usize::from(info.num_registers),
        first_is_enough: info.early_exit_on_first_success,
    })
}

fn op(program: &Program, instruction: Instruction, data: &Value) -> Option<Op> {
    use Instruction as I;
    let literal = |index: u16| program.literals.get(usize::from(index)).cloned();
    let compare = |how, dest, left, right| Some(Op::Compare(how, dest, left, right));
    match instruction {
        I::Load { dest, literal_idx } => Some(Op::Set(dest, literal(literal_idx)?)),
        I::LoadTrue { dest } => Some(Op::Set(dest, Value::Bool(true))),
        I::LoadFalse { dest } => Some(Op::Set(dest, Value::Bool(false))),
        I::LoadNull { dest } => Some(Op::Set(dest, Value::Null)),
        I::LoadBool { dest, value } => Some(Op::Set(dest, Value::Bool(value))),
        I::LoadData { dest } => Some(Op::Set(dest, data.clone())),
        I::LoadInput { dest } => Some(Op::Input(dest)),
        I::Move { dest, src } => Some(Op::Move(dest, src)),
        I::Eq { dest, left, right } => compare(Comparison::Equal, dest, left, right),
        I::Ne { dest, left, right } => compare(Comparison::Unequal, dest, left, right),
        I::Lt { dest, left, right } => compare(Comparison::Less, dest, left, right),
        I::Le { dest, left, right } => compare(Comparison::AtMost, dest, left, right),
        I::Gt { dest, left, right } => compare(Comparison::Greater, dest, left, right),
        I::Ge { dest, left, right } => compare(Comparison::AtLeast, dest, left, right),
        I::Not { dest, operand } => Some(Op::Not(dest, operand)),
        I::AssertEq { left, right } => Some(Op::Equal(left, right)),
        I::Guard { register, mode } => Some(Op::Guard(register, mode)),
        I::Contains {
            dest,
            collection,
            value,
        } => Some(Op::Contains(dest, collection, value)),
        I::Count { dest, collection } => Some(Op::Count(dest, collection)),
        I::CallRule { dest, rule_index } => Some(Op::Rule(dest, usize::from(rule_index))),
        I::RuleInit { result_reg, .. } => Some(Op::Begin(result_reg)),
        I::LoopNext { .. } => Some(Op::Next),
        I::ComprehensionYield {
            value_reg,
            key_reg: None,
        } => Some(Op::Yield(value_reg)),
        I::ComprehensionEnd {} => Some(Op::Comprehended),
        I::RuleReturn {} | I::DestructuringSuccess {} | I::Return { .. } | I::Halt {} => Some(Op::Return),
        other => op_of_many(program, other),
    }
}

/// Instructions over collections, calls and loops.
fn op_of_many(program: &Program, instruction: Instruction) -> Option<Op> {
    use Instruction as I;
    let literal = |index: u16| program.literals.get(usize::from(index)).cloned();
    let given = &program.instruction_data;
    match instruction {
        I::IndexLiteral {
            dest,
            container,
            literal_idx,
        } => Some(Op::Path(dest, container, vec![Key::Is(literal(literal_idx)?)])),
        I::Index { dest, container, key } => Some(Op::Path(dest, container, vec![Key::In(key)])),
        I::ChainedIndex { params_index } => {
            let path = given.get_chained_index_params(params_index)?;
            let keys = path.path_components.iter().map(|c| match c {
                LiteralOrRegister::Literal(index) => literal(*index).map(Key::Is),
                LiteralOrRegister::Register(register) => Some(Key::In(*register)),
            });
            Some(Op::Path(path.dest, path.root, keys.collect::<Option<_>>()?))
        }
        I::ArrayNew { dest } => Some(Op::Set(dest, Value::new_array())),
        I::ArrayPush { arr, value } => Some(Op::Push(arr, value)),
        I::SetNew { dest } => Some(Op::Set(dest, Value::new_set())),
        I::SetAdd { set, value } => Some(Op::Add(set, value)),
        I::ArrayCreate { params_index } => {
            let items = given.get_array_create_params(params_index)?;
            Some(Op::Array(items.dest, items.element_registers().to_vec()))
        }
        I::SetCreate { params_index } => {
            let items = given.get_set_create_params(params_index)?;
            Some(Op::Items(items.dest, items.element_registers().to_vec()))
        }
        I::ObjectCreate { params_index } => object(program, params_index),
        I::BuiltinCall { params_index } => {
            let call = given.get_builtin_call_params(params_index)?;
            let builtin = program.get_builtin_info(call.builtin_index)?;
            let matches = usize::from(builtin.num_args) == call.arg_count();
            let op = Op::Builtin(call.dest, call.builtin_index.into(), call.arg_registers().to_vec());
            matches.then_some(op)
        }
        I::FunctionCall { params_index } => {
            let call = given.get_function_call_params(params_index)?;
            let rule = usize::from(call.func_rule_index);
            Some(Op::Function(call.dest, rule, call.arg_registers().to_vec()))
        }
        I::LoopStart { .. } | I::ComprehensionBegin { .. } => walk(program, instruction),
        _ => None,
    }
}

/// An object, made from a form where its names are all known.
fn object(program: &Program, params_index: u16) -> Option<Op> {
    let literal = |index: u16| program.literals.get(usize::from(index)).cloned();
    let object = program.instruction_data.get_object_create_params(params_index)?;
    let literals = object.literal_key_field_pairs().iter();
    let mut fields = literals
        .map(|(key, value)| Some((Key::Is(literal(*key)?), *value)))
        .collect::<Option<Vec<_>>>()?;
    // What stands in the template beside the keys that are set is not for us to guess.
    let template = literal(object.template_literal_idx)?;
    if template.as_object().ok()?.len() != fields.len() {
        return None;
    }
    let names = fields.iter().map(|(key, _)| key);
    let alike = |(name, key): (&Value, &Key)| matches!(key, Key::Is(key) if key == name);
    let in_order = template.as_object().ok()?.keys_sorted().zip(names).all(alike);
    if in_order && object.field_pairs().is_empty() {
        let values = fields.iter().map(|(_, value)| *value);
        return Some(Op::Form(object.dest, template, values.collect()));
    }
    fields.extend(object.field_pairs().iter().map(|(key, value)| (Key::In(*key), *value)));
    Some(Op::Object(object.dest, fields))
}

/// Where a loop or a comprehension begins.
fn walk(program: &Program, instruction: Instruction) -> Option<Op> {
    use Instruction as I;
    let given = &program.instruction_data;
    match instruction {
        I::LoopStart { params_index } => {
            let params = given.get_loop_params(params_index)?;
            let walk = Walk {
                collection: params.collection,
                key: params.key_reg,
                value: params.value_reg,
                result: params.result_reg,
                body: params.body_start.into(),
                end: params.loop_end.into(),
            };
            Some(Op::Loop(params.mode, walk))
        }
        I::ComprehensionBegin { params_index } => {
            let params = given.get_comprehension_begin_params(params_index)?;
            let walk = Walk {
                collection: params.collection_reg,
                key: params.key_reg,
                value: params.value_reg,
                result: params.result_reg,
                body: params.body_start.into(),
                end: params.comprehension_end.into(),
            };
            match params.mode {
                ComprehensionMode::Set => Some(Op::Comprehend(true, walk)),
                ComprehensionMode::Array => Some(Op::Comprehend(false, walk)),
                ComprehensionMode::Object => None,
            }
        }
        _ => None,
    }
}
