//! How each stage is doing, for `/health`, `/ready` and an operator.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

/// A loop that has not come round for this long is stuck.
const STUCK: Duration = Duration::from_secs(120);

/// What a stage is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "detail")]
pub enum StageState {
    /// Joining its group.
    Starting,
    /// Reading its state back.
    Restoring(String),
    /// At work.
    Running,
    /// A dependency is down; it backs off and tries again.
    Waiting(String),
    /// It gave up without committing; an operator must look.
    Halted(String),
    /// Drained and stopped.
    Stopped,
}

/// One stage's health.
#[derive(Clone, Debug)]
pub struct StageHealth {
    /// What it is doing.
    pub state: StageState,
    /// When its loop last came round.
    pub seen: Instant,
    /// Partitions it owns.
    pub partitions: usize,
}

/// Health of all stages of a process.
#[derive(Clone, Default)]
pub struct Health(Arc<Mutex<BTreeMap<String, StageHealth>>>);

#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    state: StageState,
    partitions: usize,
    loop_age_ms: u128,
}

impl Health {
    /// Says what a stage is doing now.
    pub fn set(&self, stage: &str, state: StageState, partitions: usize) {
        let now = StageHealth {
            state,
            seen: Instant::now(),
            partitions,
        };
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(stage.to_owned(), now);
    }

    /// The loop of a stage came round.
    pub fn beat(&self, stage: &str) {
        if let Some(health) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(stage) {
            health.seen = Instant::now();
        }
    }

    /// Every stage.
    pub fn all(&self) -> BTreeMap<String, StageHealth> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// No stage has halted or is stuck.
    pub fn is_alive(&self) -> bool {
        self.all()
            .values()
            .all(|h| !matches!(h.state, StageState::Halted(_)) && h.seen.elapsed() < STUCK)
    }

    /// Every stage is at work.
    pub fn is_ready(&self) -> bool {
        let all = self.all();
        !all.is_empty() && all.values().all(|h| h.state == StageState::Running)
    }

    /// All stages as JSON.
    pub fn to_json(&self) -> String {
        let lines: BTreeMap<_, _> = self
            .all()
            .into_iter()
            .map(|(name, h)| {
                (
                    name,
                    Line {
                        state: h.state,
                        partitions: h.partitions,
                        loop_age_ms: h.seen.elapsed().as_millis(),
                    },
                )
            })
            .collect();
        serde_json::to_string_pretty(&lines).unwrap_or_default()
    }
}
