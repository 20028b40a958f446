//! The named invariants, looked for in what a history left behind. ARCHITECTURE.md lists them.

use std::collections::BTreeMap;

use kernel::Clock;
use schemas::records::{Call, Memory, Outcome, Request, Run};
use schemas::{digest, topics};

use super::run::{DOOMED, History, PIPELINE, Simulation};

impl Simulation {
    pub(super) fn check(mut self) -> History {
        let mut wrong = std::mem::take(&mut self.violations);
        wrong.extend(self.cluster.broken());
        let ends = self.ended();
        let expected = self.expected();
        for (id, request) in &expected {
            match ends.get(id).map_or(0, Vec::len) {
                1 => {}
                n => wrong.push(format!(
                    "every request ends once: {} ({}) ended {n} times",
                    id, request.goal
                )),
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
        if let Some(killed_at) = self.killed_at {
            let after = self.cluster.read(topics::CALLS).into_iter().filter(|c: &Call| {
                // One turn may have begun just before the kill was seen, and the clock may have been set back.
                c.tenant == DOOMED && c.requested_at.0 > killed_at.0 + 5_000_000
            });
            wrong
                .extend(after.map(|c| format!("a killed scope does nothing more: call {} of {}", c.call_id, c.run_id)));
        }
        let letters = self.cluster.raw("soma.requests.dlq").len();
        if letters != 1 {
            wrong.push(format!("a poison record stops nobody and is kept: {letters} letters"));
        }
        let status = |runs: &Vec<Run>| runs.last().map(|r| format!("{:?}", r.status)).unwrap_or_default();
        History {
            plan: self.plan,
            ends: ends.iter().map(|(id, runs)| (id.clone(), status(runs))).collect(),
            violations: wrong,
            counts: self.cluster.counts(),
            simulated: self.clock.elapsed(),
            digest: self.digest(),
        }
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
            let Some((stage, _)) = &node.alive else { continue };
            for (name, partition, key, bytes) in stage.entries() {
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
