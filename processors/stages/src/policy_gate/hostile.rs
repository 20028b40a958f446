//! What an attacker or a mistake may put before the gate: each is refused or contained, and the next question is answered.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use schemas::records::{ApprovalRef, Decision, Plan};
use schemas::{Timestamp, Usd};

use super::tests::{GET, NOW, gate, judged, of_plan, of_proposal, parse, plan, proposal, rules, step};
use super::*;

fn denied(verdict: &Verdict, rule: &str) {
    let permits: Vec<_> = verdict.steps.iter().filter(|s| !s.signature.is_empty()).collect();
    assert_eq!((verdict.decision, permits.len()), (Decision::Deny, 0), "{verdict:?}");
    assert!(
        rules(verdict).contains(&rule),
        "{rule} is not among {:?}",
        rules(verdict)
    );
}

#[test]
#[allow(clippy::disallowed_methods, reason = "how long it took is what is tested")]
fn a_policy_without_end_is_cut_off_and_the_next_question_is_answered() {
    let endless = "package soma.gate\n\ndeny contains f if {\n\tinput.tenant == \"loop\"\n\tn := numbers.range(1, 100000)\n\tsome a in n\n\
                   \tsome b in n\n\ta == b + 200000\n\tf := {\"rule\": \"r\", \"description\": \"d\"}\n}\n\nescalate contains {\"rule\": \"r\"} if false\n";
    let gate = PolicyGate::new(parse(&[("a/gate.rego", endless)]).unwrap(), [9; 32], || 0);
    let of = |tenant: &str| {
        let mut plan = plan(vec![step("a", "http", "request", GET)]);
        plan.tenant = tenant.into();
        judged(&gate, Input::Plan(Box::new(plan)))
    };
    let began = std::time::Instant::now();
    denied(&of("loop"), "POLICY_UNREADABLE");
    assert!(began.elapsed().as_secs() < 3, "{:?}", began.elapsed());
    assert_eq!(of("acme").decision, Decision::Allow);
}

#[test]
fn a_policy_that_calls_itself_is_refused_when_it_is_read() {
    let text = "package soma.gate\n\ndeny contains f if {\n\tf := g(1)\n}\n\ng(x) := g(x)\n\nescalate contains {\"rule\": \"r\"} if false\n";
    let faults = parse(&[("a/gate.rego", text)]).unwrap_err();
    assert!(
        faults[0]
            .to_string()
            .starts_with("a/gate.rego:7: `soma.gate.g` comes back to itself"),
        "{faults:?}"
    );
}

#[test]
fn an_engine_that_breaks_down_denies_and_is_replaced() {
    let mut engine = rego::engine();
    let pristine = engine.clone();
    let broken = rego::asked(&mut engine, &pristine, |_| -> Result<(), String> {
        panic!("window size must be non-zero")
    });
    assert_eq!(
        broken,
        Err("the policy engine broke down: window size must be non-zero".to_owned())
    );
    let answer = rego::asked(&mut engine, &pristine, |e| {
        e.eval_query("1 + 1".into(), false).map_err(|e| e.to_string())
    });
    assert_eq!(answer.unwrap().result.len(), 1);
}

#[test]
fn ten_megabytes_are_denied() {
    let arguments = format!(
        r#"{{"method":"POST","url":"http://127.0.0.1/x","body":"{}"}}"#,
        "a".repeat(10 << 20)
    );
    denied(
        &of_plan(plan(vec![step("a", "http", "request", &arguments)])),
        "http_body_too_large",
    );
}

#[test]
fn arguments_without_bottom_are_denied() {
    let deep = format!(
        r#"{{"url":"http://127.0.0.1/x","json":{}1{}}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let mut proposal = proposal(&step("a", "http", "request", GET));
    proposal.steps[0].arguments = deep;
    denied(&of_proposal(&proposal), "PERMIT_INVALID");
}

#[test]
fn numbers_that_are_none_or_too_large_do_not_pass_for_small_ones() {
    let apply = |count: &str| format!(r#"{{"workspace":"w","plan_id":"p","destroy_count":{count}}}"#);
    for (count, rule) in [
        ("1e308", "terraform_destroys_too_much"),
        ("18446744073709551616", "terraform_destroys_too_much"),
        ("0.5", "terraform_apply_destroys"),
        ("\"NaN\"", "terraform_apply_unstated"),
        ("null", "terraform_apply_unstated"),
        ("-0", ""),
    ] {
        let verdict = of_plan(plan(vec![step("a", "terraform", "apply", &apply(count))]));
        assert_eq!(
            verdict.decision == Decision::Allow,
            rule.is_empty(),
            "{count}: {verdict:?}"
        );
        assert!(
            rule.is_empty() || rules(&verdict).contains(&rule),
            "{count}: {:?}",
            rules(&verdict)
        );
    }
    let mut proposal = proposal(&step("a", "terraform", "apply", &apply("0")));
    for count in ["NaN", "Infinity", "1e400"] {
        proposal.steps[0].arguments = apply(count);
        denied(&of_proposal(&proposal), "PERMIT_INVALID");
    }
    for (budget, rule) in [(Usd::MICROS_MAX, "budget_above_ceiling"), (-1, "budget_negative")] {
        let mut plan = plan(vec![step("a", "http", "request", GET)]);
        plan.budget_usd = Some(Usd(budget));
        denied(&of_plan(plan), rule);
    }
}

#[test]
fn a_name_that_only_looks_like_a_tenant_is_denied() {
    for tenant in [
        "\u{430}cme",
        "acme\u{200b}",
        "ac\u{301}me",
        "ACME\u{2028}",
        "\u{ff41}cme",
        "acme ",
        "../acme",
    ] {
        let mut plan = plan(vec![step("a", "http", "request", GET)]);
        plan.tenant = tenant.into();
        denied(&of_plan(plan), "tenant_name");
    }
}

/// The loop's clock decides; what a record says of itself does not.
#[test]
fn clocks_that_are_wrong_change_no_verdict_and_lengthen_no_approval() {
    for at in [Timestamp(0), Timestamp(i64::MAX), Timestamp(i64::MIN)] {
        let mut plan: Plan = plan(vec![step("a", "http", "request", GET)]);
        (plan.requested_at, plan.created_at) = (at, at);
        let verdict = of_plan(plan);
        assert_eq!((verdict.decision, verdict.decided_at), (Decision::Allow, NOW));
    }
    let gone = step(
        "a",
        "http",
        "request",
        r#"{"method":"DELETE","url":"http://127.0.0.1/x"}"#,
    );
    let mut proposal = proposal(&gone);
    proposal.approval = Some(ApprovalRef {
        approval_id: "apr_1".into(),
        approver: "grace".into(),
        digest: proposal.subject_digest.clone(),
        policy_revision: gate().revision().into(),
        expires_at: Some(Timestamp(NOW.0 - 1)),
        // Given, as its clock has it, after its own end and long after now.
        decided_at: Timestamp(i64::MAX),
        ..ApprovalRef::default()
    });
    proposal.proposed_at = Timestamp(0);
    let verdict = of_proposal(&proposal);
    assert_eq!(verdict.decision, Decision::Escalate);
    assert!(rules(&verdict).contains(&"approval.expired"));
}
