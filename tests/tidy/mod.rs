//! The tree keeps its own rules: sizes, imports, homes of third-party clients, documents, topics, schemas, runbooks.

mod boards;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use kernel::FaultCode;
use schemas::topics::Catalogue;

const FILE_LINES_MAX: usize = 500;
const TEST_LINES_MAX: usize = 500;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Files git knows or would add, so that a new file is checked before it is committed.
fn files(suffix: &str) -> Vec<PathBuf> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git");
    let text = String::from_utf8(listed.stdout).unwrap();
    let found: Vec<_> = text
        .lines()
        .filter(|l| l.ends_with(suffix))
        .map(PathBuf::from)
        .filter(|p| root().join(p).is_file())
        .collect();
    assert!(!found.is_empty(), "no {suffix} files: the check would check nothing");
    found
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

#[test]
fn no_file_is_too_long() {
    let mut long = Vec::new();
    for path in files(".rs").into_iter().chain(files(".py")) {
        let is_test = path.components().any(|c| c.as_os_str() == "tests") || path.to_string_lossy().contains("test");
        let lines = text(&path).lines().count();
        if lines > if is_test { TEST_LINES_MAX } else { FILE_LINES_MAX } {
            long.push(format!("{} has {lines} lines", path.display()));
        }
    }
    assert!(long.is_empty(), "split these: {long:#?}");
}

#[test]
fn every_rust_file_says_what_it_is() {
    let silent: Vec<_> = files(".rs")
        .into_iter()
        .filter(|p| !text(p).starts_with("//!"))
        .collect();
    assert!(silent.is_empty(), "begin these with //! : {silent:?}");
}

#[test]
fn every_document_begins_with_the_first_rule() {
    let without: Vec<_> = files(".md")
        .into_iter()
        .filter(|p| !text(p).lines().take(3).any(|l| l.to_lowercase().contains("no mocks")))
        .collect();
    assert!(without.is_empty(), "begin these with the no-mocks line: {without:?}");
}

/// Crate folder -> our crates it may name.
const IMPORTS: &[(&str, &[&str])] = &[
    ("schemas", &[]),
    ("processors/kernel", &["schemas"]),
    ("processors/stages", &["schemas", "kernel"]),
    ("processors/analytics", &["schemas", "kernel"]),
    ("processors/runtime", &["schemas", "kernel"]),
    ("connectors/kafka", &["schemas", "kernel"]),
    ("connectors/tools", &["schemas", "kernel"]),
    ("connectors/models", &["schemas", "kernel"]),
    ("sinks", &["schemas", "kernel"]),
];

const OURS: &[&str] = &[
    "schemas",
    "kernel",
    "stages",
    "analytics",
    "runtime",
    "kafka",
    "tools",
    "models",
    "sinks",
    "pipelines",
    "tests",
    "benches",
];

/// Third-party client -> the only crates that may depend on it.
const HOMES: &[(&str, &[&str])] = &[
    ("rdkafka", &["connectors/kafka", "benches"]),
    ("kafka-protocol", &["connectors/kafka"]),
    ("schema_registry_converter", &["connectors/kafka"]),
    ("clickhouse", &["sinks"]),
    ("redis", &["sinks"]),
    ("qdrant-client", &["sinks"]),
    ("regorus", &["processors/stages"]),
    ("arrow", &["processors/analytics"]),
    ("arrow-avro", &["processors/analytics"]),
    ("arrow-ipc", &["processors/analytics"]),
    ("parquet", &["processors/analytics"]),
    ("datafusion", &["processors/analytics"]),
    ("apache-avro", &["schemas"]),
    ("prometheus", &["processors/runtime"]),
    ("ort", &["connectors/models"]),
    ("fjall", &["processors/runtime"]),
    ("tikv-jemallocator", &["processors/runtime"]),
    ("tikv-jemalloc-ctl", &["processors/runtime"]),
];

fn dependencies(krate: &str) -> BTreeSet<String> {
    let manifest = text(&Path::new(krate).join("Cargo.toml"));
    let mut inside = false;
    let mut names = BTreeSet::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.trim_end() == "[dependencies]" || line.starts_with("[dependencies.");
        } else if inside
            && let Some(name) = line
                .split(['.', ' ', '='])
                .next()
                .filter(|n| !n.is_empty() && !n.starts_with('#'))
        {
            names.insert(name.to_owned());
        }
    }
    names
}

#[test]
fn crates_import_only_what_they_may() {
    for (krate, allowed) in IMPORTS {
        let found = dependencies(krate);
        assert!(!found.is_empty(), "{krate} names no dependencies");
        for ours in OURS.iter().filter(|o| found.contains(**o)) {
            assert!(allowed.contains(ours), "{krate} must not import {ours}");
        }
    }
}

#[test]
fn sibling_stages_do_not_import_each_other() {
    let stages = ["intake", "policy_gate", "orchestrator", "invoker", "memory_indexer"];
    for path in files(".rs")
        .into_iter()
        .filter(|p| p.starts_with("processors/stages/src"))
    {
        let Some(own) = stages.iter().find(|s| path.components().any(|c| c.as_os_str() == **s)) else {
            continue;
        };
        let body = text(&path);
        for other in stages.iter().filter(|s| s != &own) {
            assert!(
                !body.contains(&format!("crate::{other}")),
                "{} imports its sibling {other}",
                path.display()
            );
        }
    }
}

#[test]
fn each_third_party_client_has_one_home() {
    let manifests: Vec<_> = files("Cargo.toml")
        .into_iter()
        .filter(|p| !p.starts_with("deploy") && p.components().count() > 1)
        .collect();
    for (client, homes) in HOMES {
        for manifest in &manifests {
            let krate = manifest.parent().unwrap().to_string_lossy().into_owned();
            assert!(
                !dependencies(&krate).contains(*client) || homes.contains(&krate.as_str()),
                "{krate} depends on {client}, whose home is {homes:?}"
            );
        }
    }
}

#[test]
fn only_config_reads_the_environment() {
    // Split so that this line does not find itself.
    let needles = [concat!("std::env", "::var"), concat!("env", "::var(")];
    for path in files(".rs")
        .into_iter()
        .filter(|p| !p.starts_with("deploy") && !p.starts_with("tests") && !p.starts_with("benches"))
    {
        if path.ends_with("pipelines/src/config.rs") {
            continue;
        }
        let body = text(&path);
        let production = body.split("#[cfg(test)]").next().unwrap_or_default();
        let is_test_file = path.to_string_lossy().contains("test");
        assert!(
            is_test_file || !needles.iter().any(|n| production.contains(n)),
            "{} reads the environment",
            path.display()
        );
    }
}

#[test]
fn topics_schemas_and_records_go_by_one_name() {
    let catalogue = Catalogue::load().unwrap();
    let avsc: BTreeSet<String> = std::fs::read_dir(root().join("schemas/avro/soma"))
        .unwrap()
        .map(|e| e.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    let named: BTreeSet<String> = catalogue.topics.iter().map(|t| t.record.clone()).collect();
    assert_eq!(avsc, named, "schemas/avro/soma and topics.yaml list the same records");
    for record in &named {
        let file = record.chars().enumerate().fold(String::new(), |mut s, (i, c)| {
            if i > 0 && c.is_uppercase() {
                s.push('_');
            }
            s.extend(c.to_lowercase());
            s
        });
        assert!(
            root().join(format!("schemas/src/records/{file}.rs")).is_file(),
            "records/{file}.rs"
        );
    }
}

#[test]
fn every_fault_code_has_a_runbook() {
    let missing: Vec<_> = FaultCode::ALL
        .iter()
        .filter(|c| !root().join(format!("deploy/runbooks/{c}.md")).is_file())
        .collect();
    assert!(missing.is_empty(), "write deploy/runbooks/<CODE>.md for {missing:?}");
}

#[test]
fn no_registry_host_or_machine_path_is_written_down() {
    // Split so that this file passes its own check.
    let needles: Vec<String> = [
        ["crates", ".io"],
        ["pypi", ".org"],
        ["registry.npm", "js"],
        ["repo1.", "maven"],
        ["proxy.", "golang"],
        ["/wo", "rk/"],
        ["/ro", "ot/"],
    ]
    .iter()
    .map(|parts| parts.concat())
    .collect();
    let listed = files("");
    let mut found = Vec::new();
    for path in listed.iter().filter(|p| !p.to_string_lossy().contains("lock")) {
        let Ok(body) = std::fs::read_to_string(root().join(path)) else {
            continue;
        };
        found.extend(
            needles
                .iter()
                .filter(|n| body.contains(n.as_str()))
                .map(|n| format!("{}: {n}", path.display())),
        );
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// A line that points at a test which is not there shows nothing.
#[test]
fn the_compliance_map_points_at_tests_that_are_there() {
    let map = text(Path::new("deploy/compliance.md"));
    let code: String = files(".rs").iter().map(|p| text(p)).collect();
    let cases = text(Path::new("pipelines/control-tower/cases.yaml"));
    let mut named = 0;
    for line in map.lines().filter(|l| l.starts_with("| ")) {
        let shown = line.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        for (before, name) in shown
            .split('`')
            .collect::<Vec<_>>()
            .chunks(2)
            .filter_map(|c| Some((c[0], *c.get(1)?)))
        {
            let there = if before.ends_with("case ") {
                cases.contains(&format!("- case: {name}\n"))
            } else {
                code.contains(&format!("fn {name}("))
            };
            assert!(there, "no test or case is named `{name}`: {line}");
            named += 1;
        }
    }
    assert!(named > 30, "only {named} tests are named");
}
