//! One instance of a task, a sink or a window, and the process it lives in.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kernel::Fault;
use runtime::{ProcessorStage, Stage, StageContext};
use tokio::runtime::Runtime;

use super::frozen::{Frost, Frozen};
use super::run::SINK;

pub(super) enum Body {
    Task(Box<ProcessorStage>),
    Other(Box<dyn Stage>),
}

/// A process: what runs in it ends with it.
pub(super) struct Alive {
    pub(super) body: Body,
    pub(super) cx: StageContext,
    pub(super) runtime: Arc<Runtime>,
}

impl Alive {
    pub(super) fn go_round(&mut self) -> Result<bool, Fault> {
        match &mut self.body {
            Body::Task(stage) => stage.go_round(&mut self.cx),
            Body::Other(stage) => stage.go_round(&mut self.cx),
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        match &self.body {
            Body::Task(stage) => stage.in_flight(),
            Body::Other(_) => 0,
        }
    }
}

pub(super) struct Node {
    pub(super) group: String,
    pub(super) instance: String,
    pub(super) names: &'static [&'static str],
    pub(super) topics: Vec<String>,
    pub(super) alive: Option<Alive>,
    /// It is to stand still in its next commit.
    pub(super) frost: Option<Frost>,
    /// It stands still in one.
    pub(super) frozen: Option<Frozen>,
}

impl Node {
    pub(super) fn who(&self) -> String {
        format!("{}/{}", self.group, self.instance)
    }

    /// Calls under way.
    pub(super) fn in_flight(&self) -> usize {
        let frozen = self.frozen.as_ref().map(|f| f.in_flight);
        frozen.or(self.alive.as_ref().map(Alive::in_flight)).unwrap_or(0)
    }

    /// A task subscribes to its leading topic, whose partitions bring those of the others along; a sink to all.
    pub(super) fn subscribed(&self) -> &[String] {
        if self.names == [SINK] {
            &self.topics
        } else {
            &self.topics[..1]
        }
    }
}

/// A folder of one history's own, gone with it.
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    pub(super) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let nth = NEXT.fetch_add(1, Ordering::SeqCst);
        Self(std::env::temp_dir().join(format!("soma-sim-{}-{nth}", std::process::id())))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}
