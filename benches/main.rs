//! `soma-bench`: measures a running pipeline from outside, through Kafka alone. `deploy/dev/bench.sh` starts the servers.

mod analytics;
mod audit;
mod backtest;
mod clickhouse;
mod common;
mod e2e;
mod gate;
mod hop;
mod restore;
mod soak;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Benchmarks of a running pipeline")]
struct Args {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// One-step http plans at a steady rate: request timestamp to outcome timestamp.
    E2e(e2e::Options),
    /// One stage beside a bare client loop and Kafka Streams: records a second, per processor second, and memory.
    Hop(hop::Options),
    /// Steady load for a long time: whether memory, open files and threads stay flat.
    Soak(soak::Options),
    /// State read back from its changelog, and from a checkpoint on disk: keys a second.
    Restore(restore::Options),
    /// A chain verified on one core, and whether single changes to its copies are found.
    Audit(audit::Options),
    /// The policy gate on one core, beside the bare Rego engine and an OPA server.
    Gate(gate::Options),
    /// A seeded week of verdicts: the report of `soma policy backtest` beside a direct evaluation of every one of them.
    Backtest(backtest::Options),
    /// A topic of events for the streaming views.
    AnalyticsFill(analytics::Fill),
    /// A topic kept in ClickHouse: rows sent row by row beside column by column.
    Clickhouse(clickhouse::Options),
    /// The ceiling of the streaming views: a consumer that only counts bytes.
    AnalyticsConsume(analytics::Consume),
    /// The stage of `hop`.
    #[command(hide = true)]
    HopStage(hop::Contestant),
    /// The bare client loop of `hop`.
    #[command(hide = true)]
    HopRaw(hop::Contestant),
}

fn main() -> ExitCode {
    let result = match Args::parse().bench {
        Bench::E2e(options) => e2e::run(&options),
        Bench::Hop(options) => hop::run(&options),
        Bench::Soak(options) => soak::run(&options),
        Bench::Restore(options) => restore::run(&options),
        Bench::Audit(options) => audit::run(&options),
        Bench::Gate(options) => gate::run(&options),
        Bench::Backtest(options) => backtest::run(&options),
        Bench::AnalyticsFill(options) => analytics::fill(&options),
        Bench::AnalyticsConsume(options) => analytics::consume(&options),
        Bench::Clickhouse(options) => clickhouse::run(&options),
        Bench::HopStage(options) => hop::run_stage(&options),
        Bench::HopRaw(options) => hop::run_raw(&options),
    };
    match result {
        Ok(line) => {
            say(&line);
            ExitCode::SUCCESS
        }
        Err(e) => {
            say(&format!("error: {e}"));
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stdout, reason = "the figures are the output")]
fn say(line: &str) {
    println!("{line}");
}
