//! What goes wrong in a history beside the log's own misfortunes: partitions change hands, clocks jump, instances stand still, a tenant is
//! killed.

use std::collections::{BTreeMap, BTreeSet};

use kernel::Clock;
use runtime::sim::{Chances, Cluster, Rng};
use schemas::records::{Call, Control, ControlAction, Scope};
use schemas::topics;

use super::build::DOOMED;
use super::frozen::{Frost, Frozen};
use super::node::Node;
use super::run::{Before, PARTITIONS, PIPELINE, Plan, Simulation, WINDOW};

/// Longer than it takes the others to go on.
const FROZEN_ROUNDS: u64 = 300;

pub(super) fn cluster(plan: &Plan, rng: &mut Rng) -> Cluster {
    let chances = if plan.disturbed {
        chances(plan, rng)
    } else {
        Chances::default()
    };
    let cluster = Cluster::new(plan.seed ^ 0xc1_05_7e, chances);
    let everything = [
        "soma.requests",
        "soma.plans",
        "soma.proposals",
        "soma.verdicts",
        "soma.approvals",
        "soma.delegations",
        "soma.receipts",
        "soma.calls",
        "soma.outcomes",
        "soma.runs",
        "soma.memories",
        "soma.events",
        "soma.metrics",
    ];
    for topic in everything {
        cluster.create(topic, PARTITIONS);
        cluster.create(&topics::dlq_of(topic), 1);
    }
    for name in ["intake", "orchestrator", "invoker", WINDOW] {
        cluster.create(&format!("{PIPELINE}.{name}.state"), PARTITIONS);
    }
    if let Some(only) = &plan.only {
        cluster.only(only.clone());
    }
    if let Some(nth) = plan.die_at {
        cluster.die_at(nth);
    }
    if plan.trace {
        cluster.keep_trace();
    }
    cluster
}

impl Simulation {
    /// Gives every partition of a group to some instance.
    pub(super) fn rebalance(&mut self, group: &str, rng: &mut Rng) {
        let dead = self.dead(group);
        // Whoever stands still does not join.
        let members = self.nodes.iter().filter(|n| n.group == group && n.frozen.is_none());
        let members: Vec<&Node> = members.collect();
        let owners: BTreeMap<i32, String> = (0..i32::try_from(PARTITIONS).unwrap())
            .map(|p| {
                let at = usize::try_from(rng.below(u64::try_from(members.len()).unwrap())).unwrap();
                (p, members[at].instance.clone())
            })
            .collect();
        let abruptly = rng.chance(500);
        self.cluster
            .assign(group, members[0].subscribed(), &owners, &dead, abruptly);
    }

    /// Instances of a group that do not run.
    fn dead(&self, group: &str) -> BTreeSet<String> {
        let members = self.nodes.iter().filter(|n| n.group == group);
        let dead = members.filter(|n| n.alive.is_none() && n.frozen.is_none());
        dead.map(|n| n.instance.clone()).collect()
    }

    /// Whether and how an instance stands still in its next commit. Of each group somebody goes on.
    pub(super) fn frost(&mut self, at: usize) -> Option<Frost> {
        let node = &self.nodes[at];
        let mut others = self
            .nodes
            .iter()
            .filter(|n| n.group == node.group && n.instance != node.instance);
        let alone = others.clone().count() == 0 || others.any(|n| n.frozen.is_some() || n.frost.is_some());
        if alone || node.frost.is_some() {
            return node.frost.filter(|_| !alone);
        }
        let mut rng = self.cluster.freezes(&node.who())?;
        let mut below = |n: u64| usize::try_from(rng.below(n)).unwrap();
        let frost = Frost {
            after: below(4),
            rounds: 1 + below(FROZEN_ROUNDS),
            thrown_out: below(4) > 0,
        };
        self.nodes[at].frost = Some(frost);
        Some(frost)
    }

    /// An instance stands still in a commit: where that is longer than its session the group goes on without it.
    pub(super) fn stands(&mut self, at: usize, frost: Frost, mut frozen: Frozen) {
        frozen.until = self.rounds + frost.rounds;
        let node = &mut self.nodes[at];
        (node.frost, node.frozen) = (None, Some(frozen));
        if !frost.thrown_out {
            return;
        }
        let node = &self.nodes[at];
        let other = self
            .nodes
            .iter()
            .find(|n| n.group == node.group && n.instance != node.instance);
        let theirs = other.unwrap().instance.clone();
        let owned = self.cluster.owned(&node.group, &node.instance).into_iter();
        let owners: BTreeMap<i32, String> = owned.map(|p| (p, theirs.clone())).collect();
        let dead = self.dead(&node.group);
        self.cluster
            .assign(&node.group, node.subscribed(), &owners, &dead, true);
    }

    /// Whoever stood still until this round goes on.
    pub(super) fn thaw(&mut self, round: usize) {
        for at in 0..self.nodes.len() {
            if let Some(frozen) = self.nodes[at].frozen.take_if(|f| f.until <= round) {
                let (alive, went) = frozen.wake();
                self.went(at, alive, went);
            }
        }
    }

    pub(super) fn misfortune(&mut self) {
        if let Some(mut rng) = self.cluster.strikes("partitions change hands", 15) {
            let at = usize::try_from(rng.below(u64::try_from(self.nodes.len()).unwrap())).unwrap();
            let group = self.nodes[at].group.clone();
            self.rebalance(&group, &mut rng);
        }
        if let Some(mut rng) = self.cluster.strikes("the clock jumps", 2) {
            let back = rng.chance(500);
            self.clock.jump(if back { -2_000 } else { 5_000 });
        }
    }

    pub(super) fn kill(&mut self) {
        // Asked for, though it may not be true yet.
        let calls = self.cluster.read(topics::CALLS).into_iter();
        let calls = calls.chain(self.cluster.under_way(topics::CALLS));
        let deeds = self.world.deeds().into_iter();
        self.killed = Some(Before {
            calls: calls.filter(|c: &Call| c.tenant == DOOMED).map(|c| c.call_id).collect(),
            deeds: deeds.filter(|(_, d)| d.tenant == DOOMED).map(|(key, _)| key).collect(),
            under_way: self.nodes.iter().map(Node::in_flight).sum(),
        });
        self.controls.apply(Control {
            scope: Scope::Tenant,
            target: DOOMED.into(),
            action: ControlAction::Kill,
            reason: "simulated".into(),
            actor: "carol".into(),
            issued_at: self.clock.now(),
            seconded_by: None,
        });
    }
}

fn chances(plan: &Plan, rng: &mut Rng) -> Chances {
    // Draws of their own: those of the others stay what they were before there were freezes.
    let mut cold = Rng::of(plan.seed ^ 0xf_205e);
    let mut within = |most: u64| if plan.is_freezing() { 1 + cold.below(most) } else { 0 };
    let (crash_within, frozen) = (within(40), within(12));
    let mut some = |most: u64| if rng.chance(500) { rng.below(most) } else { 0 };
    Chances {
        crash_before: some(150),
        crash_within,
        crash_after: some(150),
        crash_reading: some(60),
        commit_refused: some(150),
        commit_unknown: some(150),
        commit_slow: some(200),
        registry_down: some(100),
        restore_failed: some(300),
        store_down: some(300),
        killed_in_flight: some(80),
        frozen,
        poll_failed: some(60),
        short_poll: some(400),
    }
}
