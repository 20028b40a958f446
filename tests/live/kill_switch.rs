//! How fast a kill is a kill: two hundred runs in flight on a slow server and in retries, a switch pressed, and the server's own log read for
//! what was still sent. `make bench-kill` presses it at every scope.

use std::time::{Duration, Instant};

use schemas::records::{Call, Control, Plan, RunStatus, Step};
use schemas::topics;

use super::harness::{Live, live, request, text, unique};

/// Runs that wait for the slow server, and runs whose calls fail and are tried again after a while.
const SLOW: usize = 150;
const RETRIED: usize = 50;
/// Longer than any retry's backoff.
const WATCHED: Duration = Duration::from_secs(6);

/// Seconds since the epoch at which the server was asked on behalf of this tenant.
fn asked(live: &Live, tag: &str) -> Vec<(String, f64)> {
    let all = live.receiver_log().into_iter();
    all.filter_map(|line| {
        let uri = line["uri"].as_str()?.to_owned();
        let began = line["time_s"].as_f64()? - line["seconds"].as_f64()?;
        uri.contains(tag).then_some((uri, began))
    })
    .collect()
}

fn soma(live: &Live, args: &[&str]) {
    let out = live.soma(args);
    assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
}

/// When the broker took the first press of a switch, seconds since the epoch.
#[allow(clippy::cast_precision_loss, reason = "seconds")]
fn pressed(live: &Live, reason: &str) -> f64 {
    let all = live.read_raw(topics::CONTROLS.name).into_iter();
    let mut mine = all.filter(|raw| {
        let value = raw.value.as_deref().unwrap_or_default();
        kernel::decode::<Control>(value, live.registry.as_ref()).is_ok_and(|c| c.reason == reason)
    });
    mine.next().unwrap().at.0 as f64 / 1e6
}

/// A plan that nobody could take, on its dead-letter topic: its key.
fn dead_letter(live: &Live, tag: &str) -> String {
    let key = format!("{tag}_letter");
    let plan = Plan {
        run_id: "run_of_another_key".into(),
        tenant: tag.into(),
        capsule: Some("endpoint_thrice@1".into()),
        steps: vec![Step {
            step_id: "a".into(),
            tool: "http".into(),
            ..Step::default()
        }],
        ..Plan::default()
    };
    let writer = live.writer();
    writer.write(topics::PLANS, &key, tag, &plan, None).unwrap();
    writer.flush().unwrap();
    let began = Instant::now();
    while live.dead_letters(topics::PLANS.name, &key).is_empty() {
        assert!(began.elapsed() < Duration::from_secs(30), "no dead letter of {key}");
        std::thread::sleep(Duration::from_millis(100));
    }
    key
}

/// Milliseconds from the press to the last thing sent of each run that was sent something after it.
fn round(live: &Live, scope: &[&str]) -> Vec<f64> {
    let tag = unique("stop").replace('-', "_");
    let to = |path: &str, n: usize| format!("{}/{path}?{tag}_{n}_", live.receiver());
    let slow = (0..SLOW).map(|n| request(&tag, &format!("s{n}"), "endpoint_thrice", &[("url", &to("slow", n))]));
    let runs = live.produce(&slow.collect::<Vec<_>>());
    let calls = || {
        live.read(topics::CALLS)
            .into_iter()
            .filter(|c: &Call| c.tenant == tag)
            .count()
    };
    let began = Instant::now();
    while calls() < SLOW {
        assert!(began.elapsed() < Duration::from_secs(60), "the slow calls do not begin");
    }
    let retried = (0..RETRIED).map(|n| {
        request(
            &tag,
            &format!("r{n}"),
            "endpoint_thrice",
            &[("url", &to("status/503", SLOW + n))],
        )
    });
    let more = live.produce(&retried.collect::<Vec<_>>());
    while calls() < SLOW + RETRIED {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "the failing calls do not begin"
        );
    }
    let letter = dead_letter(live, &tag);
    let scope: Vec<&str> = scope
        .iter()
        .map(|word| if *word == "TENANT" { tag.as_str() } else { word })
        .collect();
    soma(
        live,
        &[&["kill"], &scope[..], &["--reason", &tag, "--as", "live-test"]].concat(),
    );
    if scope.contains(&"--global") {
        // The end of everything takes two; the first press holds it all the same.
        let again = [&["kill"], &scope[..], &["--reason", &tag, "--as", "second-person"]].concat();
        soma(live, &again);
    }
    let at = pressed(live, &tag);
    // Dead letters do not go back while a switch covers them.
    let out = live.soma(&["--json", "dlq", "replay", "--key", &letter, "--tenant", &tag, "-y"]);
    let said: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"));
    assert_eq!((&said["replayed"], &said["refused"]), (&0.into(), &1.into()), "{said}");
    std::thread::sleep(WATCHED);
    live.stack(&["kill", "-s", "KILL", "control-tower"]);
    live.stack(&["start", "control-tower"]);
    std::thread::sleep(WATCHED);
    soma(
        live,
        &[&["resume"], &scope[..], &["--reason", "over", "--as", "live-test"]].concat(),
    );
    let all: Vec<String> = runs.into_iter().chain(more).collect();
    for (run, states) in live.wait(&all, Duration::from_secs(60)) {
        let last = states.last().unwrap();
        let stopped = matches!(last.status, RunStatus::Killed | RunStatus::Unknown | RunStatus::Failed);
        assert!(stopped, "{run} ended {:?}: {}", last.status, last.reason);
    }
    let seen = asked(live, &tag);
    assert!(!seen.is_empty(), "the server never heard of {tag}");
    let after = |n: usize| {
        let mine = seen.iter().filter(|(uri, _)| uri.contains(&format!("{tag}_{n}_")));
        mine.map(|(_, began)| (began - at) * 1000.0).fold(0.0, f64::max)
    };
    (0..SLOW + RETRIED).map(after).collect()
}

#[test]
fn nothing_is_sent_once_a_switch_is_pressed() {
    let live = live();
    let scopes: &[&[&str]] = &[
        &["--tenant", "TENANT"],
        &["--capsule", "endpoint_thrice"],
        &["--tool", "http"],
        &["--global"],
    ];
    let rounds = if std::env::var_os("SOMA_BENCH").is_some() {
        scopes.len()
    } else {
        1
    };
    let mut stops = Vec::new();
    for scope in scopes.iter().take(rounds) {
        let stopped = round(live, scope);
        let worst = stopped.iter().copied().fold(0.0, f64::max);
        println!("kill {}: last effect {worst:.0} ms after the press", scope.join(" "));
        stops.extend(stopped);
    }
    stops.sort_by(f64::total_cmp);
    let p99 = stops[stops.len() * 99 / 100];
    let late = stops.iter().filter(|ms| **ms >= 1000.0).count();
    println!(
        "stop_p99_ms={p99:.0} effects_after={late} stop_max_ms={:.0} runs={}",
        stops.last().unwrap(),
        stops.len()
    );
    assert_eq!(late, 0, "something was sent more than a second after the press");
}
