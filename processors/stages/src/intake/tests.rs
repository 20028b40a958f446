//! Intake on its own: given a catalogue and a request, which plan or refusal.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use kernel::controls::Controls;
use kernel::{Headers, Position};
use schemas::records::{Control, ControlAction, Event, Scope};
use schemas::{Record, Timestamp, Usd};

use super::*;

const CAPSULE: &str = r#"
name: greet
version: 1
title: Greet
description: Says hello on a real server.
inputs:
  - { name: who, type: text, required: true, pattern: "[a-z]+", max_length: 8 }
  - { name: times, type: integer, default: 2, min: 1, max: 5 }
  - { name: mode, type: select, options: [soft, loud], default: soft }
  - { name: tags, type: list }
  - { name: link, type: url }
  - { name: day, type: date }
  - { name: quiet, type: boolean, default: false }
  - { name: note, type: text }
steps:
  - id: look
    tool: http
    operation: request
    arguments: { method: GET, url: "${values.base}/${run.tenant}", n: "${inputs.times}", note: "${inputs.note}", plain: "$${var.x}" }
    replay_safe: inputs.mode == "soft"
  - id: shout
    when: inputs.mode in ["loud"] and not inputs.quiet
    tool: http
    operation: request
    arguments: { url: "x", key: "${run.id}-shout" }
    needs: [look]
  - id: tell
    tool: notify
    operation: webhook
    arguments: { url: "x", text: "${inputs.who}: ${steps.look.result.json.name} ${request.goal}", tags: "${inputs.tags}" }
    needs: [shout]
    retry: { attempts_max: 3, backoff_ms: 10 }
    compensation: { tool: notify, operation: webhook, arguments: { text: "${steps.tell.result.id}" } }
"#;

const WIZARD: &str = r#"
name: greet_wizard
version: 1
title: Greet step by step
description: Asks, then greets.
questions:
  - { id: who, prompt: Who?, type: text, required: true, validation: { max_length: 8 } }
  - { id: times, prompt: How often?, type: integer, default: 1 }
  - { id: mode, prompt: How?, type: select, options: [soft, loud], required: true }
  - { id: tags, prompt: Tags?, type: list }
  - { id: quiet, prompt: Quiet?, type: boolean, default: false }
  - { id: note, prompt: Note?, type: text }
rules:
  - { require: not (inputs.mode == "loud" and inputs.quiet), error: loud and quiet exclude each other, field: quiet }
modules:
  - { id: all, use: greet@1 }
"#;

fn parse(files: &[(&str, &str)]) -> Result<Catalogue, Vec<ConfigFault>> {
    Catalogue::parse(
        &files
            .iter()
            .map(|(p, t)| ((*p).to_owned(), (*t).to_owned()))
            .collect::<Vec<_>>(),
    )
}

fn intake() -> Intake {
    let catalogue = parse(&[("capsules/greet.yaml", CAPSULE), ("wizards/greet.yaml", WIZARD)]).unwrap();
    Intake::new(
        catalogue,
        BTreeMap::from([("base".into(), "http://127.0.0.1:1".into())]),
        168.0,
    )
    .unwrap()
}

fn request(inputs: &[(&str, &str)]) -> Request {
    Request {
        tenant: "acme".into(),
        actor: "ada".into(),
        idempotency_key: "k1".into(),
        capsule: Some("greet".into()),
        inputs: inputs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        ..Request::default()
    }
}

struct Ran {
    plans: Vec<Plan>,
    events: Vec<Event>,
    timers: Vec<Timer>,
}

fn run_with(state: &mut State, request: &Request, controls: &Controls) -> Result<Ran, Fault> {
    let key = format!("{}:{}", request.tenant, request.idempotency_key);
    let delivery = Delivery {
        input: Input::Request(Box::new(request.clone())),
        key: key.clone(),
        position: Position::default(),
        headers: Headers::default(),
        at: Timestamp(0),
    };
    let mut fx = Effects::new(Timestamp(1_000_000), &key, "t/0@1", controls);
    intake().step(state, &delivery, &mut fx)?;
    let of = |topic: &str| {
        fx.emits
            .iter()
            .filter(|e| e.topic == topic)
            .map(|e| e.avro.clone())
            .collect::<Vec<_>>()
    };
    Ok(Ran {
        plans: of("soma.plans")
            .iter()
            .map(|b| Plan::from_avro(Plan::schema(), b).unwrap())
            .collect(),
        events: of("soma.events")
            .iter()
            .map(|b| Event::from_avro(Event::schema(), b).unwrap())
            .collect(),
        timers: fx.timers.clone(),
    })
}

fn plan_of(request: &Request) -> Plan {
    run_with(&mut State::default(), request, &Controls::default())
        .unwrap()
        .plans
        .remove(0)
}

fn arguments(plan: &Plan, id: &str) -> serde_json::Value {
    serde_json::from_str(&plan.steps.iter().find(|s| s.step_id == id).unwrap().arguments).unwrap()
}

#[test]
fn a_capsule_becomes_a_plan_with_typed_values_and_left_out_steps_relinked() {
    let plan = plan_of(&request(&[("who", "bob"), ("times", "3"), ("tags", r#"["a","b"]"#)]));
    assert_eq!(plan.refusal, None);
    assert_eq!(
        plan.steps.iter().map(|s| s.step_id.as_str()).collect::<Vec<_>>(),
        ["look", "tell"]
    );
    assert_eq!(plan.steps[1].needs, ["look"], "the left-out step is relinked through");
    let look = serde_json::json!({"method": "GET", "url": "http://127.0.0.1:1/acme", "n": 3, "plain": "${var.x}"});
    assert_eq!(
        arguments(&plan, "look"),
        look,
        "an input that was not given is left out"
    );
    let tell = arguments(&plan, "tell");
    assert_eq!(
        (&tell["text"], &tell["tags"]),
        (
            &"bob: ${steps.look.result.json.name} ".into(),
            &serde_json::json!(["a", "b"])
        )
    );
    assert!(plan.steps[0].replay_safe && !plan.steps[1].replay_safe);
    assert_eq!(
        (plan.capsule.as_deref(), plan.provenance.as_str()),
        (Some("greet@1"), "capsule:greet@1")
    );
    assert_eq!(plan.digest, digest::plan(&plan.run_id, &plan.steps).unwrap());

    let loud = plan_of(&request(&[("who", "bob"), ("mode", "loud")]));
    assert_eq!(loud.steps.len(), 3);
    assert_eq!(arguments(&loud, "shout")["key"], format!("{}-shout", loud.run_id));
}

#[test]
fn a_wizard_uses_the_steps_of_a_capsule_and_holds_its_rules() {
    let wizard = |inputs: &[(&str, &str)]| Request {
        capsule: None,
        wizard: Some("greet_wizard@1".into()),
        ..request(inputs)
    };
    let plan = plan_of(&wizard(&[("who", "bob"), ("mode", "loud")]));
    assert_eq!(
        (plan.steps.len(), plan.provenance.as_str()),
        (3, "wizard:greet_wizard@1")
    );
    let refused = plan_of(&wizard(&[("who", "bob"), ("mode", "loud"), ("quiet", "true")]))
        .refusal
        .unwrap();
    assert_eq!(
        (refused.field.as_str(), refused.detail.as_str()),
        ("inputs.quiet", "loud and quiet exclude each other")
    );
}

#[test]
fn a_repeat_gives_an_event_and_nothing_else() {
    let mut state = State::default();
    let first = run_with(&mut state, &request(&[("who", "bob")]), &Controls::default()).unwrap();
    assert_eq!(first.events[0].kind, "request.accepted");
    assert_eq!(first.timers[0].due, Timestamp(1_000_000).plus_ms(168 * 3_600_000));
    let again = run_with(&mut state, &request(&[("who", "other")]), &Controls::default()).unwrap();
    assert!(again.plans.is_empty() && again.timers.is_empty());
    assert_eq!(
        again.events.iter().map(|e| e.kind.as_str()).collect::<Vec<_>>(),
        ["request.duplicate"]
    );
    let controls = Controls::default();
    let mut fx = Effects::new(Timestamp(0), "acme:k1", "timer", &controls);
    intake().on_timer(&mut state, &first.timers[0], &mut fx).unwrap();
    assert_eq!(state, State::default());
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table of cases")]
fn bad_requests_are_refused_with_code_field_and_fix() {
    let cases: Vec<(Request, &str, &str, &str)> = vec![
        (
            Request {
                tenant: "Acme!".into(),
                ..request(&[])
            },
            "TENANT_INVALID",
            "tenant",
            "a-z",
        ),
        (
            Request {
                actor: " ".into(),
                ..request(&[])
            },
            "INPUT_INVALID",
            "actor",
            "who asks",
        ),
        (
            Request {
                budget_usd: Some(Usd(-1)),
                ..request(&[])
            },
            "INPUT_INVALID",
            "budget_usd",
            "below 0",
        ),
        (
            Request {
                capsule: Some("gone".into()),
                ..request(&[])
            },
            "CAPSULE_UNKNOWN",
            "capsule",
            "greet@1",
        ),
        (
            Request {
                capsule: Some("greet_wizard".into()),
                ..request(&[])
            },
            "CAPSULE_UNKNOWN",
            "capsule",
            "greet@1",
        ),
        (
            Request {
                wizard: Some("w".into()),
                ..request(&[])
            },
            "INPUT_INVALID",
            "wizard",
            "leave one out",
        ),
        (
            Request {
                capsule: None,
                goal: "do it".into(),
                ..request(&[])
            },
            "PLANNER_MISSING",
            "goal",
            "greet@1",
        ),
        (
            Request {
                capsule: None,
                ..request(&[])
            },
            "REQUEST_EMPTY",
            "goal",
            "give one",
        ),
        (request(&[]), "INPUT_INVALID", "inputs.who", "required"),
        (
            request(&[("who", "BOB")]),
            "INPUT_INVALID",
            "inputs.who",
            "does not match",
        ),
        (
            request(&[("who", "abcdefghi")]),
            "INPUT_INVALID",
            "inputs.who",
            "at most 8",
        ),
        (
            request(&[("who", "b"), ("times", "x")]),
            "INPUT_INVALID",
            "inputs.times",
            "not a integer",
        ),
        (
            request(&[("who", "b"), ("times", "6")]),
            "INPUT_INVALID",
            "inputs.times",
            "most allowed, 5",
        ),
        (
            request(&[("who", "b"), ("mode", "odd")]),
            "INPUT_INVALID",
            "inputs.mode",
            "soft, loud",
        ),
        (
            request(&[("who", "b"), ("tags", "a,b")]),
            "INPUT_INVALID",
            "inputs.tags",
            "as JSON",
        ),
        (
            request(&[("who", "b"), ("link", "ftp://x")]),
            "INPUT_INVALID",
            "inputs.link",
            "http://",
        ),
        (
            request(&[("who", "b"), ("day", "2026-02-30")]),
            "INPUT_INVALID",
            "inputs.day",
            "date",
        ),
        (
            request(&[("who", "b"), ("quiet", "yes")]),
            "INPUT_INVALID",
            "inputs.quiet",
            "true or false",
        ),
        (
            request(&[("who", "b"), ("colour", "red")]),
            "INPUT_INVALID",
            "inputs.colour",
            "who, times",
        ),
        (
            request(&[("who", "b"), ("note", "${steps.look.result}")]),
            "INPUT_INVALID",
            "inputs",
            "reference",
        ),
        (
            Request {
                goal: "${steps.look.result}".into(),
                ..request(&[("who", "b")])
            },
            "INPUT_INVALID",
            "inputs",
            "reference",
        ),
    ];
    for (request, code, field, words) in cases {
        let plan = plan_of(&request);
        let refusal = plan.refusal.unwrap();
        assert!(plan.steps.is_empty());
        assert_eq!(
            (refusal.code.as_str(), refusal.field.as_str()),
            (code, field),
            "{}",
            refusal.detail
        );
        assert!(refusal.detail.contains(words), "{}", refusal.detail);
    }
}

#[test]
fn a_control_stops_admission_and_a_bad_key_is_a_dead_letter() {
    for (scope, target) in [(Scope::Global, ""), (Scope::Tenant, "acme"), (Scope::Capsule, "greet")] {
        let mut controls = Controls::default();
        let target = target.to_owned();
        controls.apply(Control {
            scope,
            target,
            action: ControlAction::Pause,
            ..Control::default()
        });
        let ran = run_with(&mut State::default(), &request(&[("who", "bob")]), &controls).unwrap();
        assert_eq!(ran.plans[0].refusal.as_ref().unwrap().code, "CONTROL_STOPPED");
        assert_eq!(ran.events[0].kind, "request.refused");
    }
    assert!(check_key(&request(&[]), "acme:k1").is_ok());
    assert!(
        check_key(&request(&[]), "acme:other")
            .unwrap_err()
            .detail
            .contains("`acme:k1`")
    );
    assert!(
        check_key(
            &Request {
                idempotency_key: String::new(),
                ..request(&[])
            },
            "acme:"
        )
        .is_err()
    );
}

#[test]
fn every_fault_of_a_catalogue_is_listed_with_its_path() {
    let bad = r#"
name: bad
version: 1
title: Bad
description: Everything is wrong.
colour: red
inputs:
  - { name: n, type: integer, default: many }
  - { name: n, type: text, pattern: "(" }
  - { name: s, type: select }
  - { name: b, type: boolean }
steps:
  - { id: a, tool: http, operation: request, needs: [c], arguments: { x: "${inputs.gone}", y: "${foo.bar}", z: "${inputs.n" } }
  - { id: b, tool: http, operation: request, needs: [a], when: inputs.b == "yes", retries: 3 }
  - { id: c, tool: http, operation: request, needs: [b, nowhere], when: "inputs.", retry: { attempts_max: 0 } }
  - { id: c, tool: http, timeout_ms: 0 }
"#;
    let faults = parse(&[("capsules/bad.yaml", bad), ("capsules/no.yaml", "a: [")]).unwrap_err();
    let text = faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    for words in [
        "capsules/bad.yaml: colour: unknown key",
        "inputs[0].default: bad default",
        "inputs[1]: `pattern` is not a regular expression",
        "inputs[1]: `n` is declared twice",
        "inputs[2]: `options`",
        "steps[0].arguments.x: refers to inputs.gone",
        "steps[0].arguments.y: unknown reference `${foo.bar}`",
        "steps[0].arguments.z: a reference is not closed",
        "steps[1].when: `inputs.b == \"yes\"`",
        "steps[1].retries: unknown key",
        "steps[2].needs[1]: no step is called `nowhere`",
        "steps[2].when:",
        "steps[2].retry: attempts_max 0",
        "steps[3]: step id `c` is used twice",
        "steps[3]: `operation` is missing",
        "steps[3]: timeout_ms 0",
        "PLAN_INVALID: steps need each other in a circle: a -> c -> b -> a",
        "capsules/no.yaml: not readable as YAML",
    ] {
        assert!(text.contains(words), "`{words}` is not in\n{text}");
    }
    let early = CAPSULE.replace("key: \"${run.id}-shout\"", "key: \"${steps.tell.result.id}\"");
    let faults = parse(&[("capsules/greet.yaml", &early)]).unwrap_err();
    assert!(
        faults[0]
            .to_string()
            .contains("steps[1].arguments.key: `${steps.tell.result.id}` is not there yet"),
        "{faults:?}"
    );
    let greet = parse(&[("capsules/greet.yaml", CAPSULE)]).unwrap();
    let none = Intake::new(greet, BTreeMap::new(), 0.0).unwrap_err();
    assert_eq!(
        none.iter().map(|f| f.path.as_str()).collect::<Vec<_>>(),
        ["values.base", "dedupe_hours"]
    );
}

#[test]
fn the_shipped_catalogue_has_no_faults() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../pipelines");
    let mut files = Vec::new();
    for folder in ["capsules", "wizards"] {
        for entry in std::fs::read_dir(format!("{root}/{folder}")).unwrap() {
            let path = entry.unwrap().path();
            files.push((
                format!("{folder}/{}", path.file_name().unwrap().display()),
                std::fs::read_to_string(path).unwrap(),
            ));
        }
    }
    let catalogue = Catalogue::parse(&files).unwrap_or_else(|faults| panic!("{faults:#?}"));
    assert!(
        catalogue
            .tools()
            .contains(&("service_rollout@1".into(), "terraform".into(), "apply".into()))
    );
    let values = BTreeMap::from([("receiver_url".to_owned(), "http://127.0.0.1:9".to_owned())]);
    assert_eq!(catalogue.missing_values(&values), vec![]);
    let key = "service_rollout_wizard@1";
    assert!(catalogue.keys().contains(&key));
}
