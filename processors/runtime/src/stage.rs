//! A running stage: its thread, its surroundings, and what all loops do alike.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kernel::{Blame, Clock, Commit, Committed, Decoder, Fault, FaultCode, Log};

use crate::SystemClock;
use crate::controls::SharedControls;
use crate::health::{Health, StageState};
use crate::metrics::Metrics;

/// Limits of a stage.
#[derive(Clone, Debug, serde::Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Most records in one batch, which is one transaction.
    pub batch_max: usize,
    /// How long a batch is gathered after its first record, milliseconds.
    pub linger_ms: u64,
    /// Longest wait for actions in flight when partitions are given up or the process stops, milliseconds.
    pub drain_ms: u64,
    /// First wait after a dependency fault, milliseconds; doubles.
    pub backoff_ms: u64,
    /// Longest wait after dependency faults, milliseconds.
    pub backoff_ms_max: u64,
    /// Most outside actions in flight; beyond it the stage takes no records.
    pub in_flight_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            batch_max: 500,
            linger_ms: 0,
            drain_ms: 20_000,
            backoff_ms: 100,
            backoff_ms_max: 3_000,
            in_flight_max: 512,
        }
    }
}

/// How the loop waits, and how a wait is ended from another thread. A call to [`Waker::wake`] while nobody waits ends the next
/// wait.
#[derive(Clone, Default)]
pub struct Waker {
    woken: Arc<(Mutex<bool>, Condvar)>,
    instead: Option<Arc<dyn Fn(Duration) + Send + Sync>>,
}

impl Waker {
    /// Calls this instead of waiting: a simulation lets time pass and outside actions go on in it.
    pub fn simulated(instead: Arc<dyn Fn(Duration) + Send + Sync>) -> Self {
        Self {
            instead: Some(instead),
            ..Self::default()
        }
    }

    /// Ends the wait.
    pub fn wake(&self) {
        *self.woken.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.woken.1.notify_one();
    }

    /// Waits until woken, at most this long.
    pub fn wait(&self, at_most: Duration) {
        if let Some(instead) = &self.instead {
            return instead(at_most);
        }
        let woken = self.woken.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut woken, _) = self
            .woken
            .1
            .wait_timeout_while(woken, at_most, |woken| !*woken)
            .unwrap_or_else(PoisonError::into_inner);
        *woken = false;
    }
}

/// What a stage runs with.
pub struct StageContext {
    /// Stage name.
    pub stage: String,
    /// Its log.
    pub log: Box<dyn Log>,
    /// Turns framed bytes into records.
    pub decoder: Arc<dyn Decoder>,
    /// Controls, shared by the process.
    pub controls: SharedControls,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub metrics: Metrics,
    /// How it is doing.
    pub health: Health,
    /// Limits.
    pub limits: Limits,
    /// Set when the process is to stop.
    pub stop: Arc<AtomicBool>,
    /// Changelog topic; empty for a stage without state.
    pub state_topic: String,
    /// Where futures run.
    pub handle: tokio::runtime::Handle,
    /// Ends the loop's wait when an outside action has been answered.
    pub waker: Waker,
}

impl StageContext {
    pub(crate) fn stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    pub(crate) fn running(&self, partitions: usize) {
        self.metrics.gauge(&self.stage, "waiting", 0);
        self.metrics.gauge(&self.stage, "partitions", partitions);
        self.health.set(&self.stage, StageState::Running, partitions);
    }

    /// Commits and counts.
    pub(crate) fn commit(&mut self, commit: &Commit) -> Result<Committed, Fault> {
        let started = Instant::now();
        let places = self.log.commit(commit)?;
        self.committed(started);
        Ok(places)
    }

    /// Counts a transaction that was begun then.
    pub(crate) fn committed(&self, since: Instant) {
        #[allow(clippy::cast_precision_loss, reason = "seconds for a gauge")]
        let now_s = self.clock.now().0 as f64 / 1e6;
        self.metrics.commit(&self.stage, since.elapsed().as_secs_f64(), now_s);
    }

    /// Notes a dependency fault once per new cause, so that an outage is one log line and not thousands.
    pub(crate) fn waiting(&self, fault: &Fault, backoff: &mut Backoff, partitions: usize) {
        self.metrics.fault(&self.stage, fault.code.as_str());
        self.metrics.gauge(&self.stage, "waiting", 1);
        if backoff.attempts == 0 {
            tracing::warn!(stage = %self.stage, code = %fault.code, detail = %fault.detail, "waiting for a dependency");
        }
        self.health
            .set(&self.stage, StageState::Waiting(fault.to_string()), partitions);
        backoff.next(&self.limits, self.clock.as_ref());
    }

    /// Keeps the group membership alive for as long as the backoff lasts. True when it is over.
    pub(crate) fn pass_time(&self, backoff: &Backoff) -> u64 {
        let left = backoff.until.saturating_sub(self.clock.elapsed());
        u64::try_from(left.as_millis()).unwrap_or(u64::MAX).min(100)
    }
}

/// How long to wait after dependency faults.
#[derive(Debug)]
pub(crate) struct Backoff {
    pub(crate) attempts: u32,
    /// By the clock's elapsed time.
    pub(crate) until: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            attempts: 0,
            until: Duration::ZERO,
        }
    }
}

impl Backoff {
    fn next(&mut self, limits: &Limits, clock: &dyn Clock) {
        let wait = limits
            .backoff_ms
            .saturating_mul(1 << self.attempts.min(10))
            .min(limits.backoff_ms_max);
        self.attempts += 1;
        self.until = clock.elapsed() + Duration::from_millis(wait);
    }

    pub(crate) fn over(&self, clock: &dyn Clock) -> bool {
        clock.elapsed() >= self.until
    }
}

/// A loop over one stage's log.
pub trait Stage: Send {
    /// Goes round once. False when the process stops and everything is drained. An error is a halt: nothing more is committed.
    ///
    /// # Errors
    /// Faults that are our own.
    fn go_round(&mut self, cx: &mut StageContext) -> Result<bool, Fault>;

    /// Runs until the process stops.
    ///
    /// # Errors
    /// As [`Stage::go_round`].
    fn run(&mut self, cx: &mut StageContext) -> Result<(), Fault> {
        while self.go_round(cx)? {}
        Ok(())
    }
}

/// How often a stage was fenced lately. Two living instances of one name fence each other in turns, without end.
#[derive(Default)]
struct Fences(Vec<Instant>);

impl Fences {
    const MOST: usize = 5;
    const WITHIN: Duration = Duration::from_secs(60);

    /// Whether it may join again.
    fn again(&mut self) -> bool {
        let now = Instant::now();
        self.0.retain(|at| now - *at < Self::WITHIN);
        self.0.push(now);
        self.0.len() <= Self::MOST
    }
}

/// Runs a stage to its end and closes its clients, which is most of what a stop may take: how long is told.
fn run(mut stage: Box<dyn Stage>, mut cx: StageContext) -> Result<(), Fault> {
    let ended = stage.run(&mut cx);
    let (name, began) = (std::mem::take(&mut cx.stage), Instant::now());
    drop((stage, cx));
    tracing::info!(stage = %name, closed_ms = began.elapsed().as_millis(), "ended");
    ended
}

/// Starts a stage on a thread of its own. `open` builds it and joins the group; while its dependencies are down it is tried again.
///
/// # Errors
/// `INTERNAL` when the thread cannot be started.
pub fn spawn(
    name: &str,
    health: Health,
    metrics: Metrics,
    stop: Arc<AtomicBool>,
    open: impl Fn() -> Result<(Box<dyn Stage>, StageContext), Fault> + Send + 'static,
) -> Result<std::thread::JoinHandle<()>, Fault> {
    health.set(name, StageState::Starting, 0);
    let stage_name = name.to_owned();
    let body = move || {
        let mut backoff = Backoff::default();
        let mut fences = Fences::default();
        let ended = loop {
            if stop.load(Ordering::SeqCst) {
                break Ok(());
            }
            match open() {
                Ok((stage, cx)) => match run(stage, cx) {
                    Err(fault) if fault.code == FaultCode::Fenced && fences.again() => {
                        // A broker that dies while a member joins can take the member's own former self for another: begin anew.
                        tracing::warn!(stage = %stage_name, detail = %fault.detail, "fenced; joining again");
                        metrics.fault(&stage_name, fault.code.as_str());
                    }
                    ended => break ended,
                },
                Err(fault) if fault.blame == Blame::Dependency => {
                    if backoff.attempts == 0 {
                        tracing::warn!(stage = %stage_name, code = %fault.code, detail = %fault.detail, "waiting for a dependency");
                    }
                    health.set(&stage_name, StageState::Waiting(fault.to_string()), 0);
                    backoff.next(&Limits::default(), &SystemClock);
                    while !backoff.over(&SystemClock) && !stop.load(Ordering::SeqCst) {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                }
                Err(fault) => break Err(fault),
            }
        };
        match ended {
            Ok(()) => health.set(&stage_name, StageState::Stopped, 0),
            Err(fault) => {
                tracing::error!(stage = %stage_name, code = %fault.code, detail = %fault.detail, runbook = %format!("deploy/runbooks/{}.md", fault.code), "halted without committing");
                metrics.fault(&stage_name, fault.code.as_str());
                metrics.gauge(&stage_name, "halted", 1);
                health.set(&stage_name, StageState::Halted(fault.to_string()), 0);
            }
        }
    };
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(|e| Fault::new(FaultCode::Internal, format!("thread of {name}: {e}")))
}
