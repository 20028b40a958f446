//! A change of `fuse` changes consumer groups. Before the new ones begin, they take over where the former ones stood; otherwise
//! they would read their topics from the beginning and do everything again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kafka::{Groups, Offsets};
use kernel::{Fault, FaultCode};

use crate::config::Pipeline;
use crate::streaming;
use crate::task::Task;

/// A killed instance stays a member until its session runs out.
const PATIENCE: Duration = Duration::from_secs(60);

/// Moves positions from the groups of a former layout to those of this one, and forgets the former. Safe to repeat.
///
/// # Errors
/// `LAYOUT_CHANGED` when the former layout still runs, or when its stages stand at different places of a topic they would now
/// read together; `BROKER_UNAVAILABLE`.
pub(crate) async fn take_over(pipeline: &Pipeline) -> Result<(), Fault> {
    let groups = Groups::open(&pipeline.connections.kafka)?;
    let prefix = format!("{}.", pipeline.pipeline);
    let tasks = pipeline.tasks();
    let wanted: Vec<String> = tasks.iter().map(|t| t.group(&pipeline.pipeline)).collect();
    let stages: Vec<&str> = pipeline.stages.iter().map(|s| s.name()).collect();
    let of_ours = |group: &str| members(&prefix, group).any(|m| stages.contains(&m));
    let deadline = Instant::now() + PATIENCE;
    let former: Vec<String> = loop {
        let found = groups.list(&prefix)?;
        let former: BTreeMap<_, _> = found
            .into_iter()
            .filter(|(group, _)| !wanted.contains(group) && of_ours(group))
            .collect();
        let busy: Vec<_> = former
            .iter()
            .filter(|(_, n)| **n > 0)
            .map(|(g, _)| g.as_str())
            .collect();
        if busy.is_empty() {
            break former.into_keys().collect();
        }
        if Instant::now() > deadline {
            let detail = format!(
                "`fuse` was changed while instances of the former layout run (groups {}): stop them all, then start this one",
                busy.join(", ")
            );
            return Err(Fault::new(FaultCode::LayoutChanged, detail));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    if former.is_empty() {
        return Ok(());
    }
    for task in &tasks {
        let group = task.group(&pipeline.pipeline);
        let topics = topics_of(task, pipeline);
        if !groups.committed(&group, &topics)?.is_empty() {
            continue;
        }
        let offsets = inherited(&groups, pipeline, task, &former)?;
        if !offsets.is_empty() {
            groups.set(&group, &offsets)?;
            tracing::info!(%group, positions = offsets.len(), "took over from the former layout");
        }
    }
    let names: Vec<&str> = former.iter().map(String::as_str).collect();
    groups.delete(&names).await?;
    tracing::info!(groups = %names.join(", "), "groups of the former layout forgotten");
    Ok(())
}

fn members<'a>(prefix: &str, group: &'a str) -> impl Iterator<Item = &'a str> {
    group.strip_prefix(prefix).unwrap_or_default().split('+')
}

fn topics_of(task: &Task, pipeline: &Pipeline) -> Vec<String> {
    let mut topics: Vec<String> = task.stages.iter().flat_map(|s| streaming::reads(s, pipeline)).collect();
    topics.sort();
    topics.dedup();
    topics
}

/// Where the stages of a task stood in the former layout.
fn inherited(groups: &Groups, pipeline: &Pipeline, task: &Task, former: &[String]) -> Result<Offsets, Fault> {
    let prefix = &format!("{}.", pipeline.pipeline);
    let mut offsets = Offsets::new();
    for stage in &task.stages {
        let Some(source) = former.iter().find(|g| members(prefix, g).any(|m| m == stage.name())) else {
            continue;
        };
        let alone = Task {
            stages: vec![stage.clone()],
        };
        let topics = topics_of(&alone, pipeline);
        for (place, at) in groups.committed(source, &topics)? {
            let known = *offsets.entry(place.clone()).or_insert(at);
            if known != at {
                let detail = format!(
                    "stages fused in {} stand at different offsets of {} partition {} ({known} and {at}): start the former `fuse`, let `soma stages` show no lag, stop, and start this one",
                    task.name(),
                    place.0,
                    place.1
                );
                return Err(Fault::new(FaultCode::LayoutChanged, detail));
            }
        }
    }
    Ok(offsets)
}
