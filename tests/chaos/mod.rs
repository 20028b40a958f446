//! Chaos: three instances of the pipeline on real servers under steady load, while instances are killed, paused and scaled and
//! every server goes down in turn. Afterwards every topic, every store and the receiving server's own log are read, and what was
//! lost, doubled, torn or out of order is counted. `make chaos MINUTES=10` runs it in a home of its own.

mod checker;
mod commits;
mod faults;
mod handover;
mod handover_plot;
pub(crate) mod instances;
mod load;
mod plot;
mod timeline;

use std::time::{Duration, Instant};

use crate::live::harness::{live, now};

/// How often requests are sent.
const TICK: Duration = Duration::from_millis(200);

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok().filter(|t| !t.is_empty());
    text.map_or(default, |t| {
        t.parse().unwrap_or_else(|_| panic!("{name}={t} is not a number"))
    })
}

fn percentile(sorted: &[f64], q: f64) -> f64 {
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index"
    )]
    let at = ((sorted.len().saturating_sub(1)) as f64 * q).round() as usize;
    sorted.get(at).copied().unwrap_or(0.0)
}

#[test]
fn nothing_is_lost_doubled_or_torn() {
    let live = live();
    let minutes = number("MINUTES", 10);
    let began = now();
    let mut instances = instances::Instances::start(live, &["a", "b", "c"]);
    let sampler = commits::Sampler::start(&instances);
    let load = load::Load::start(live, number("RATE", 10), TICK, load::every_kind);
    let until = Instant::now() + Duration::from_secs(minutes * 60);
    std::thread::sleep(Duration::from_secs(20));
    let faults = faults::until(live, &mut instances, until);
    let asked = load.stop();
    println!(
        "chaos: {} requests asked for, {} faults; waiting for the last runs",
        asked.len(),
        faults.len()
    );
    let found = checker::check(live, &asked);
    let stage_commits = sampler.stop();
    instances.raise_the_dead();
    instances.stop();

    let partitions = commits::by_partition(live, &asked, began);
    let mut times = Vec::new();
    println!("{:>7}  {:<44} {:>9}  what ended it", "at s", "fault", "recovery");
    for fault in &faults {
        let took = commits::recovery(fault, &partitions, &stage_commits);
        #[allow(clippy::cast_precision_loss, reason = "seconds for people")]
        let at = (fault.at.0 - began.0) as f64 / 1e6;
        let shown = took.map_or("never".to_owned(), |s| format!("{s:.2} s"));
        println!("{at:>7.1}  {:<44} {shown:>9}  {}", fault.what, fault.scope.describe());
        times.push(took.unwrap_or(f64::INFINITY));
    }
    println!("milliseconds after each kill, by the log of the instance started again:");
    for line in faults.iter().filter_map(|fault| timeline::of(live, fault)) {
        println!("  {line}");
    }
    let picture = live.root().join("target/chaos.svg");
    plot::write(&picture, began, &asked, &found.ended, &faults);
    println!("picture: target/chaos.svg");
    for line in &found.wrong {
        println!("wrong: {line}");
    }
    for line in &instances.died {
        println!("died: {line}");
    }
    let kills = faults
        .iter()
        .zip(&times)
        .filter(|(f, _)| f.what.starts_with("kill -9 of instance"));
    let kill_max = kills.map(|(_, t)| *t).fold(0.0, f64::max);
    times.sort_by(f64::total_cmp);
    println!(
        "chaos faults={} requests={} lost={} duplicated={} torn={} out_of_order={} died={} recovery_p50_s={:.2} recovery_max_s={:.2} kill9_recovery_max_s={kill_max:.2}",
        faults.len(),
        asked.len(),
        found.lost,
        found.duplicated,
        found.torn,
        found.out_of_order,
        instances.died.len(),
        percentile(&times, 0.5),
        percentile(&times, 1.0),
    );
    assert!(asked.len() > 100, "only {} requests: it proved nothing", asked.len());
    assert!(faults.len() >= 5, "only {} faults: it proved nothing", faults.len());
    assert!(found.wrong.is_empty(), "{} things are wrong", found.wrong.len());
    assert!(instances.died.is_empty(), "an instance ended by itself");
    assert!(times.iter().all(|t| t.is_finite()), "a fault was never recovered from");
}
