//! Whether a call may go out: the digest is recomputed, the permit's signature checked, controls and the deadline looked at.

use ed25519_dalek::{Signature, VerifyingKey};
use kernel::controls;
use kernel::{Effects, EventTime, Fault, FaultCode};
use schemas::digest;
use schemas::records::{Call, CallKind, Control, ControlAction, FaultInfo, Outcome, OutcomeStatus};

/// Checks calls against one gate's public key.
#[derive(Debug)]
pub(super) struct Gatekeeper {
    /// None when the bytes given are no key: then nothing is let out.
    key: Option<VerifyingKey>,
    grace_ms: i64,
}

impl Gatekeeper {
    pub(super) fn new(public_key: [u8; 32], grace_ms: i64) -> Self {
        Self {
            key: VerifyingKey::from_bytes(&public_key).ok(),
            grace_ms,
        }
    }

    /// Lets a call out, or says why not. What is wrong for ever is looked at before what may pass.
    pub(super) fn admit(&self, call: &Call, fx: &Effects<'_>) -> Result<(), FaultInfo> {
        self.check_permit(call)
            .map_err(|detail| Fault::new(FaultCode::PermitInvalid, detail).info(false))?;
        check_controls(call, fx)?;
        self.check_deadline(call, fx.now())
    }

    fn check_permit(&self, call: &Call) -> Result<(), String> {
        let digest =
            digest::action(&call.tool, &call.operation, &call.arguments).map_err(|e| format!("arguments: {e}"))?;
        if digest != call.digest {
            return Err(format!(
                "the call says digest {}, its tool, operation and arguments give {digest}",
                call.digest
            ));
        }
        let permit = call
            .permit
            .as_ref()
            .ok_or("the call carries no permit: the gate must allow exactly these arguments first")?;
        let unreadable = || "the permit's signature is not 128 hex digits".to_owned();
        let bytes = hex::decode(&permit.signature).map_err(|_| unreadable())?;
        let signature = Signature::from_slice(&bytes).map_err(|_| unreadable())?;
        let text = permit.signed_text(&call.run_id, &permit_step(call), &digest);
        let key = self
            .key
            .as_ref()
            .ok_or("the invoker was given bytes that are no Ed25519 public key: give policy_gate::public_key")?;
        key.verify_strict(&text, &signature).map_err(|_| {
            "the permit's signature does not cover this run, step and digest under the gate's key: ask the gate again".to_owned()
        })
    }

    fn check_deadline(&self, call: &Call, now: EventTime) -> Result<(), FaultInfo> {
        let deadline = call.created_at.plus_ms(call.timeout_ms.saturating_add(self.grace_ms));
        if deadline >= now {
            return Ok(());
        }
        let detail = format!(
            "asked for at {}, to be tried by {deadline}, reached at {now}: nothing was done",
            call.created_at
        );
        Err(Fault::new(FaultCode::DeadlinePassed, detail).info(false))
    }
}

/// A way back is judged under a name of its own, so that an allow of the step is not an allow of its undoing.
fn permit_step(call: &Call) -> String {
    match call.kind {
        CallKind::Action => call.step_id.clone(),
        CallKind::Compensation => format!("{}.compensation", call.step_id),
    }
}

/// The stop that covers a call.
pub(super) fn stop<'a>(call: &Call, fx: &'a Effects<'_>) -> Option<&'a Control> {
    controls::stop(fx.controls(), call)
}

fn check_controls(call: &Call, fx: &Effects<'_>) -> Result<(), FaultInfo> {
    let Some(control) = stop(call, fx) else { return Ok(()) };
    Err(controls::stopped(control).info(control.action == ControlAction::Pause))
}

/// The outcome of a call that was not even tried.
pub(super) fn refusal(call: &Call, fault: FaultInfo, now: EventTime) -> Outcome {
    Outcome {
        call_id: call.call_id.clone(),
        run_id: call.run_id.clone(),
        tenant: call.tenant.clone(),
        goal: call.goal.clone(),
        capsule: call.capsule.clone(),
        step_id: call.step_id.clone(),
        kind: call.kind,
        attempt: call.attempt,
        tool: call.tool.clone(),
        operation: call.operation.clone(),
        status: OutcomeStatus::Refused,
        fault: Some(fault),
        idempotency_key: call.idempotency_key.clone(),
        digest: call.digest.clone(),
        requested_at: call.requested_at,
        finished_at: now,
        ..Outcome::default()
    }
}
