//! `soma-bench`: measures a running pipeline from outside, through Kafka alone. `deploy/dev/bench.sh` starts the servers.

mod e2e;
mod hop;

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

/// Memory a process holds.
fn rss_mb(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kb| kb / 1024)
}

#[allow(clippy::print_stdout, reason = "the figures are the output")]
fn say(line: &str) {
    println!("{line}");
}
