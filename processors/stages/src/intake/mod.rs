//! Intake: a request becomes a plan, once. It checks the request, drops repeats by idempotency key, and fills in a capsule or
//! an answered wizard. It never guesses: what cannot be planned is answered with a refusal that names the field and the fix.

mod build;
mod catalogue;
mod condition;
mod definition;
mod field;
mod graph;
mod node;
mod template;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use kernel::controls::Covers;
use kernel::{ConfigFault, Delivery, Effects, EventTime, Fault, FaultCode, Processor, Timer};
use schemas::records::{Plan, Refusal, Request, Step};
use schemas::{digest, topics};
use serde::{Deserialize, Serialize};

use build::refusal;
pub use catalogue::Catalogue;
use definition::{Definition, Origin};

/// Timer that forgets an idempotency key.
const FORGET: &str = "forget";
/// Longest idempotency key, characters.
const KEY_LENGTH_MAX: usize = 200;

/// What is remembered of an idempotency key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Run its first request began; empty when none was seen.
    pub run_id: String,
    /// When that was.
    pub seen_at: EventTime,
}

kernel::inputs! {
    /// What intake reads.
    pub enum Input { Request(Request) = topics::REQUESTS }
}

/// The intake stage.
#[derive(Debug)]
pub struct Intake {
    catalogue: Catalogue,
    values: BTreeMap<String, String>,
    dedupe_hours: f64,
}

impl Intake {
    /// A stage over a catalogue. `values` are the operator's values (`${values.name}`); `dedupe_hours` is how long a repeat is
    /// known as one, hours or parts of one (168 unless there is a reason).
    ///
    /// # Errors
    /// A value the catalogue refers to is not given, or `dedupe_hours` is not from 0.01 to 87600.
    pub fn new(
        catalogue: Catalogue,
        values: BTreeMap<String, String>,
        dedupe_hours: f64,
    ) -> Result<Self, Vec<ConfigFault>> {
        let mut faults = catalogue.missing_values(&values);
        faults.extend(crate::hours::fault("dedupe_hours", dedupe_hours));
        if faults.is_empty() {
            Ok(Self {
                catalogue,
                values,
                dedupe_hours,
            })
        } else {
            Err(faults)
        }
    }

    /// The steps for a request and where they came from, or why there are none.
    fn plan(
        &self,
        request: &Request,
        run_id: &str,
        fx: &Effects<'_>,
    ) -> Result<(Option<&Definition>, Vec<Step>), Refusal> {
        check_fields(request)?;
        let definition = self.definition(request);
        let capsule = definition.as_ref().map(|d| d.key()).unwrap_or_default();
        let covers = Covers {
            tenant: &request.tenant,
            capsule: &capsule,
            tool: "",
            run_id,
        };
        if let Some(control) = fx.controls().covering(covers) {
            let scope = kernel::controls::key_of(control.scope, &control.target);
            let detail = format!(
                "{:?} by {} at {scope} stops admission ({}); ask again once it is lifted by `soma resume`, under a new idempotency key",
                control.action, control.actor, control.reason
            );
            return Err(refusal(FaultCode::ControlStopped, "", detail));
        }
        let definition = definition?;
        let steps = build::steps(definition, request, &self.values, run_id)?;
        Ok((Some(definition), steps))
    }

    fn definition(&self, request: &Request) -> Result<&Definition, Refusal> {
        let named = |text: &Option<String>| text.clone().filter(|t| !t.trim().is_empty());
        let (origin, field, name) = match (named(&request.capsule), named(&request.wizard)) {
            (Some(_), Some(_)) => {
                return Err(refusal(
                    FaultCode::InputInvalid,
                    "wizard",
                    "a request names a capsule or a wizard: leave one out",
                ));
            }
            (Some(name), None) => (Origin::Capsule, "capsule", name),
            (None, Some(name)) => (Origin::Wizard, "wizard", name),
            (None, None) if request.goal.trim().is_empty() => {
                let detail = "the request names no capsule, wizard or goal: give one";
                return Err(refusal(FaultCode::RequestEmpty, "goal", detail));
            }
            (None, None) => {
                let known = self.catalogue.known(Origin::Capsule);
                let detail = format!("free text needs a planner and none is deployed; name a capsule instead: {known}");
                return Err(refusal(FaultCode::PlannerMissing, "goal", detail));
            }
        };
        self.catalogue.find(origin, &name).ok_or_else(|| {
            let detail = format!(
                "there is no {field} `{name}`; the catalogue holds {}",
                self.catalogue.known(origin)
            );
            refusal(FaultCode::CapsuleUnknown, field, detail)
        })
    }

    fn record(&self, request: &Request, run_id: &str, fx: &Effects<'_>) -> Result<Plan, Fault> {
        let (definition, steps, refusal) = match self.plan(request, run_id, fx) {
            Ok((definition, steps)) => (definition, steps, None),
            Err(refusal) => (self.definition(request).ok(), Vec::new(), Some(refusal)),
        };
        let provenance = definition.map(|d| match d.origin {
            Origin::Capsule => format!("capsule:{}", d.key()),
            Origin::Wizard => format!("wizard:{}", d.key()),
        });
        Ok(Plan {
            plan_id: digest::id("plan", &["plan", run_id]),
            run_id: run_id.to_owned(),
            tenant: request.tenant.clone(),
            actor: request.actor.clone(),
            roles: request.roles.clone(),
            goal: request.goal.clone(),
            idempotency_key: request.idempotency_key.clone(),
            capsule: definition.map(Definition::key).or_else(|| request.capsule.clone()),
            autonomy: request.autonomy,
            region: request.region.clone(),
            data_classes: request.data_classes.clone(),
            budget_usd: request.budget_usd,
            digest: digest::plan(run_id, &steps).map_err(|e| Fault::new(FaultCode::Internal, e))?,
            steps,
            refusal,
            provenance: provenance.unwrap_or_default(),
            requested_at: request.requested_at,
            created_at: fx.now(),
        })
    }
}

impl Processor for Intake {
    type In = Input;
    type State = State;

    fn name(&self) -> &'static str {
        "intake"
    }

    fn step(&self, state: &mut State, input: &Delivery<Input>, fx: &mut Effects<'_>) -> Result<(), Fault> {
        let Input::Request(request) = &input.input;
        check_key(request, &input.key)?;
        let tenant = request.tenant.as_str();
        if !state.run_id.is_empty() {
            let first = state.seen_at.to_string();
            let facts = [
                ("idempotency_key", request.idempotency_key.as_str()),
                ("first_seen_at", first.as_str()),
            ];
            return fx.event(tenant, &state.run_id, "request.duplicate", &facts);
        }
        let run_id = digest::run_id(tenant, &request.idempotency_key);
        let plan = self.record(request, &run_id, fx)?;
        fx.emit(topics::PLANS, run_id.as_str(), tenant, &plan)?;
        let capsule = plan.capsule.as_deref().unwrap_or_default();
        match &plan.refusal {
            Some(refusal) => {
                let facts = [
                    ("code", refusal.code.as_str()),
                    ("field", refusal.field.as_str()),
                    ("capsule", capsule),
                ];
                fx.event(tenant, &run_id, "request.refused", &facts)?;
            }
            None => {
                let steps = plan.steps.len().to_string();
                let facts = [
                    ("capsule", capsule),
                    ("steps", steps.as_str()),
                    ("actor", plan.actor.as_str()),
                ];
                fx.event(tenant, &run_id, "request.accepted", &facts)?;
            }
        }
        *state = State {
            run_id,
            seen_at: fx.now(),
        };
        fx.wake_at(FORGET, fx.now().plus_ms(crate::hours::ms(self.dedupe_hours)));
        Ok(())
    }

    fn on_timer(&self, state: &mut State, timer: &Timer, _fx: &mut Effects<'_>) -> Result<(), Fault> {
        if timer.name == FORGET {
            *state = State::default();
        }
        Ok(())
    }
}

/// The record's key is what repeats are found by: under another key, or without one, no run can be named, so it is a dead letter.
fn check_key(request: &Request, key: &str) -> Result<(), Fault> {
    let invalid = |detail: String| Err(Fault::new(FaultCode::RecordInvalid, detail));
    let own = &request.idempotency_key;
    if own.trim().is_empty() || own.chars().count() > KEY_LENGTH_MAX || own.chars().any(char::is_control) {
        return invalid(format!(
            "field `idempotency_key`: give 1 to {KEY_LENGTH_MAX} printable characters, unique for this tenant"
        ));
    }
    let wanted = format!("{}:{own}", request.tenant);
    if key == wanted {
        return Ok(());
    }
    invalid(format!(
        "the record's key is `{key}`; on {} it must be `tenant:idempotency_key`, here `{wanted}`",
        topics::REQUESTS.name
    ))
}

fn check_fields(request: &Request) -> Result<(), Refusal> {
    let tenant = &request.tenant;
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    if tenant.is_empty() || tenant.len() > 64 || !tenant.bytes().all(allowed) {
        let detail = format!("`{tenant}` is not a tenant name: 1 to 64 of a-z, 0-9, `-` and `_`");
        return Err(refusal(FaultCode::TenantInvalid, "tenant", detail));
    }
    if request.actor.trim().is_empty() {
        return Err(refusal(
            FaultCode::InputInvalid,
            "actor",
            "is empty: say who asks, a user or a service",
        ));
    }
    match request.budget_usd {
        Some(budget) if budget.0 < 0 => {
            let detail = format!("{budget} is below 0: give an amount of at least 0, or none for no limit");
            Err(refusal(FaultCode::InputInvalid, "budget_usd", detail))
        }
        _ => Ok(()),
    }
}
