//! The command line, `soma`: arguments to calls, results to tables or JSON. It decides nothing about runs, policies or records;
//! everything it does can be done by any Kafka client that speaks Avro.

mod approve;
mod audit;
mod audit_table;
mod backfill;
mod constitution;
mod constitution_history;
mod context;
mod control;
mod dash;
mod describe;
mod dev;
mod dlq;
mod engines;
mod failure;
mod heartbeat;
mod input;
mod kinds;
mod letter;
mod members;
mod memory;
mod out;
mod pipeline;
mod policies;
mod policy;
mod produce;
pub(crate) mod prometheus;
mod replay;
mod reprocess;
mod runs;
mod sbom;
mod shadow;
mod sql;
mod stages;
mod streaming;
mod strikes;
mod subscribe;
mod tallies;
mod topics;
mod tree;
mod udf;
mod watch;
mod when;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use schemas::records::{ApprovalDecision, ControlAction};
use serde_json::json;

use context::Context;
use failure::{Done, Failure, INPUT, OK};

use crate::config::Environment;

/// Drives a governed event-streaming agent platform: send requests, follow runs, approve, stop, replay.
#[derive(Parser)]
#[command(
    name = "soma",
    version,
    propagate_version = false,
    max_term_width = 120,
    after_help = "First steps:
  soma produce request.yaml        send a request; prints its run id
  soma run watch RUN               follow it step by step
  soma approve RUN                 when it waits for a human

In trouble:
  soma stages                      is the pipeline up, is it behind?
  soma dlq list                    what could not be taken, and why
  soma kill --global --reason '..' stop everything, now

Every command has examples: soma COMMAND --help. Servers are found through SOMA_* variables or .soma/dev.env.
Exit codes: 0 done, 1 failed or in a wrong state, 2 wrong usage or input, 3 a server does not answer."
)]
struct Cli {
    /// File with KEY=value lines (default: .soma/dev.env, from here upwards); the process's own variables win
    #[arg(long, global = true, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    json: bool,
    /// No colours (also: NO_COLOR, or when no terminal listens)
    #[arg(long, global = true)]
    no_color: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Send records from JSON or YAML files to a topic
    Produce(produce::Args),
    /// Follow any topic as JSON
    Subscribe(subscribe::Args),
    /// List, show and watch runs
    #[command(subcommand)]
    Run(runs::Command),
    /// Approve what a run waits for
    Approve(approve::Args),
    /// Deny what a run waits for
    Deny(approve::Args),
    /// Hand on the decision about what a run waits for
    Delegate(approve::Handing),
    /// Give, take away and list roles
    #[command(subcommand)]
    Member(members::Command),
    /// List and pardon strikes: breaches of moderation that count against an actor
    #[command(subcommand)]
    Strike(strikes::Command),
    /// List what policies and constitutions count, over the runs of a tenant
    Tally(tallies::Args),
    /// Publish, check and list bills of materials of tools and capsules
    #[command(subcommand)]
    Sbom(sbom::Command),
    /// Stop now: nothing more is started, nothing is undone
    Kill(control::Args),
    /// Hold: nothing new is started until `resume`
    Pause(control::Args),
    /// Lift a kill, cancel or pause at a scope
    Resume(control::Args),
    /// Stop and undo: steps that succeeded are compensated
    Cancel(control::Args),
    /// Say that somebody watches: the dead man's switch
    Heartbeat(heartbeat::Args),
    /// List kills, cancels and pauses in force
    #[command(after_help = "Example:\n  soma controls     `soma resume` with the same scope lifts one")]
    Controls,
    /// Verify the audit chains, export the evidence of a run
    #[command(subcommand)]
    Audit(audit::Command),
    /// List, show and replay dead letters
    #[command(subcommand)]
    Dlq(dlq::Command),
    /// Compute windows of the past again, correct those that stand otherwise
    Backfill(backfill::Args),
    /// Run past records through a stage again, into side topics, and compare
    Replay(reprocess::Args),
    /// Test a policy bundle, try it on recorded history, explain a verdict
    #[command(subcommand)]
    Policy(policy::Command),
    /// Sign, publish, verify, compare and roll back constitutions
    #[command(subcommand)]
    Constitution(constitution::Command),
    /// Find what was remembered
    #[command(subcommand)]
    Memory(memory::Command),
    /// Ask ClickHouse, check and explain streaming SQL
    Sql(sql::Args),
    /// Draw the boards: here, or as pages
    Dash(dash::Args),
    /// Show the functions that streaming SQL has beside DataFusion's own
    #[command(subcommand)]
    Udf(udf::Command),
    /// Apply, list and describe topics
    #[command(subcommand)]
    Topics(topics::Command),
    /// Show how each stage of the running pipeline is doing
    Stages(stages::Args),
    /// Run a pipeline in the foreground
    Start(pipeline::Start),
    /// Check pipeline files, capsules and policies
    Check(pipeline::Check),
    /// Check, apply and roll a pipeline
    Deploy(pipeline::Deploy),
    /// Run the dev stack: up, down, status, restart, reset, logs
    Dev(dev::Args),
    /// Run the main job end to end for four tenants; compare ClickHouse, Redis and Qdrant with the topics
    #[command(after_help = "Example:\n  soma demo     takes about two minutes: the last minute's metrics must close")]
    Demo,
    /// Write completions for a shell
    #[command(after_help = "Example:\n  soma completions bash > ~/.local/share/bash-completion/completions/soma")]
    Completions {
        /// Shell
        shell: clap_complete::Shell,
    },
    /// Print the version
    Version,
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return usage(&e),
    };
    if cli.no_color {
        anstream::ColorChoice::Never.write_global();
    }
    let done = Environment::load(cli.env_file.as_deref())
        .map_err(|e| Failure::input("FILE_UNREADABLE", e, "give another file with --env-file"))
        .and_then(|env| dispatch(&cli.command, &Context::new(env, cli.json)));
    ExitCode::from(done.unwrap_or_else(|failure| {
        out::error(&failure);
        failure.exit
    }))
}

/// Help and version go to stdout; a wrong usage is an error like any other.
fn usage(e: &clap::Error) -> ExitCode {
    let text = e.render().ansi().to_string();
    if !e.use_stderr() {
        return ExitCode::from(out::line(text.trim_end()).map_or_else(|failure| failure.exit, |()| OK));
    }
    if e.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        out::note(text.trim_end());
        return ExitCode::from(INPUT);
    }
    let text = text
        .replacen("error:", "error[USAGE]:", 1)
        .replacen("For more information, try", "help: try", 1);
    out::note(text.trim_end());
    ExitCode::from(INPUT)
}

fn dispatch(command: &Command, cx: &Context) -> Done {
    match command {
        Command::Produce(args) => produce::run(args, cx),
        Command::Subscribe(args) => subscribe::run(args, cx),
        Command::Run(command) => runs::run(command, cx),
        Command::Approve(args) => approve::run(args, ApprovalDecision::Approve, cx),
        Command::Deny(args) => approve::run(args, ApprovalDecision::Deny, cx),
        Command::Delegate(args) => approve::delegate(args, cx),
        Command::Member(command) => members::run(command, cx),
        Command::Strike(command) => strikes::run(command, cx),
        Command::Tally(args) => tallies::run(args, cx),
        Command::Sbom(command) => sbom::run(command, cx),
        Command::Kill(args) => control::run(args, ControlAction::Kill, cx),
        Command::Pause(args) => control::run(args, ControlAction::Pause, cx),
        Command::Resume(args) => control::run(args, ControlAction::Resume, cx),
        Command::Cancel(args) => control::run(args, ControlAction::Cancel, cx),
        Command::Heartbeat(args) => heartbeat::run(args, cx),
        Command::Controls => control::list(cx),
        Command::Audit(command) => audit::run(command, cx),
        Command::Dlq(command) => dlq::run(command, cx),
        Command::Backfill(args) => backfill::run(args, cx),
        Command::Replay(args) => reprocess::run(args, cx),
        Command::Policy(command) => policy::run(command, cx),
        Command::Constitution(command) => constitution::run(command, cx),
        Command::Memory(command) => memory::run(command, cx),
        Command::Sql(args) => sql::run(args, cx),
        Command::Dash(args) => dash::run(args, cx),
        Command::Udf(command) => udf::run(command, cx),
        Command::Topics(command) => topics::run(command, cx),
        Command::Stages(args) => stages::run(args, cx),
        Command::Start(args) => pipeline::start(args, cx),
        Command::Check(args) => pipeline::check(args, cx),
        Command::Deploy(args) => pipeline::deploy(args, cx),
        Command::Dev(args) => dev::run(args, cx),
        Command::Demo => crate::demo::run(&cx.env).map(|()| OK).map_err(Failure::from),
        Command::Completions { shell } => completions(*shell),
        Command::Version => version(cx),
    }
}

fn completions(shell: clap_complete::Shell) -> Done {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "soma", &mut script);
    out::line(String::from_utf8_lossy(&script).trim_end())?;
    Ok(OK)
}

fn version(cx: &Context) -> Done {
    let version = env!("CARGO_PKG_VERSION");
    if cx.json {
        out::json(&json!({"soma": version}))?
    } else {
        out::line(format!("soma {version}"))?
    }
    Ok(OK)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn the_command_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_leaf_explains_itself_with_an_example() {
        fn leaves(command: &clap::Command, path: &str, found: &mut Vec<String>) {
            let mut subcommands = command.get_subcommands().filter(|c| c.get_name() != "help").peekable();
            let shown = format!("{path} {}", command.get_name());
            assert!(command.get_about().is_some(), "{shown} has no description");
            let covered = ["dev", "version"].iter().any(|w| shown.contains(w));
            if subcommands.peek().is_none() && !covered && command.get_after_help().is_none() {
                found.push(shown.clone());
            }
            subcommands.for_each(|c| leaves(c, &shown, found));
        }
        let mut found = Vec::new();
        leaves(&Cli::command(), "", &mut found);
        assert!(found.is_empty(), "no examples: {found:?}");
    }

    #[test]
    fn arguments_parse() {
        for line in [
            "soma produce a.yaml --dry-run --json",
            "soma subscribe soma.runs --from -10m --max 3",
            "soma run list --status waiting_approval",
            "soma --env-file x.env run watch abc",
            "soma approve abc --step apply --expires 1h -y --as ada",
            "soma deny abc --changes --comment less",
            "soma delegate abc --to lin",
            "soma member grant grace --tenant acme --role ops --reason x",
            "soma strike pardon str_1 --reason x",
            "soma member revoke grace --reason x",
            "soma tally --tenant acme",
            "soma sbom publish tool:http bom.json --reason x",
            "soma policy publish d --tenant * --reason x",
            "soma policy withdraw --tenant acme --reason x",
            "soma kill --global --reason stop",
            "soma heartbeat --every 10s",
            "soma dlq replay --since 2h --rate 10/s --dry-run",
            "soma dlq show soma.requests 0 17",
            "soma policy backtest --bundle p --since 7d --html r.html",
            "soma policy shadow --bundle d --for 1h --into trial",
            "soma policy test d --coverage",
            "soma policy explain abc --input",
            "soma policy publish d --tenant acme --capsule c --reason x",
            "soma constitution key k --trust acme",
            "soma constitution sign c.yaml --key k -o c.json",
            "soma constitution publish c.json --reason x",
            "soma constitution verify c.json",
            "soma constitution diff --tenant acme --from 1 --to 2",
            "soma constitution rollback --tenant acme --to 1 --key k --reason x",
            "soma audit verify --no-table --key ab --key cd",
            "soma audit export abc -o e.json --without-words",
            "soma audit erase acme --reason gone -y",
            "soma memory search text --tenant acme",
            "soma memory recent --run abc",
            "soma sql -f x.sql --csv",
            "soma sql check flights",
            "soma sql explain flights --stage views",
            "soma backfill flights --view per_hour --from 7d --to 1d --source a.parquet --source b.parquet --dry-run --out csv",
            "soma udf list --dir d",
            "soma topics list --all",
            "soma dash governance --since 6h --json",
            "soma dash --html boards",
            "soma dev --home x logs kafka -f",
            "soma dev logs kafka --home x",
            "soma deploy control-tower",
            "soma deploy flights --engine flink --dry-run --bounded --parallelism 2",
            "soma deploy flights --engine arroyo --json",
            "soma completions zsh",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in [
            "soma",
            "soma produce",
            "soma run",
            "soma memory recent",
            "soma sql",
            "soma kill --reason x",
            "soma backfill flights --view per_hour --from 7d",
            "soma subscribe t --max few",
            "soma deploy flights --dry-run",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
