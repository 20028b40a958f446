//! What a restarted instance spends its time on: the lines of its own log from the kill to the task's first commit.

use schemas::Timestamp;
use serde_json::Value;

use super::faults::Fault;
use crate::live::harness::Live;

/// Lines that are a step of the way.
const STEPS: [&str; 6] = [
    "begins",
    "started",
    "joining",
    "partitions given",
    "state restored",
    "first commit",
];

/// The task whose commits `recovery` counts.
fn is_task(line: &Value) -> bool {
    line["stage"].as_str().is_none_or(|stage| stage.starts_with("intake"))
}

fn millis(line: &Value) -> Option<i64> {
    let at: Timestamp = line["timestamp"].as_str()?.parse().ok()?;
    Some(at.0 / 1000)
}

/// One line: each step and the milliseconds from the kill until then; of what happens often the last before the first commit.
pub(super) fn of(live: &Live, fault: &Fault) -> Option<String> {
    let name = fault.killed?;
    let text = std::fs::read_to_string(live.home.join(format!("logs/instance-{name}.log"))).ok()?;
    let from = fault.at.0 / 1000;
    let lines = text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
    let later = lines.filter(|l| millis(l).is_some_and(|at| at >= from) && is_task(l));
    let mut steps: Vec<(String, i64, String)> = Vec::new();
    for line in later {
        let Some(step) = STEPS.iter().find(|s| line["message"] == **s) else {
            continue;
        };
        let after = millis(&line)? - from;
        let detail: Vec<_> = ["known_ms", "built_ms", "log_ms"]
            .iter()
            .filter_map(|k| Some(format!("{k}={}", line[*k].as_i64()?)))
            .collect();
        steps.retain(|(known, ..)| known != step);
        steps.push(((*step).to_owned(), after, detail.join(" ")));
        if *step == "first commit" {
            break;
        }
    }
    let told: Vec<_> = steps
        .iter()
        .map(|(s, at, d)| format!("{s} {at} {d}").trim_end().to_owned())
        .collect();
    Some(format!("{name}: {}", told.join(", ")))
}
