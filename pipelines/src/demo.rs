//! `soma demo`: the main job, end to end, for four tenants. What it prints is computed from the topics and the stores, never
//! from what was sent; it fails when a store disagrees with the topics.

mod figures;
mod metrics;
mod script;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka::{Brokers, Registry, Writer};
use kernel::{Embedder, Fault, FaultCode, Headers};
use schemas::records::{Request, Run, RunStatus};
use schemas::topics;

use crate::config::{Connections, Environment};
use figures::Topics;

const RUNS_LIMIT: Duration = Duration::from_secs(180);
const STORES_LIMIT: Duration = Duration::from_secs(30);

/// What the demo works with.
pub(crate) struct Demo {
    env: Environment,
    at: Connections,
    model: Arc<dyn Embedder>,
    brokers: Brokers,
    registry: Arc<Registry>,
    runtime: tokio::runtime::Runtime,
    /// Part of every key and name of this demo, so that demos do not meet.
    tag: String,
    receiver: String,
}

fn say(line: &str) -> Result<(), Fault> {
    writeln!(anstream::stdout(), "{line}").map_err(|e| Fault::new(FaultCode::Internal, format!("stdout: {e}")))
}

fn head(line: &str) -> Result<(), Fault> {
    say(&format!(
        "\n── {line} {}",
        "─".repeat(90usize.saturating_sub(line.chars().count()))
    ))
}

/// Runs the demo.
///
/// # Errors
/// The pipeline is not up, a run does not end, or a store disagrees with the topics.
pub fn run(env: &Environment) -> Result<(), Fault> {
    let demo = Demo::open(env)?;
    head("requests of four tenants")?;
    demo.first_wave()?;
    head("a change to what runs: terraform would destroy, so the policy asks a human")?;
    demo.second_wave()?;
    head("runs")?;
    let topics = Topics::read(&demo)?;
    say(&figures::runs_table(&topics))?;
    head("remembered: `soma memory search` by meaning, per tenant")?;
    demo.soma(&[
        "memory",
        "search",
        "which services were rolled out?",
        "--tenant",
        "acme",
        "--limit",
        "3",
    ])?;
    head("dashboards: SQL over ClickHouse")?;
    let mut disagreements = demo.wait_for_stores(&topics)?;
    for sql in script::DASHBOARD {
        say(&format!("\n{sql}"))?;
        demo.soma(&["sql", sql])?;
    }
    head("per-minute metrics that reached Pushgateway")?;
    disagreements.extend(metrics::check(&demo, &topics)?);
    say("")?;
    for line in &disagreements {
        say(&format!("DISAGREES: {line}"))?;
    }
    let figures = figures::figures(&topics);
    say(&figures.line())?;
    if !disagreements.is_empty() || figures.lost > 0 {
        return Err(Fault::new(
            FaultCode::Internal,
            "a store disagrees with the topics, or a request was lost",
        ));
    }
    Ok(())
}

impl Demo {
    fn open(env: &Environment) -> Result<Self, Fault> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|e| Fault::new(FaultCode::Internal, e.to_string()))?;
        let registry = crate::apply::registry_at(env, runtime.handle().clone())?;
        let receiver = env.get("SOMA_RECEIVER_URL").map(str::to_owned);
        let since = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Ok(Self {
            at: Connections::from_env(env)?,
            model: crate::stores::embedder_from_env(env)?,
            brokers: crate::apply::brokers(env)?,
            registry,
            runtime,
            tag: format!("demo-{}", since.as_millis()),
            receiver: receiver
                .ok_or_else(|| Fault::new(FaultCode::ConfigInvalid, "SOMA_RECEIVER_URL is not set; run `make up`"))?,
            env: env.clone(),
        })
    }

    /// Runs this same program, as a user would.
    fn soma(&self, args: &[&str]) -> Result<(), Fault> {
        let internal = |e: std::io::Error| Fault::new(FaultCode::Internal, format!("soma {args:?}: {e}"));
        let mut command = Command::new(std::env::current_exe().map_err(internal)?);
        if let Some(file) = &self.env.file {
            command.arg("--env-file").arg::<&PathBuf>(file);
        }
        let out = command.args(args).output().map_err(internal)?;
        say(String::from_utf8_lossy(&out.stdout).trim_end())?;
        if out.status.success() {
            return Ok(());
        }
        Err(Fault::new(
            FaultCode::Internal,
            format!("soma {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr)),
        ))
    }

    fn send(&self, requests: &[Request]) -> Result<(), Fault> {
        let writer = Writer::open(&self.brokers, self.registry.clone(), "soma/demo")?;
        for r in requests {
            writer.write(
                topics::REQUESTS,
                &format!("{}:{}", r.tenant, r.idempotency_key),
                &r.tenant,
                r,
                None,
            )?;
        }
        writer.flush()
    }

    fn first_wave(&self) -> Result<(), Fault> {
        let first = script::first_wave(&self.tag, &self.receiver);
        self.send(&first)?;
        // A repeat of the first request, and a record that is no record.
        self.send(&first[..1])?;
        let writer = Writer::open(&self.brokers, self.registry.clone(), "soma/demo")?;
        let poison = br#"{"goal": "JSON where Avro belongs"}"#;
        writer.write_raw(
            topics::REQUESTS.name,
            &format!("acme:{}-poison", self.tag),
            Some(poison),
            &Headers::default(),
        )?;
        writer.flush()?;
        self.settle(first.len())
    }

    fn second_wave(&self) -> Result<(), Fault> {
        let second = script::second_wave(&self.tag);
        self.send(&second)?;
        self.settle(script::first_wave(&self.tag, &self.receiver).len() + second.len())
    }

    /// Waits until this demo's runs have ended, approving what waits as a human would: with `soma approve`.
    fn settle(&self, expected: usize) -> Result<(), Fault> {
        let deadline = Instant::now() + RUNS_LIMIT;
        let mut approved: Vec<(String, String)> = Vec::new();
        loop {
            let runs = figures::latest_runs(self)?;
            for run in runs.values() {
                for waiting in &run.waiting {
                    let at = (run.run_id.clone(), waiting.digest.clone());
                    if run.finished_at.is_none() && !approved.contains(&at) {
                        say(&format!("{} waits: {}", run.run_id, waiting.reason))?;
                        self.soma(&[
                            "approve",
                            &run.run_id,
                            "-y",
                            "--as",
                            "carol",
                            "--comment",
                            "demo: change window is open",
                        ])?;
                        approved.push(at);
                    }
                }
            }
            let ended = runs.values().filter(|r| r.finished_at.is_some()).count();
            if ended >= expected {
                return Ok(());
            }
            if Instant::now() > deadline {
                let open: Vec<_> = runs
                    .values()
                    .filter(|r| r.finished_at.is_none())
                    .map(|r| format!("{} {:?}", r.run_id, r.status))
                    .collect();
                return Err(Fault::new(
                    FaultCode::Internal,
                    format!("{ended} of {expected} runs have ended; open: {}", open.join(", ")),
                ));
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// Waits until the sinks have caught up, then says what does not agree.
    fn wait_for_stores(&self, topics: &Topics) -> Result<Vec<String>, Fault> {
        let deadline = Instant::now() + STORES_LIMIT;
        loop {
            let wrong = figures::compare(self, topics)?;
            if wrong.is_empty() || Instant::now() > deadline {
                return Ok(wrong);
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

/// The last state of each of this demo's runs.
pub(crate) type Runs = BTreeMap<String, Run>;

/// Whether a run ended in this state.
pub(crate) fn ended(runs: &Runs, status: RunStatus) -> usize {
    runs.values().filter(|r| r.status == status).count()
}
