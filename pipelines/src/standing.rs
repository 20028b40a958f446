//! What stands whatever a record says: controls, roles and run-time policies, followed from their compacted topics for all stages
//! of the process; and whether somebody watches.

use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kafka::{From, Tail};
use kernel::{Blame, Fault};
use schemas::records::{Constitution, Control, ControlAction, Heartbeat, Member, Policy, Sbom, Scope, Strike, Tally};
use schemas::{Record, Timestamp, topics};
use stages::policy_gate::{Bundle, constitution};

use crate::govern;
use crate::wire::Shared;

/// What is followed, by the name it has in `/health`, and how. Policies have a thread of their own: reading a bundle runs its
/// tests, and a kill does not wait for that.
pub(crate) const FOLLOWED: [(&str, fn(&Shared) -> Result<(), Fault>); 2] =
    [("controls", controls_and_members), ("policies", policies)];

/// Whether everything followed has been read to its end.
pub(crate) fn is_known(shared: &Shared) -> bool {
    let all = shared.health.all();
    let running = |name| all.get(name).is_some_and(|h| h.state == runtime::StageState::Running);
    FOLLOWED.iter().all(|(name, _)| running(*name))
}

/// Keeps what stands up to date until the process stops.
pub(crate) fn follow(shared: &Shared, name: &str, read: fn(&Shared) -> Result<(), Fault>) {
    let mut told = false;
    while !shared.stop.load(Ordering::SeqCst) {
        if let Err(fault) = read(shared) {
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(name, code = %fault.code, detail = %fault.detail, "cannot be read; waiting");
            }
            shared
                .health
                .set(name, runtime::StageState::Waiting(fault.to_string()), 0);
            std::thread::sleep(Duration::from_millis(300));
        }
    }
    shared.health.set(name, runtime::StageState::Stopped, 0);
}

/// Records of one topic taken in before the others are looked at.
const AT_ONCE: usize = 500;

/// One topic being followed. Until its end has been reached for the first time records are kept back, so that nothing is in
/// force that a later record ends.
struct Followed<R> {
    tail: Tail,
    ready: bool,
    kept: Vec<R>,
}

impl<R: Record> Followed<R> {
    fn open(shared: &Shared, topic: &str) -> Result<Self, Fault> {
        Ok(Self {
            tail: Tail::open(&shared.pipeline.connections.kafka, topic, From::Beginning)?,
            ready: false,
            kept: Vec::new(),
        })
    }

    /// Takes in what is at hand, waiting for the first. So many at once that a long topic is soon read, so few that a kill beside it is
    /// heard.
    fn take(&mut self, shared: &Shared, wait_ms: u64, apply: impl Fn(R)) -> Result<(), Fault> {
        for nth in 0..AT_ONCE {
            let record = match self.tail.next(if nth == 0 { wait_ms } else { 0 }) {
                Ok(Some(record)) => record,
                Ok(None) => break,
                Err(fault) => {
                    tracing::debug!(detail = %fault.detail, record = R::NAME, "not read");
                    std::thread::sleep(Duration::from_millis(100));
                    return Ok(());
                }
            };
            let Some(value) = record.value else { continue };
            match kernel::decode::<R>(&value, shared.registry.as_ref()) {
                Ok(read) if self.ready => apply(read),
                Ok(read) => self.kept.push(read),
                Err(fault) if fault.blame == Blame::Dependency => return Err(fault),
                // Bad bytes must not lift or hide what stands.
                Err(fault) => {
                    tracing::error!(code = %fault.code, detail = %fault.detail, record = R::NAME, "unreadable record ignored");
                    shared.metrics.fault("controls", fault.code.as_str());
                }
            }
        }
        if !self.ready && self.tail.is_at_end() {
            // Read again after a failure, what stands is applied again, which changes nothing.
            self.kept.drain(..).for_each(apply);
            self.ready = true;
        }
        Ok(())
    }
}

fn policies(shared: &Shared) -> Result<(), Fault> {
    let mut policies = Followed::open(shared, topics::POLICIES.name)?;
    let mut constitutions = Followed::open(shared, topics::CONSTITUTIONS.name)?;
    let mut sboms = Followed::open(shared, topics::SBOMS.name)?;
    while !shared.stop.load(Ordering::SeqCst) {
        policies.take(shared, 50, |policy| put_in_force(shared, &policy))?;
        constitutions.take(shared, 0, |constitution| constitute(shared, &constitution))?;
        sboms.take(shared, 0, |sbom: Sbom| {
            tracing::info!(subject = %sbom.subject, digest = %sbom.digest, withdrawn = sbom.withdrawn, actor = %sbom.actor, "bill of materials");
            shared.shelf.supply(sbom);
        })?;
        if policies.ready && constitutions.ready && sboms.ready {
            shared.health.set("policies", runtime::StageState::Running, 1);
        }
    }
    Ok(())
}

fn controls_and_members(shared: &Shared) -> Result<(), Fault> {
    let mut controls = Followed::open(shared, topics::CONTROLS.name)?;
    let mut members = Followed::open(shared, topics::MEMBERS.name)?;
    let mut strikes = Followed::open(shared, topics::STRIKES.name)?;
    let mut tallies = Followed::open(shared, topics::TALLIES.name)?;
    let mut watch = Watch::of(shared)?;
    while !shared.stop.load(Ordering::SeqCst) {
        // The controls' wait is the loop's pace; the rest is looked at in between.
        controls.take(shared, 50, |control: Control| {
            tracing::info!(scope = ?control.scope, target = %control.target, action = ?control.action, actor = %control.actor, "control");
            shared.controls.apply(control);
        })?;
        members.take(shared, 0, |member: Member| {
            tracing::info!(tenant = %member.tenant, person = %member.person, roles = %member.roles.join(","), actor = %member.actor, "roles");
            shared.controls.apply_member(member);
        })?;
        strikes.take(shared, 0, |strike: Strike| {
            tracing::info!(tenant = %strike.tenant, person = %strike.person, rule = %strike.rule, pardoned = strike.pardoned, actor = %strike.actor, "strike");
            shared.controls.apply_strike(strike);
        })?;
        tallies.take(shared, 0, |tally: Tally| shared.controls.apply_tally(tally))?;
        let watched = match &mut watch {
            Some(watch) => watch.look(shared)?,
            None => true,
        };
        if controls.ready && members.ready && strikes.ready && tallies.ready && watched {
            shared.health.set("controls", runtime::StageState::Running, 1);
        }
    }
    Ok(())
}

/// The dead man's switch: everything is held while nobody has been heard for longer than the limit.
struct Watch {
    beats: Followed<Heartbeat>,
    limit_us: i64,
    last: Cell<Option<Timestamp>>,
    /// What the stages were told last.
    held: Option<bool>,
}

impl Watch {
    fn of(shared: &Shared) -> Result<Option<Self>, Fault> {
        let limit_s = i64::from(shared.pipeline.dead_man_s.0);
        if limit_s == 0 {
            return Ok(None);
        }
        Ok(Some(Self {
            beats: Followed::open(shared, topics::HEARTBEATS.name)?,
            limit_us: limit_s * 1_000_000,
            last: Cell::new(None),
            held: None,
        }))
    }

    /// Whether it is known by now if somebody watches.
    fn look(&mut self, shared: &Shared) -> Result<bool, Fault> {
        let now = shared.clock.now();
        let last = &self.last;
        self.beats.take(shared, 0, |beat: Heartbeat| {
            // One from the future would hold the switch open: it counts as now.
            last.set(last.get().max(Some(beat.beat_at.min(now))));
        })?;
        if !self.beats.ready {
            return Ok(false);
        }
        let hold = self.last.get().is_none_or(|at| now.micros_since(at) > self.limit_us);
        if self.held.replace(hold) == Some(hold) {
            return Ok(true);
        }
        shared.metrics.gauge("controls", "unwatched", usize::from(hold));
        let since = self
            .last
            .get()
            .map_or_else(|| "ever".to_owned(), |at| format!("since {at}"));
        if hold {
            tracing::error!(%since, runbook = "deploy/runbooks/CONTROL_STOPPED.md", "no heartbeat: everything is held");
        } else {
            tracing::info!("somebody watches: nothing is held for want of a heartbeat");
        }
        shared.controls.set_unwatched(hold.then(|| Control {
            scope: Scope::Global,
            action: ControlAction::Pause,
            reason: format!("no heartbeat {since}; `soma heartbeat` lets go"),
            actor: "dead man's switch".to_owned(),
            issued_at: now,
            ..Control::default()
        }));
        Ok(true)
    }
}

/// Puts a bundle in force, or leaves what was where it is no bundle.
fn put_in_force(shared: &Shared, policy: &Policy) {
    let (tenant, capsule) = (policy.tenant.as_str(), policy.capsule.as_deref());
    if policy.files.is_empty() {
        shared.shelf.remove(tenant, capsule);
        tracing::info!(tenant, capsule, actor = %policy.actor, reason = %policy.reason, "policy withdrawn");
        return;
    }
    match bundle(policy) {
        Ok(bundle) => {
            tracing::info!(tenant, capsule, revision = bundle.revision(), actor = %policy.actor, reason = %policy.reason, "policy in force");
            shared.shelf.put(tenant, capsule, bundle);
        }
        Err(why) => {
            let code = kernel::FaultCode::PolicyUnreadable.as_str();
            tracing::error!(tenant, capsule, code, detail = %why, runbook = "deploy/runbooks/POLICY_UNREADABLE.md", "policy refused; the one before stays in force");
            shared.metrics.fault("policy_gate", code);
        }
    }
}

/// Puts a constitution in force, or leaves what was where it is none.
fn constitute(shared: &Shared, record: &Constitution) {
    let (tenant, version) = (record.tenant.as_str(), record.version);
    // Read each time: a key may be trusted while the platform runs. Constitutions come once in months.
    let signers = govern::signers(&shared.pipeline);
    let signers = signers.map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "));
    match signers.and_then(|signers| constitution::read(record, &signers)) {
        Ok(read) => {
            let hash = read.hash.clone();
            // An older one read again, or published again by somebody who kept it, is history.
            let now = shared.shelf.constitute(read);
            tracing::info!(tenant, version, hash, in_force = now, actor = %record.actor, reason = %record.reason, "constitution");
        }
        Err(why) => {
            let code = kernel::FaultCode::ConstitutionRefused.as_str();
            tracing::error!(tenant, version, code, detail = %why, runbook = "deploy/runbooks/CONSTITUTION_REFUSED.md", "constitution refused; the one before stays in force, and where there is none everything is denied");
            shared.metrics.fault("policy_gate", code);
            shared.shelf.distrust(tenant, &why);
        }
    }
}

/// The bundle of a record, if it compiles, its tests pass and it is what it says.
///
/// # Errors
/// Every fault, with file and line.
pub(crate) fn bundle(policy: &Policy) -> Result<Bundle, String> {
    let files: Vec<_> = policy.files.iter().map(|(p, t)| (p.clone(), t.clone())).collect();
    let lines = |faults: Vec<kernel::ConfigFault>| {
        let lines: Vec<_> = faults.iter().map(ToString::to_string).collect();
        lines.join("; ")
    };
    let bundle = Bundle::parse(&files).map_err(lines)?;
    if bundle.revision() != policy.revision {
        let said = &policy.revision;
        return Err(format!(
            "revision: it says {said}, its files give {}",
            bundle.revision()
        ));
    }
    let failed: Vec<_> = bundle.test().into_iter().filter(|t| !t.passed).collect();
    if failed.is_empty() {
        return Ok(bundle);
    }
    let named: Vec<_> = failed.iter().map(|t| format!("{}: {}", t.name, t.detail)).collect();
    Err(format!("{} tests fail: {}", failed.len(), named.join("; ")))
}
