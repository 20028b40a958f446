//! `soma-bench`: measures a running pipeline from outside, through Kafka alone. `deploy/dev/bench.sh` starts the servers.

mod e2e;

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
}

fn main() -> ExitCode {
    let result = match Args::parse().bench {
        Bench::E2e(options) => e2e::run(&options),
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
