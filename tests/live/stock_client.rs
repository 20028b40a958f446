//! A stock client sees what we promise: Python, confluent-kafka and its Avro deserialiser, knowing only the registry's URL.

use std::path::PathBuf;
use std::process::Command;

use super::harness::{live, text};

#[test]
fn a_stock_client_produces_a_request_and_reads_the_run_back() {
    let live = live();
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("live");
    let cache = PathBuf::from(std::env::var("SOMA_CACHE").expect("SOMA_CACHE is not set: run `make live`"));
    let venv = cache.join("venv/stock-client");
    if !venv.join("ready").exists() {
        let make = |program: &str, args: &[&str]| {
            let done = Command::new(program).args(args).output().unwrap();
            assert!(done.status.success(), "{program} {args:?}: {}", text(&done.stderr));
        };
        make("python3", &["-m", "venv", &venv.to_string_lossy()]);
        let requirements = here.join("requirements.txt");
        make(&venv.join("bin/pip").to_string_lossy(), &["install", "-q", "-r", &requirements.to_string_lossy()]);
        std::fs::write(venv.join("ready"), "").unwrap();
    }
    let done = Command::new(venv.join("bin/python"))
        .arg(here.join("stock_client.py"))
        .args([live.env.get("SOMA_KAFKA_BROKERS").unwrap(), live.env.get("SOMA_REGISTRY_URL").unwrap(), &live.receiver()])
        .output()
        .unwrap();
    assert!(done.status.success(), "{}{}", text(&done.stdout), text(&done.stderr));
    assert!(text(&done.stdout).contains("stock client: run SUCCEEDED"), "{}", text(&done.stdout));
    println!("{}", text(&done.stdout).trim());
}
