//! A soak: steady load for a long time, and whether memory, open files and threads of the platform process stay flat once its state does:
//! as much is forgotten then as comes in.

use std::collections::HashSet;
use std::fmt::Write;
use std::io::Read;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kafka::{From, Tail};
use schemas::records::Outcome;
use schemas::topics;

use crate::common::{brokers, now, registry, rss_mb, text, tokio};
use crate::e2e;

const EVERY: Duration = Duration::from_secs(5);
/// Into so many parts the time is cut for a slope.
const PARTS: usize = 10;
/// Most open files and sockets more an hour.
const HANDLES_SLOPE_MAX: f64 = 10.0;

/// What to measure.
#[derive(clap::Args)]
// Its default name is that of the options it takes in.
#[group(id = "soak")]
pub(crate) struct Options {
    #[command(flatten)]
    load: e2e::Options,
    /// Admin endpoint of the platform, `host:port`.
    #[arg(long)]
    admin: String,
    /// Seconds until its state stays as large as it is: what comes before counts for nothing.
    #[arg(long)]
    settled_s: u32,
    /// Most that memory may grow, MB an hour.
    #[arg(long, default_value_t = 30.0)]
    slope_max: f64,
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
    /// Of that what the program has asked for and not given back.
    heap_mb: f64,
    /// Keys of all its stages' states.
    keys: f64,
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

/// Change per hour with its standard error, by least squares over means of equal parts of the time: samples that follow each other are too
/// much alike to be counted one by one. None for fewer than three parts.
fn slope_per_h(samples: &[Sample], what: fn(&Sample) -> f64) -> Option<(f64, f64)> {
    #[allow(clippy::cast_precision_loss, reason = "a count")]
    let mean = |part: &[Sample], f: fn(&Sample) -> f64| part.iter().map(f).sum::<f64>() / part.len() as f64;
    let parts: Vec<_> = samples
        .chunks_exact((samples.len() / PARTS).max(1))
        .map(|part| (mean(part, |s| s.at_s), mean(part, what)))
        .collect();
    #[allow(clippy::cast_precision_loss, reason = "a count")]
    let n = parts.len() as f64;
    let middle = |f: fn(&(f64, f64)) -> f64| parts.iter().map(f).sum::<f64>() / n;
    let (x, y) = (middle(|p| p.0), middle(|p| p.1));
    let along: f64 = parts.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    let spread: f64 = parts.iter().map(|p| (p.0 - x).powi(2)).sum();
    let slope = along / spread;
    let off: f64 = parts.iter().map(|p| (p.1 - y - slope * (p.0 - x)).powi(2)).sum();
    let error = (off / (n - 2.0) / spread).sqrt();
    (parts.len() > 2).then_some((slope * 3600.0, error * 3600.0))
}

/// What the platform tells: keys of all states, and bytes of its heap in use.
fn told(admin: &str) -> Option<(f64, f64)> {
    let mut stream = TcpStream::connect(admin).ok()?;
    stream.set_read_timeout(Some(EVERY)).ok()?;
    std::io::Write::write_all(
        &mut stream,
        b"GET /metrics HTTP/1.1\r\nhost: soma\r\nconnection: close\r\n\r\n",
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let sum = |ours: &dyn Fn(&str) -> bool| -> Option<f64> {
        let lines = answer.lines().filter(|l| ours(l));
        let each: Option<Vec<f64>> = lines.map(|l| l.rsplit(' ').next()?.parse().ok()).collect();
        each.filter(|each| !each.is_empty()).map(|each| each.into_iter().sum())
    };
    Some((
        sum(&|l| l.starts_with("soma_stage{") && l.contains(r#"what="state_keys""#))?,
        sum(&|l| l.starts_with("soma_heap_allocated_bytes "))?,
    ))
}

fn sample(options: &Options, begun: Instant, window: &mut [i64]) -> Result<Sample, String> {
    let pid = options.load.pid;
    let rss = rss_mb(pid).ok_or("the platform process is gone")?;
    let (keys, heap) = told(&options.admin).ok_or("the platform does not tell how many keys and bytes it has")?;
    #[allow(clippy::cast_precision_loss, reason = "for a plot")]
    Ok(Sample {
        at_s: begun.elapsed().as_secs_f64(),
        rss_mb: rss as f64,
        handles: count(&format!("/proc/{pid}/fd")),
        threads: count(&format!("/proc/{pid}/task")),
        heap_mb: heap / 1e6,
        keys,
        p99_ms: percentile(window, 0.99),
    })
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
                samples.push(sample(options, begun, &mut window)?);
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
    draw(&options.picture, &samples, options.settled_s).map_err(|e| format!("{}: {e}", options.picture.display()))?;
    let line = figures(options, answered, &samples, &mut all)?;
    Ok(line)
}

/// The line to print last; an error when memory grows.
fn figures(options: &Options, answered: u64, samples: &[Sample], all: &mut [i64]) -> Result<String, String> {
    let load = &options.load;
    // Until then caches, thread pools and the state fill.
    let begun = samples.partition_point(|s| s.at_s < f64::from(options.settled_s));
    let steady = samples.get(begun..).unwrap_or_default();
    let of = |what: fn(&Sample) -> f64| {
        steady
            .iter()
            .map(what)
            .fold((f64::MAX, 0.0), |(a, b), v| (v.min(a), v.max(b)))
    };
    let slope = |what| slope_per_h(steady, what).ok_or("too short: nothing is left after --settled-s");
    let (rss, handles, threads, keys) = (of(|s| s.rss_mb), of(|s| s.handles), of(|s| s.threads), of(|s| s.keys));
    let ((grows, error), (opens, opens_error)) = (slope(|s| s.rss_mb)?, slope(|s| s.handles)?);
    let (heap, (heap_grows, heap_error)) = (of(|s| s.heap_mb), slope(|s| s.heap_mb)?);
    let line = format!(
        "soak minutes={:.0} plateau_minutes={:.0} rate={} runs={answered} e2e_p50_ms={:.0} e2e_p99_ms={:.0} state_keys={:.0}..{:.0} threads={:.0}..{:.0} heap_mb={:.0}..{:.0} heap_slope_mb_per_h={heap_grows:.1} ± {heap_error:.1} rss_mb={:.0}..{:.0} handles={:.0}..{:.0} handles_slope_per_h={opens:.1} ± {opens_error:.1} rss_slope_mb_per_h={grows:.1} ± {error:.1}",
        f64::from(load.seconds) / 60.0,
        f64::from(load.seconds.saturating_sub(options.settled_s)) / 60.0,
        load.rate,
        percentile(all, 0.5),
        percentile(all, 0.99),
        keys.0,
        keys.1,
        threads.0,
        threads.1,
        heap.0,
        heap.1,
        rss.0,
        rss.1,
        handles.0,
        handles.1,
    );
    let most = options.slope_max;
    if grows > most || opens > HANDLES_SLOPE_MAX {
        return Err(format!(
            "it grows: over {most} MB or {HANDLES_SLOPE_MAX} handles an hour\n{line}"
        ));
    }
    if error > most {
        return Err(format!(
            "it cannot be told: the slope's error is over {most} MB an hour\n{line}"
        ));
    }
    Ok(line)
}

fn draw(file: &Path, samples: &[Sample], settled_s: u32) -> std::io::Result<()> {
    const WIDTH: f64 = 1000.0;
    const HEIGHT: f64 = 150.0;
    const LEFT: f64 = 60.0;
    let last = samples.last().map_or(1.0, |s| s.at_s);
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{}" height="{}" font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>"#,
        WIDTH + LEFT + 20.0,
        6.0 * (HEIGHT + 45.0) + 20.0
    );
    let panels: [(&str, fn(&Sample) -> f64); 6] = [
        ("keys of the stages' states (dashed: from here on slopes count)", |s| {
            s.keys
        }),
        ("memory of the platform process, MB", |s| s.rss_mb),
        ("of it in use on the heap, MB", |s| s.heap_mb),
        ("open files and sockets", |s| s.handles),
        ("threads", |s| s.threads),
        ("request to outcome, p99 of each five seconds, ms", |s| s.p99_ms),
    ];
    let settled = LEFT + f64::from(settled_s).min(last) / last * WIDTH;
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
            r#"<rect x="{LEFT}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="grey"/><text x="{LEFT}" y="{:.0}" font-weight="bold">{title}</text><text x="{:.0}" y="{:.0}" text-anchor="end">{most:.0}</text><text x="{:.0}" y="{:.0}" text-anchor="end">0</text><text x="{:.0}" y="{:.0}" text-anchor="end">{:.0} min</text><polyline fill="none" stroke="royalblue" stroke-width="1.5" points="{}"/><line x1="{settled:.0}" x2="{settled:.0}" y1="{top}" y2="{:.0}" stroke="grey" stroke-dasharray="3 3"/>"#,
            top - 6.0,
            LEFT - 6.0,
            top + 10.0,
            LEFT - 6.0,
            top + HEIGHT,
            LEFT + WIDTH,
            top + HEIGHT + 14.0,
            last / 60.0,
            points.join(" "),
            top + HEIGHT
        );
        drawn.map_err(std::io::Error::other)?;
    }
    svg.push_str("</svg>\n");
    std::fs::write(file, svg)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn samples(rss_mb: impl Fn(f64) -> f64) -> Vec<Sample> {
        (0..240)
            .map(|i| f64::from(i) * 5.0)
            .map(|at_s| Sample {
                at_s,
                rss_mb: rss_mb(at_s),
                handles: 0.0,
                threads: 0.0,
                heap_mb: 0.0,
                keys: 0.0,
                p99_ms: 0.0,
            })
            .collect()
    }

    #[test]
    fn a_slope_and_how_sure_it_is() {
        let (slope, error) = slope_per_h(&samples(|at| 300.0 + at / 60.0), |s| s.rss_mb).unwrap();
        assert!((slope - 60.0).abs() < 0.01 && error < 0.01, "{slope} ± {error}");
        // Up and down every six minutes: nothing is certain of so little.
        let (slope, error) = slope_per_h(&samples(|at| 300.0 + 20.0 * (at / 57.3).sin()), |s| s.rss_mb).unwrap();
        assert!(slope.abs() < 2.0 * error && error > 10.0, "{slope} ± {error}");
        assert!(slope_per_h(&samples(|_| 1.0)[..2], |s| s.rss_mb).is_none());
    }
}
