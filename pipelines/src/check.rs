//! Checks a pipeline as a whole without touching anything outside: its file, its stages, its catalogue and policy.

use std::path::Path;

use kernel::ConfigFault;
use schemas::topics::Catalogue;

use crate::config::{Environment, Pipeline, StageEntry, StateKept};
use crate::{govern, registry};

/// Loads and checks a pipeline: lines that say what was looked at.
///
/// # Errors
/// Every fault found, with its path.
pub fn pipeline(file: &Path, env: &Environment) -> Result<Vec<String>, Vec<ConfigFault>> {
    let pipeline = Pipeline::load(file, env)?;
    stages(&pipeline)
}

/// Checks the stages of a loaded pipeline.
///
/// # Errors
/// As [`pipeline`].
pub fn stages(pipeline: &Pipeline) -> Result<Vec<String>, Vec<ConfigFault>> {
    let mut faults = Vec::new();
    let mut lines = Vec::new();
    let catalogue = Catalogue::load().map_err(|e| vec![ConfigFault::new("topics.yaml", e)])?;
    faults.extend(govern::signers(pipeline).err().into_iter().flatten());
    if pipeline.stages.is_empty() {
        faults.push(ConfigFault::new("stages", "is empty; a pipeline needs at least one"));
    }
    for (i, stage) in pipeline.stages.iter().enumerate() {
        let at = format!("stages[{i}]");
        if pipeline.stages[..i].iter().any(|s| s.name() == stage.name()) {
            faults.push(ConfigFault::new(
                &at,
                format!("the name {} is used twice; give one a `name`", stage.name()),
            ));
        }
        let Some(component) = registry::find(&stage.component) else {
            let known: Vec<_> = registry::COMPONENTS.iter().map(|c| c.name).collect();
            faults.push(ConfigFault::new(
                format!("{at}.use"),
                format!(
                    "there is no component `{}`; there are {}",
                    stage.component,
                    known.join(", ")
                ),
            ));
            continue;
        };
        let topics = (component.topics)();
        let counts: std::collections::BTreeSet<_> = topics
            .iter()
            .filter_map(|t| catalogue.get(t))
            .map(|t| t.partitions)
            .collect();
        // A topic of one partition goes along with the first of the others.
        let alike = counts.iter().filter(|n| **n > 1).count() <= 1 && (component.fusable || counts.len() <= 2);
        if component.stateful && (!alike || (component.fusable && counts.len() > 1)) {
            faults.push(ConfigFault::new(
                &at,
                format!("its topics {} are not partitioned alike", topics.join(", ")),
            ));
        }
        faults.extend(state(stage, component.stateful && component.fusable, pipeline, &at));
        match (component.check)(stage, pipeline) {
            Ok(line) => lines.push(format!("{}: {line}", stage.name())),
            Err(found) => faults.extend(
                found
                    .into_iter()
                    .map(|f| ConfigFault::new(format!("{at}.config: {}", f.path), f.detail)),
            ),
        }
    }
    faults.extend(pipeline.check_fuse());
    for task in pipeline.tasks().iter().filter(|t| t.stages.len() > 1) {
        let read = task.stages.iter().filter_map(|s| registry::find(&s.component));
        let counts: std::collections::BTreeSet<_> = read
            .flat_map(|c| (c.topics)())
            .filter_map(|t| catalogue.get(t))
            .map(|t| t.partitions)
            .collect();
        if counts.len() > 1 {
            let detail = format!("the topics of {} are not partitioned alike", task.name());
            faults.push(ConfigFault::new("fuse", detail));
        }
        lines.push(format!("{}: one task, one transaction", task.name()));
    }
    if faults.is_empty() { Ok(lines) } else { Err(faults) }
}

/// What contradicts itself in how a stage keeps its state; `keyed`: it has some, by key.
fn state(stage: &StageEntry, keyed: bool, pipeline: &Pipeline, at: &str) -> Vec<ConfigFault> {
    let mut faults = Vec::new();
    if stage.state == StateKept::Disk && !keyed {
        let why = "this stage keeps no state by key; remove it";
        faults.push(ConfigFault::new(format!("{at}.state"), why));
    } else if stage.state == StateKept::Disk && pipeline.state_dir.as_ref().is_none_or(|d| d.as_os_str().is_empty()) {
        let why = "`disk` needs a folder; set state_dir";
        faults.push(ConfigFault::new(format!("{at}.state"), why));
    }
    if stage.standby.0 && stage.state != StateKept::Disk {
        let why = if keyed {
            "a standby keeps its copy on disk; set `state: disk` at this stage and state_dir, or remove it"
        } else {
            "this stage keeps no state by key, there is nothing to keep a copy of; remove it"
        };
        faults.push(ConfigFault::new(format!("{at}.standby"), why));
    }
    faults
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What is wrong with how the stages of the shipped pipeline keep their state.
    fn faults(variables: &[(&str, &str)], change: impl FnOnce(&mut Pipeline)) -> Vec<String> {
        let text = include_str!("../control-tower/pipeline.yaml");
        let names = text.split("${").filter_map(|part| part.split(['}', ':']).next());
        // What a variable without a default says does not matter here.
        let mut all: std::collections::BTreeMap<_, _> = names.map(|n| (n.to_owned(), "x".to_owned())).collect();
        all.retain(|name, _| !text.contains(&format!("${{{name}:-")));
        all.extend(variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
        let mut pipeline = Pipeline::parse(text, &Environment::of(all)).unwrap();
        change(&mut pipeline);
        let found = pipeline.stages.iter().enumerate().flat_map(|(i, stage)| {
            let component = registry::find(&stage.component).unwrap();
            let keyed = component.stateful && component.fusable;
            state(stage, keyed, &pipeline, &format!("stages[{i}]"))
        });
        found.map(|f| format!("{}: {}", f.path, f.detail)).collect()
    }

    #[test]
    fn a_standby_without_a_disk_is_refused_where_it_stands() {
        let disk = ("SOMA_STATE", "disk");
        assert_eq!(faults(&[], |_| ()), [""; 0]);
        assert_eq!(
            faults(&[disk, ("SOMA_STATE_DIR", "/s"), ("SOMA_STANDBY", "true")], |_| ()),
            [""; 0]
        );
        let found = faults(&[("SOMA_STANDBY", "true")], |_| ());
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].starts_with("stages[0].standby: a standby keeps its copy on disk; set `state: disk`"));
        let found = faults(&[disk, ("SOMA_STANDBY", "true")], |_| ());
        assert!(
            found[0].starts_with("stages[0].state: `disk` needs a folder"),
            "{found:?}"
        );
        let found = faults(&[], |p| p.stages[1].standby = crate::config::Switch(true));
        assert!(
            found[0].starts_with("stages[1].standby: this stage keeps no state by key"),
            "{found:?}"
        );
        let bad = Environment::of([("SOMA_STANDBY".to_owned(), "perhaps".to_owned())]);
        let text = "pipeline: p\ninstance: a\nstages: [{use: intake, standby: \"${SOMA_STANDBY}\"}]";
        let found = format!("{:?}", Pipeline::parse(text, &bad).err().unwrap());
        assert!(
            found.contains("stages[0]") && found.contains("neither true nor false"),
            "{found}"
        );
    }
}
