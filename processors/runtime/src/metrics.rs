//! What a process counts about itself. Labels: pipeline, stage, topic, outcome, code; never a tenant or an id.

use std::sync::Arc;

use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::process;

/// The process's metrics.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    pipeline: String,
    records: IntCounterVec,
    faults: IntCounterVec,
    commits: HistogramVec,
    steps: HistogramVec,
    age: HistogramVec,
    gauges: IntGaugeVec,
    committed: GaugeVec,
}

const SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0,
];

impl Metrics {
    /// Metrics of one pipeline.
    ///
    /// # Errors
    /// Two metrics of the same name, which is a bug.
    pub fn new(pipeline: &str) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let histogram = |name: &str, help: &str| {
            HistogramVec::new(
                HistogramOpts::new(name, help).buckets(SECONDS.to_vec()),
                &["pipeline", "stage"],
            )
        };
        let inner = Inner {
            records: IntCounterVec::new(
                Opts::new(
                    "soma_records_total",
                    "Records a stage took, by topic and outcome (ok, dead_lettered)",
                ),
                &["pipeline", "stage", "topic", "outcome"],
            )?,
            faults: IntCounterVec::new(
                Opts::new("soma_faults_total", "Faults by code; each code has a runbook"),
                &["pipeline", "stage", "code"],
            )?,
            commits: histogram("soma_commit_seconds", "Time one commit took")?,
            steps: histogram(
                "soma_batch_seconds",
                "Time the steps of one batch took, without the commit",
            )?,
            age: histogram("soma_record_age_seconds", "Age of a record when its step began")?,
            gauges: IntGaugeVec::new(
                Opts::new(
                    "soma_stage",
                    "State of a stage: partitions, state_keys (on disk about: removals count until they are compacted), state_bytes, timers, in_flight, waiting, halted, unowned (partitions of its topics that no instance has), unwatched, restored (records read when it last took partitions over), standby_partitions, standby_lag; of streaming SQL: behind (views with more to tell than a transaction took), and since the start late, duplicate, woke",
                ),
                &["pipeline", "stage", "what"],
            )?,
            committed: GaugeVec::new(
                Opts::new(
                    "soma_last_commit_timestamp_seconds",
                    "When a stage last committed, Unix seconds",
                ),
                &["pipeline", "stage"],
            )?,
            pipeline: pipeline.to_owned(),
            registry,
        };
        inner.registry.register(Box::new(inner.records.clone()))?;
        inner.registry.register(Box::new(inner.faults.clone()))?;
        inner.registry.register(Box::new(inner.commits.clone()))?;
        inner.registry.register(Box::new(inner.steps.clone()))?;
        inner.registry.register(Box::new(inner.age.clone()))?;
        inner.registry.register(Box::new(inner.gauges.clone()))?;
        inner.registry.register(Box::new(inner.committed.clone()))?;
        process::register(&inner.registry)?;
        Ok(Self(Arc::new(inner)))
    }

    /// Counts records.
    pub fn records(&self, stage: &str, topic: &str, outcome: &str, n: u64) {
        self.0
            .records
            .with_label_values(&[&self.0.pipeline, stage, topic, outcome])
            .inc_by(n);
    }

    /// Counts a fault.
    pub fn fault(&self, stage: &str, code: &str) {
        self.0.faults.with_label_values(&[&self.0.pipeline, stage, code]).inc();
    }

    /// A commit took this long and ended at `now_s` (Unix seconds).
    pub fn commit(&self, stage: &str, seconds: f64, now_s: f64) {
        self.0
            .commits
            .with_label_values(&[&self.0.pipeline, stage])
            .observe(seconds);
        let committed = self.0.committed.with_label_values(&[&self.0.pipeline, stage]);
        if committed.get() == 0.0 {
            tracing::info!(stage, "first commit");
        }
        committed.set(now_s);
    }

    /// The steps of a batch took this long.
    pub fn batch(&self, stage: &str, seconds: f64) {
        self.0
            .steps
            .with_label_values(&[&self.0.pipeline, stage])
            .observe(seconds);
    }

    /// Where a stage counts the age of its records, seconds: looked up once, since every record counts.
    pub(crate) fn ages(&self, stage: &str) -> Histogram {
        self.0.age.with_label_values(&[&self.0.pipeline, stage])
    }

    /// Sets a stage's gauge.
    pub fn gauge(&self, stage: &str, what: &str, value: usize) {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        self.0
            .gauges
            .with_label_values(&[&self.0.pipeline, stage, what])
            .set(value);
    }

    /// Everything in Prometheus' text format.
    pub fn text(&self) -> String {
        let mut out = Vec::new();
        match TextEncoder::new().encode(&self.0.registry.gather(), &mut out) {
            Ok(()) => String::from_utf8_lossy(&out).into_owned(),
            Err(e) => format!("# {e}\n"),
        }
    }
}
