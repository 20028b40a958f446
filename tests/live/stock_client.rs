//! A stock client sees what we promise: Python, confluent-kafka and its Avro deserialiser, knowing only the registry's URL.

use std::path::PathBuf;
use std::process::Command;

use super::harness::{live, text};

#[test]
fn a_stock_client_produces_a_request_and_reads_the_run_back() {
    let live = live();
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("live");
    let python = live
        .env
        .get("SOMA_LIVE_PYTHON")
        .expect("SOMA_LIVE_PYTHON: run `python3 deploy/dev/stack.py setup --for test`");
    let done = Command::new(python)
        .arg(here.join("stock_client.py"))
        .args([
            live.env.get("SOMA_KAFKA_BROKERS").unwrap(),
            live.env.get("SOMA_REGISTRY_URL").unwrap(),
            &live.receiver(),
        ])
        .output()
        .unwrap();
    assert!(done.status.success(), "{}{}", text(&done.stdout), text(&done.stderr));
    assert!(
        text(&done.stdout).contains("stock client: run SUCCEEDED"),
        "{}",
        text(&done.stdout)
    );
    println!("{}", text(&done.stdout).trim());
}
