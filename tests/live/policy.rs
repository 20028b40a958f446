//! Another policy over what the running pipeline judged: nothing changes under the same bundle, and exactly what a new rule covers under another.

use std::time::Duration;

use serde_json::Value;

use super::harness::{live, request, text, unique};

#[test]
fn a_backtest_finds_exactly_what_a_new_rule_covers() {
    let live = live();
    let tag = unique("backtest");
    let tenant = tag.replace('-', "_");
    let requests: Vec<_> = (0..20)
        .map(|i| {
            let word = if i % 4 == 0 { "zebra" } else { "horse" };
            let url = format!("{}/ok?{tag}-{word}-{i}", live.receiver());
            request(&tenant, &format!("{tag}-{i}"), "endpoint_probe", &[("url", &url)])
        })
        .collect();
    let runs = live.produce(&requests);
    live.wait(&runs, Duration::from_secs(60));

    let base = live.root().join("pipelines/policies/base");
    let ask = |folder: &str| {
        let out = live.soma(&[
            "--json", "policy", "backtest", "--bundle", folder, "--since", "5m", "--tenant", &tenant,
        ]);
        let said: Value = serde_json::from_str(&text(&out.stdout)).unwrap_or_else(|e| panic!("{e}: {out:?}"));
        (out.status.success(), said)
    };
    let (same, said) = ask(&base.display().to_string());
    assert!(
        same && said["judged"] == 20 && said["changed"] == 0 && said["unmatched"] == 0,
        "{said:#}"
    );

    let other = live.home.join("other-policies");
    std::fs::create_dir_all(&other).unwrap();
    for file in std::fs::read_dir(&base).unwrap() {
        let from = file.unwrap().path();
        std::fs::copy(&from, other.join(from.file_name().unwrap())).unwrap();
    }
    let rules = other.join("rules.yaml");
    let more =
        "  - { name: no_zebras, pattern: \"zebra\", weight: 0.5, severity: high, description: \"No zebras.\" }\n";
    std::fs::write(&rules, std::fs::read_to_string(&rules).unwrap() + more).unwrap();
    let folder = other.display().to_string();
    let (same, said) = ask(&folder);
    assert!(!same && said["judged"] == 20 && said["changed"] == 5, "{said:#}");
    for change in said["changes"].as_array().unwrap() {
        assert_eq!(
            (&change["before"], &change["after"]),
            (&"ALLOW".into(), &"DENY".into()),
            "{change}"
        );
        assert_eq!(change["rules_new"], serde_json::json!(["no_zebras"]), "{change}");
    }
    // What the policies were given can be shown for every verdict.
    let out = live.soma(&[
        "--json",
        "policy",
        "explain",
        &runs[0],
        "--input",
        "--bundle",
        &base.display().to_string(),
    ]);
    let said: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"));
    let verdict = said["verdicts"][0]["verdict_id"].as_str().unwrap();
    let given = &said["inputs"][verdict];
    assert_eq!(
        (&given["tenant"], &given["steps"][0]["tool"]),
        (&tenant.as_str().into(), &"http".into()),
        "{said:#}"
    );
    let page = live.home.join("backtest.html");
    let html = page.display().to_string();
    live.soma(&[
        "policy", "backtest", "--bundle", &folder, "--since", "5m", "--tenant", &tenant, "--html", &html,
    ]);
    let page = std::fs::read_to_string(&page).unwrap();
    assert!(page.contains("no_zebras") && page.contains("5 would change"), "{page}");

    let shown = text(&live.soma(&["policy", "explain", &runs[0]]).stdout);
    assert!(shown.contains("allow") && shown.contains("step probe"), "{shown}");
    let out = live.soma(&["policy", "test", &folder]);
    assert!(
        out.status.success() && text(&out.stdout).contains("failed=0"),
        "{out:?}"
    );
    std::fs::write(other.join("gate.rego"), "package soma.gate\n\ndeny contains x if {\n").unwrap();
    let out = live.soma(&["policy", "backtest", "--bundle", &folder]);
    let why = text(&out.stderr);
    assert!(
        !out.status.success() && why.contains("gate.rego") && why.contains("POLICY_UNREADABLE"),
        "{why}"
    );
}
