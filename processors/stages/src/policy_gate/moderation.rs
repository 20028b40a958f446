//! Moderation: what a breach of its rules does beside the denial. How many strikes lock an actor out is a matter of policy.

use kernel::{Effects, Fault};
use schemas::records::{Decision, Plan, Strike, Verdict};
use schemas::{digest, topics};

/// A plan that is denied for a breach of moderation counts against who asked for it, once.
pub(super) fn strike(plan: &Plan, verdict: &Verdict, fx: &mut Effects<'_>) -> Result<(), Fault> {
    let broken = verdict.violations.iter().find(|v| v.strike);
    let Some(broken) = broken.filter(|_| verdict.decision == Decision::Deny) else {
        return Ok(());
    };
    let strike = Strike {
        strike_id: digest::id("str", &["strike", &plan.run_id]),
        tenant: plan.tenant.clone(),
        person: plan.actor.clone(),
        run_id: plan.run_id.clone(),
        rule: broken.rule.clone(),
        verdict_id: verdict.verdict_id.clone(),
        pardoned: false,
        reason: broken.description.clone(),
        actor: "policy_gate".to_owned(),
        struck_at: fx.now(),
    };
    let before = fx.controls().members().strikes(&plan.tenant, &plan.actor, fx.now());
    let nth = (before.len() + 1).to_string();
    let facts = [
        ("person", plan.actor.as_str()),
        ("rule", broken.rule.as_str()),
        ("nth", nth.as_str()),
    ];
    fx.emit(
        topics::STRIKES,
        format!("{}:{}", plan.tenant, plan.actor),
        &plan.tenant,
        &strike,
    )?;
    fx.event(&plan.tenant, &plan.run_id, "moderation.strike", &facts)
}
