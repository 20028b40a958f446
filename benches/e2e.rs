//! End to end: how long from when a request was due until a subscriber that reads what is committed has its outcome, at a steady rate, and what
//! the platform process needs for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka::{Brokers, From, Registry, Tail, Writer};
use schemas::records::{Outcome, OutcomeStatus, Request};
use schemas::{digest, topics};

use crate::common::{brokers, now, registry, rss_mb, tokio};

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Brokers.
    #[arg(long)]
    pub(crate) brokers: String,
    /// Schema registry.
    #[arg(long)]
    pub(crate) registry: String,
    /// URL the step asks.
    #[arg(long)]
    pub(crate) url: String,
    /// Process id of the platform.
    #[arg(long)]
    pub(crate) pid: u32,
    /// Capsule that is asked for; it takes a `url`.
    #[arg(long, default_value = "endpoint_probe")]
    pub(crate) capsule: String,
    /// Outcomes a run of it has.
    #[arg(long, default_value_t = 1)]
    pub(crate) steps: u32,
    /// Requests a second.
    #[arg(long, default_value_t = 100)]
    pub(crate) rate: u32,
    /// Every request says something else, so that no memory's embedding is known already.
    #[arg(long)]
    pub(crate) distinct: bool,
    /// Seconds of load.
    #[arg(long, default_value_t = 60)]
    pub(crate) seconds: u32,
}

impl Options {
    pub(crate) fn total(&self) -> u64 {
        u64::from(self.rate) * u64::from(self.seconds)
    }
}

/// Sends at the rate asked for, whatever comes back (an open loop: a slow system does not slow the load down).
pub(crate) fn send(
    options: &Options,
    brokers: &Brokers,
    registry: Arc<Registry>,
    tag: &str,
) -> Result<Vec<String>, String> {
    let writer = Writer::open(brokers, registry, "soma/bench").map_err(|e| e.to_string())?;
    let total = options.rate * options.seconds;
    let (started, clock) = (Instant::now(), now().0);
    let mut runs = Vec::new();
    for i in 0..total {
        let due_us = u64::from(i) * 1_000_000 / u64::from(options.rate);
        std::thread::sleep((started + Duration::from_micros(due_us)).saturating_duration_since(Instant::now()));
        let key = format!("{tag}-{i}");
        let tenant = format!("bench-{}", i % 4);
        let request = Request {
            tenant: tenant.clone(),
            actor: "bench".into(),
            idempotency_key: key.clone(),
            goal: if options.distinct {
                format!("one step, the {i}th of {tag}")
            } else {
                "one step".to_owned()
            },
            capsule: Some(options.capsule.clone()),
            inputs: [("url".to_owned(), options.url.clone())].into(),
            requested_at: schemas::Timestamp(clock + i64::try_from(due_us).unwrap_or(i64::MAX)),
            ..Request::default()
        };
        writer
            .write(topics::REQUESTS, &format!("{tenant}:{key}"), &tenant, &request, None)
            .map_err(|e| e.to_string())?;
        runs.push(digest::run_id(&tenant, &key));
    }
    writer.flush().map_err(|e| e.to_string())?;
    Ok(runs)
}

/// Runs the benchmark; the line to print last.
pub(crate) fn run(options: &Options) -> Result<String, String> {
    let runtime = tokio()?;
    let brokers = brokers(&options.brokers);
    let registry = registry(&options.registry, &runtime)?;
    let tag = format!("bench-{}", now().0);
    let mut tail = Tail::open(&brokers, topics::OUTCOMES.name, From::End).map_err(|e| e.to_string())?;
    let total = options.total();
    let (sent, latencies, failed, mut rss) = {
        std::thread::scope(|scope| -> Result<_, String> {
            let sender = scope.spawn(|| send(options, &brokers, registry.clone(), &tag));
            let mut seen: HashMap<String, u32> = HashMap::new();
            let mut took: HashMap<String, (i64, i64)> = HashMap::new();
            let (mut failed, mut rss) = (0u64, 0);
            let mut last = Instant::now();
            while (took.len() as u64) + failed < total && last.elapsed() < Duration::from_secs(30) {
                let Ok(Some(record)) = tail.next(100) else { continue };
                let Some(value) = record.value else { continue };
                let seen_at = now().0;
                let outcome: Outcome = kernel::decode(&value, registry.as_ref()).map_err(|e| e.to_string())?;
                if !outcome.tenant.starts_with("bench-") {
                    continue;
                }
                last = Instant::now();
                if outcome.status != OutcomeStatus::Succeeded {
                    failed += 1;
                    continue;
                }
                let steps = seen.entry(outcome.run_id.clone()).or_default();
                *steps += 1;
                if *steps == options.steps {
                    // The record's own timestamp is when it was handed to the producer: what follows is its transaction, and reading it.
                    let due = outcome.requested_at.0;
                    took.insert(outcome.run_id, (seen_at - due, record.at.0 - due));
                }
                rss = rss.max(rss_mb(options.pid).unwrap_or(0));
            }
            let sent = sender.join().map_err(|_| "the sender panicked".to_owned())??;
            let latencies: Vec<(i64, i64)> = sent.iter().filter_map(|run| took.get(run).copied()).collect();
            Ok((sent, latencies, failed, rss))
        })?
    };
    if latencies.len() != sent.len() {
        return Err(format!(
            "{} of {} runs have no successful outcome ({failed} failed)",
            sent.len() - latencies.len(),
            sent.len()
        ));
    }
    let (seen, written): (Vec<i64>, Vec<i64>) = latencies.into_iter().unzip();
    rss = rss.max(rss_mb(options.pid).unwrap_or(0));
    let per_s = seen.len() as u64 / u64::from(options.seconds.max(1));
    Ok(format!(
        "e2e_p50_ms={} e2e_p99_ms={} written_p50_ms={} runs_per_s={per_s} rss_mb={rss}",
        quantile_ms(seen.clone(), 0.5),
        quantile_ms(seen, 0.99),
        quantile_ms(written, 0.5)
    ))
}

/// A quantile of microseconds, in milliseconds.
fn quantile_ms(mut all: Vec<i64>, q: f64) -> i64 {
    all.sort_unstable();
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rank"
    )]
    let rank = (all.len().saturating_sub(1) as f64 * q).round() as usize;
    all.get(rank).copied().unwrap_or_default() / 1000
}
