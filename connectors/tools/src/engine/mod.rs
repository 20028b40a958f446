//! Performs calls: waits for a turn, puts secrets in, keeps time, applies the crash rules and writes the Outcome.
//!
//! It never fails: what went wrong is in the outcome. `timeout_ms` of a call covers the call alone; waiting for a turn among other
//! calls is not counted, so a busy tool delays calls but does not fail them. `latency_us` is measured the same way.

mod ending;
#[cfg(test)]
mod noon;
mod obliged;
mod queue;
mod secrets;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
mod watch;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use kernel::controls::{self, Controls};
use kernel::{Approach, CallFault, Clock, Effect, Fault, FaultCode, Found, Pending, Performer, Replay, Tool};
use schemas::records::{Call, ControlAction, Outcome};
use serde::{Deserialize, Serialize};
use tracing::Instrument;

use ending::{Bounds, Ending, Times};
pub use queue::Concurrency;
use queue::{Line, Queues};
use secrets::Redactor;
pub use secrets::Secrets;

/// Bounds of the engine.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Calls at once, for every tool that has no bound of its own.
    pub concurrency: Concurrency,
    /// Bounds of single tools, by name.
    pub tools: BTreeMap<String, Concurrency>,
    /// For calls that give none, milliseconds.
    pub timeout_ms_default: u64,
    /// Longest a call may ask for, milliseconds.
    pub timeout_ms_max: u64,
    /// Time `find` may take beyond the call's own, milliseconds.
    pub find_margin_ms: u64,
    /// Larger results are replaced by their beginning.
    pub result_bytes_max: usize,
    /// Longer fault texts are cut.
    pub fault_chars_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            concurrency: Concurrency::default(),
            // Each is a process of a hundred megabytes that keeps a core busy.
            tools: BTreeMap::from([(
                "terraform".to_owned(),
                Concurrency {
                    calls_max: 4,
                    calls_per_tenant_max: 2,
                },
            )]),
            timeout_ms_default: 60_000,
            timeout_ms_max: 3_600_000,
            find_margin_ms: 15_000,
            result_bytes_max: 256 * 1024,
            fault_chars_max: 4096,
        }
    }
}

/// The invoker's hands. Cheap to clone.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    tools: BTreeMap<&'static str, Arc<dyn Tool>>,
    secrets: Secrets,
    redactor: Redactor,
    queues: Queues,
    line: Line,
    limits: Limits,
    clock: Arc<dyn Clock>,
    controls: Heeded,
}

/// Gives the controls as they stand.
pub type Heeded = Arc<dyn Fn() -> Arc<Controls> + Send + Sync>;

impl Engine {
    /// An engine over these tools. Of two tools with one name the later counts. `controls` are looked at again when a call's turn
    /// has come: it may have waited long since its stage let it out.
    pub fn new(
        tools: Vec<Arc<dyn Tool>>,
        secrets: Secrets,
        limits: Limits,
        clock: Arc<dyn Clock>,
        controls: Heeded,
    ) -> Self {
        Self(Arc::new(Inner {
            tools: tools.into_iter().map(|t| (t.name(), t)).collect(),
            redactor: secrets.redactor(),
            secrets,
            queues: Queues::new(limits.concurrency, limits.tools.clone()),
            line: Line::default(),
            limits,
            clock,
            controls,
        }))
    }
}

impl Performer for Engine {
    fn perform(&self, call: Call, approach: Approach) -> Pending<'static, Outcome> {
        let inner = Arc::clone(&self.0);
        let span = tracing::info_span!(
            "call", tool = %call.tool, operation = %call.operation, tenant = %call.tenant, run_id = %call.run_id,
            call_id = %call.call_id, attempt = call.attempt
        );
        Box::pin(async move { inner.perform(call, approach).await }.instrument(span))
    }

    fn withdraw(&self, call_id: &str) -> bool {
        self.0.line.withdraw(call_id)
    }
}

impl Inner {
    async fn perform(&self, call: Call, approach: Approach) -> Outcome {
        let asked = self.clock.elapsed();
        let place = self.line.enter(&call.call_id);
        let turn = self.queues.turn(&call.tool, &call.tenant).await;
        if !place.begin() {
            // Its stage gives it to the next owner, and no longer listens.
            drop(turn);
            return std::future::pending().await;
        }
        let started = self.clock.elapsed();
        let ending = AssertUnwindSafe(self.act(&call, approach))
            .catch_unwind()
            .await
            .unwrap_or_else(|panic| {
                let detail = format!(
                    "the tool `{}` panicked: {}. This is a bug; it cannot be told whether the call happened",
                    call.tool,
                    panic_text(&*panic)
                );
                Ending::Unknown(Fault::new(FaultCode::Internal, detail))
            });
        drop(turn);
        let times = Times {
            latency_us: micros(self.clock.elapsed().saturating_sub(started)),
            finished_at: self.clock.now(),
        };
        let bounds = Bounds {
            result_bytes_max: self.limits.result_bytes_max,
            fault_chars_max: self.limits.fault_chars_max,
        };
        let outcome = ending::outcome(call, ending, times, &self.redactor, bounds);
        let fault = outcome.fault.as_ref().map_or("", |f| f.code.as_str());
        let queued_us = micros(started.saturating_sub(asked));
        tracing::info!(status = ?outcome.status, fault, latency_us = outcome.latency_us, queued_us, "call answered");
        outcome
    }

    async fn act(&self, call: &Call, mut approach: Approach) -> Ending {
        let controls = (self.controls)();
        if let Some(control) = controls::stop(&controls, call) {
            if approach == Approach::Fresh {
                return Ending::Stopped {
                    fault: controls::stopped(control),
                    paused: control.action == ControlAction::Pause,
                };
            }
            // Cut off before and paused now: its stage lets none of these out but by the width of a pause's arrival.
            if control.action != ControlAction::Pause {
                approach = Approach::Inquire;
            }
        }
        let ready = match self.ready(call) {
            Ok(ready) => ready,
            // The same arguments were refused the first time too. Anything else may have been different then.
            Err(fault) if approach != Approach::Fresh && fault.code != FaultCode::ArgumentsInvalid => {
                return Ending::unknown(format!("after a restart the call cannot be looked into: {fault}"));
            }
            Err(fault) => return Ending::Refused(fault),
        };
        if obliged::is_dry(call) {
            // Cut off or not: nothing was done, and nothing will be.
            return match approach {
                Approach::Inquire => Ending::stopped_before(),
                Approach::Fresh | Approach::Recover => ready.rehearse(call).await,
            };
        }
        match approach {
            Approach::Fresh => ready.call(&self.controls).await,
            Approach::Recover => ready.recover(Some(&self.controls)).await,
            Approach::Inquire => ready.recover(None).await,
        }
    }

    /// Puts the secrets in and checks the whole, without touching the world.
    fn ready(&self, call: &Call) -> Result<Ready, Fault> {
        let tool = self.tools.get(call.tool.as_str()).ok_or_else(|| {
            let known: Vec<&str> = self.tools.keys().copied().collect();
            Fault::new(
                FaultCode::ToolUnknown,
                format!("no tool is named `{}`; there are {}", call.tool, known.join(", ")),
            )
        })?;
        let arguments = self.secrets.resolve(crate::faults::parse(&call.arguments)?)?;
        tool.check(&call.operation, &arguments)?;
        let asked = u64::try_from(call.timeout_ms).unwrap_or(0);
        let timeout_ms = if asked == 0 {
            self.limits.timeout_ms_default
        } else {
            asked.min(self.limits.timeout_ms_max)
        };
        let call = Call {
            arguments: arguments.to_string(),
            timeout_ms: i64::try_from(timeout_ms).unwrap_or(i64::MAX),
            ..call.clone()
        };
        // What a plan declares safe to repeat is safe with any tool.
        let replay = if call.replay_safe {
            Replay::Safe
        } else {
            tool.replay(&call)
        };
        let timeout = Duration::from_millis(timeout_ms);
        let find_timeout = timeout + Duration::from_millis(self.limits.find_margin_ms);
        Ok(Ready {
            tool: Arc::clone(tool),
            call,
            replay,
            timeout,
            find_timeout,
        })
    }
}

/// A checked call, secrets in place. Never printed.
struct Ready {
    tool: Arc<dyn Tool>,
    call: Call,
    replay: Replay,
    timeout: Duration,
    find_timeout: Duration,
}

impl Ready {
    async fn call(&self, controls: &Heeded) -> Ending {
        let call = tokio::time::timeout(self.timeout, self.tool.call(&self.call));
        let ended = match watch::heeding(self, controls, call).await {
            Ok(ended) => ended,
            Err(fault) => {
                return Ending::Failed {
                    fault,
                    retryable: false,
                };
            }
        };
        match ended {
            Ok(Ok(answer)) => Ending::Done(answer),
            Ok(Err(CallFault {
                fault,
                effect: Effect::None,
            })) => Ending::without_effect(fault),
            Ok(Err(CallFault {
                fault,
                effect: Effect::Refused,
            })) => Ending::Failed {
                fault,
                retryable: false,
            },
            Ok(Err(CallFault {
                fault,
                effect: Effect::Unknown,
            })) => self.doubt(fault).await,
            Err(_) => {
                let detail = format!("no answer within {} ms", self.timeout.as_millis());
                self.doubt(Fault::new(FaultCode::ToolTimedOut, detail)).await
            }
        }
    }

    /// The call may have had its effect although it failed.
    async fn doubt(&self, fault: Fault) -> Ending {
        match self.replay {
            Replay::Safe => Ending::Failed { fault, retryable: true },
            Replay::Never => Ending::unknown(fault),
            Replay::AskFirst => match self.find().await {
                Ok(Found::Happened(answer)) => Ending::Done(answer),
                Ok(Found::Failed(fault)) => Ending::Failed {
                    fault,
                    retryable: false,
                },
                Ok(Found::DidNot) => Ending::Failed { fault, retryable: true },
                Ok(Found::Unknown) => Ending::unknown(fault),
                Err(asked) => Ending::unknown(format!("{fault}; then asking the tool failed: {asked}")),
            },
        }
    }

    /// An earlier attempt wrote its intent and was cut off before its outcome. It may be sent `again`, under these controls, or a stop
    /// forbids it.
    async fn recover(&self, again: Option<&Heeded>) -> Ending {
        match self.replay {
            Replay::Safe if let Some(controls) = again => self.call(controls).await,
            Replay::Safe => Ending::unknown("the platform stopped during the call, and it must not be sent again now"),
            Replay::Never => Ending::unknown("the platform stopped during the call, which must not be repeated"),
            Replay::AskFirst => match self.find().await {
                Ok(Found::Happened(answer)) => Ending::Done(answer),
                Ok(Found::Failed(fault)) => Ending::Failed {
                    fault,
                    retryable: false,
                },
                Ok(Found::DidNot) if let Some(controls) = again => self.call(controls).await,
                Ok(Found::DidNot) => Ending::stopped_before(),
                Ok(Found::Unknown) => Ending::unknown("the platform stopped during the call"),
                Err(asked) => Ending::unknown(format!(
                    "the platform stopped during the call; then asking the tool failed: {asked}"
                )),
            },
        }
    }

    async fn find(&self) -> Result<Found, Fault> {
        tokio::time::timeout(self.find_timeout, self.tool.find(&self.call))
            .await
            .unwrap_or_else(|_| {
                let detail = format!("asking took longer than {} ms", self.find_timeout.as_millis());
                Err(Fault::new(FaultCode::ToolTimedOut, detail))
            })
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
