//! A soak: steady load for a long time, and whether memory, open files and threads of the platform process stay flat.

use std::collections::HashSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kafka::{From, Tail};
use schemas::records::Outcome;
use schemas::topics;

use crate::common::{brokers, now, registry, rss_mb, text, tokio};
use crate::e2e;

const EVERY: Duration = Duration::from_secs(5);

/// What to measure.
#[derive(clap::Args)]
// Its default name is that of the options it takes in.
#[group(id = "soak")]
pub(crate) struct Options {
    #[command(flatten)]
    load: e2e::Options,
    /// Where the picture goes.
    #[arg(long)]
    picture: PathBuf,
}

/// The process at one moment.
#[derive(Clone, Copy)]
struct Sample {
    at_s: f64,
    rss_mb: f64,
    handles: f64,
    threads: f64,
    /// Since the sample before: the slowest but one in a hundred.
    p99_ms: f64,
}

#[allow(clippy::cast_precision_loss, reason = "counts for a plot")]
fn count(folder: &str) -> f64 {
    std::fs::read_dir(folder).map_or(0.0, |all| all.count() as f64)
}

/// The share `q` of the way through sorted times, milliseconds.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rank"
)]
fn percentile(times_us: &mut [i64], q: f64) -> f64 {
    times_us.sort_unstable();
    let rank = (times_us.len().saturating_sub(1) as f64 * q).round() as usize;
    times_us.get(rank).copied().unwrap_or_default() as f64 / 1000.0
}

/// Least squares: change per hour.
fn slope_per_h(samples: &[Sample], what: fn(&Sample) -> f64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "a count")]
    let n = samples.len() as f64;
    let mean = |f: &dyn Fn(&Sample) -> f64| samples.iter().map(f).sum::<f64>() / n;
    let (x, y) = (mean(&|s| s.at_s), mean(&what));
    let along: f64 = samples.iter().map(|s| (s.at_s - x) * (what(s) - y)).sum();
    let spread: f64 = samples.iter().map(|s| (s.at_s - x).powi(2)).sum();
    along / spread * 3600.0
}

/// Runs the soak; the line to print last.
pub(crate) fn run(options: &Options) -> Result<String, String> {
    let runtime = tokio()?;
    let load = &options.load;
    let brokers = brokers(&load.brokers);
    let registry = registry(&load.registry, &runtime)?;
    let tag = format!("soak-{}", now().0);
    let mut tail = Tail::open(&brokers, topics::OUTCOMES.name, From::End).map_err(text)?;
    let total = load.total();
    let (samples, answered, mut all) = std::thread::scope(|scope| -> Result<_, String> {
        let sender = scope.spawn(|| e2e::send(load, &brokers, registry.clone(), &tag));
        let mut first: HashSet<String> = HashSet::new();
        let (mut samples, mut window, mut all) = (Vec::new(), Vec::new(), Vec::new());
        let (begun, mut sampled, mut last) = (Instant::now(), Instant::now(), Instant::now());
        while (first.len() as u64) < total && last.elapsed() < Duration::from_secs(60) {
            if sampled.elapsed() >= EVERY {
                sampled = Instant::now();
                let rss = rss_mb(load.pid).ok_or("the platform process is gone")?;
                #[allow(clippy::cast_precision_loss, reason = "for a plot")]
                samples.push(Sample {
                    at_s: begun.elapsed().as_secs_f64(),
                    rss_mb: rss as f64,
                    handles: count(&format!("/proc/{}/fd", load.pid)),
                    threads: count(&format!("/proc/{}/task", load.pid)),
                    p99_ms: percentile(&mut window, 0.99),
                });
                all.append(&mut window);
            }
            let Ok(Some(record)) = tail.next(100) else { continue };
            let Some(value) = record.value else { continue };
            let outcome: Outcome = kernel::decode(&value, registry.as_ref()).map_err(text)?;
            if outcome.tenant.starts_with("bench-") && first.insert(outcome.run_id) {
                window.push(record.at.0 - outcome.requested_at.0);
                last = Instant::now();
            }
        }
        sender.join().map_err(|_| "the sender panicked".to_owned())??;
        all.append(&mut window);
        Ok((samples, first.len() as u64, all))
    })?;
    if answered < total {
        return Err(format!("{} of {total} runs have no outcome", total - answered));
    }
    // The first third fills caches and thread pools.
    let steady = samples.get(samples.len() / 3..).unwrap_or_default();
    let of = |what: fn(&Sample) -> f64| {
        steady
            .iter()
            .map(what)
            .fold((f64::MAX, 0.0), |(a, b), v| (v.min(a), v.max(b)))
    };
    let (rss, handles, threads) = (of(|s| s.rss_mb), of(|s| s.handles), of(|s| s.threads));
    draw(&options.picture, &samples).map_err(|e| format!("{}: {e}", options.picture.display()))?;
    Ok(format!(
        "soak minutes={:.0} rate={} runs={answered} e2e_p50_ms={:.0} e2e_p99_ms={:.0} rss_mb={:.0}..{:.0} rss_slope_mb_per_h={:.1} handles={:.0}..{:.0} handles_slope_per_h={:.1} threads={:.0}..{:.0}",
        f64::from(load.seconds) / 60.0,
        load.rate,
        percentile(&mut all, 0.5),
        percentile(&mut all, 0.99),
        rss.0,
        rss.1,
        slope_per_h(steady, |s| s.rss_mb),
        handles.0,
        handles.1,
        slope_per_h(steady, |s| s.handles),
        threads.0,
        threads.1,
    ))
}

fn draw(file: &Path, samples: &[Sample]) -> std::io::Result<()> {
    const WIDTH: f64 = 1000.0;
    const HEIGHT: f64 = 150.0;
    const LEFT: f64 = 60.0;
    let last = samples.last().map_or(1.0, |s| s.at_s);
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{}" height="{}" font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>"#,
        WIDTH + LEFT + 20.0,
        4.0 * (HEIGHT + 45.0) + 20.0
    );
    let panels: [(&str, fn(&Sample) -> f64); 4] = [
        ("memory of the platform process, MB", |s| s.rss_mb),
        ("open files and sockets", |s| s.handles),
        ("threads", |s| s.threads),
        ("request to outcome, p99 of each five seconds, ms", |s| s.p99_ms),
    ];
    for (top, (title, what)) in (0..).map(|i| 30.0 + f64::from(i) * (HEIGHT + 45.0)).zip(panels) {
        let most = samples.iter().map(what).fold(1.0, f64::max) * 1.1;
        let points: Vec<_> = samples
            .iter()
            .map(|s| {
                format!(
                    "{:.1},{:.1}",
                    LEFT + s.at_s / last * WIDTH,
                    top + HEIGHT - what(s) / most * HEIGHT
                )
            })
            .collect();
        let drawn = write!(
            svg,
            r#"<rect x="{LEFT}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="grey"/><text x="{LEFT}" y="{:.0}" font-weight="bold">{title}</text><text x="{:.0}" y="{:.0}" text-anchor="end">{most:.0}</text><text x="{:.0}" y="{:.0}" text-anchor="end">0</text><text x="{:.0}" y="{:.0}" text-anchor="end">{:.0} min</text><polyline fill="none" stroke="royalblue" stroke-width="1.5" points="{}"/>"#,
            top - 6.0,
            LEFT - 6.0,
            top + 10.0,
            LEFT - 6.0,
            top + HEIGHT,
            LEFT + WIDTH,
            top + HEIGHT + 14.0,
            last / 60.0,
            points.join(" ")
        );
        drawn.map_err(std::io::Error::other)?;
    }
    svg.push_str("</svg>\n");
    std::fs::write(file, svg)
}
