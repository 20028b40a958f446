//! The simulation tier: the production loop and the production stages over a simulated log, clock and world, from one seed. On a
//! failure the seed is printed; `make sim SEED=<seed>` runs it alone.

mod check;
mod run;
mod world;

use std::time::Duration;

use run::{Plan, history};

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok().filter(|t| !t.is_empty());
    text.map_or(default, |t| {
        t.parse().unwrap_or_else(|_| panic!("{name}={t} is not a number"))
    })
}

/// One seed: undisturbed, and disturbed in both layouts. What it broke, and the simulated time.
fn seed(seed: u64) -> (Vec<String>, Duration, u64) {
    let mut wrong = Vec::new();
    let mut simulated = Duration::ZERO;
    let mut crashes = 0;
    let quiet = history(Plan {
        seed,
        fused: seed % 4 < 2,
        disturbed: false,
    });
    let disturbed = [true, false].map(|fused| {
        history(Plan {
            seed,
            fused,
            disturbed: true,
        })
    });
    for h in [&quiet, &disturbed[0], &disturbed[1]] {
        let name = format!("seed {seed} fused={} disturbed={}", h.plan.fused, h.plan.disturbed);
        wrong.extend(h.violations.iter().map(|v| format!("{name}: {v}")));
        simulated += h.simulated;
        crashes += h.counts.crashes + h.counts.failed_commits + h.counts.fenced;
        // Parity: a request without chance in its world ends as it does undisturbed.
        if seed.is_multiple_of(3) && seed % 2 == 1 {
            for (run, end) in &quiet.ends {
                let other = h.ends.get(run).map(String::as_str);
                if other != Some(end.as_str()) && other != Some("Unknown") {
                    wrong.push(format!(
                        "{name}: outputs equal those of an undisturbed run: {run} {other:?}, undisturbed {end}"
                    ));
                }
            }
        }
    }
    (wrong, simulated, crashes)
}

#[test]
fn invariants_hold_under_every_misfortune() {
    let only = number("SEED", 0);
    let (first, count) = if only > 0 {
        (only, 1)
    } else {
        (number("SEED_FROM", 1), number("SEEDS", 40))
    };
    let started = std::time::Instant::now();
    let (mut wrong, mut simulated, mut misfortunes) = (Vec::new(), Duration::ZERO, 0);
    for s in first..first + count {
        let (broken, time, unlucky) = seed(s);
        wrong.extend(broken);
        simulated += time;
        misfortunes += unlucky;
    }
    let hours = simulated.as_secs_f64() / 3600.0;
    println!(
        "sim seeds={count} violations={} misfortunes={misfortunes} sim_hours={hours:.2} seconds={:.1}",
        wrong.len(),
        started.elapsed().as_secs_f64()
    );
    assert!(
        wrong.is_empty(),
        "{} violations, the first: {:#?}",
        wrong.len(),
        &wrong[..wrong.len().min(10)]
    );
}

#[test]
fn the_same_seed_is_the_same_history() {
    for s in [3, 8] {
        let plan = Plan {
            seed: s,
            fused: true,
            disturbed: true,
        };
        assert_eq!(history(plan).digest, history(plan).digest, "seed {s}");
    }
}
