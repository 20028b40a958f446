//! The gate on its own: given a bundle and a plan or proposal, which verdict, which signatures.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use ed25519_dalek::{Signature, VerifyingKey};
use kernel::controls::Controls;
use kernel::{ConfigFault, Headers, Position};
use schemas::records::{ApprovalRef, Event, Refusal, Severity, Step};
use schemas::{Record, Timestamp, Usd};

use super::*;

pub(super) const NOW: Timestamp = Timestamp(1_000_000_000);

pub(super) fn shipped() -> Vec<(String, String)> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../pipelines/policies/base");
    let files = std::fs::read_dir(root).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        (
            format!("base/{}", path.file_name().unwrap().display()),
            std::fs::read_to_string(path).unwrap(),
        )
    });
    files.collect()
}

pub(super) fn parse(files: &[(&str, &str)]) -> Result<Bundle, Vec<ConfigFault>> {
    Bundle::parse(
        &files
            .iter()
            .map(|(p, t)| ((*p).to_owned(), (*t).to_owned()))
            .collect::<Vec<_>>(),
    )
}

pub(super) fn gate_bundle() -> Bundle {
    Bundle::parse(&shipped()).unwrap()
}

pub(super) fn gate() -> PolicyGate {
    PolicyGate::new(gate_bundle(), [9; 32], || 0)
}

pub(super) fn step(id: &str, tool: &str, operation: &str, arguments: &str) -> Step {
    let text = |t: &str| t.to_owned();
    Step {
        step_id: text(id),
        tool: text(tool),
        operation: text(operation),
        arguments: text(arguments),
        ..Step::default()
    }
}

pub(super) fn plan(steps: Vec<Step>) -> Plan {
    Plan {
        plan_id: "plan_1".into(),
        run_id: "run_1".into(),
        tenant: "acme".into(),
        actor: "ada".into(),
        digest: digest::plan("run_1", &steps).unwrap(),
        steps,
        ..Plan::default()
    }
}

pub(super) const GET: &str = r#"{"method":"GET","url":"http://127.0.0.1:8080/x"}"#;

pub(super) fn proposal(step: &Step) -> Proposal {
    let own = digest::action(&step.tool, &step.operation, &step.arguments).unwrap();
    Proposal {
        proposal_id: "pro_1".into(),
        run_id: "run_1".into(),
        tenant: "acme".into(),
        actor: "ada".into(),
        subject: Subject::Step,
        subject_id: step.step_id.clone(),
        subject_digest: own.clone(),
        steps: vec![ProposedStep {
            step_id: step.step_id.clone(),
            tool: step.tool.clone(),
            operation: step.operation.clone(),
            arguments: step.arguments.clone(),
            digest: own,
            approval_required: step.approval_required,
        }],
        ..Proposal::default()
    }
}

pub(super) fn judged(gate: &PolicyGate, input: Input) -> Verdict {
    let controls = Controls::default();
    let mut fx = Effects::new(NOW, "run_1", "p/0@1", &controls);
    let delivery = Delivery {
        input,
        key: "run_1".into(),
        position: Position::default(),
        headers: Headers::default(),
        at: NOW,
    };
    gate.step(&mut (), &delivery, &mut fx).unwrap();
    let verdict = Verdict::from_avro(Verdict::schema(), &fx.emits[0].avro).unwrap();
    let event = Event::from_avro(Event::schema(), &fx.emits[1].avro).unwrap();
    assert_eq!(event.kind, format!("verdict.{}", verdict.decision.word()));
    verdict
}

pub(super) fn of_plan(plan: Plan) -> Verdict {
    judged(&gate(), Input::Plan(Box::new(plan)))
}

pub(super) fn of_proposal(proposal: &Proposal) -> Verdict {
    judged(&gate(), Input::Proposal(Box::new(proposal.clone())))
}

pub(super) fn rules(verdict: &Verdict) -> Vec<&str> {
    verdict.violations.iter().map(|v| v.rule.as_str()).collect()
}

#[test]
fn the_shipped_bundle_holds_its_own_tests() {
    let results = Bundle::parse(&shipped()).unwrap_or_else(|f| panic!("{f:#?}")).test();
    assert!(results.len() >= 12);
    let failed: Vec<_> = results.iter().filter(|r| !r.passed).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let (again, covered) = Bundle::parse(&shipped()).unwrap().test_with_coverage().unwrap();
    assert_eq!(again, results);
    let missed: Vec<_> = covered.iter().filter(|c| !c.missed.is_empty()).collect();
    assert!(covered.len() >= 4 && missed.is_empty(), "no test comes to: {missed:#?}");
}

#[test]
fn an_allowed_plan_is_signed_step_by_step_but_only_where_arguments_are_exact() {
    let steps = vec![
        step("plan", "terraform", "plan", r#"{"workspace":"w"}"#),
        step(
            "apply",
            "terraform",
            "apply",
            r#"{"destroy_count":"${steps.plan.result.destroy}"}"#,
        ),
        step("check", "http", "request", GET),
    ];
    let verdict = of_plan(plan(steps.clone()));
    assert_eq!(
        (verdict.decision, verdict.score, verdict.severity),
        (Decision::Allow, 1.0, Severity::Low)
    );
    assert_eq!(
        verdict.steps.iter().map(|s| s.signature.is_empty()).collect::<Vec<_>>(),
        [false, true, false]
    );
    assert_eq!(public_key([9; 32]), gate().public_key());
    let key = VerifyingKey::from_bytes(&gate().public_key()).unwrap();
    let signature = Signature::from_slice(&hex::decode(&verdict.steps[2].signature).unwrap()).unwrap();
    let own = digest::action("http", "request", GET).unwrap();
    let text = permit::signed_text(
        "run_1",
        "check",
        &own,
        &verdict.policy_revision,
        verdict.decided_at,
        &[],
    );
    assert!(key.verify_strict(&text, &signature).is_ok());
    assert_eq!(of_plan(plan(steps)), verdict, "the same plan gives the same verdict");
}

#[test]
fn a_refusal_a_wrong_digest_and_a_disguised_step_are_denied() {
    let refused = Plan {
        refusal: Some(Refusal {
            code: "INPUT_INVALID".into(),
            ..Refusal::default()
        }),
        ..plan(vec![])
    };
    assert_eq!(rules(&of_plan(refused)), ["intake.refusal"]);
    let forged = of_plan(Plan {
        digest: "0".repeat(64),
        ..plan(vec![step("a", "http", "request", GET)])
    });
    assert_eq!(
        (forged.decision, rules(&forged)),
        (Decision::Deny, vec!["PERMIT_INVALID"])
    );
    assert!(forged.steps[0].signature.is_empty());
    let disguised = of_plan(plan(vec![step("a.compensation", "terraform", "destroy", "{}")]));
    assert_eq!(
        (disguised.decision, rules(&disguised)[0]),
        (Decision::Deny, "PLAN_INVALID")
    );
    let text = of_plan(plan(vec![step("a", "terraform", "plan", "{")]));
    assert_eq!((text.decision, rules(&text)), (Decision::Deny, vec!["PERMIT_INVALID"]));
}

#[test]
fn weighted_rules_score_band_and_excerpt_as_the_original() {
    let goal = format!("{} then RM -RF all and DROP TABLE users", "x".repeat(60));
    let verdict = of_plan(Plan {
        goal,
        ..plan(vec![step("a", "http", "request", GET)])
    });
    assert_eq!(
        (verdict.decision, verdict.score, verdict.severity),
        (Decision::Deny, 0.0, Severity::Critical)
    );
    assert_eq!(rules(&verdict), ["drop_table", "recursive_delete"]);
    let excerpt = &verdict.violations[1].excerpt;
    assert!(excerpt.starts_with("xx") && excerpt.contains(" then RM -RF all and") && excerpt.chars().count() <= 86);
    assert!(verdict.steps[0].signature.is_empty() && verdict.steps[0].decision == Decision::Deny);
    let one = of_plan(Plan {
        goal: "a Forbidden thing".into(),
        ..plan(vec![step("a", "http", "request", GET)])
    });
    assert_eq!((one.score, one.severity), (0.5, Severity::Medium));
    let hidden = r#"{"method":"GET","url":"http://127.0.0.1/","text":"rm \u002drf"}"#;
    assert_eq!(
        rules(&of_plan(plan(vec![step("a", "http", "request", hidden)]))),
        ["recursive_delete"]
    );
    let asked = of_plan(Plan {
        goal: "look at the production database".into(),
        ..plan(vec![step("a", "http", "request", GET)])
    });
    assert_eq!((asked.decision, asked.score), (Decision::Escalate, 0.75));
}

#[test]
fn a_host_is_judged_as_the_client_would_read_it() {
    for url in [
        "http://localhost@203.0.113.9/",
        "http://127.0.0.1.example.org/",
        "http:\\\\\\\\203.0.113.9",
        "x",
        "file:///etc/passwd",
    ] {
        let verdict = of_plan(plan(vec![step(
            "a",
            "http",
            "request",
            &format!(r#"{{"url":"{url}"}}"#),
        )]));
        assert_eq!(verdict.decision, Decision::Deny, "{url}");
        assert!(
            rules(&verdict).contains(&"host_not_allowed"),
            "{url}: {:?}",
            rules(&verdict)
        );
    }
    for url in ["http://localhost:1/", "http://[::1]:1/", "http://2130706433/"] {
        let verdict = of_plan(plan(vec![step(
            "a",
            "http",
            "request",
            &format!(r#"{{"url":"{url}"}}"#),
        )]));
        assert_eq!(verdict.decision, Decision::Allow, "{url}");
    }
}

#[test]
fn an_escalation_is_lifted_only_by_an_approval_of_exactly_this() {
    let asked = proposal(&step(
        "apply",
        "terraform",
        "apply",
        r#"{"plan_id":"p","destroy_count":1}"#,
    ));
    let verdict = of_proposal(&asked);
    assert_eq!(
        (verdict.decision, rules(&verdict)),
        (Decision::Escalate, vec!["terraform_apply_destroys"])
    );
    assert!(verdict.steps[0].signature.is_empty());
    let good = ApprovalRef {
        approval_id: "apr_1".into(),
        approver: "grace".into(),
        digest: verdict.digest.clone(),
        policy_revision: verdict.policy_revision,
        expires_at: Some(NOW.plus_ms(1)),
        decided_at: NOW,
        ..ApprovalRef::default()
    };
    let with = |change: fn(&mut ApprovalRef)| {
        let mut approval = good.clone();
        change(&mut approval);
        of_proposal(&Proposal {
            approval: Some(approval),
            ..asked.clone()
        })
    };
    let lifted = with(|_| {});
    assert_eq!(
        (lifted.decision, lifted.approval_id.as_deref(), lifted.score),
        (Decision::Allow, Some("apr_1"), 1.0)
    );
    assert_eq!(lifted.steps[0].signature.len(), 128);
    let bad: [(&str, fn(&mut ApprovalRef)); 5] = [
        ("approval.self", |a| a.approver = "ada".into()),
        ("approval.digest", |a| a.digest = "0".into()),
        ("approval.policy_revision", |a| a.policy_revision = "old".into()),
        ("approval.expired", |a| a.expires_at = Some(NOW)),
        ("approval.incomplete", |a| a.approver = String::new()),
    ];
    for (rule, change) in bad {
        let verdict = with(change);
        assert_eq!((verdict.decision, rules(&verdict)[1]), (Decision::Escalate, rule));
        assert!(verdict.steps[0].signature.is_empty() && verdict.approval_id.is_none());
    }
    let mut required = proposal(&Step {
        approval_required: true,
        ..step("a", "http", "request", GET)
    });
    assert_eq!(rules(&of_proposal(&required)), ["step.approval_required"]);
    required.approval = Some(ApprovalRef {
        digest: required.subject_digest.clone(),
        ..good.clone()
    });
    assert_eq!(of_proposal(&required).decision, Decision::Allow);
    let mut denied = proposal(&step(
        "a",
        "http",
        "request",
        r#"{"method":"DELETE","url":"http://203.0.113.9"}"#,
    ));
    denied.approval = Some(ApprovalRef {
        digest: denied.subject_digest.clone(),
        ..good.clone()
    });
    let verdict = of_proposal(&denied);
    assert_eq!(
        (verdict.decision, verdict.approval_id),
        (Decision::Deny, None),
        "a deny is never lifted"
    );
}

#[test]
fn a_proposal_that_is_not_what_it_says_is_denied_and_a_way_back_is_not_asked_for() {
    let mut forged = proposal(&step("a", "http", "request", GET));
    forged.steps[0].arguments = r#"{"method":"POST","url":"http://127.0.0.1"}"#.into();
    let verdict = of_proposal(&forged);
    assert!(verdict.decision == Decision::Deny && rules(&verdict).contains(&"PERMIT_INVALID"));
    assert!(verdict.steps[0].signature.is_empty());
    let back = of_proposal(&proposal(&step(
        "apply.compensation",
        "terraform",
        "destroy",
        r#"{"workspace":"w"}"#,
    )));
    assert_eq!(back.decision, Decision::Allow);
    let large = of_plan(Plan {
        budget_usd: Some(Usd(101_000_000)),
        ..plan(vec![step("a", "http", "request", GET)])
    });
    assert_eq!(
        (large.decision, large.steps[0].decision),
        (Decision::Escalate, Decision::Escalate)
    );
}

#[test]
fn a_bundle_with_faults_is_refused_with_file_line_and_reason() {
    let gate = "package soma.gate\n\ndeny contains {\"rule\": \"r\"} if false\n\nescalate contains {\"rule\": \"r\"} if false\n";
    assert!(parse(&[("a/gate.rego", gate)]).is_ok());
    let cases: [(&str, &[(&str, &str)], &str); 11] = [
        (
            "syntax",
            &[("a/gate.rego", "package soma.gate\n\ndeny contains {\n")],
            "a/gate.rego:",
        ),
        (
            "no entry",
            &[("a/gate.rego", "package other\nx := 1\n")],
            "data.soma.gate.deny",
        ),
        (
            "not a set",
            &[("a/gate.rego", "package soma.gate\ndeny := 1\nescalate := 2\n")],
            "must be a set",
        ),
        (
            "clock",
            &[("a/gate.rego", gate), ("a/x.rego", "package x\n\ny := time.now_ns()\n")],
            "a/x.rego:3: `time.`",
        ),
        (
            "unlike OPA",
            &[
                ("a/gate.rego", gate),
                ("a/x.rego", "package x\n\ny := strings.count(\"a\", \"\")\n"),
            ],
            "a/x.rego:3: `strings.count`",
        ),
        (
            "absent",
            &[
                ("a/gate.rego", gate),
                ("a/x.rego", "package x\n\ny if net.cidr_contains(\"::/0\", input.ip)\n"),
            ],
            "a/x.rego:3: `net.`",
        ),
        (
            "newer words",
            &[
                ("a/gate.rego", gate),
                ("a/x.rego", "package x\n\nimport future.keywords.not\n"),
            ],
            "a/x.rego:3: keyword `not`",
        ),
        (
            "test syntax",
            &[("a/gate.rego", gate), ("a/x_test.rego", "package x\ntest_a if {\n")],
            "a/x_test.rego:",
        ),
        (
            "rules",
            &[
                ("a/gate.rego", gate),
                ("a/rules.yaml", "rules: [{name: a, pattern: b, weight: 2}]"),
            ],
            "rules[0].weight",
        ),
        (
            "data",
            &[("a/gate.rego", gate), ("a/d.yaml", "soma: {}")],
            "may not be named `soma`",
        ),
        ("kind", &[("a/gate.rego", gate), ("a/x.txt", "")], "move this one"),
    ];
    for (why, files, words) in cases {
        let faults = parse(files).unwrap_err();
        let text = faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert!(text.contains(words), "{why}: `{words}` is not in\n{text}");
    }
    let a = parse(&[("a/gate.rego", gate)]).unwrap();
    let b = parse(&[("a/gate.rego", gate), ("a/d.yaml", "x: 1")]).unwrap();
    assert_ne!(a.revision(), b.revision());
    let test = ("a/x_test.rego", "package x\ntest_no if 1 == 2\ntest_yes if true\n");
    let passed: Vec<_> = parse(&[("a/gate.rego", gate), test])
        .unwrap()
        .test()
        .iter()
        .map(|r| r.passed)
        .collect();
    assert_eq!(passed, [false, true]);
}

#[test]
fn a_policy_that_fails_or_runs_too_long_denies() {
    let deny = |body: &str| {
        format!(
            "package soma.gate\n\ndeny contains f if {{\n{body}\n}}\n\nescalate contains {{\"rule\": \"r\"}} if false\n"
        )
    };
    let errs = deny("input.steps[_]\nto_number(input.tenant) == 1\nf := {\"rule\": \"r\", \"description\": \"d\"}");
    let odd = deny("input.steps[_]\nf := {\"rule\": 1}");
    let slow = deny(
        "input.steps[_]\nn := numbers.range(1, 3000)\ncount([1 | some a in n; some b in n; a == b + 9000]) == 1\nf := 1",
    );
    for text in [errs, odd, slow] {
        let gate = PolicyGate::new(parse(&[("a/gate.rego", &text)]).unwrap(), [9; 32], || 0);
        let verdict = judged(
            &gate,
            Input::Plan(Box::new(plan(vec![step("a", "http", "request", GET)]))),
        );
        assert_eq!(
            (verdict.decision, rules(&verdict)),
            (Decision::Deny, vec!["POLICY_UNREADABLE"]),
            "{text}"
        );
    }
}
