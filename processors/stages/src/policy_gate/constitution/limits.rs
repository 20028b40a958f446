//! How often, made of what, where, and with which data: what a constitution demands beyond single steps, and what bundles are told of it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use kernel::controls::Controls;
use kernel::{Delivery, Effects, Headers, Position, Processor};
use schemas::records::{Decision, Plan, Sbom, SbomComponent, Tally, Verdict};
use schemas::{Record, Timestamp, digest};

use super::super::tests::{GET, NOW, gate, plan, step};
use super::super::{Input, PolicyGate, Shelf};
use super::Document;
use super::tests::{bundle, harmless, under};

/// The same plan as another run.
fn run(run_id: &str, plan: &Plan) -> Plan {
    Plan {
        run_id: run_id.into(),
        digest: digest::plan(run_id, &plan.steps).unwrap(),
        ..plan.clone()
    }
}

/// What the stage writes about a plan: its verdict, and what it counts.
fn stepped(gate: &PolicyGate, plan: &Plan, now: Timestamp, controls: &Controls) -> (Verdict, Vec<Tally>) {
    let mut fx = Effects::new(now, &plan.run_id, "p/0@1", controls);
    let delivery = Delivery {
        input: Input::Plan(Box::new(plan.clone())),
        key: plan.run_id.clone(),
        position: Position::default(),
        headers: Headers::default(),
        at: now,
    };
    gate.step(&mut (), &delivery, &mut fx).unwrap();
    let tallies = fx.emits.iter().filter(|e| e.topic == "soma.tallies");
    let tallies = tallies.map(|e| Tally::from_avro(Tally::schema(), &e.avro).unwrap());
    let verdict = Verdict::from_avro(Verdict::schema(), &fx.emits[0].avro).unwrap();
    (verdict, tallies.collect())
}

fn later(seconds: i64) -> Timestamp {
    Timestamp(NOW.0 + seconds * 1_000_000)
}

#[test]
fn so_many_within_a_time_and_one_more_is_denied_over_all_runs_of_the_tenant() {
    let (gate, _) = under(
        "requirements: [{id: two, text: Two an hour., when: {tools: [http]}, at_most: {times: 2, within_s: 3600}}]",
    );
    let mut controls = Controls::default();
    for (nth, at) in [(1, 0), (2, 600)] {
        let (verdict, tallies) = stepped(&gate, &run(&format!("run_{nth}"), &harmless()), later(at), &controls);
        assert_eq!((verdict.decision, tallies.len()), (Decision::Allow, 1), "{verdict:?}");
        assert_eq!(tallies[0].name, "constitution.two");
        // Told twice, and judged again: it counts once.
        controls.apply_tally(tallies[0].clone());
        controls.apply_tally(tallies[0].clone());
    }
    let third = |at, controls: &Controls| stepped(&gate, &run("run_3", &harmless()), later(at), controls);
    let (verdict, tallies) = third(700, &controls);
    assert_eq!((verdict.decision, tallies.len()), (Decision::Deny, 0));
    assert_eq!(verdict.violations[0].rule, "constitution.two");
    assert!(
        verdict.violations[0]
            .description
            .contains("2 in the last 3600 s, at most 2")
    );
    assert_eq!(
        third(3600, &controls).0.decision,
        Decision::Allow,
        "the first is an hour old"
    );
    // Another tenant has its own count, and a run is not counted against itself.
    let other = Plan {
        tenant: "globex".into(),
        ..run("run_3", &harmless())
    };
    assert_eq!(
        stepped(&gate, &other, later(700), &controls).0.decision,
        Decision::Allow
    );
    assert_eq!(
        stepped(&gate, &run("run_2", &harmless()), later(700), &controls)
            .0
            .decision,
        Decision::Allow
    );
}

#[test]
fn steps_of_one_plan_count_too_and_humans_may_be_asked_instead() {
    let steps = ["a", "b", "c"].map(|id| step(id, "http", "request", GET));
    let three = plan(steps.to_vec());
    let rest = "when: {tools: [http]}, at_most: {times: 2, within_s: 60}";
    let (gate, _) = under(&format!("requirements: [{{id: two, text: t, {rest}}}]"));
    let (verdict, tallies) = stepped(&gate, &three, NOW, &Controls::default());
    assert_eq!((verdict.decision, tallies.len()), (Decision::Deny, 0));
    assert_eq!(verdict.violations[0].step_id.as_deref(), Some("c"));
    let (gate, _) = under(&format!(
        "requirements: [{{id: two, text: t, {rest}, escalate: {{roles: [ops]}}}}]"
    ));
    let (verdict, tallies) = stepped(&gate, &three, NOW, &Controls::default());
    assert_eq!((verdict.decision, tallies.len()), (Decision::Escalate, 0));
    assert_eq!(verdict.asks[0].roles, ["ops"]);
}

#[test]
fn a_bundle_counts_what_it_names_and_is_told_the_ages() {
    let shelf = Shelf::default();
    shelf.put(
        "acme",
        None,
        bundle(
            r#"
deny contains {"rule": "slowly", "description": "one a minute"} if {
	some age in input.tallies.gets
	age < 60
}
escalate := set()
tally contains {"name": "gets", "step_id": step.step_id} if some step in input.steps"#,
        ),
    );
    let gate = gate().with_shelf(shelf.clone());
    let mut controls = Controls::default();
    let (verdict, tallies) = stepped(&gate, &run("run_1", &harmless()), NOW, &controls);
    assert_eq!((verdict.decision, tallies[0].name.as_str()), (Decision::Allow, "gets"));
    controls.apply_tally(tallies[0].clone());
    let second = |s| {
        stepped(&gate, &run("run_2", &harmless()), later(s), &controls)
            .0
            .decision
    };
    assert_eq!((second(59), second(60)), (Decision::Deny, Decision::Allow));
    // A counter of the constitution is not for a bundle to fill: that fails, and what fails denies.
    let thief = bundle("deny := set()\nescalate := set()\ntally contains {\"name\": \"constitution.two\"}");
    shelf.put("acme", None, thief);
    assert_eq!(second(60), Decision::Deny);
}

#[test]
fn tools_and_capsules_are_made_of_what_is_allowed_or_not_used() {
    let rest = "oblige: {sbom: {licences: [MIT], denied: ['pkg:cargo/openssl@<1.0.0']}}";
    let (gate, shelf) = under(&format!("requirements: [{{id: parts, text: Known parts., {rest}}}]"));
    let judged = || stepped(&gate, &harmless(), NOW, &Controls::default()).0;
    let none = judged();
    assert_eq!(none.decision, Decision::Deny);
    assert!(
        none.reason.contains("tool:http has no bill of materials"),
        "{}",
        none.reason
    );
    let publish = |licence: &str, version: &str| {
        shelf.supply(Sbom {
            subject: "tool:http".into(),
            components: vec![SbomComponent {
                name: "openssl".into(),
                version: version.into(),
                purl: format!("pkg:cargo/openssl@{version}"),
                licences: vec![licence.into()],
            }],
            ..Sbom::default()
        });
    };
    publish("MIT", "1.2.0");
    assert_eq!(judged().decision, Decision::Allow);
    publish("GPL-3.0-only", "1.2.0");
    assert!(judged().reason.contains("licence `GPL-3.0-only`"));
    publish("MIT", "0.9.9");
    assert!(judged().reason.contains("is denied as `pkg:cargo/openssl@<1.0.0`"));
}

#[test]
fn requirements_may_be_about_regions_and_classes_of_data() {
    let (gate, _) =
        under("requirements: [{id: stay, text: t, when: {regions: ['eu*'], data_classes: [personal]}, deny: true}]");
    for (region, classes, decision) in [
        (Some("eu-west"), &["public", "personal"][..], Decision::Deny),
        (Some("us"), &["personal"], Decision::Allow),
        (None, &["personal"], Decision::Allow),
        (Some("eu"), &["public"], Decision::Allow),
    ] {
        let plan = Plan {
            region: region.map(str::to_owned),
            data_classes: classes.iter().map(|c| (*c).to_owned()).collect(),
            ..harmless()
        };
        let got = stepped(&gate, &plan, NOW, &Controls::default()).0.decision;
        assert_eq!(got, decision, "{region:?} {classes:?}");
    }
}

#[test]
fn policies_are_told_what_the_tools_say_of_a_call_and_where_its_data_belongs() {
    let gate = gate().with_traits(std::sync::Arc::new(
        |tool, operation, _| serde_json::json!({"effect": format!("{tool} {operation}")}),
    ));
    let plan = Plan {
        region: Some("eu".into()),
        data_classes: vec!["personal".into()],
        ..harmless()
    };
    let told = gate.document(&Input::Plan(Box::new(plan)), NOW);
    assert_eq!(told["steps"][0]["traits"]["effect"], "http request");
    assert_eq!(
        (&told["region"], &told["data_classes"][0]),
        (&"eu".into(), &"personal".into())
    );
}

#[test]
fn demands_that_mean_nothing_are_refused_by_field() {
    for (rest, says) in [
        ("deny: true, at_most: {times: 1, within_s: 1}", "requirements[0]"),
        ("at_most: {times: 0, within_s: 1}", "at_most: times 0"),
        ("at_most: {times: 1, within_s: 604801}", "at_most: within_s"),
        ("oblige: {sbom: {licences: [Mitt]}}", "oblige.sbom: licences: `Mitt`"),
        ("oblige: {sbom: {denied: [openssl]}}", "oblige.sbom: denied: `openssl`"),
    ] {
        let text = format!(
            "tenant: acme\nversion: 1\ntitle: t\nissued_at: '2026-01-01T00:00:00Z'\nrequirements: [{{id: a, text: x, {rest}}}]"
        );
        let document: Document = serde_yaml_ng::from_str(&text).unwrap();
        let faults: Vec<_> = document.check().iter().map(ToString::to_string).collect();
        assert!(faults.iter().any(|f| f.contains(says)), "{rest}: {faults:?}");
    }
}
