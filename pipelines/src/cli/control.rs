//! `soma kill | pause | resume | cancel` and `soma controls`: the switches of `soma.controls`, written and listed.

use std::time::Duration;

use kafka::{From, Tail};
use kernel::Blame;
use kernel::controls::{Controls, is_alone, key_of};
use schemas::records::{Control, ControlAction, Run, RunStatus, Scope};
use schemas::topics;
use serde_json::{Value as Json, json};

use super::context::{Context, now, read_to_end};
use super::failure::{Done, FAILED, Failure, OK};
use super::tree::{is_final, word};
use super::{out, runs, watch, when};

/// Longest wait for a run to show the effect.
const EFFECT: Duration = Duration::from_secs(10);

/// Sets or lifts a switch at a scope.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  soma kill --global --reason 'incident 12'          everything is held at once; a second person who says the same ends it
  soma kill --run 3f2a91 --reason 'wrong target'     ends one run, nothing is undone
  soma cancel --run 3f2a91 --reason 'not needed'     ends one run and undoes what it did
  soma pause --tenant acme --reason 'maintenance'    nothing new starts; what runs may finish
  soma resume --tenant acme --reason 'done'          lifts kill, cancel or pause at that scope
  soma controls                                      what is in force

A switch is a record: it holds over restarts until `soma resume` with the same scope lifts it. A run that was killed stays
killed. To end everything takes two people: what one asks for alone with --global holds everything, as pause does. With --run the command waits up to 10 s and says what it saw.")]
#[command(group(clap::ArgGroup::new("scope").required(true)))]
pub(super) struct Args {
    /// Everything
    #[arg(long, group = "scope")]
    global: bool,
    /// One tenant
    #[arg(long, group = "scope", value_name = "TENANT")]
    tenant: Option<String>,
    /// One capsule: every version by its name, one version by name@version
    #[arg(long, group = "scope", value_name = "CAPSULE")]
    capsule: Option<String>,
    /// One tool, for example terraform
    #[arg(long, group = "scope", value_name = "TOOL")]
    tool: Option<String>,
    /// One run: its id or the beginning of it
    #[arg(long, group = "scope", value_name = "RUN")]
    run: Option<String>,
    /// Why; everybody who is stopped reads it
    #[arg(long, short)]
    reason: String,
    /// Who asks (default: $USER)
    #[arg(long = "as", value_name = "WHO")]
    who: Option<String>,
}

impl Args {
    fn scope(&self) -> (Scope, String) {
        let named = [
            (Scope::Tenant, &self.tenant),
            (Scope::Capsule, &self.capsule),
            (Scope::Tool, &self.tool),
            (Scope::Run, &self.run),
        ];
        let found = named
            .into_iter()
            .find_map(|(scope, target)| target.clone().map(|t| (scope, t)));
        found.unwrap_or((Scope::Global, String::new()))
    }
}

pub(super) fn run(args: &Args, action: ControlAction, cx: &Context) -> Done {
    let (scope, mut target) = args.scope();
    if scope != Scope::Global && target.trim().is_empty() {
        return Err(Failure::input(
            "TARGET_MISSING",
            "the scope names nothing",
            "an empty target would cover nobody; --global covers all",
        ));
    }
    if args.reason.trim().is_empty() {
        return Err(Failure::input(
            "REASON_MISSING",
            "--reason is empty",
            "say why: it stands in every record this stops",
        ));
    }
    let mut before = None;
    if scope == Scope::Run {
        before = known_run(cx, &target, action)?;
        if let Some(run) = &before {
            target.clone_from(&run.run_id);
        }
    }
    let actor = cx.actor(args.who.as_deref())?;
    let seconded_by = first_of_two(cx, scope, action, &actor)?;
    let control = Control {
        scope,
        target,
        action,
        reason: args.reason.clone(),
        actor,
        issued_at: now(),
        seconded_by,
    };
    let mut tail = before
        .as_ref()
        .map(|_| Tail::open(&cx.brokers()?, topics::RUNS.name, From::End).map_err(Failure::from))
        .transpose()?;
    let tenant = before
        .as_ref()
        .map(|r| r.tenant.clone())
        .or_else(|| args.tenant.clone())
        .unwrap_or_default();
    let writer = cx.writer()?;
    let trace = runtime::Trace::continuing(None).header();
    writer.write(
        topics::CONTROLS,
        &key_of(scope, &control.target),
        &tenant,
        &control,
        Some(&trace),
    )?;
    writer.flush()?;
    let seen = match (&before, &mut tail) {
        (Some(run), Some(tail)) => watch::await_run(cx, tail, &run.run_id, EFFECT, &|now| shows(action, now))?,
        _ => None,
    };
    report(cx, &control, before.as_ref(), seen.as_ref())
}

/// Who has asked for the same end of everything before, if this is the second person.
fn first_of_two(cx: &Context, scope: Scope, action: ControlAction, actor: &str) -> Result<Option<String>, Failure> {
    if scope != Scope::Global || !matches!(action, ControlAction::Kill | ControlAction::Cancel) {
        return Ok(None);
    }
    let controls = in_force(cx)?;
    let key = key_of(scope, "");
    if let Some(standing) = controls
        .all()
        .find(|c| c.action == action && key_of(c.scope, &c.target) == key)
    {
        let text = format!(
            "{} and {} have ended everything already",
            standing.actor,
            standing.seconded_by.as_deref().unwrap_or("another")
        );
        return Err(Failure::failed(
            "NOTHING_CHANGES",
            text,
            "`soma controls` shows it; `soma resume --global` lifts it",
        ));
    }
    let before: Vec<_> = controls.alone().filter(|c| c.action == action).collect();
    if before.iter().any(|c| c.actor == actor) {
        let text = format!("{actor} has asked for it already; everything is held");
        let help = "somebody else has to ask for the same: soma kill --global --reason .. (--as WHO)";
        return Err(Failure::failed("SECOND_PERSON_MISSING", text, help));
    }
    Ok(before.first().map(|c| c.actor.clone()))
}

/// The run that is meant. A whole id that the orchestrator has not seen yet is taken as it is: a kill must not have to wait.
fn known_run(cx: &Context, target: &str, action: ControlAction) -> Result<Option<Run>, Failure> {
    match runs::find(cx, target) {
        Ok(run) if is_final(run.status) && action != ControlAction::Resume => {
            let text = format!("{} has ended already: {}", run.run_id, word(&run.status));
            Err(Failure::failed("RUN_FINAL", text, "there is nothing left to stop"))
        }
        Ok(run) => Ok(Some(run)),
        Err(unknown) if unknown.code == "RUN_UNKNOWN" && target.starts_with("run_") && target.len() == 36 => {
            out::note(format!("{target} has no state yet; the switch will meet it"));
            Ok(None)
        }
        Err(other) => Err(other),
    }
}

/// Whether a run shows the effect of an action.
fn shows(action: ControlAction, run: &Run) -> bool {
    match action {
        ControlAction::Kill => is_final(run.status),
        ControlAction::Cancel => is_final(run.status) || run.status == RunStatus::Compensating,
        ControlAction::Pause => is_final(run.status) || run.status == RunStatus::Paused,
        ControlAction::Resume => run.status != RunStatus::Paused,
    }
}

fn report(cx: &Context, control: &Control, before: Option<&Run>, seen: Option<&Run>) -> Done {
    let after = seen.or(before);
    let effective = after.is_none_or(|run| shows(control.action, run));
    if cx.json {
        let status = after.map_or(Json::Null, |run| json!(word(&run.status)));
        out::json(
            &json!({"control": control, "key": key_of(control.scope, &control.target), "run_status": status, "effect_seen": after.map(|_| effective)}),
        )?;
        return Ok(if effective { OK } else { FAILED });
    }
    out::line(format!(
        "{} {} written: {}",
        word(&control.action),
        key_of(control.scope, &control.target),
        control.reason
    ))?;
    if is_alone(control) {
        out::line("everything is held; it ends when a second person asks for the same")?;
    }
    match after {
        None => out::line("`soma run list` shows its effect; `soma controls` what is in force")?,
        Some(run) if effective => out::line(format!("{} is {}", run.run_id, word(&run.status)))?,
        Some(run) => {
            let text = format!(
                "{} is still {} after {} s",
                run.run_id,
                word(&run.status),
                EFFECT.as_secs()
            );
            out::line(format!("{text}; is the pipeline up? `soma stages`"))?;
        }
    }
    Ok(if effective { OK } else { FAILED })
}

/// Every control in force, taken in as the stages do: in order, bad bytes lift or hide nothing.
pub(super) fn in_force(cx: &Context) -> Result<Controls, Failure> {
    let registry = cx.registry()?;
    let mut controls = Controls::default();
    let mut tail = Tail::open(&cx.brokers()?, topics::CONTROLS.name, From::Beginning)?;
    read_to_end(&mut tail, &mut |record| {
        match record
            .value
            .as_deref()
            .map(|value| kernel::decode::<Control>(value, registry.as_ref()))
        {
            Some(Ok(control)) => controls.apply(control),
            Some(Err(fault)) if fault.blame == Blame::Dependency => return Err(fault.into()),
            Some(Err(fault)) => out::note(format!("{} is unreadable and ignored: {fault}", record.position)),
            None => {}
        }
        Ok(true)
    })?;
    Ok(controls)
}

pub(super) fn list(cx: &Context) -> Done {
    let controls = in_force(cx)?;
    if cx.json {
        out::json(&json!(controls.all().collect::<Vec<_>>()))?;
        return Ok(OK);
    }
    let rows: Vec<_> = controls
        .all()
        .map(|c| {
            vec![
                word(&c.action),
                word(&c.scope),
                c.target.clone(),
                when::shown(c.issued_at),
                c.actor.clone(),
                out::short(&c.reason, 80),
            ]
        })
        .collect();
    if rows.is_empty() {
        out::line("no control is in force")?;
    } else {
        out::table(&["ACTION", "SCOPE", "TARGET", "SINCE", "BY", "REASON"], &rows)?;
    }
    Ok(OK)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(words: &[&str]) -> Result<Args, clap::Error> {
        Line::try_parse_from([&["kill"], words].concat()).map(|line| line.args)
    }

    #[test]
    fn exactly_one_scope() {
        assert_eq!(
            parse(&["--global", "--reason", "x"]).unwrap().scope(),
            (Scope::Global, String::new())
        );
        assert_eq!(
            parse(&["--tool", "http", "--reason", "x"]).unwrap().scope(),
            (Scope::Tool, "http".into())
        );
        for bad in [
            &["--reason", "x"][..],
            &["--global", "--tool", "http", "--reason", "x"],
            &["--global"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_counts_as_an_effect() {
        let run = |status| Run {
            status,
            ..Run::default()
        };
        assert!(
            shows(ControlAction::Kill, &run(RunStatus::Killed))
                && !shows(ControlAction::Kill, &run(RunStatus::Running))
        );
        assert!(shows(ControlAction::Cancel, &run(RunStatus::Compensating)));
        assert!(
            shows(ControlAction::Pause, &run(RunStatus::Paused))
                && !shows(ControlAction::Pause, &run(RunStatus::Running))
        );
        assert!(
            shows(ControlAction::Resume, &run(RunStatus::Running))
                && !shows(ControlAction::Resume, &run(RunStatus::Paused))
        );
    }
}
