//! Whether a plan can be run at all: its steps, their needs and what they refer to. It runs nothing.

use std::collections::{BTreeMap, BTreeSet};

use schemas::digest;
use schemas::records::{Plan, Step};

use super::references;

/// Longest time one attempt may be given: a day, in milliseconds.
const TIMEOUT_MS_MAX: i64 = 86_400_000;

/// Checks a plan before it is begun.
///
/// # Errors
/// What is wrong, with the step and field named.
pub(super) fn validate(plan: &Plan) -> Result<(), String> {
    if plan.steps.is_empty() {
        return Err("the plan has no steps and no refusal".to_owned());
    }
    let mut ids = BTreeSet::new();
    for step in &plan.steps {
        check_id(&step.step_id)?;
        if !ids.insert(step.step_id.as_str()) {
            return Err(format!(
                "two steps are called `{}`; step ids are unique in a plan",
                step.step_id
            ));
        }
    }
    for step in &plan.steps {
        if let Some(need) = step.needs.iter().find(|need| !ids.contains(need.as_str())) {
            return Err(format!(
                "step `{}` needs `{need}`, which is not in the plan",
                step.step_id
            ));
        }
        check_limits(step)?;
    }
    if let Some(cycle) = cycle(&plan.steps) {
        return Err(format!("steps need each other in a circle: {}", cycle.join(" -> ")));
    }
    plan.steps
        .iter()
        .try_for_each(|step| check_references(&plan.steps, step))?;
    let digest = digest::plan(&plan.run_id, &plan.steps)?;
    if digest != plan.digest {
        return Err(format!("the plan's digest is {}, its steps give {digest}", plan.digest));
    }
    Ok(())
}

fn check_id(id: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if id.is_empty() || id.len() > 128 || !id.chars().all(fits) {
        return Err(format!(
            "step id `{id}` is not 1 to 128 of letters, digits, `-` and `_`"
        ));
    }
    Ok(())
}

fn check_limits(step: &Step) -> Result<(), String> {
    let id = &step.step_id;
    let retry = &step.retry;
    if retry.attempts_max < 1 {
        return Err(format!(
            "step `{id}`: retry.attempts_max is {}; it is at least 1",
            retry.attempts_max
        ));
    }
    if retry.backoff_ms < 0 || retry.backoff_ms_max < 0 {
        return Err(format!(
            "step `{id}`: retry.backoff_ms and retry.backoff_ms_max are not negative"
        ));
    }
    if !(1..=TIMEOUT_MS_MAX).contains(&step.timeout_ms) {
        return Err(format!(
            "step `{id}`: timeout_ms is {}; it is 1 to {TIMEOUT_MS_MAX}",
            step.timeout_ms
        ));
    }
    Ok(())
}

/// An action may refer to what it needs, however far back; a compensation to its own step too. The way back may also
/// look
/// at steps beside it, which can only be told while running.
fn check_references(steps: &[Step], step: &Step) -> Result<(), String> {
    let id = &step.step_id;
    let before = ancestors(steps, id);
    for reference in references::find_all(&step.arguments).map_err(|e| format!("step `{id}`: {e}"))? {
        if !before.contains(reference.step_id.as_str()) {
            return Err(format!(
                "step `{id}` refers to {reference} but does not need `{}`",
                reference.step_id
            ));
        }
    }
    let Some(undo) = &step.compensation else {
        return Ok(());
    };
    for reference in references::find_all(&undo.arguments).map_err(|e| format!("step `{id}`, compensation: {e}"))? {
        if !steps.iter().any(|s| s.step_id == reference.step_id) {
            return Err(format!(
                "step `{id}`, compensation: {reference} is of a step that is not in the plan"
            ));
        }
    }
    Ok(())
}

/// Every step that comes before this one, directly or not.
pub(super) fn ancestors<'p>(steps: &'p [Step], step_id: &str) -> BTreeSet<&'p str> {
    let needs: BTreeMap<&str, &[String]> = steps.iter().map(|s| (s.step_id.as_str(), s.needs.as_slice())).collect();
    let mut found = BTreeSet::new();
    let mut open: Vec<&str> = needs
        .get(step_id)
        .into_iter()
        .flat_map(|n| n.iter())
        .map(String::as_str)
        .collect();
    while let Some(id) = open.pop() {
        if found.insert(id) {
            open.extend(needs.get(id).into_iter().flat_map(|n| n.iter()).map(String::as_str));
        }
    }
    found
}

/// A circle of needs, from a step back to itself; `None` when there is none.
fn cycle(steps: &[Step]) -> Option<Vec<String>> {
    let mut left: BTreeMap<&str, &Step> = steps.iter().map(|s| (s.step_id.as_str(), s)).collect();
    loop {
        let free: Vec<&str> = left
            .values()
            .filter(|s| !s.needs.iter().any(|n| left.contains_key(n.as_str())))
            .map(|s| s.step_id.as_str())
            .collect();
        if free.is_empty() {
            break;
        }
        for id in free {
            left.remove(id);
        }
    }
    // Every step that is left needs another that is left: following needs must come back to a step already seen.
    let mut path: Vec<&str> = vec![left.keys().next()?];
    loop {
        let here = left.get(path.last()?)?;
        let next = here.needs.iter().find(|n| left.contains_key(n.as_str()))?;
        if let Some(start) = path.iter().position(|seen| seen == next) {
            let mut circle: Vec<String> = path[start..].iter().map(|id| (*id).to_owned()).collect();
            circle.push(next.clone());
            return Some(circle);
        }
        path.push(next);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use schemas::records::{Compensation, Retry};

    use super::*;

    fn step(id: &str, needs: &[&str]) -> Step {
        Step {
            step_id: id.into(),
            arguments: "{}".into(),
            needs: needs.iter().map(|n| (*n).to_owned()).collect(),
            retry: Retry {
                attempts_max: 1,
                ..Retry::default()
            },
            timeout_ms: 1000,
            ..Step::default()
        }
    }

    fn check(steps: Vec<Step>) -> Result<(), String> {
        let digest = digest::plan("run_1", &steps).unwrap();
        validate(&Plan {
            run_id: "run_1".into(),
            steps,
            digest,
            ..Plan::default()
        })
    }

    #[test]
    fn a_plan_that_can_be_run_passes() {
        let mut apply = step("apply", &["plan"]);
        apply.arguments = r#"{"id":"${steps.plan.result.id}"}"#.into();
        apply.compensation = Some(Compensation {
            arguments: r#"{"of":"${steps.apply.result.id}"}"#.into(),
            ..Compensation::default()
        });
        assert_eq!(
            check(vec![step("plan", &[]), apply, step("c", &["apply", "plan"])]),
            Ok(())
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let with = |change: fn(&mut Step)| {
            let mut one = step("a", &[]);
            change(&mut one);
            check(vec![one])
        };
        for (result, words) in [
            (check(vec![]), "no steps"),
            (
                check(vec![step("a", &["c"]), step("b", &["a"]), step("c", &["b"])]),
                "a -> c -> b -> a",
            ),
            (check(vec![step("a", &["a"])]), "a -> a"),
            (
                check(vec![step("x", &[]), step("y", &["x", "z"]), step("z", &["y"])]),
                "y -> z -> y",
            ),
            (check(vec![step("a", &[]), step("a", &[])]), "two steps are called `a`"),
            (check(vec![step("a", &["ghost"])]), "needs `ghost`"),
            (check(vec![step("a.compensation", &[])]), "step id `a.compensation`"),
            (with(|s| s.retry.attempts_max = 0), "attempts_max is 0"),
            (with(|s| s.retry.backoff_ms = -1), "not negative"),
            (with(|s| s.timeout_ms = 0), "timeout_ms is 0"),
            (with(|s| s.arguments = "[]".into()), "not a JSON object"),
            (
                with(|s| s.arguments = r#"{"x":"${steps.b.result.y}"}"#.into()),
                "does not need `b`",
            ),
            (
                validate(&Plan {
                    steps: vec![step("a", &[])],
                    ..Plan::default()
                }),
                "the plan's digest is",
            ),
        ] {
            let error = result.unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
