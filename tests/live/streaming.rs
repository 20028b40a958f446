//! Streaming SQL on real servers: a part of the flights data set, sent while an instance is killed with -9; every window of the six views
//! of pipelines/flights, and of the joins of pipelines/hubs, equals ClickHouse's own computation. `make verify-windows` and
//! `make verify-joins` do the same with all of it.

use std::process::Command;

use super::harness::{live, text};

/// Runs a verification against the live servers; the line of figures that begins so, and everything it said.
pub(super) fn verify(script: &str, options: &[&str], figures: &str) -> (String, String) {
    let live = live();
    let of = |name: &str| {
        live.env
            .get(name)
            .unwrap_or_else(|| panic!("{name} is not in dev.env"))
            .to_owned()
    };
    let mut command = Command::new(of("SOMA_LIVE_PYTHON"));
    command
        .arg(live.root().join(script))
        .args(options)
        .env("SOMA_BIN", &live.soma)
        .env("SOMA_HOME", &live.home);
    let file = std::fs::read_to_string(live.home.join("dev.env")).unwrap();
    for (name, value) in file.lines().filter_map(|line| line.split_once('=')) {
        command.env(name, value.trim_matches('"'));
    }
    let out = command.output().unwrap();
    let shown = text(&out.stdout) + &text(&out.stderr);
    assert!(out.status.success(), "{shown}");
    let line = shown
        .lines()
        .rfind(|l| l.starts_with(figures))
        .unwrap_or_else(|| panic!("no figures: {shown}"));
    println!("{line}");
    (line.to_owned(), shown.clone())
}

fn windows_are_exact(pipeline: &str) {
    let options = format!("--pipeline {pipeline} --rows 20000 --kills 1 --between 6 8 --wait 90 --instances");
    let options: Vec<&str> = options.split(' ').collect();
    let (line, shown) = verify("deploy/dev/verify_windows.py", &options, "windows checked=");
    assert!(line.ends_with("wrong=0") && !line.contains("checked=0 "), "{shown}");
    assert!(shown.contains("kills=1"), "{shown}");
}

#[test]
fn every_window_is_exact_over_a_kill() {
    windows_are_exact("flights");
}

#[test]
fn every_joined_window_is_exact_over_a_kill() {
    windows_are_exact("hubs");
}
