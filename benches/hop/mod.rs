//! The price of a hop: one stage of ours beside a bare client loop and beside Kafka Streams, on one broker, in turns.
//!
//! Each reads the same topic from its beginning, in a process of its own, and writes one record per key it has not seen, with
//! the change of its state, in transactions. What is timed lies between a quarter and the whole of the topic, so that no start
//! counts; where a group stands is asked from outside.

mod raw;
mod stage;

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka::{From, Registry, Standing, Tail, Writer};
use schemas::records::Event;
use schemas::topics::{Cleanup, Topic};
use schemas::{Record, Timestamp};

use crate::common::{brokers, cpu_s, create, registry, text, tokio};

pub(crate) use raw::run as run_raw;
pub(crate) use stage::run as run_stage;

/// What everybody reads.
pub(crate) const INPUT: Topic<Event> = Topic::new("hop.in");
pub(crate) const PARTITIONS: i32 = 2;
/// What all three keep per key.
pub(crate) const SEEN: &[u8] = br#"{"v":1,"s":true}"#;
/// One record in so many repeats a key.
const REPEATS: u64 = 100;
/// A contestant that needs longer is stuck.
const PATIENCE: Duration = Duration::from_secs(300);

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Brokers.
    #[arg(long)]
    brokers: String,
    /// Schema registry.
    #[arg(long)]
    registry: String,
    /// Records in the topic.
    #[arg(long, default_value_t = 400_000)]
    records: u64,
    /// Rounds of all three.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Command that starts Kafka Streams; brokers, input, output, application id and schema id are added.
    #[arg(long)]
    kstreams: String,
}

/// One of the processes that do the work.
#[derive(clap::Args)]
pub(crate) struct Contestant {
    /// Brokers.
    #[arg(long)]
    pub(crate) brokers: String,
    /// Schema registry.
    #[arg(long)]
    pub(crate) registry: String,
    /// Group, and prefix of its topics.
    #[arg(long)]
    pub(crate) name: String,
    /// Most records in a transaction.
    #[arg(long, default_value_t = 4000)]
    pub(crate) batch: usize,
    /// How long a transaction gathers, milliseconds.
    #[arg(long, default_value_t = 100)]
    pub(crate) linger_ms: u64,
}

pub(crate) fn output(name: &str) -> String {
    format!("{name}.out")
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Raw,
    Soma,
    Kstreams,
}

impl Who {
    const ALL: [Who; 3] = [Who::Raw, Who::Soma, Who::Kstreams];

    fn name(self) -> &'static str {
        match self {
            Who::Raw => "raw",
            Who::Soma => "soma",
            Who::Kstreams => "kstreams",
        }
    }
}

/// What one process did.
struct Figures {
    who: Who,
    msgs_per_s: f64,
    msgs_per_cpu_s: f64,
    rss_mb: u64,
}

/// Writes what everybody reads. The number of its keys.
fn load(options: &Options, registry: &Arc<Registry>) -> Result<u64, String> {
    let writer = Writer::open(&brokers(&options.brokers), registry.clone(), "soma/bench").map_err(text)?;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut keys = 0;
    for i in 0..options.records {
        let repeats = i % REPEATS == REPEATS - 1;
        keys += u64::from(!repeats);
        let run = schemas::digest::id("run", &[&(if repeats { i - 1 } else { i }).to_string()]);
        let event = Event {
            event_id: schemas::digest::id("evt", &[&i.to_string()]),
            ts: Timestamp(1_790_000_000_000_000 + i64::try_from(i).unwrap_or_default()),
            tenant: format!("tenant-{}", i % 8),
            run_id: run.clone(),
            kind: "call.answered".into(),
            payload: [("tool", "http"), ("operation", "request"), ("status", "succeeded")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
        };
        writer
            .write(INPUT, &run, &event.tenant, &event, Some(trace))
            .map_err(text)?;
    }
    writer.flush().map_err(text)?;
    Ok(keys)
}

fn start(options: &Options, who: Who, name: &str, schema_id: u32) -> Result<Child, String> {
    let mut command = if who == Who::Kstreams {
        let mut words = options.kstreams.split_whitespace();
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words);
        let id = schema_id.to_string();
        command.args([&options.brokers, INPUT.name, &output(name), name, &id]);
        command
    } else {
        let mut command = Command::new(std::env::current_exe().map_err(text)?);
        let hop = if who == Who::Raw { "hop-raw" } else { "hop-stage" };
        command.args([
            hop,
            "--brokers",
            &options.brokers,
            "--registry",
            &options.registry,
            "--name",
            name,
        ]);
        command
    };
    command.stdout(Stdio::null());
    command.spawn().map_err(|e| format!("{}: {e}", who.name()))
}

#[allow(clippy::cast_precision_loss, reason = "records of a benchmark")]
fn figures(options: &Options, who: Who, child: &mut Child, name: &str) -> Result<Figures, String> {
    let standing = Standing::open(&brokers(&options.brokers), name, INPUT.name).map_err(text)?;
    let pid = child.id();
    let begun = Instant::now();
    let (mut first, mut rss_mb) = (None, 0);
    loop {
        std::thread::sleep(Duration::from_millis(50));
        if let Some(ended) = child.try_wait().map_err(text)? {
            return Err(format!("{} ended by itself: {ended}", who.name()));
        }
        if begun.elapsed() > PATIENCE {
            return Err(format!("{} is not done after {} s", who.name(), PATIENCE.as_secs()));
        }
        let each = standing.read().map_err(text)?;
        let read: u64 = each.values().filter_map(|at| u64::try_from(*at).ok()).sum();
        let (now, cpu) = (Instant::now(), cpu_s(pid).unwrap_or(0.0));
        rss_mb = rss_mb.max(crate::common::rss_mb(pid).unwrap_or(0));
        if read >= options.records / 4 {
            first.get_or_insert((now, cpu, read));
        }
        if let Some((since, before, at)) = first.filter(|_| read >= options.records) {
            let records = (read - at) as f64;
            return Ok(Figures {
                who,
                msgs_per_s: records / (now - since).as_secs_f64(),
                msgs_per_cpu_s: records / (cpu - before),
                rss_mb,
            });
        }
    }
}

fn stop(child: &mut Child) {
    // What they would still do is not measured.
    if child.kill().is_ok() && child.wait().is_err() {
        crate::say("a contestant could not be waited for");
    }
}

/// Each key once, none missing.
fn check(options: &Options, name: &str, keys: u64) -> Result<(), String> {
    let mut tail = Tail::open(&brokers(&options.brokers), &output(name), From::Beginning).map_err(text)?;
    let (mut records, mut seen) = (0u64, std::collections::HashSet::new());
    while !tail.is_at_end() {
        if let Some(record) = tail.next(200).map_err(text)? {
            records += 1;
            seen.insert(record.key);
        }
    }
    if records == keys && seen.len() as u64 == keys {
        return Ok(());
    }
    Err(format!(
        "{name} wrote {records} records of {} keys, not {keys} of {keys}",
        seen.len()
    ))
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(0.0)
}

/// Runs the benchmark; the line to print last.
pub(crate) fn run(options: &Options) -> Result<String, String> {
    let runtime = tokio()?;
    let registry = registry(&options.registry, &runtime)?;
    let at = brokers(&options.brokers);
    let create = |name: &str| create(&at, &runtime, name, PARTITIONS, Cleanup::Delete);
    create(INPUT.name)?;
    let schema_id = registry.id_of(INPUT.name, Event::schema_text()).map_err(text)?;
    let keys = load(options, &registry)?;
    let mut all = Vec::new();
    for round in 1..=options.rounds {
        for who in Who::ALL {
            let name = format!("hop-{}-{round}", who.name());
            create(&output(&name))?;
            create(&format!("{name}.state"))?;
            let mut child = start(options, who, &name, schema_id)?;
            let figures = figures(options, who, &mut child, &name);
            stop(&mut child);
            let f = figures?;
            crate::say(&format!(
                "round {round} {:9} {:7.0} msgs/s, {:7.0} per processor second, {} MB",
                who.name(),
                f.msgs_per_s,
                f.msgs_per_cpu_s,
                f.rss_mb
            ));
            if who != Who::Raw {
                check(options, &name, keys)?;
            }
            if f.msgs_per_s.is_finite() {
                all.push(f);
            } else {
                crate::say("not counted: it was done between two looks; more RECORDS would show it");
            }
        }
    }
    let of = |who: Who, what: fn(&Figures) -> f64| median(all.iter().filter(|f| f.who == who).map(what).collect());
    let rss = |who: Who| all.iter().filter(|f| f.who == who).map(|f| f.rss_mb).max().unwrap_or(0);
    let rate = |who| of(who, |f| f.msgs_per_s);
    let per_core = |who| of(who, |f| f.msgs_per_cpu_s);
    Ok(format!(
        "hop_msgs_per_s={:.0} ratio_to_raw={:.2} ratio_to_kstreams={:.2} ratio_to_kstreams_wall={:.2} rss_mb={} kstreams_rss_mb={}",
        rate(Who::Soma),
        rate(Who::Soma) / rate(Who::Raw),
        per_core(Who::Soma) / per_core(Who::Kstreams),
        rate(Who::Soma) / rate(Who::Kstreams),
        rss(Who::Soma),
        rss(Who::Kstreams)
    ))
}
