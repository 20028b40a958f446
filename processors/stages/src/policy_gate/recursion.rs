//! Rules that come back to themselves. OPA refuses them; this engine would follow a function that calls itself until the stack
//! is gone, and the process with it.

use std::collections::{BTreeMap, BTreeSet};

use kernel::ConfigFault;
use regorus::Engine;
use serde_json::Value;

/// A rule: path below `data`, such as `soma.gate.deny`.
type Name = Vec<String>;

#[derive(Default)]
struct Rules {
    /// Where a rule stands, and the paths it speaks of.
    found: BTreeMap<Name, (String, BTreeSet<Name>)>,
}

/// Every rule that can come back to itself, with file and line. A local variable of a rule's name counts as the rule.
pub(super) fn recursive(engine: &Engine) -> Vec<ConfigFault> {
    let modules = engine.get_ast_as_json().map_err(|e| e.to_string());
    let modules = modules.and_then(|text| serde_json::from_str::<Value>(&text).map_err(|e| e.to_string()));
    let modules = match modules {
        Ok(modules) => modules,
        Err(error) => {
            return vec![ConfigFault::new(
                "policies",
                format!("cannot be looked through: {error}"),
            )];
        }
    };
    let mut rules = Rules::default();
    for module in modules.as_array().into_iter().flatten() {
        rules.read(module);
    }
    let mut faults = Vec::new();
    for (name, (place, _)) in &rules.found {
        if rules.reaches(name) {
            let detail = format!(
                "`{}` comes back to itself: rules and functions may not (a variable of the same name counts, rename it)",
                name.join(".")
            );
            faults.push(ConfigFault::new(place.clone(), detail));
        }
    }
    faults
}

impl Rules {
    fn read(&mut self, module: &Value) {
        let ast = &module["ast"];
        let package = path(&ast["package"]["refr"]).0;
        let contents = module["source"]["contents"].as_str().unwrap_or_default();
        let mut aliases: BTreeMap<String, Name> = BTreeMap::new();
        for import in ast["imports"].as_array().into_iter().flatten() {
            let (mut target, _) = path(&import["refr"]);
            if target.first().is_none_or(|root| root != "data") {
                continue;
            }
            target.remove(0);
            let named = || {
                let at = |end: &str| usize::try_from(import["as"][end].as_u64()?).ok();
                contents.get(at("start")?..at("end")?).map(str::to_owned)
            };
            if let Some(alias) = named().or_else(|| target.last().cloned()) {
                aliases.insert(alias, target);
            }
        }
        for rule in ast["rules"].as_array().into_iter().flatten() {
            let (body, refr) = match (&rule["Spec"], &rule["Default"]) {
                (Value::Null, default) => (default, &default["refr"]),
                (spec, _) => {
                    let head = spec["head"].as_object().and_then(|h| h.values().next());
                    (spec, head.map_or(&Value::Null, |h| &h["refr"]))
                }
            };
            let (own, _) = path(refr);
            // `p.q contains x` and `p.r := 1` belong to one document: the first name tells rules apart.
            let name: Name = package.iter().chain(own.first()).cloned().collect();
            let file = module["source"]["file"].as_str().unwrap_or("policy");
            let line = &body["span"]["line"];
            let entry = self
                .found
                .entry(name)
                .or_insert_with(|| (format!("{file}:{line}"), BTreeSet::new()));
            inside(refr, &package, &aliases, &mut entry.1);
            for (field, part) in body.as_object().into_iter().flatten() {
                if field == "head" {
                    for head in part.as_object().into_iter().flat_map(|h| h.values()) {
                        let fields = head.as_object().into_iter().flatten().filter(|(f, _)| *f != "refr");
                        fields.for_each(|(_, v)| spoken_of(v, &package, &aliases, &mut entry.1));
                    }
                } else if field != "refr" {
                    spoken_of(part, &package, &aliases, &mut entry.1);
                }
            }
        }
    }

    /// Whether a rule can come back to itself.
    fn reaches(&self, start: &Name) -> bool {
        let (mut seen, mut todo) = (BTreeSet::new(), vec![start]);
        while let Some(name) = todo.pop() {
            let Some((_, speaks_of)) = self.found.get(name) else {
                continue;
            };
            for spoken in speaks_of {
                for known in self
                    .found
                    .keys()
                    .filter(|k| k.starts_with(spoken) || spoken.starts_with(k))
                {
                    if known == start {
                        return true;
                    }
                    if seen.insert(known) {
                        todo.push(known);
                    }
                }
            }
        }
        false
    }
}

/// The constant beginning of a reference, and whether all of it is constant.
fn path(refr: &Value) -> (Name, bool) {
    let (inner, last) = match refr.as_object().and_then(|o| o.iter().next()) {
        Some((kind, node)) if kind == "Var" => {
            return (vec![node["value"].as_str().unwrap_or_default().to_owned()], true);
        }
        Some((kind, node)) if kind == "RefDot" => (&node["refr"], node["field"][1].as_str()),
        Some((kind, node)) if kind == "RefBrack" => (&node["refr"], node["index"]["String"]["value"].as_str()),
        _ => return (Vec::new(), false),
    };
    let (mut begin, whole) = path(inner);
    match last.filter(|_| whole) {
        Some(last) => {
            begin.push(last.to_owned());
            (begin, true)
        }
        None => (begin, false),
    }
}

/// Collects the rules that an expression may speak of.
fn spoken_of(part: &Value, package: &[String], aliases: &BTreeMap<String, Name>, into: &mut BTreeSet<Name>) {
    let fields: Vec<&Value> = match part {
        Value::Array(items) => items.iter().collect(),
        Value::Object(fields) => fields.values().collect(),
        _ => return,
    };
    let (begin, _) = path(part);
    if let Some((root, rest)) = begin.split_first() {
        let spoken = match aliases.get(root) {
            _ if root == "data" => rest.to_vec(),
            Some(target) => [target, rest].concat(),
            None => [package, std::slice::from_ref(root)].concat(),
        };
        into.insert(spoken);
        // What is in brackets may speak of others; what stands before them has been looked at.
        inside(part, package, aliases, into);
        return;
    }
    fields.into_iter().for_each(|f| spoken_of(f, package, aliases, into));
}

fn inside(refr: &Value, package: &[String], aliases: &BTreeMap<String, Name>, into: &mut BTreeSet<Name>) {
    for node in refr.as_object().into_iter().flat_map(|o| o.values()) {
        if !node["index"].is_null() {
            spoken_of(&node["index"], package, aliases, into);
        }
        if !node["refr"].is_null() {
            inside(&node["refr"], package, aliases, into);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(modules: &[&str]) -> Vec<String> {
        let mut engine = Engine::new();
        for (i, text) in modules.iter().enumerate() {
            engine
                .add_policy(format!("m{i}.rego"), (*text).to_owned())
                .unwrap_or_default();
        }
        recursive(&engine).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_rule_that_comes_back_to_itself_is_named_with_its_line() {
        for text in [
            "package a\n\nf(x) := f(x)",
            "package a\n\nf(x) := y if {\n\ty := [f(z) | some z in [x]]\n}",
            "package a\n\np if q\nq if r\nr if {\n\tsome x in [1]\n\tnot p\n}",
            "package a\n\np := data.a.p",
            "package a\n\np := data[input.x]",
            "package a\n\np[data.a.p] := 1",
            "package a\n\nimport data.a as b\n\np if b.p",
            "package a\n\np contains f(1)\nf(x) := x if p",
        ] {
            let found = faults(&[text]);
            assert!(
                found.iter().any(|f| f.contains("m0.rego:") && f.contains("comes back")),
                "{text}: {found:?}"
            );
        }
        assert!(
            !faults(&["package a\n\np if data.b.q", "package b\n\nq if data.a.p"]).is_empty(),
            "over two files"
        );
    }

    #[test]
    fn rules_that_only_build_on_others_are_let_pass() {
        let text = "package a\n\nimport data.lib\n\np contains x if {\n\tsome x in q\n\tx.p == 1\n\tlib.f(x.q[input.k].p)\n}\n\nq := input.p\ndefault r := 1\nr := 2 if p";
        assert_eq!(faults(&[text, "package lib\n\nf(x) if x > 1"]), Vec::<String>::new());
    }
}
