//! Hand-over: the pipeline is scaled out, rolled instance by instance as `soma deploy` does it, and scaled in, under steady load that
//! reaches every partition alike. How long a partition that stays where it is sees no commit is held beside what it sees undisturbed;
//! so is how long one that moves waits. `make bench-handover` runs it in a home of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use kafka::{Groups, Standing};
use schemas::records::Request;
use schemas::{digest, topics};

use super::instances::Instances;
use super::{handover_plot, load, number, percentile};
use crate::live::harness::{Live, live, now, request};

/// The task whose commits are watched: everything from a request to its outcome.
const GROUP: &str = "control-tower.intake+policy_gate+orchestrator+invoker+memory_indexer";
const NAMES: [&str; 3] = ["a", "b", "c"];
/// How often it is asked where the group stands: no silence is measured finer.
const ASK: Duration = Duration::from_millis(15);
const ASK_OWNERS: Duration = Duration::from_millis(200);
/// Requests a second.
const RATE: u64 = 60;
/// What the others may wait at most.
const OTHERS_MAX_S: f64 = 1.0;

/// Seconds since the epoch.
#[allow(clippy::cast_precision_loss, reason = "seconds")]
fn clock() -> f64 {
    now().0 as f64 / 1e6
}

/// What was seen from outside.
#[derive(Default)]
pub(super) struct Seen {
    /// By partition: when the group was first seen further on, and where.
    pub(super) commits: BTreeMap<i32, Vec<(f64, i64)>>,
    /// Who worked on each partition.
    pub(super) owners: Vec<(f64, BTreeMap<i32, String>)>,
}

impl Seen {
    pub(super) fn owner(&self, partition: i32, at: f64) -> Option<&str> {
        let before = self.owners.partition_point(|(t, _)| *t <= at);
        let (_, owners) = self.owners.get(before.saturating_sub(1))?;
        owners.get(&partition).map(String::as_str)
    }

    /// Everybody who worked on a partition in this time, from just before it.
    fn owners_in(&self, partition: i32, from: f64, until: f64) -> BTreeSet<&str> {
        let within = self.owners.iter().filter(|(t, _)| (from..until).contains(t));
        let mut all: BTreeSet<&str> = within
            .filter_map(|(_, o)| o.get(&partition))
            .map(String::as_str)
            .collect();
        all.extend(self.owner(partition, from));
        all
    }

    /// The longest time without a commit whose middle lies in this time, seconds: so each counts once, where most of it lies. One that
    /// begins a moment before what it comes from is not that of the quiet before.
    fn silence(&self, partition: i32, from: f64, until: f64) -> f64 {
        let times = self.commits.get(&partition).into_iter().flatten().map(|(t, _)| *t);
        let (mut longest, mut last): (f64, _) = (0.0, f64::NEG_INFINITY);
        // The last is still under way when the watch ends.
        for at in times.chain([until]) {
            if (from..until).contains(&f64::midpoint(last, at)) {
                longest = longest.max(at - last);
            }
            last = last.max(at);
        }
        longest
    }
}

/// Watches from threads of its own until it is stopped.
struct Watch {
    stop: Arc<AtomicBool>,
    commits: JoinHandle<BTreeMap<i32, Vec<(f64, i64)>>>,
    owners: JoinHandle<Vec<(f64, BTreeMap<i32, String>)>>,
}

impl Watch {
    fn start(live: &'static Live) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, also_told) = (stop.clone(), stop.clone());
        let standing = Standing::open(&live.brokers, GROUP, topics::REQUESTS.name).unwrap();
        let groups = Groups::open(&live.brokers).unwrap();
        let commits = std::thread::spawn(move || {
            let mut all: BTreeMap<i32, Vec<(f64, i64)>> = BTreeMap::new();
            while !told.load(Ordering::SeqCst) {
                let stands = standing.read().unwrap();
                let at = clock();
                for (partition, next) in stands {
                    let known = all.entry(partition).or_default();
                    if known.last().is_none_or(|(_, before)| next > *before) {
                        known.push((at, next));
                    }
                }
                std::thread::sleep(ASK);
            }
            all
        });
        let owners = std::thread::spawn(move || {
            let mut all = Vec::new();
            while !also_told.load(Ordering::SeqCst) {
                let owners = groups.owners(GROUP, topics::REQUESTS.name).unwrap();
                // None are told while members join.
                if !owners.is_empty() {
                    all.push((clock(), owners));
                }
                std::thread::sleep(ASK_OWNERS);
            }
            all
        });
        Self { stop, commits, owners }
    }

    fn stop(self) -> Seen {
        self.stop.store(true, Ordering::SeqCst);
        Seen {
            commits: self.commits.join().unwrap(),
            owners: self.owners.join().unwrap(),
        }
    }
}

/// Something done to the instances; it lasts until the next.
pub(super) struct Event {
    pub(super) what: String,
    pub(super) at: f64,
    until: f64,
    /// Nothing is done: what partitions see undisturbed.
    quiet: bool,
    /// Who is stopped in it: their partitions are handed over, if only to their own successor.
    stopped: Vec<&'static str>,
}

struct Script<'a> {
    instances: &'a mut Instances,
    events: Vec<Event>,
    rest: Duration,
}

impl Script<'_> {
    fn begin(&mut self, what: &str, stopped: &[&'static str]) {
        println!("handover: {what}");
        self.end();
        self.events.push(Event {
            what: what.to_owned(),
            at: clock(),
            until: f64::INFINITY,
            quiet: false,
            stopped: stopped.to_vec(),
        });
    }

    fn end(&mut self) {
        let now = clock();
        if let Some(last) = self.events.last_mut() {
            last.until = last.until.min(now);
        }
    }

    fn quiet(&mut self) {
        self.begin("quiet", &[]);
        self.events.last_mut().unwrap().quiet = true;
        std::thread::sleep(self.rest);
    }

    fn join(&mut self, what: &str, names: &[&'static str]) {
        self.begin(what, &[]);
        names.iter().for_each(|name| self.instances.start_one(name));
        names.iter().for_each(|name| self.instances.wait_ready(name));
        std::thread::sleep(self.rest);
    }

    /// As `soma deploy` does it: SIGTERM, the old process drains and ends, the new one is started and waited for.
    fn roll(&mut self, name: &'static str) {
        self.begin(&format!("roll {name}"), &[name]);
        self.instances.signal(name, "TERM");
        self.instances.start_one(name);
        self.instances.wait_ready(name);
        std::thread::sleep(self.rest);
    }

    fn leave(&mut self, what: &str, name: &'static str, signal: &str) {
        self.begin(what, &[name]);
        self.instances.signal(name, signal);
        std::thread::sleep(self.rest);
    }
}

/// What the receiving server's slow page answers a second; more wait in line.
const SLOW_PER_S: usize = 8;
/// So many wait there at all times: calls of three seconds are under way whatever happens.
const SLOW_AHEAD: usize = 24;

fn is_slow(n: usize, rate: usize) -> bool {
    n < SLOW_AHEAD || n * SLOW_PER_S / rate != (n - 1) * SLOW_PER_S / rate
}

/// One step each, to partitions in turn: every partition has the same to do at all times.
fn in_turn(tag: &str, n: usize, receiver: &str) -> Request {
    let partitions = u32::try_from(number("SOMA_PARTITIONS", 6)).unwrap();
    let wanted = u32::try_from(n).unwrap() % partitions;
    let mut keys = (0..).map(|i| format!("{tag}-{n}-{i}"));
    let key = keys
        .find(|key| digest::partition(&format!("handover:{key}"), partitions) == wanted)
        .unwrap();
    let rate = usize::try_from(number("RATE", RATE)).unwrap();
    let page = if is_slow(n, rate) { "slow" } else { "ok" };
    let url = format!("{receiver}/{page}?{key}");
    request("handover", &key, "endpoint_probe", &[("url", &url)])
}

/// Silences in an event, milliseconds: of partitions that stayed, and of those that moved.
struct Found {
    stayed: Vec<f64>,
    moved: Vec<f64>,
}

fn found(seen: &Seen, event: &Event) -> Found {
    let mut found = Found {
        stayed: Vec::new(),
        moved: Vec::new(),
    };
    for &partition in seen.commits.keys() {
        let owners = seen.owners_in(partition, event.at, event.until);
        let moved = owners.len() > 1 || event.stopped.iter().any(|name| owners.contains(name));
        let silence_ms = seen.silence(partition, event.at, event.until) * 1e3;
        let list = if moved { &mut found.moved } else { &mut found.stayed };
        list.push(silence_ms);
    }
    found.stayed.sort_by(f64::total_cmp);
    found.moved.sort_by(f64::total_cmp);
    found
}

fn play(instances: &mut Instances, rest: Duration) -> Vec<Event> {
    let mut script = Script {
        instances,
        events: Vec::new(),
        rest,
    };
    script.quiet();
    script.join("1 to 3", &NAMES[1..]);
    script.quiet();
    NAMES.iter().for_each(|name| script.roll(name));
    script.leave("3 to 2, b left", "b", "INT");
    script.leave("2 to 1, c silent", "c", "TERM");
    script.end();
    script.events
}

fn shown(sorted: &[f64], q: f64) -> String {
    if sorted.is_empty() {
        return "-".to_owned();
    }
    format!("{:.0}", percentile(sorted, q))
}

/// Waits for every run. How many never ended, and how many ended more than once; the stores are looked at by `make chaos`.
fn ended(live: &Live, asked: &[Request]) -> (usize, usize) {
    let run = |r: &Request| digest::run_id(&r.tenant, &r.idempotency_key);
    let runs: Vec<String> = asked.iter().map(run).collect();
    let states = live.wait(&runs, Duration::from_secs(180));
    let ends = |id: &String| {
        let seen = states.get(id).into_iter().flatten();
        seen.filter(|state| state.finished_at.is_some()).count()
    };
    let none = runs.iter().filter(|id| ends(id) == 0).count();
    (none, runs.iter().filter(|id| ends(id) > 1).count())
}

#[test]
fn the_others_go_on() {
    let live = live();
    let rest = Duration::from_secs(number("REST", 15));
    let state = live.home.join("state").display().to_string();
    let variables = vec![
        ("SOMA_STATE", "disk".to_owned()),
        ("SOMA_STATE_DIR", state),
        ("SOMA_STANDBY", "true".to_owned()),
    ];
    let mut instances = Instances::with(live, &NAMES, variables);
    instances.start_one(NAMES[0]);
    instances.wait_ready(NAMES[0]);
    let load = load::Load::start(live, number("RATE", RATE), ASK, in_turn);
    // Until the pipeline has warmed up.
    std::thread::sleep(rest);
    let watch = Watch::start(live);
    let events = play(&mut instances, rest);
    let seen = watch.stop();
    let asked = load.stop();
    let (lost, doubled) = ended(live, &asked);
    instances.stop();

    println!(
        "{:<18} {:>7} {:>14} {:>7} {:>12} {:>12}",
        "event", "stayed", "others max ms", "moved", "moved p50 ms", "moved max ms"
    );
    let (mut quiet, mut others, mut moved) = (Vec::new(), Vec::new(), Vec::new());
    for event in &events {
        let Found { stayed, moved: went } = found(&seen, event);
        println!(
            "{:<18} {:>7} {:>14} {:>7} {:>12} {:>12}",
            event.what,
            stayed.len(),
            shown(&stayed, 1.0),
            went.len(),
            shown(&went, 0.5),
            shown(&went, 1.0)
        );
        if event.quiet {
            quiet.extend(stayed);
        } else {
            others.extend(stayed);
            moved.extend(went);
        }
    }
    for all in [&mut quiet, &mut others, &mut moved] {
        all.sort_by(f64::total_cmp);
    }
    let picture = live.root().join("target/handover.svg");
    handover_plot::write(&picture, &seen, &events, &asked);
    println!("picture: target/handover.svg");
    println!(
        "handover events={} requests={} lost={} duplicated={} quiet_pause_max_ms={} others_pause_max_ms={} moved_pause_p50_ms={} moved_pause_max_ms={}",
        events.iter().filter(|e| !e.quiet).count(),
        asked.len(),
        lost,
        doubled,
        shown(&quiet, 1.0),
        shown(&others, 1.0),
        shown(&moved, 0.5),
        shown(&moved, 1.0)
    );
    assert_eq!((lost, doubled), (0, 0), "runs that never ended, or ended twice");
    assert!(
        !others.is_empty() && !moved.is_empty(),
        "nothing moved, or everything did: it proved nothing"
    );
    assert!(
        percentile(&others, 1.0) <= OTHERS_MAX_S * 1e3,
        "a partition that stayed where it was stood still"
    );
}
