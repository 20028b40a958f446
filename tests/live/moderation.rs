//! Moderation on the running pipeline: breaches strike, three lock an actor out, a pardon lets them in again; and a candidate bundle beside the
//! live one sees all of it without touching it.

use std::process::{Command, Stdio};
use std::time::Duration;

use schemas::records::{Request, RunStatus, Strike, Verdict};
use schemas::topics;
use serde_json::Value;

use super::harness::{Live, live, request, text, unique};

const SOON: Duration = Duration::from_secs(30);

/// A run of this goal; how it ended, and its first verdict.
fn ended(live: &Live, tenant: &str, key: &str, goal: &str) -> (RunStatus, Verdict) {
    let url = format!("{}/ok?{tenant}-{key}", live.receiver());
    let asked = Request {
        goal: goal.to_owned(),
        ..request(tenant, key, "endpoint_probe", &[("url", &url)])
    };
    let runs = live.produce(&[asked]);
    let seen = live.wait(&runs, SOON);
    // A strike is heard of a moment after its verdict.
    std::thread::sleep(Duration::from_millis(700));
    let verdicts = live.read(topics::VERDICTS).into_iter();
    let first = verdicts.into_iter().find(|v| v.run_id == runs[0]).unwrap();
    (seen[&runs[0]].last().unwrap().status, first)
}

fn strikes(live: &Live, tenant: &str) -> Vec<Strike> {
    let out = live.soma(&["--json", "strike", "list", "--tenant", tenant]);
    serde_json::from_str(&text(&out.stdout)).unwrap_or_else(|e| panic!("{e}: {out:?}"))
}

#[test]
fn three_strikes_lock_an_actor_out_until_a_pardon() {
    let live = live();
    let tenant = unique("moderation").replace('-', "_");
    for nth in 1..=3 {
        let (status, verdict) = ended(live, &tenant, &format!("bad-{nth}"), "do the forbidden thing");
        assert_eq!(
            (status, verdict.violations[0].rule.as_str()),
            (RunStatus::Denied, "forbidden_word")
        );
        assert!(verdict.violations[0].strike);
        assert_eq!(strikes(live, &tenant).len(), nth);
    }
    let (status, verdict) = ended(live, &tenant, "locked", "look");
    assert_eq!(
        (status, verdict.violations[0].rule.as_str()),
        (RunStatus::Denied, "moderation_locked")
    );
    let of_others = ended(live, &format!("{tenant}_b"), "free", "look").0;
    assert_eq!(of_others, RunStatus::Succeeded, "a strike counts in its tenant");

    let first = strikes(live, &tenant)[0].clone();
    let pardon = |who: &str| live.soma(&["strike", "pardon", &first.strike_id, "--reason", "quoted", "--as", who]);
    assert!(!pardon(&first.person).status.success(), "nobody pardons themselves");
    assert!(pardon("grace").status.success());
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(ended(live, &tenant, "again", "look").0, RunStatus::Succeeded);
    let deadline = std::time::Instant::now() + SOON;
    loop {
        let entries = live.read(topics::AUDIT).into_iter();
        let mut facts: Vec<_> = entries
            .filter(|e| e.record == "Strike" && e.tenant == tenant)
            .map(|e| e.fact)
            .collect();
        facts.sort();
        if facts == ["PARDONED", "STRUCK", "STRUCK", "STRUCK"] {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{facts:?}");
        std::thread::sleep(Duration::from_millis(300));
    }
}

#[test]
fn a_shadow_judges_beside_the_gate_and_touches_nothing() {
    let live = live();
    let tenant = unique("shadow").replace('-', "_");
    let folder = live.home.join(&tenant);
    std::fs::create_dir_all(&folder).unwrap();
    let rule = "package soma.gate\n\nescalate contains f if { false; f := {} }\n\n\
                deny contains {\"rule\": \"no_zebras\", \"description\": \"No zebras.\"} if contains(input.goal, \"zebra\")\n";
    std::fs::write(folder.join("gate.rego"), rule).unwrap();
    let shadow = Command::new(&live.soma)
        .arg("--env-file")
        .arg(live.home.join("dev.env"))
        .args([
            "--json", "policy", "shadow", "--tenant", &tenant, "--for", "15s", "--into", &tenant, "--bundle",
        ])
        .arg(&folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_secs(5));
    for (key, goal) in [("a", "see a zebra"), ("b", "see a horse"), ("c", "see two zebras")] {
        assert_eq!(
            ended(live, &tenant, key, goal).0,
            RunStatus::Succeeded,
            "the shadow stops nothing"
        );
    }
    let out = shadow.wait_with_output().unwrap();
    let said: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"));
    assert!(!out.status.success(), "two verdicts change");
    assert_eq!(
        (&said["judged"], &said["changed"], &said["unmatched"]),
        (&3.into(), &2.into(), &0.into()),
        "{said:#}"
    );
    assert_eq!(
        said["groups"][0]["example"]["rules_new"],
        serde_json::json!(["no_zebras"])
    );
    assert!(text(&out.stderr).contains("ALLOW -> DENY +no_zebras"), "{out:?}");
    let side = topics::Topic::<Verdict>::new(Box::leak(format!("{tenant}.soma.verdicts").into_boxed_str()));
    let judged = live.read(side);
    assert_eq!(judged.len(), 3);
    assert!(
        judged.iter().flat_map(|v| &v.steps).all(|s| s.signature.is_empty()),
        "a trial lets nothing out"
    );
}
