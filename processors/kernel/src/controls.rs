//! Kill switches, pauses and cancels as they stand: the fold of `soma.controls`, the same for every stage.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemas::records::{Call, CallKind, Control, ControlAction, Member, Scope, Strike, Tally};

use crate::fault::{Fault, FaultCode};
use crate::members::Members;

/// What a control covers: the facts of a run or a call. Empty means not applicable.
#[derive(Clone, Copy, Debug, Default)]
pub struct Covers<'a> {
    /// Tenant.
    pub tenant: &'a str,
    /// Capsule, `name@version`; a control on the bare name covers every version.
    pub capsule: &'a str,
    /// Tool.
    pub tool: &'a str,
    /// Run.
    pub run_id: &'a str,
}

/// The controls in force, and who holds which roles beside them: what every stage is told of the world as it stands.
#[derive(Clone, Debug, Default)]
pub struct Controls {
    by_key: BTreeMap<String, Control>,
    /// What one person alone asks for everything, by key; it holds everything until a second does.
    alone: BTreeMap<String, Control>,
    /// Nobody watches.
    unwatched: Option<Control>,
    members: Arc<Members>,
}

impl Controls {
    /// Takes a control in. RESUME lifts what stood at its scope.
    pub fn apply(&mut self, control: Control) {
        let key = key_of(control.scope, &control.target);
        let ended = self
            .by_key
            .get(&key)
            .is_some_and(|c| strength(c.action) >= strength(ControlAction::Cancel));
        if ended && is_alone(&control) {
            // One more press must not turn the end that two asked for into a hold.
            return;
        }
        self.alone.remove(&key);
        if control.action == ControlAction::Resume {
            self.by_key.remove(&key);
        } else if is_alone(&control) {
            self.by_key.insert(key.clone(), held(&control));
            self.alone.insert(key, control);
        } else {
            self.by_key.insert(key, control);
        }
    }

    /// What one person alone asks for everything: a second person's word makes it so.
    pub fn alone(&self) -> impl Iterator<Item = &Control> {
        self.alone.values()
    }

    /// Holds everything while nobody watches; `None` lets go.
    pub fn set_unwatched(&mut self, hold: Option<Control>) {
        self.unwatched = hold;
    }

    /// Takes somebody's roles in.
    pub fn apply_member(&mut self, member: Member) {
        Arc::make_mut(&mut self.members).apply(member);
    }

    /// Takes a strike in.
    pub fn apply_strike(&mut self, strike: Strike) {
        Arc::make_mut(&mut self.members).apply_strike(strike);
    }

    /// Takes a counted step in.
    pub fn apply_tally(&mut self, tally: Tally) {
        Arc::make_mut(&mut self.members).apply_tally(tally);
    }

    /// Who holds which roles, who has which strikes, and what is counted.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// The strongest control that covers these facts: KILL before CANCEL before PAUSE.
    pub fn covering(&self, covers: Covers<'_>) -> Option<&Control> {
        if self.by_key.is_empty() && self.unwatched.is_none() {
            return None;
        }
        self.by_key
            .values()
            .chain(&self.unwatched)
            .filter(|c| hits(c, covers))
            .max_by_key(|c| strength(c.action))
    }

    /// Everything in force, by scope and target.
    pub fn all(&self) -> impl Iterator<Item = &Control> {
        self.by_key.values().chain(&self.unwatched)
    }
}

/// Whether one person alone asks for the end of everything.
pub fn is_alone(control: &Control) -> bool {
    let ends = matches!(control.action, ControlAction::Kill | ControlAction::Cancel);
    let second = control.seconded_by.as_deref().map(str::trim);
    let seconded = second.is_some_and(|s| !s.is_empty() && s != control.actor.trim());
    control.scope == Scope::Global && ends && !seconded
}

/// The hold that stands in place of what one person alone asks for.
fn held(control: &Control) -> Control {
    let reason = format!(
        "{} ({:?} of everything waits for a second person; until then everything is held)",
        control.reason, control.action
    );
    Control {
        action: ControlAction::Pause,
        reason,
        ..control.clone()
    }
}

/// The stop that covers a call; a cancel lets its way back go on.
pub fn stop<'a>(controls: &'a Controls, call: &Call) -> Option<&'a Control> {
    let covers = Covers {
        tenant: &call.tenant,
        capsule: call.capsule.as_deref().unwrap_or_default(),
        tool: &call.tool,
        run_id: &call.run_id,
    };
    let goes_back = |c: &Control| c.action == ControlAction::Cancel && call.kind == CallKind::Compensation;
    controls.covering(covers).filter(|c| !goes_back(c))
}

/// What is said of a call that a control stopped before it was sent.
pub fn stopped(control: &Control) -> Fault {
    let scope = key_of(control.scope, &control.target);
    let detail = format!(
        "{:?} by {} at {scope}: {}; nothing was done",
        control.action, control.actor, control.reason
    );
    Fault::new(FaultCode::ControlStopped, detail)
}

/// Key of a control on its topic.
pub fn key_of(scope: Scope, target: &str) -> String {
    let scope = match scope {
        Scope::Global => "global",
        Scope::Tenant => "tenant",
        Scope::Capsule => "capsule",
        Scope::Tool => "tool",
        Scope::Run => "run",
    };
    format!("{scope}:{target}")
}

/// Whether one control covers these facts.
pub fn hits(control: &Control, covers: Covers<'_>) -> bool {
    let target = control.target.as_str();
    match control.scope {
        Scope::Global => true,
        Scope::Tenant => target == covers.tenant,
        Scope::Capsule => {
            !target.is_empty() && (target == covers.capsule || Some(target) == covers.capsule.split('@').next())
        }
        Scope::Tool => target == covers.tool && !target.is_empty(),
        Scope::Run => target == covers.run_id,
    }
}

/// Which of two controls counts where both cover something: the greater.
pub fn strength(action: ControlAction) -> u8 {
    match action {
        ControlAction::Kill => 3,
        ControlAction::Cancel => 2,
        ControlAction::Pause => 1,
        ControlAction::Resume => 0,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn control(scope: Scope, target: &str, action: ControlAction) -> Control {
        Control {
            scope,
            target: target.into(),
            action,
            ..Control::default()
        }
    }

    #[test]
    fn the_strongest_control_wins_and_resume_lifts_it() {
        let mut controls = Controls::default();
        controls.apply(control(Scope::Tenant, "acme", ControlAction::Pause));
        controls.apply(control(Scope::Capsule, "rollout", ControlAction::Kill));
        let facts = Covers {
            tenant: "acme",
            capsule: "rollout@1",
            ..Covers::default()
        };
        assert_eq!(controls.covering(facts).map(|c| c.action), Some(ControlAction::Kill));
        controls.apply(control(Scope::Capsule, "rollout", ControlAction::Resume));
        assert_eq!(controls.covering(facts).map(|c| c.action), Some(ControlAction::Pause));
        assert!(
            controls
                .covering(Covers {
                    tenant: "other",
                    ..Covers::default()
                })
                .is_none()
        );
    }

    #[test]
    fn the_end_of_everything_takes_two_and_one_alone_holds_it() {
        let by = |actor: &str, second: Option<&str>| Control {
            actor: actor.into(),
            seconded_by: second.map(str::to_owned),
            ..control(Scope::Global, "", ControlAction::Kill)
        };
        for (second, action) in [
            (None, ControlAction::Pause),
            (Some("ada"), ControlAction::Pause),
            (Some(" "), ControlAction::Pause),
            (Some("grace"), ControlAction::Kill),
        ] {
            let mut controls = Controls::default();
            controls.apply(by("ada", second));
            let covering = controls.covering(Covers::default()).unwrap();
            assert_eq!(covering.action, action, "{second:?}");
            assert_eq!(controls.alone().count(), usize::from(action == ControlAction::Pause));
            controls.apply(control(Scope::Global, "", ControlAction::Resume));
            assert!(controls.covering(Covers::default()).is_none() && controls.alone().next().is_none());
        }
    }

    #[test]
    fn one_more_press_does_not_weaken_the_end_that_two_asked_for() {
        let by = |actor: &str, second: Option<&str>| Control {
            actor: actor.into(),
            seconded_by: second.map(str::to_owned),
            ..control(Scope::Global, "", ControlAction::Kill)
        };
        let mut controls = Controls::default();
        controls.apply(by("ada", None));
        controls.apply(by("grace", Some("ada")));
        controls.apply(by("max", None));
        let covering = controls.covering(Covers::default()).unwrap();
        assert_eq!((covering.action, controls.alone().count()), (ControlAction::Kill, 0));
    }

    #[test]
    fn while_nobody_watches_everything_is_held() {
        let mut controls = Controls::default();
        controls.set_unwatched(Some(control(Scope::Global, "", ControlAction::Pause)));
        controls.apply(control(Scope::Tenant, "acme", ControlAction::Kill));
        let of = |controls: &Controls, tenant| {
            let covers = Covers {
                tenant,
                ..Covers::default()
            };
            controls.covering(covers).map(|c| c.action)
        };
        assert_eq!(of(&controls, "acme"), Some(ControlAction::Kill));
        assert_eq!(of(&controls, "globex"), Some(ControlAction::Pause));
        controls.set_unwatched(None);
        assert_eq!(of(&controls, "globex"), None);
    }

    #[test]
    fn an_empty_target_covers_nobody_but_global() {
        let mut controls = Controls::default();
        controls.apply(control(Scope::Tool, "", ControlAction::Kill));
        assert!(
            controls
                .covering(Covers {
                    tenant: "acme",
                    ..Covers::default()
                })
                .is_none()
        );
        controls.apply(control(Scope::Global, "", ControlAction::Pause));
        assert!(controls.covering(Covers::default()).is_some());
    }
}
