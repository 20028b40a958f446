//! Calls under way when a kill or a cancel comes. One that only looks is dropped at once; any other is asked to stop in good order, where
//! its tool can be asked, and waited for: what it did until then is in its answer. What can do neither goes on to its end.

use std::pin::pin;
use std::time::Duration;

use kernel::controls::{self, Controls};
use kernel::{Consequence, Fault};
use schemas::records::{Call, ControlAction};

use super::{Heeded, Ready};

/// How often a call under way looks whether it must stop.
const LOOK: Duration = Duration::from_millis(100);

/// Why a call under way must stop: a pause lets it end.
fn stopped(controls: &Controls, call: &Call) -> Option<Fault> {
    let control = controls::stop(controls, call).filter(|c| c.action != ControlAction::Pause);
    control.map(controls::stopped)
}

/// Waits for a call's end. The fault of the control that cut it off, when it was dropped.
pub(super) async fn heeding<T>(ready: &Ready, controls: &Heeded, call: impl Future<Output = T>) -> Result<T, Fault> {
    let mut call = pin!(call);
    let mut asked = false;
    loop {
        tokio::select! {
            biased;
            ended = &mut call => return Ok(ended),
            () = tokio::time::sleep(LOOK), if !asked => {
                let Some(fault) = stopped(&controls(), &ready.call) else { continue };
                let arguments = serde_json::from_str(&ready.call.arguments).unwrap_or_default();
                if ready.tool.consequence(&ready.call.operation, &arguments) == Consequence::Reads {
                    tracing::info!(detail = %fault.detail, "a call that only looks was dropped");
                    return Err(fault);
                }
                asked = true;
                let heard = ready.tool.interrupt(&ready.call);
                tracing::warn!(detail = %fault.detail, heard, "a call under way was asked to stop");
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};

    use kernel::{Answer, Approach, CallFault, Effect, FaultCode, Found, Pending, Performer, Replay, Tool};
    use schemas::records::{Control, OutcomeStatus, Scope};
    use serde_json::Value;
    use tokio::process::Command;
    use tokio::sync::Notify;

    use super::super::noon::Noon;
    use super::super::{Engine, Limits, Secrets};
    use super::*;

    /// Runs `sleep`, a real process; told to stop it is killed, and says so.
    struct Sleeper {
        consequence: Consequence,
        deaf: bool,
        stop: Notify,
        heard: AtomicBool,
        left: Mutex<Option<u32>>,
    }

    impl Sleeper {
        async fn sleep(&self) -> Result<Answer, CallFault> {
            let mut child = Command::new("sleep").arg("1").kill_on_drop(true).spawn().unwrap();
            *self.left.lock().unwrap() = child.id();
            tokio::select! {
                _ = child.wait() => Ok(Answer::default()),
                () = self.stop.notified() => Err(CallFault {
                    fault: Fault::new(FaultCode::ToolFailed, "interrupted"),
                    effect: Effect::Refused,
                }),
            }
        }
    }

    impl Tool for Sleeper {
        fn name(&self) -> &'static str {
            "sleeper"
        }
        fn check(&self, _: &str, _: &Value) -> Result<(), Fault> {
            Ok(())
        }
        fn replay(&self, _: &Call) -> Replay {
            Replay::Never
        }
        fn consequence(&self, _: &str, _: &Value) -> Consequence {
            self.consequence
        }
        fn rehearsal(&self, _: &str, _: &Value) -> Option<(String, Value)> {
            None
        }
        fn interrupt(&self, _: &Call) -> bool {
            self.heard.store(true, Ordering::SeqCst);
            if !self.deaf {
                self.stop.notify_one();
            }
            !self.deaf
        }
        fn call<'a>(&'a self, _: &'a Call) -> Pending<'a, Result<Answer, CallFault>> {
            Box::pin(self.sleep())
        }
        fn find<'a>(&'a self, _: &'a Call) -> Pending<'a, Result<Found, Fault>> {
            Box::pin(async { Ok(Found::Unknown) })
        }
    }

    /// A control comes while the call is under way; its outcome, milliseconds, and whether the tool was asked to stop.
    async fn met(consequence: Consequence, deaf: bool, action: ControlAction) -> (OutcomeStatus, u128, bool) {
        let sleeper = Arc::new(Sleeper {
            consequence,
            deaf,
            stop: Notify::new(),
            heard: AtomicBool::new(false),
            left: Mutex::default(),
        });
        let controls = Arc::new(Mutex::new(Arc::new(Controls::default())));
        let heeded = Arc::clone(&controls);
        let engine = Engine::new(
            vec![Arc::clone(&sleeper) as Arc<dyn Tool>],
            Secrets(BTreeMap::new()),
            Limits::default(),
            Arc::new(Noon),
            Arc::new(move || heeded.lock().unwrap().clone()),
        );
        let call = Call {
            tenant: "acme".into(),
            tool: "sleeper".into(),
            operation: "sleep".into(),
            arguments: "{}".into(),
            ..Call::default()
        };
        let begun = std::time::Instant::now();
        let under_way = tokio::spawn(engine.perform(call, Approach::Fresh));
        tokio::time::sleep(Duration::from_millis(150)).await;
        let mut pressed = Controls::default();
        pressed.apply(Control {
            scope: Scope::Tenant,
            target: "acme".into(),
            action,
            ..Control::default()
        });
        *controls.lock().unwrap() = Arc::new(pressed);
        let outcome = under_way.await.unwrap();
        (
            outcome.status,
            begun.elapsed().as_millis(),
            sleeper.heard.load(Ordering::SeqCst),
        )
    }

    #[tokio::test]
    async fn a_call_that_looks_is_dropped_one_that_can_be_asked_stops_and_the_rest_end() {
        for action in [ControlAction::Kill, ControlAction::Cancel] {
            let (status, ms, asked) = met(Consequence::Reads, false, action).await;
            assert!(
                status != OutcomeStatus::Succeeded && ms < 800 && !asked,
                "{status:?} {ms} ms"
            );
            let (status, ms, asked) = met(Consequence::Lasting, false, action).await;
            assert!(
                status == OutcomeStatus::Failed && ms < 800 && asked,
                "{status:?} {ms} ms"
            );
            let (status, ms, asked) = met(Consequence::Lasting, true, action).await;
            assert!(
                status == OutcomeStatus::Succeeded && ms >= 1000 && asked,
                "{status:?} {ms} ms"
            );
        }
        let (status, ms, asked) = met(Consequence::Reads, false, ControlAction::Pause).await;
        assert!(
            status == OutcomeStatus::Succeeded && ms >= 1000 && !asked,
            "{status:?} {ms} ms"
        );
    }
}
