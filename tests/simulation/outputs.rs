//! What a history wrote, run by run, without what differs between two honest histories: times, and what follows from them.

use std::collections::BTreeMap;

use pipelines::reprocess::{difference, settle};
use runtime::sim::Cluster;
use schemas::records::{Call, Event, Memory, Outcome, Plan, Proposal, Run, Verdict};
use schemas::{Record, topics};
use serde::Serialize;

use super::build::DOOMED;
use super::run::History;

/// By run and topic, in an order of its own.
pub(crate) type Outputs = BTreeMap<String, BTreeMap<&'static str, Vec<String>>>;

pub(super) fn outputs(cluster: &Cluster) -> Outputs {
    let mut outputs = Outputs::new();
    fn of<R: Record + Serialize>(cluster: &Cluster, topic: topics::Topic<R>, outputs: &mut Outputs) {
        for record in cluster.read(topic) {
            let mut value = serde_json::to_value(&record).unwrap();
            // Says that a call took long, which the undisturbed one did not.
            if value["type"] == "call.overdue" {
                continue;
            }
            let run = value["run_id"].as_str().unwrap_or_default().to_owned();
            settle(&mut value);
            let topics = outputs.entry(run).or_default();
            topics.entry(topic.name).or_default().push(value.to_string());
        }
    }
    of::<Plan>(cluster, topics::PLANS, &mut outputs);
    of::<Proposal>(cluster, topics::PROPOSALS, &mut outputs);
    of::<Verdict>(cluster, topics::VERDICTS, &mut outputs);
    of::<Call>(cluster, topics::CALLS, &mut outputs);
    of::<Outcome>(cluster, topics::OUTCOMES, &mut outputs);
    of::<Run>(cluster, topics::RUNS, &mut outputs);
    of::<Memory>(cluster, topics::MEMORIES, &mut outputs);
    of::<Event>(cluster, topics::EVENTS, &mut outputs);
    outputs
        .values_mut()
        .flat_map(BTreeMap::values_mut)
        .for_each(|o| o.sort());
    outputs
}

/// Where a history's outputs are not those of an undisturbed one. A call whose fate nobody could know may have ended UNKNOWN, and
/// its run with it; the doomed tenant's runs end when the kill comes.
pub(super) fn unequal(quiet: &History, other: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    for (run, end) in &quiet.ends {
        let Some(ours) = quiet.outputs.get(run) else { continue };
        let is_doomed = || ours["soma.runs"][0].contains(&format!("\"tenant\":\"{DOOMED}\""));
        if other.plan.is_killing() && is_doomed() {
            continue;
        }
        let theirs = other.ends.get(run).map_or("none", String::as_str);
        if theirs == "Unknown" || end == "Unknown" {
            continue;
        }
        if theirs != end {
            wrong.push(format!("{run} ended {theirs}, undisturbed {end}"));
            continue;
        }
        let Some(theirs) = other.outputs.get(run) else { continue };
        let timed = other.plan.judges_again();
        let deeds = |topic: &str| [topics::OUTCOMES.name, topics::MEMORIES.name].contains(&topic);
        for (topic, expected) in ours.iter().filter(|(topic, _)| !timed || deeds(topic)) {
            let got = theirs.get(topic).map(Vec::as_slice).unwrap_or_default();
            if got != expected.as_slice() {
                let more: Vec<_> = got.iter().filter(|g| !expected.contains(g)).collect();
                let less: Vec<_> = expected.iter().filter(|e| !got.contains(e)).collect();
                let differ = match (more.first(), less.first()) {
                    (Some(more), Some(less)) => {
                        let [more, less] = [more, less].map(|text| serde_json::from_str(text).unwrap());
                        difference("", &more, &less)
                    }
                    _ => format!("only here {more:?}, only there {less:?}"),
                };
                wrong.push(format!(
                    "{run} has {} records on {topic}, undisturbed {}: {differ}",
                    got.len(),
                    expected.len()
                ));
            }
        }
    }
    wrong
        .into_iter()
        .map(|w| format!("outputs equal those of an undisturbed run: {w}"))
        .collect()
}
