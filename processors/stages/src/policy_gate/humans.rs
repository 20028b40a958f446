//! Approvals as the gate sees them when what was approved is about to be called, and bundles put in force beside the deployed one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use schemas::Timestamp;
use schemas::records::{ApprovalRef, Done, Member, Permit};

use super::tests::{GET, NOW, gate, judged, parse, plan, proposal, rules, step};
use super::*;

/// Two of the release managers must agree to any POST; after ten minutes those of operations may too.
const RELEASE: &str = "package soma.gate\n\ndeny contains f if {\n\tinput.tenant == \"nobody\"\n\tf := {\"rule\": \"d\", \"description\": \"d\"}\n}\n\n\
    escalate contains f if {\n\tsome s in input.steps\n\ts.arguments.method == \"POST\"\n\tf := {\"rule\": \"posts\", \"description\": \"two must agree\",\n\
    \t\t\"step_id\": s.step_id, \"roles\": [\"release\"], \"quorum\": 2, \"within_s\": 3600,\n\
    \t\t\"deputies\": [{\"after_s\": 600, \"roles\": [\"ops\"]}]}\n}\n";

const POST: &str = r#"{"method":"POST","url":"http://127.0.0.1:8080/x"}"#;

fn release_gate() -> PolicyGate {
    PolicyGate::new(parse(&[("a/gate.rego", RELEASE)]).unwrap(), [9; 32], || 0)
}

fn members(all: &[(&str, &[&str])]) -> Members {
    let mut members = Members::default();
    for (person, roles) in all {
        members.apply(Member {
            tenant: "acme".into(),
            person: (*person).into(),
            roles: roles.iter().map(|r| (*r).to_owned()).collect(),
            ..Member::default()
        });
    }
    members
}

fn posting() -> Proposal {
    Proposal {
        asked_at: Some(NOW),
        ..proposal(&step("a", "http", "request", POST))
    }
}

fn approved(gate: &PolicyGate, who: &str, of: &Proposal) -> ApprovalRef {
    ApprovalRef {
        approval_id: format!("apr_{who}"),
        approver: who.into(),
        digest: of.subject_digest.clone(),
        policy_revision: gate.revision().into(),
        run_id: "run_1".into(),
        rules: vec!["posts".into()],
        decided_at: NOW,
        ..ApprovalRef::default()
    }
}

fn verdict(gate: &PolicyGate, of: &Proposal, approvals: Vec<ApprovalRef>, members: &Members) -> Verdict {
    at(gate, of, approvals, members, NOW)
}

fn at(gate: &PolicyGate, of: &Proposal, approvals: Vec<ApprovalRef>, members: &Members, now: Timestamp) -> Verdict {
    let input = Proposal {
        approvals,
        ..of.clone()
    };
    gate.judge(&Input::Proposal(Box::new(input)), now, members).unwrap()
}

#[test]
fn an_escalation_says_who_is_asked() {
    let verdict = verdict(&release_gate(), &posting(), vec![], &Members::default());
    let ask = verdict.asks[0].clone();
    assert_eq!(
        (ask.rule.as_str(), ask.step_id.as_deref(), ask.quorum),
        ("posts", Some("a"), 2)
    );
    assert_eq!(
        (ask.roles, ask.within_s, ask.deputies[0].after_s),
        (vec!["release".to_owned()], 3600, 600)
    );
    let denied = Proposal {
        tenant: "nobody".into(),
        ..posting()
    };
    let denied = self::verdict(&release_gate(), &denied, vec![], &Members::default());
    assert_eq!(
        (denied.decision, denied.asks.len()),
        (Decision::Deny, 0),
        "nobody is asked about what is denied"
    );
}

#[test]
fn a_quorum_of_those_who_hold_the_role_now_lifts_it_and_nothing_less() {
    let (gate, of) = (release_gate(), posting());
    let both = members(&[
        ("grace", &["release"]),
        ("lin", &["release", "ops"]),
        ("max", &["ops"]),
        ("ada", &["release"]),
    ]);
    let of_two = |a: &str, b: &str| vec![approved(&gate, a, &of), approved(&gate, b, &of)];
    let lifted = verdict(&gate, &of, of_two("grace", "lin"), &both);
    assert_eq!((lifted.decision, lifted.approval_ids.len()), (Decision::Allow, 2));
    assert_eq!(lifted.steps[0].signature.len(), 128);
    let refused = |approvals, members: &Members, rule: &str| {
        let verdict = verdict(&gate, &of, approvals, members);
        assert_eq!(
            (verdict.decision, &verdict.approval_ids),
            (Decision::Escalate, &vec![]),
            "{rule}"
        );
        assert!(rules(&verdict).contains(&rule), "{rule}: {:?}", rules(&verdict));
        assert!(verdict.steps[0].signature.is_empty() && verdict.asks.len() == 1);
    };
    refused(vec![approved(&gate, "grace", &of)], &both, "approval.quorum");
    refused(of_two("grace", "grace"), &both, "approval.quorum");
    // Who approved and has lost the role since.
    refused(
        of_two("grace", "lin"),
        &members(&[("grace", &["release"])]),
        "approval.role",
    );
    refused(of_two("grace", "max"), &both, "approval.role");
    refused(of_two("grace", "ada"), &both, "approval.self");
    let changed: [(&str, fn(&mut ApprovalRef)); 5] = [
        ("approval.other_run", |a| a.run_id = "run_2".into()),
        ("approval.digest", |a| a.digest = "0".into()),
        ("approval.policy_revision", |a| a.policy_revision = "old".into()),
        ("approval.expired", |a| a.expires_at = Some(NOW)),
        ("approval.not_shown", |a| a.rules = vec!["another".into()]),
    ];
    for (rule, change) in changed {
        let mut approvals = of_two("grace", "lin");
        change(&mut approvals[1]);
        refused(approvals, &both, rule);
    }
}

#[test]
fn deputies_count_once_it_is_their_time_and_so_does_who_decides_for_another() {
    let (gate, of) = (release_gate(), posting());
    let held = members(&[("grace", &["release"]), ("max", &["ops"])]);
    let approvals = || vec![approved(&gate, "grace", &of), approved(&gate, "max", &of)];
    let early = at(&gate, &of, approvals(), &held, NOW.plus_ms(599_000));
    assert_eq!(early.decision, Decision::Escalate);
    let late = at(&gate, &of, approvals(), &held, NOW.plus_ms(600_000));
    assert_eq!(late.decision, Decision::Allow);
    let held = members(&[("grace", &["release"]), ("lin", &["release"])]);
    let for_lin = |who: &str| ApprovalRef {
        on_behalf_of: Some("lin".into()),
        ..approved(&gate, who, &of)
    };
    let mine = || approved(&gate, "grace", &of);
    assert_eq!(
        verdict(&gate, &of, vec![mine(), for_lin("max")], &held).decision,
        Decision::Allow
    );
    assert_eq!(
        verdict(&gate, &of, vec![for_lin("max"), for_lin("joan")], &held).decision,
        Decision::Escalate
    );
    assert_eq!(
        verdict(&gate, &of, vec![mine(), for_lin("grace")], &held).decision,
        Decision::Escalate
    );
}

#[test]
fn an_approval_of_the_plan_speaks_for_a_step_the_gate_has_allowed_in_it() {
    let (gate, of) = (release_gate(), posting());
    let held = members(&[("grace", &["release"]), ("lin", &["release"])]);
    let both = vec![approved(&gate, "grace", &of), approved(&gate, "lin", &of)];
    let first = verdict(&gate, &of, both.clone(), &held);
    let of_plan = || {
        both.iter().cloned().map(|a| ApprovalRef {
            digest: "plan".into(),
            ..a
        })
    };
    let permit = Permit {
        verdict_id: first.verdict_id,
        policy_revision: first.policy_revision,
        decided_at: first.decided_at,
        signature: first.steps[0].signature.clone(),
        ..Permit::default()
    };
    assert_eq!(
        verdict(&gate, &of, of_plan().collect(), &held).decision,
        Decision::Escalate,
        "without the permit"
    );
    let with = |permit: Permit, of: &Proposal| {
        let of = Proposal {
            permit: Some(permit),
            ..of.clone()
        };
        verdict(&gate, &of, of_plan().collect(), &held).decision
    };
    assert_eq!(with(permit.clone(), &of), Decision::Allow);
    let forged = Permit {
        signature: "00".repeat(64),
        ..permit.clone()
    };
    assert_eq!(with(forged, &of), Decision::Escalate);
    let other_run = Proposal {
        run_id: "run_2".into(),
        ..of
    };
    assert_eq!(with(permit, &other_run), Decision::Escalate);
}

#[test]
fn a_shelved_bundle_tightens_for_its_tenant_only_and_changes_the_revision() {
    let text = "package soma.gate\n\ndeny contains f if {\n\tsome s in input.steps\n\tf := {\"rule\": \"frozen_now\", \"description\": \"not today\", \"step_id\": s.step_id}\n}\n\n\
        escalate contains {\"rule\": \"r\"} if false\n";
    let bundle = || parse(&[("t/gate.rego", text)]).unwrap();
    let shelf = Shelf::default();
    let gate = gate().with_shelf(shelf.clone());
    let of = |tenant: &str| {
        let plan = Plan {
            tenant: tenant.into(),
            ..plan(vec![step("a", "http", "request", GET)])
        };
        judged(&gate, Input::Plan(Box::new(plan)))
    };
    let before = of("acme");
    assert_eq!(
        (before.decision, before.policy_revision.as_str()),
        (Decision::Allow, gate.revision())
    );
    shelf.put("acme", None, bundle());
    let (mine, other) = (of("acme"), of("globex"));
    assert_eq!((mine.decision, rules(&mine)), (Decision::Deny, vec!["frozen_now"]));
    assert_eq!(
        (other.decision, other.policy_revision.as_str()),
        (Decision::Allow, gate.revision())
    );
    assert_eq!(mine.policy_revision, combined(gate.revision(), &[bundle().revision()]));
    shelf.put("*", None, bundle());
    assert_eq!(of("globex").decision, Decision::Deny);
    shelf.remove("*", None);
    shelf.remove("acme", None);
    assert_eq!(of("acme").policy_revision, before.policy_revision);
    assert!(shelf.revisions().is_empty());
}

/// "No delete after an export": what the run has done is part of what is judged.
#[test]
fn a_policy_may_speak_of_what_the_run_has_done() {
    let text = "package soma.gate\n\ndeny contains f if {\n\tsome s in input.steps\n\ts.arguments.method == \"DELETE\"\n\tsome d in input.done\n\
        \td.operation == \"export\"\n\tf := {\"rule\": \"delete_after_export\", \"description\": \"d\", \"step_id\": s.step_id}\n}\n\n\
        escalate contains {\"rule\": \"r\"} if false\n";
    let gate = PolicyGate::new(parse(&[("a/gate.rego", text)]).unwrap(), [9; 32], || 0);
    let delete = proposal(&step(
        "a",
        "http",
        "request",
        r#"{"method":"DELETE","url":"http://127.0.0.1/x"}"#,
    ));
    let after = |operation: &str| {
        let done = Done {
            step_id: "before".into(),
            tool: "warehouse".into(),
            operation: operation.into(),
            finished_at: NOW,
        };
        let of = Proposal {
            done: vec![done],
            ..delete.clone()
        };
        verdict(&gate, &of, vec![], &Members::default()).decision
    };
    assert_eq!((after("export"), after("import")), (Decision::Deny, Decision::Allow));
}
