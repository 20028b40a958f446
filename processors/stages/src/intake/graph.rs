//! The shape of a definition's steps: ids, needs, cycles, and results that are there when they are referred to.

use std::collections::BTreeSet;

use kernel::FaultCode;

use super::definition::StepSpec;
use super::node::{Faults, Node};
use super::template::{self, Reference};

/// Notes duplicate ids, unknown needs, a cycle, and references to results that cannot be there yet.
pub(super) fn check(found: &[(StepSpec, Node<'_>)], root: &Node<'_>, faults: &mut Faults) {
    let ids: Vec<_> = found.iter().map(|(spec, _)| spec.id.as_str()).collect();
    for (i, (spec, node)) in found.iter().enumerate() {
        if ids[..i].contains(&spec.id.as_str()) {
            node.fault(faults, format!("step id `{}` is used twice", spec.id));
        }
        for need in node.list("needs", &mut Faults::new()) {
            let name = need.value.as_str().unwrap_or_default();
            if !name.is_empty() && !ids.contains(&name) {
                need.fault(
                    faults,
                    format!("no step is called `{name}`; steps are {}", ids.join(", ")),
                );
            }
        }
    }
    let specs: Vec<_> = found.iter().map(|(spec, _)| spec).collect();
    if let Some(cycle) = cycle(&specs) {
        root.fault(
            faults,
            format!(
                "{}: steps need each other in a circle: {}",
                FaultCode::PlanInvalid,
                cycle.join(" -> ")
            ),
        );
        return;
    }
    for (spec, node) in found {
        let before = before(&specs, &spec.id);
        check_results(node, "arguments", &before, faults);
        if let Some(way_back) = node.get("compensation") {
            let mut after = before.clone();
            after.insert(spec.id.clone());
            check_results(&way_back, "arguments", &after, faults);
        }
    }
}

fn check_results(node: &Node<'_>, key: &str, there: &BTreeSet<String>, faults: &mut Faults) {
    let Some(arguments) = node.get(key) else { return };
    arguments.strings(&mut |at, text| {
        for reference in template::references(text).unwrap_or_default() {
            if let Reference::Step(id, whole) = reference
                && !there.contains(&id)
            {
                at.fault(
                    faults,
                    format!("`{whole}` is not there yet: `{id}` must be a step this one needs"),
                );
            }
        }
    });
}

/// Every step that must have succeeded before `id` starts.
fn before(specs: &[&StepSpec], id: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![id.to_owned()];
    while let Some(next) = open.pop() {
        let needs = specs.iter().filter(|s| s.id == next).flat_map(|s| s.needs.iter());
        for need in needs {
            if found.insert(need.clone()) {
                open.push(need.clone());
            }
        }
    }
    found
}

/// A circle of needs, first step repeated at the end.
fn cycle(specs: &[&StepSpec]) -> Option<Vec<String>> {
    let mut left: Vec<_> = specs.to_vec();
    loop {
        let blocked = |s: &&StepSpec| s.needs.iter().any(|n| left.iter().any(|l| &l.id == n));
        let rest: Vec<_> = left.iter().copied().filter(blocked).collect();
        if rest.is_empty() {
            return None;
        }
        if rest.len() == left.len() {
            break;
        }
        left = rest;
    }
    let mut path: Vec<String> = vec![left.first()?.id.clone()];
    loop {
        let here = left.iter().find(|s| Some(&s.id) == path.last())?;
        let next = here.needs.iter().find(|n| left.iter().any(|l| &&l.id == n))?;
        if let Some(at) = path.iter().position(|p| p == next) {
            let mut circle = path.split_off(at);
            circle.push(next.clone());
            return Some(circle);
        }
        path.push(next.clone());
    }
}
