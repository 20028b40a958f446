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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use kernel::controls::Controls;
    use kernel::{Delivery, Headers, Position, Processor};
    use schemas::Record;

    use super::super::Input;
    use super::super::tests::{GET, NOW, gate, plan, step};
    use super::*;

    #[test]
    fn a_denied_plan_that_breaks_moderation_strikes_who_asked_once_and_three_lock_them_out() {
        let forbidden = Plan {
            goal: "do the forbidden thing".into(),
            ..plan(vec![step("check", "http", "request", GET)])
        };
        let mut controls = Controls::default();
        let emitted = |plan: &Plan, controls: &Controls| {
            let mut fx = Effects::new(NOW, &plan.run_id, "p/0@1", controls);
            let delivery = Delivery {
                input: Input::Plan(Box::new(plan.clone())),
                key: plan.run_id.clone(),
                position: Position::default(),
                headers: Headers::default(),
                at: NOW,
            };
            gate().step(&mut (), &delivery, &mut fx).unwrap();
            let strikes = fx.emits.iter().filter(|e| e.topic == "soma.strikes");
            let strikes: Vec<_> = strikes
                .map(|e| Strike::from_avro(Strike::schema(), &e.avro).unwrap())
                .collect();
            (
                strikes,
                Verdict::from_avro(Verdict::schema(), &fx.emits[0].avro).unwrap(),
            )
        };
        for nth in 1..=3 {
            let run_id = format!("run_{nth}");
            let again = Plan {
                digest: digest::plan(&run_id, &forbidden.steps).unwrap(),
                run_id,
                ..forbidden.clone()
            };
            let (strikes, verdict) = emitted(&again, &controls);
            assert_eq!((strikes.len(), verdict.decision), (1, Decision::Deny));
            assert_eq!(
                (strikes[0].person.as_str(), strikes[0].rule.as_str()),
                ("ada", "forbidden_word")
            );
            assert_eq!(
                emitted(&again, &controls).0,
                strikes,
                "the same again is the same strike"
            );
            controls.apply_strike(strikes[0].clone());
            controls.apply_strike(strikes[0].clone());
        }
        let harmless = plan(vec![step("check", "http", "request", GET)]);
        let (strikes, verdict) = emitted(&harmless, &controls);
        assert_eq!(
            (strikes.len(), verdict.violations[0].rule.as_str()),
            (0, "moderation_locked")
        );
        let other = Plan {
            actor: "grace".into(),
            ..harmless
        };
        assert_eq!(emitted(&other, &controls).1.decision, Decision::Allow);
    }
}
