//! Loops and comprehensions of an evaluation, and where it goes on when a condition fails.

use std::sync::Arc;

use regorus::Value;
use regorus::rvm::instructions::LoopMode;

use super::bytecode::{Register, Walk};
use super::run::{Halt, Run, length};

/// Sets that are kept as lists within one evaluation.
const LISTS_MAX: usize = 32;

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

impl Run {
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
