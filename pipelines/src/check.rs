//! Checks a pipeline as a whole without touching anything outside: its file, its stages, its catalogue and policy.

use std::path::Path;

use kernel::ConfigFault;
use schemas::topics::Catalogue;

use crate::config::{Environment, Pipeline, StateKept};
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
        if stage.state == StateKept::Disk {
            let keyed = component.stateful && component.fusable;
            if !keyed {
                faults.push(ConfigFault::new(
                    format!("{at}.state"),
                    "this stage keeps no state by key; remove it",
                ));
            } else if pipeline.state_dir.as_ref().is_none_or(|d| d.as_os_str().is_empty()) {
                faults.push(ConfigFault::new(
                    format!("{at}.state"),
                    "`disk` needs a folder; set state_dir",
                ));
            }
        }
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
