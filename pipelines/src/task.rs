//! Tasks: what runs on one thread with one transaction. A stage is a task of its own unless `fuse` joins it with others.

use std::collections::BTreeSet;

use kernel::ConfigFault;
use runtime::Limits;

use crate::config::{Pipeline, StageEntry};
use crate::registry;

/// One stage, or several fused.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its stages, in the order records flow.
    pub stages: Vec<StageEntry>,
}

impl Task {
    /// Names of its stages, joined by `+`.
    pub fn name(&self) -> String {
        let names: Vec<_> = self.stages.iter().map(StageEntry::name).collect();
        names.join("+")
    }

    /// Its consumer group.
    pub fn group(&self, pipeline: &str) -> String {
        format!("{pipeline}.{}", self.name())
    }

    /// Whether one of its stages acts on the world: its calls are waited for when the process stops.
    pub fn acts(&self) -> bool {
        self.stages.iter().any(|s| registry::ACTING.contains(&&*s.component))
    }

    /// Limits that keep those of every stage: the smaller batch, the shorter linger, the longer drain.
    pub fn limits(&self) -> Limits {
        let all = self.stages.iter().map(|s| s.limits.clone());
        all.reduce(|a, b| Limits {
            batch_max: a.batch_max.min(b.batch_max),
            linger_ms: a.linger_ms.min(b.linger_ms),
            drain_ms: a.drain_ms.max(b.drain_ms),
            backoff_ms: a.backoff_ms.min(b.backoff_ms),
            backoff_ms_max: a.backoff_ms_max.min(b.backoff_ms_max),
            in_flight_max: a.in_flight_max.min(b.in_flight_max),
        })
        .unwrap_or_default()
    }
}

impl Pipeline {
    /// Its tasks, in the order of their first stages.
    pub fn tasks(&self) -> Vec<Task> {
        let mut done: BTreeSet<&str> = BTreeSet::new();
        let mut tasks = Vec::new();
        for entry in &self.stages {
            if done.contains(entry.name()) {
                continue;
            }
            let fused = self.fuse.iter().find(|names| names.iter().any(|n| n == entry.name()));
            let stages: Vec<StageEntry> = match fused {
                Some(names) => names
                    .iter()
                    .filter_map(|n| self.stages.iter().find(|s| s.name() == n))
                    .cloned()
                    .collect(),
                None => vec![entry.clone()],
            };
            for name in fused.into_iter().flatten() {
                done.insert(name);
            }
            tasks.push(Task { stages });
        }
        tasks
    }

    /// What is wrong with `fuse`.
    pub fn check_fuse(&self) -> Vec<ConfigFault> {
        let mut faults = Vec::new();
        let mut seen = BTreeSet::new();
        for (i, names) in self.fuse.iter().enumerate() {
            if names.len() < 2 {
                faults.push(ConfigFault::new(
                    format!("fuse[{i}]"),
                    "names fewer than two stages; remove it",
                ));
            }
            for (j, name) in names.iter().enumerate() {
                let wrong = match self.stages.iter().find(|s| s.name() == name) {
                    None => Some("is not a stage of this pipeline".to_owned()),
                    Some(s) if registry::find(&s.component).is_some_and(|c| !c.fusable) => {
                        Some("keeps batches of its own and cannot be fused".to_owned())
                    }
                    Some(_) if !seen.insert(name) => Some("is fused twice".to_owned()),
                    Some(_) => None,
                };
                faults.extend(wrong.map(|why| ConfigFault::new(format!("fuse[{i}][{j}]"), format!("`{name}` {why}"))));
            }
        }
        faults
    }
}
