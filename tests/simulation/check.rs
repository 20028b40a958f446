//! The named invariants, looked for in what a history left behind. ARCHITECTURE.md lists them.

use std::collections::{BTreeMap, BTreeSet};

use kernel::Clock;
use schemas::records::{Call, Event, Memory, Metric, Outcome, Request, Run};
use schemas::{digest, topics};

use super::build::DOOMED;
use super::node::Body;
use super::outputs::outputs;
use super::run::{History, PIPELINE, Simulation};
use super::world::KEPT_TOPICS;

impl Simulation {
    pub(super) fn check(mut self) -> History {
        let mut wrong = std::mem::take(&mut self.violations);
        wrong.extend(self.cluster.broken());
        let ends = self.ended();
        let expected = self.expected();
        for (id, request) in &expected {
            // A run killed with a call under way is told once more when the call's fate is known; its end stays what it was.
            let all = ends.get(id).map(Vec::as_slice).unwrap_or_default();
            let distinct: BTreeSet<_> = all.iter().map(|r| (format!("{:?}", r.status), r.finished_at)).collect();
            if distinct.len() != 1 {
                wrong.push(format!(
                    "every request ends once: {id} ({}) ended {distinct:?}",
                    request.goal
                ));
            }
        }
        for (key, deed) in self.world.deeds() {
            if deed.times > 1 && !deed.replay_safe {
                wrong.push(format!(
                    "at most one side effect per key: {key} was done {} times",
                    deed.times
                ));
            }
        }
        wrong.extend(self.crossed(&expected));
        wrong.extend(self.unfolded());
        wrong.extend(self.unkept());
        wrong.extend(self.miscounted());
        wrong.extend(self.done_after_the_kill());
        let letters = self.cluster.raw("soma.requests.dlq").len();
        if letters != 1 {
            wrong.push(format!("a poison record stops nobody and is kept: {letters} letters"));
        }
        let status = |runs: &Vec<Run>| runs.last().map(|r| format!("{:?}", r.status)).unwrap_or_default();
        History {
            ends: ends.iter().map(|(id, runs)| (id.clone(), status(runs))).collect(),
            violations: wrong,
            counts: self.cluster.counts(),
            simulated: self.clock.elapsed(),
            digest: self.digest(),
            outputs: outputs(&self.cluster),
            struck: self.cluster.struck(),
            boundaries: self.cluster.boundaries(),
            trace: self.trace(),
            deeds: self.world.deeds().values().map(|d| d.times).sum(),
            plan: self.plan,
        }
    }

    /// What happened, and what each run told of itself.
    fn trace(&self) -> Vec<String> {
        let mut lines = self.cluster.trace();
        if self.plan.trace {
            let runs = self.cluster.read(topics::RUNS).into_iter();
            lines.extend(runs.map(|r| format!("told: {} {:?} {}", r.run_id, r.status, r.reason)));
            let events = self.cluster.read(topics::EVENTS).into_iter();
            lines.extend(events.map(|e| format!("told: {} {} {:?}", e.run_id, e.kind, e.payload)));
        }
        lines
    }

    /// What was asked for or done in the name of a tenant after it was killed. A call that was under way may still have been sent.
    fn done_after_the_kill(&self) -> Vec<String> {
        let Some(before) = &self.killed else { return Vec::new() };
        let calls = self.cluster.read(topics::CALLS).into_iter();
        let asked = calls.filter(|c: &Call| c.tenant == DOOMED && !before.calls.contains(&c.call_id));
        let mut wrong: Vec<_> = asked.map(|c| format!("call {} of {}", c.call_id, c.run_id)).collect();
        let deeds = self.world.deeds();
        let done: Vec<_> = deeds
            .iter()
            .filter(|(key, d)| d.tenant == DOOMED && !before.deeds.contains(*key))
            .map(|(key, _)| key)
            .collect();
        if done.len() > before.under_way {
            wrong.push(format!("{done:?} were done, {} calls were under way", before.under_way));
        }
        wrong
            .into_iter()
            .map(|w| format!("a killed scope does nothing more: {w}"))
            .collect()
    }

    /// Records a store did not keep.
    fn unkept(&self) -> Vec<String> {
        let kept = self.kept.lock().unwrap();
        let all = KEPT_TOPICS.iter().flat_map(|topic| self.cluster.raw(topic));
        all.filter(|r| {
            let at = &r.position;
            kept.get(&(at.topic.to_string(), at.partition, at.offset)) != r.value.as_ref()
        })
        .map(|r| format!("a store holds every record: not {}", r.position))
        .collect()
    }

    /// Windows whose last revision is not what the events add up to.
    fn miscounted(&self) -> Vec<String> {
        if !self.nodes.iter().any(|n| n.names == ["events_per_minute"]) {
            return Vec::new();
        }
        type Counts = BTreeMap<(String, String, i64), f64>;
        let mut events = Counts::new();
        for e in self.cluster.read(topics::EVENTS) {
            let e: Event = e;
            let minute = e.ts.0.div_euclid(60_000_000) * 60_000_000;
            *events.entry((e.tenant, e.kind, minute)).or_default() += 1.0;
        }
        let mut metrics = Counts::new();
        for m in self.cluster.read(topics::METRICS) {
            let m: Metric = m;
            let label = |name: &str| m.labels.get(name).cloned().unwrap_or_default();
            if m.name == "soma_events_per_minute" && label("tenant") != "*" && label("type") != "*" {
                metrics.insert((label("tenant"), label("type"), m.window_start.0), m.value);
            }
        }
        if events == metrics {
            return Vec::new();
        }
        let differ: Vec<_> = events
            .iter()
            .filter(|(k, v)| metrics.get(*k) != Some(v))
            .map(|(k, v)| format!("{k:?} is {:?}, not {v}", metrics.get(k)))
            .chain(
                metrics
                    .keys()
                    .filter(|k| !events.contains_key(*k))
                    .map(|k| format!("{k:?} is no event's")),
            )
            .collect();
        vec![format!("a window counts each event once: {}", differ.join("; "))]
    }

    fn crossed(&self, expected: &BTreeMap<String, &Request>) -> Vec<String> {
        let outcomes = self
            .cluster
            .read(topics::OUTCOMES)
            .into_iter()
            .map(|o: Outcome| (o.run_id, o.tenant));
        let runs = self
            .cluster
            .read(topics::RUNS)
            .into_iter()
            .map(|r: Run| (r.run_id, r.tenant));
        let memories = self
            .cluster
            .read(topics::MEMORIES)
            .into_iter()
            .map(|m: Memory| (m.run_id, m.tenant));
        outcomes
            .chain(runs)
            .chain(memories)
            .filter(|(run, tenant)| expected.get(run).is_none_or(|r| r.tenant != *tenant))
            .map(|(run, tenant)| format!("no record crosses a tenant: {run} and {tenant}"))
            .collect()
    }

    /// State that is not the fold of its changelog.
    fn unfolded(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for node in &self.nodes {
            let Some(Body::Task(stage)) = node.alive.as_ref().map(|a| &a.body) else {
                continue;
            };
            for (name, partition, key, bytes) in stage.entries().unwrap() {
                let log = self.cluster.raw(&format!("{PIPELINE}.{name}.state"));
                let last = log
                    .iter()
                    .rev()
                    .find(|r| r.position.partition == partition && r.key == key);
                if last.and_then(|r| r.value.as_deref()) != Some(bytes.as_slice()) {
                    wrong.push(format!(
                        "state equals the fold of its changelog: {name} {partition} {key}"
                    ));
                }
            }
        }
        wrong
    }

    fn digest(&self) -> String {
        let mut text = Vec::new();
        for topic in [
            "soma.plans",
            "soma.verdicts",
            "soma.calls",
            "soma.outcomes",
            "soma.runs",
            "soma.memories",
            "soma.events",
        ] {
            for r in self.cluster.raw(topic) {
                text.extend(r.key.bytes());
                text.extend(r.value.unwrap_or_default());
            }
        }
        digest::sha256_hex(&[&hex::encode(text)])
    }
}
