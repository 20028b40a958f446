//! `soma run watch`: one run as a live tree until it is final; and the waiting for a run to show something, which other commands
//! use to say what their record brought about.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kafka::{From, Tail};
use schemas::records::{Run, RunStatus};
use schemas::topics;

use super::context::{Context, fold_one, now, read_to_end};
use super::failure::{Done, FAILED, Failure, OK};
use super::runs::{as_json, match_prefix, read};
use super::tree::{is_final, render, word};
use super::{out, when};

/// What to watch.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Run id, or its beginning
    run: String,
    /// Give up on a run that has not appeared for so long
    #[arg(long, default_value = "60s", value_parser = when::duration_ms, value_name = "DURATION")]
    wait: i64,
}

pub(super) fn run(watch: &Args, cx: &Context) -> Done {
    let whole = if watch.run.starts_with("run_") {
        watch.run.clone()
    } else {
        format!("run_{}", watch.run)
    };
    let mut tail = Tail::open(&cx.brokers()?, topics::RUNS.name, From::Beginning)?;
    let mut known = BTreeMap::new();
    read_to_end(&mut tail, &mut |record| {
        if record.key.starts_with(&whole) {
            fold_one(&mut known, record);
        }
        Ok(true)
    })?;
    let mut run = match match_prefix(known.keys().map(String::as_str), &watch.run) {
        Ok(key) => read(cx, &known[key])?,
        // `soma produce` gives the id before the first stage has seen the request.
        Err(unknown) if unknown.exit == FAILED && whole.len() == "run_".len() + 32 => {
            let longest = Duration::from_millis(u64::try_from(watch.wait).unwrap_or_default());
            out::note(format!("{whole} is not there yet; waiting"));
            await_run(cx, &mut tail, &whole, longest, &|_| true)?.ok_or(unknown)?
        }
        Err(other) => return Err(other),
    };
    let canvas = (out::is_terminal() && !cx.json).then(out::canvas);
    loop {
        match &canvas {
            Some(canvas) => canvas.set_message(out::for_terminal(&render(&run, now()).join("\n"))),
            None if cx.json => out::line(as_json(&run)?.to_string())?,
            None => out::line(change_line(&run))?,
        }
        if is_final(run.status) {
            break;
        }
        // A terminal is drawn anew while nothing changes, so that the times go on.
        let pause = if canvas.is_some() {
            Duration::from_millis(250)
        } else {
            Duration::from_secs(3600)
        };
        if let Some(next) = await_run(cx, &mut tail, &run.run_id, pause, &|_| true)? {
            run = next;
        }
    }
    if let Some(canvas) = canvas {
        canvas.finish_and_clear();
        render(&run, now()).iter().try_for_each(out::line)?;
    }
    Ok(if run.status == RunStatus::Succeeded { OK } else { FAILED })
}

/// One change on one line, for logs.
fn change_line(run: &Run) -> String {
    let steps: Vec<_> = run
        .steps
        .iter()
        .map(|s| format!("{}={}", s.step_id, word(&s.status)))
        .collect();
    let why = run
        .fault
        .as_ref()
        .map(|f| format!(" {}: {}", f.code, out::short(&f.detail, 120)))
        .unwrap_or_default();
    format!(
        "{} {} {} {}{why}",
        run.updated_at,
        run.run_id,
        word(&run.status),
        steps.join(" ")
    )
}

/// Follows a run from `tail` until `until` is content with it or the time is over. The last state seen, if any came.
pub(super) fn await_run(
    cx: &Context,
    tail: &mut Tail,
    run_id: &str,
    longest: Duration,
    until: &dyn Fn(&Run) -> bool,
) -> Result<Option<Run>, Failure> {
    let registry = cx.registry()?;
    let (began, mut seen) = (Instant::now(), None);
    while began.elapsed() < longest {
        // A broker that is away for a moment must not hide what is already written.
        let Ok(Some(record)) = tail.next(100) else { continue };
        if let (true, Some(value)) = (record.key == run_id, &record.value) {
            let run = kernel::decode::<Run>(value, registry.as_ref())?;
            let content = until(&run);
            seen = Some(run);
            if content {
                break;
            }
        }
    }
    Ok(seen)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_change_on_one_line_says_why() {
        let fault = Some(schemas::records::FaultInfo {
            code: "TOOL_FAILED".into(),
            detail: "x".into(),
            retryable: false,
        });
        let line = change_line(&Run {
            fault,
            run_id: "run_1".into(),
            ..Run::default()
        });
        assert!(
            line.contains("run_1 JUDGING") && line.ends_with("TOOL_FAILED: x"),
            "{line}"
        );
    }
}
