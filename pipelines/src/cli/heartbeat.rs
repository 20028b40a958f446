//! `soma heartbeat`: a sign of life for the dead man's switch of pipelines with `dead_man_s`.

use std::time::Duration;

use schemas::records::Heartbeat;
use schemas::topics;

use super::context::{Context, now};
use super::failure::{Done, OK};
use super::{out, when};

/// Says that somebody watches.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  soma heartbeat                     once
  soma heartbeat --every 10s         until Ctrl-C: while this runs, somebody watches

A pipeline with `dead_man_s` in its file (SOMA_DEAD_MAN_S) holds everything, as a pause at --global does, once it has heard none for so
long, and goes on with the next.")]
pub(super) struct Args {
    /// Again and again
    #[arg(long, value_parser = when::duration_ms, value_name = "DURATION")]
    every: Option<i64>,
    /// Who watches (default: $USER)
    #[arg(long = "as", value_name = "WHO")]
    who: Option<String>,
}

pub(super) fn run(args: &Args, cx: &Context) -> Done {
    let (actor, writer) = (cx.actor(args.who.as_deref())?, cx.writer()?);
    let every = args
        .every
        .map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or_default()));
    loop {
        let beat = Heartbeat {
            actor: actor.clone(),
            beat_at: now(),
        };
        writer.write(topics::HEARTBEATS, &actor, "", &beat, None)?;
        writer.flush()?;
        out::line(format!("{actor} watches at {}", beat.beat_at))?;
        match every {
            Some(pause) => std::thread::sleep(pause),
            None => return Ok(OK),
        }
    }
}
