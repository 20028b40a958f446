//! Constitutions: what is refused, what they require, and who prevails between sources of rules.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use kernel::members::Members;
use schemas::records::{Constitution, Decision, Obligation, Plan, Verdict};
use schemas::{Timestamp, Usd, permit};

use super::super::tests::{GET, gate, plan, step};
use super::super::{Bundle, Input, PolicyGate, Shelf, public_key};
use super::{Document, Signers, read};

const KEY: [u8; 32] = [7; 32];

pub(super) fn signers() -> Signers {
    let key = hex::encode(public_key(KEY));
    Signers::parse(&format!("acme: [{key}]")).unwrap()
}

fn document(rest: &str) -> Document {
    let head = "tenant: acme\nversion: 1\ntitle: t\nissued_at: '2026-01-01T00:00:00Z'\n";
    serde_yaml_ng::from_str(&format!("{head}{rest}")).unwrap()
}

pub(super) fn signed(rest: &str) -> Constitution {
    document(rest).sign(KEY).unwrap()
}

fn judged(gate: &PolicyGate, plan: &Plan) -> Verdict {
    let input = Input::Plan(Box::new(plan.clone()));
    gate.judge(&input, Timestamp(1_790_000_000_000_000), &Members::default())
        .unwrap()
}

/// A plan of one call that the base bundle allows.
pub(super) fn harmless() -> Plan {
    plan(vec![step("check", "http", "request", GET)])
}

pub(super) fn under(constitution: &str) -> (PolicyGate, Shelf) {
    let shelf = Shelf::default();
    assert!(shelf.constitute(read(&signed(constitution), &signers()).unwrap()));
    (gate().with_shelf(shelf.clone()), shelf)
}

pub(super) fn bundle(text: &str) -> Bundle {
    let text = format!("package soma.gate\nimport rego.v1\n{text}");
    Bundle::parse(&[("gate.rego".to_owned(), text)]).unwrap()
}

#[test]
fn what_is_not_signed_by_who_may_or_was_altered_or_is_over_is_refused() {
    let good = signed("expires_at: '2027-01-01T00:00:00Z'");
    let of = |change: &dyn Fn(&mut Constitution)| {
        let mut record = good.clone();
        change(&mut record);
        read(&record, &signers()).map(|r| r.hash)
    };
    assert_eq!(of(&|_| ()), Ok(good.hash.clone()));
    let refused = |change: &dyn Fn(&mut Constitution), field: &str| {
        let why = of(change).unwrap_err();
        assert!(why.starts_with(field), "{field}: {why}");
    };
    refused(&|c| c.document = c.document.replace("\"t\"", "\"u\""), "hash:");
    refused(
        &|c| c.document = format!("{} ", c.document),
        "document: is not canonical",
    );
    refused(&|c| c.hash = "0".repeat(64), "hash:");
    refused(&|c| c.signer.clear(), "signer: it is not signed");
    refused(&|c| c.signature.clear(), "signature:");
    refused(&|c| c.signature.replace_range(0..2, "00"), "signature:");
    refused(&|c| c.tenant = "globex".into(), "tenant, version:");
    refused(&|c| c.version = 2, "tenant, version:");
    refused(
        &|c| c.published_at = "2027-01-01T00:00:00Z".parse().unwrap(),
        "document.expires_at:",
    );
    refused(&|c| *c = document("").sign([8; 32]).unwrap(), "signer:");
    // A signer of one tenant signs for no other, and not for all.
    refused(
        &|c| {
            let all = Document {
                tenant: "*".into(),
                ..document("")
            };
            *c = all.sign(KEY).unwrap();
        },
        "signer:",
    );
    let key = hex::encode(public_key(KEY));
    let everybody = Signers::parse(&format!("'*': [{key}]")).unwrap();
    assert!(read(&good, &everybody).is_ok());
    assert!(read(&good, &Signers::default()).is_err());
    assert!(
        Signers::parse("acme: [xyz]").unwrap_err()[0]
            .to_string()
            .contains("acme[0]")
    );
}

#[test]
fn a_document_that_contradicts_itself_is_refused_with_its_field() {
    for (rest, field) in [
        (
            "requirements: [{id: a, text: x, deny: true}, {id: a, text: y}]",
            "requirements[1].id",
        ),
        (
            "requirements: [{id: a, text: x, principle: p}]",
            "requirements[0].principle",
        ),
        (
            "requirements: [{id: a, text: x, deny: true, escalate: {}}]",
            "requirements[0]",
        ),
        (
            "requirements: [{id: a, text: x, escalate: {quorum: 0}}]",
            "requirements[0]",
        ),
        ("requirements: [{id: a, text: x, oblige: {}}]", "requirements[0]"),
        (
            "requirements: [{id: a, text: x, oblige: {redact: [token]}}]",
            "requirements[0]",
        ),
        ("precedence: [base]", "precedence"),
        ("precedence: [base, tenant, base]", "precedence"),
        ("expires_at: '2025-01-01T00:00:00Z'", "expires_at"),
        ("previous: abc", "previous"),
    ] {
        let faults = document(rest).sign(KEY).unwrap_err();
        assert!(faults.iter().any(|f| f.path == field), "{rest}: {faults:?}");
    }
}

#[test]
fn its_requirements_bind_every_step_they_are_about_and_its_hash_is_in_every_verdict() {
    let (gate, _) = under(
        "requirements: [{id: no_http, text: Nothing is fetched., when: {tools: [ht*]}, deny: true}, {id: other, text: x, when: {tools: [terraform]}, deny: true}]",
    );
    let verdict = judged(&gate, &harmless());
    assert_eq!(verdict.decision, Decision::Deny);
    let said: Vec<_> = verdict
        .violations
        .iter()
        .map(|v| (v.rule.as_str(), v.source.as_str(), v.step_id.as_deref()))
        .collect();
    assert_eq!(said, [("constitution.no_http", "constitution", Some("check"))]);
    let own = signed(
        "requirements: [{id: no_http, text: Nothing is fetched., when: {tools: [ht*]}, deny: true}, {id: other, text: x, when: {tools: [terraform]}, deny: true}]",
    );
    assert_eq!(verdict.constitution_hash, Some(own.hash));
    assert_ne!(verdict.policy_revision, gate.revision());
    let other = Plan {
        tenant: "globex".into(),
        ..harmless()
    };
    let verdict = judged(&gate, &other);
    assert_eq!((verdict.decision, verdict.constitution_hash), (Decision::Allow, None));
}

#[test]
fn it_asks_whom_it_names() {
    let (gate, _) = under("requirements: [{id: two, text: Two people., escalate: {roles: [release], quorum: 2}}]");
    let verdict = judged(&gate, &harmless());
    assert_eq!(verdict.decision, Decision::Escalate);
    let ask = &verdict.asks[0];
    assert_eq!(
        (ask.rule.as_str(), ask.quorum, ask.roles.as_slice()),
        ("constitution.two", 2, ["release".to_owned()].as_slice())
    );
}

#[test]
fn one_that_is_over_denies_everything_and_an_older_one_never_comes_back() {
    let shelf = Shelf::default();
    let gate = gate().with_shelf(shelf.clone());
    let end = "expires_at: '2026-02-01T00:00:00Z'";
    assert!(shelf.constitute(read(&signed(end), &signers()).unwrap()));
    let verdict = judged(&gate, &harmless());
    assert_eq!(
        (verdict.decision, verdict.violations[0].rule.as_str()),
        (Decision::Deny, "constitution.expired")
    );
    let second = Document {
        version: 2,
        previous: Some(signed(end).hash),
        ..document("")
    };
    assert!(shelf.constitute(read(&second.sign(KEY).unwrap(), &signers()).unwrap()));
    assert_eq!(judged(&gate, &harmless()).decision, Decision::Allow);
    assert!(
        !shelf.constitute(read(&signed(end), &signers()).unwrap()),
        "an older version, kept by somebody"
    );
    assert_eq!(judged(&gate, &harmless()).decision, Decision::Allow);
}

#[test]
fn where_the_only_one_cannot_be_trusted_nothing_is_allowed() {
    let (gate, shelf) = under("");
    shelf.distrust("acme", "signature: is not the signer's");
    assert_eq!(
        judged(&gate, &harmless()).decision,
        Decision::Allow,
        "the one in force stays"
    );
    shelf.distrust("globex", "signature: is not the signer's");
    let other = Plan {
        tenant: "globex".into(),
        ..harmless()
    };
    let verdict = judged(&gate, &other);
    assert_eq!(
        (verdict.decision, verdict.violations[0].rule.as_str()),
        (Decision::Deny, "constitution.untrusted")
    );
    assert!(verdict.violations[0].description.contains("signature"));
}

const FREEZE: &str = r#"
deny contains {"rule": "freeze", "description": "Nothing happens in December."}
escalate contains finding if { false; finding := {} }
"#;
const LIFT: &str = r#"
deny contains finding if { false; finding := {} }
escalate contains finding if { false; finding := {} }
waive contains {"rule": "freeze", "reason": "the board lifted it"}
"#;

#[test]
fn a_stronger_source_waives_and_the_verdict_says_why() {
    let orders = [
        ("[capsule, tenant, base]", true),
        ("[base, tenant, capsule]", false),
        ("[base, tenant]", false),
        ("", false),
    ];
    for (order, lifted) in orders {
        let (gate, shelf) = under(&if order.is_empty() {
            String::new()
        } else {
            format!("precedence: {order}")
        });
        shelf.put("acme", None, bundle(FREEZE));
        shelf.put("acme", Some("probe"), bundle(LIFT));
        let of_capsule = Plan {
            capsule: Some("probe@1".into()),
            ..harmless()
        };
        let verdict = judged(&gate, &of_capsule);
        let decision = if lifted { Decision::Allow } else { Decision::Deny };
        assert_eq!(verdict.decision, decision, "{order}: {:?}", verdict.violations);
        let a = &verdict.adjudications[0];
        assert_eq!(
            (a.rule.as_str(), a.source.as_str(), a.waived_by.as_str(), a.upheld),
            ("freeze", "tenant", "capsule", !lifted)
        );
        assert!(
            a.why.contains(if order.is_empty() {
                "no constitution"
            } else {
                "precedence"
            }),
            "{}",
            a.why
        );
        // The waiver is of that capsule's runs alone.
        let verdict = judged(&gate, &harmless());
        assert_eq!((verdict.decision, verdict.adjudications.len()), (Decision::Deny, 0));
    }
}

#[test]
fn nothing_waives_the_gate_or_the_constitution() {
    let (gate, shelf) = under("precedence: [capsule, tenant, base]\nrequirements: [{id: freeze, text: x, deny: true}]");
    let lift = LIFT.replace("\"freeze\"", "\"constitution.freeze\"");
    shelf.put("acme", Some("probe"), bundle(&lift));
    let plan = Plan {
        capsule: Some("probe".into()),
        ..harmless()
    };
    let verdict = judged(&gate, &plan);
    assert_eq!(verdict.decision, Decision::Deny);
    assert!(verdict.adjudications[0].upheld && verdict.adjudications[0].why.contains("nothing waives"));
}

#[test]
fn what_an_allow_is_bound_to_is_under_its_signature() {
    let (gate, shelf) = under(
        "requirements: [{id: tokens, text: x, when: {tools: [http]}, oblige: {redact: [/json/token], cap_budget_usd: '2.50'}}]",
    );
    shelf.put(
        "acme",
        None,
        bundle(
            r#"
deny contains finding if { false; finding := {} }
escalate contains finding if { false; finding := {} }
oblige contains {"rule": "rehearse", "kind": "dry_run", "step_id": step.step_id} if some step in input.steps
oblige contains {"rule": "thrift", "kind": "cap_budget", "usd": 1.25}
"#,
        ),
    );
    let verdict = judged(&gate, &harmless());
    assert_eq!(verdict.decision, Decision::Allow, "{:?}", verdict.violations);
    let of = |kind: &str| {
        verdict
            .obligations
            .iter()
            .filter(|o| o.kind == kind)
            .collect::<Vec<_>>()
    };
    let caps: Vec<_> = of(Obligation::CAP_BUDGET).iter().map(|o| o.usd).collect();
    assert_eq!(caps.len(), 2);
    assert!(caps.contains(&Some(Usd(2_500_000))) && caps.contains(&Some(Usd(1_250_000))));
    assert_eq!(of(Obligation::DRY_RUN).len(), 1);
    assert_eq!(of(Obligation::REDACT)[0].fields, ["/json/token"]);
    let step = &verdict.steps[0];
    assert_eq!(step.obligations, verdict.obligations);
    let key = ed25519_dalek::VerifyingKey::from_bytes(&gate.public_key()).unwrap();
    let signature = ed25519_dalek::Signature::from_slice(&hex::decode(&step.signature).unwrap()).unwrap();
    let text = |bound: &[Obligation]| {
        permit::signed_text(
            &verdict.run_id,
            &step.step_id,
            &step.digest,
            &verdict.policy_revision,
            verdict.decided_at,
            bound,
        )
    };
    assert!(key.verify_strict(&text(&step.obligations), &signature).is_ok());
    assert!(key.verify_strict(&text(&[]), &signature).is_err());
    assert!(key.verify_strict(&text(&step.obligations[1..]), &signature).is_err());
}

#[test]
fn an_obligation_that_says_nothing_denies() {
    for said in [
        r#"{"rule": "a", "kind": "redact"}"#,
        r#"{"rule": "a", "kind": "cap_budget", "usd": -1}"#,
        r#"{"rule": "a", "kind": "sing"}"#,
        r#"{"rule": "a", "kind": "dry_run", "step_id": "none"}"#,
    ] {
        let (gate, shelf) = under("");
        shelf.put("acme", None, bundle(&format!("deny contains finding if {{ false; finding := {{}} }}\nescalate contains finding if {{ false; finding := {{}} }}\noblige contains {said}")));
        let verdict = judged(&gate, &harmless());
        assert_eq!(
            (verdict.decision, verdict.violations[0].rule.as_str()),
            (Decision::Deny, "POLICY_UNREADABLE"),
            "{said}"
        );
    }
}
