//! How fast a stage's state comes back: read whole from its changelog into memory and onto disk, and from a checkpoint on disk.

use std::path::{Path, PathBuf};
use std::time::Instant;

use kafka::Writer;
use kernel::{Delivery, Effects, Fault, Headers, Processor};
use runtime::{Limits, Member, Part, StageContext, StateAt};
use schemas::records::Event;
use schemas::topics::{Cleanup, EVENTS};

use crate::common::{brokers, create, registry, rss_mb, surroundings, text, tokio};

const STATE: &str = "bench.restore.state";
/// Bytes of a value in the changelog.
const VALUE: usize = 200;

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Brokers.
    #[arg(long)]
    brokers: String,
    /// Schema registry.
    #[arg(long)]
    registry: String,
    /// Keys in the changelog.
    #[arg(long, default_value_t = 5_000_000)]
    keys: u64,
    /// Folder for the state on disk.
    #[arg(long)]
    folder: PathBuf,
}

kernel::inputs! {
    /// Never read: only the state matters here.
    pub enum Input {
        Event(Event) = EVENTS,
    }
}

struct Keeps;

impl Processor for Keeps {
    type In = Input;
    type State = String;

    fn name(&self) -> &'static str {
        "keeps"
    }

    fn step(&self, _: &mut String, _: &Delivery<Input>, _: &mut Effects<'_>) -> Result<(), Fault> {
        Ok(())
    }
}

fn load(options: &Options, registry: std::sync::Arc<kafka::Registry>) -> Result<(), String> {
    let writer = Writer::open(&brokers(&options.brokers), registry, "soma/bench").map_err(text)?;
    let frame = r#"{"v":1,"s":""}"#.len();
    for i in 0..options.keys {
        let key = schemas::digest::id("run", &[&i.to_string()]);
        let value = format!(r#"{{"v":1,"s":"{i:0width$}"}}"#, width = VALUE - frame);
        writer
            .write_raw(STATE, &key, Some(value.as_bytes()), &Headers::default())
            .map_err(text)?;
    }
    writer.flush().map_err(text)
}

fn restore(cx: &mut StageContext, at: StateAt) -> Result<(f64, Vec<Box<dyn Member>>), String> {
    let member = Part::new("keeps", STATE.into(), Keeps, None).state_at(at);
    let mut members: Vec<Box<dyn Member>> = vec![Box::new(member)];
    let started = Instant::now();
    runtime::restore(&mut members, cx, &[0].into(), 0).map_err(text)?;
    Ok((started.elapsed().as_secs_f64(), members))
}

fn on_disk(folder: &Path) -> StateAt {
    StateAt::Disk(folder.to_owned())
}

/// Runs the benchmark; the line to print last.
pub(crate) fn run(options: &Options) -> Result<String, String> {
    let runtime = tokio()?;
    let at = brokers(&options.brokers);
    let registry = registry(&options.registry, &runtime)?;
    create(&at, &runtime, STATE, 1, Cleanup::Compact)?;
    create(&at, &runtime, EVENTS.name, 1, Cleanup::Delete)?;
    let started = Instant::now();
    load(options, registry.clone())?;
    crate::say(&format!(
        "{} keys of {VALUE} bytes written in {:.1} s",
        options.keys,
        started.elapsed().as_secs_f64()
    ));
    let mut cx = surroundings(
        &at,
        &registry,
        &runtime,
        ("bench.restore", EVENTS.name),
        Limits::default(),
    )?;
    let rss = || rss_mb(std::process::id()).unwrap_or(0);
    let before = rss();
    let (disk, _) = restore(&mut cx, on_disk(&options.folder))?;
    let disk_rss = rss().saturating_sub(before);
    // Opened again as after a restart: the store's own recovery counts.
    let (restart, _) = restore(&mut cx, on_disk(&options.folder))?;
    let before = rss();
    let (memory, held) = restore(&mut cx, StateAt::Memory)?;
    let memory_rss = rss().saturating_sub(before);
    drop(held);
    let (_, members) = restore(&mut cx, on_disk(&options.folder))?;
    let entries = members.iter().map(|m| m.entries().map_err(text));
    let held: usize = entries.collect::<Result<Vec<_>, _>>()?.iter().map(Vec::len).sum();
    if u64::try_from(held).ok() != Some(options.keys) {
        return Err(format!("{held} of {} keys are there after a restart", options.keys));
    }
    #[allow(clippy::cast_precision_loss, reason = "keys a second")]
    let per_s = |seconds: f64| options.keys as f64 / seconds;
    Ok(format!(
        "restore_keys_per_s={:.0} restore_disk_keys_per_s={:.0} checkpoint_restart_s={restart:.3} disk_rss_mb={disk_rss} memory_rss_mb={memory_rss}",
        per_s(memory),
        per_s(disk)
    ))
}
