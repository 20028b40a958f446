//! Kill, pause, resume and approvals from the command line, on the running pipeline.

use std::time::Duration;

use schemas::records::RunStatus;

use super::harness::{live, request, text, unique};

fn soma(args: &[&str]) -> String {
    let out = live().soma(args);
    let shown = text(&out.stdout) + &text(&out.stderr);
    assert!(out.status.success(), "soma {args:?}: {shown}");
    shown
}

#[test]
fn a_killed_tenant_is_refused_until_resumed() {
    let live = live();
    let tenant = unique("stopped").replace('-', "_");
    let probe = |key: &str| {
        request(
            &tenant,
            key,
            "endpoint_probe",
            &[("url", &format!("{}/ok", live.receiver()))],
        )
    };
    soma(&["kill", "--tenant", &tenant, "--reason", "live test"]);
    std::thread::sleep(Duration::from_secs(1));
    let runs = live.produce(&[probe("k1")]);
    let seen = live.wait(&runs, Duration::from_secs(30));
    let last = seen[&runs[0]].last().unwrap();
    assert!(
        matches!(last.status, RunStatus::Refused | RunStatus::Killed),
        "{:?} {}",
        last.status,
        last.reason
    );
    assert!(soma(&["controls"]).contains(&tenant));

    // The kill holds over a restart.
    live.stack(&["kill", "-s", "KILL", "control-tower"]);
    live.stack(&["start", "control-tower"]);
    let runs = live.produce(&[probe("k2")]);
    let seen = live.wait(&runs, Duration::from_secs(60));
    assert!(matches!(
        seen[&runs[0]].last().unwrap().status,
        RunStatus::Refused | RunStatus::Killed
    ));

    soma(&["resume", "--tenant", &tenant, "--reason", "live test over"]);
    std::thread::sleep(Duration::from_secs(1));
    let runs = live.produce(&[probe("k3")]);
    let seen = live.wait(&runs, Duration::from_secs(30));
    assert_eq!(seen[&runs[0]].last().unwrap().status, RunStatus::Succeeded);
}
