#!/usr/bin/env bash
# Chaos on servers of its own: three instances, steady load, one fault after the other for MINUTES (RATE requests a second).
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${CARGO_TARGET_DIR:?run this through make chaos}"
home=$(mktemp -d "${TMPDIR:-/tmp}/soma-chaos.XXXXXX")
export SOMA_HOME=$home SOMA_BIN=$CARGO_TARGET_DIR/debug/soma SOMA_PARTITIONS=${SOMA_PARTITIONS:-6}
stack() { python3 deploy/dev/stack.py "$@" --home "$home"; }
finish() {
    status=$?
    mkdir -p target/chaos-logs && cp "$home"/logs/*.log target/chaos-logs/ 2>/dev/null || true
    stack down >/dev/null 2>&1 || true
    rm -rf "$home"
    exit "$status"
}
trap finish EXIT INT TERM
deploy/dev/step.sh "start servers for chaos" python3 deploy/dev/stack.py up --home "$home"
sed -i "s/^SOMA_PARTITIONS=.*/SOMA_PARTITIONS=$SOMA_PARTITIONS/" "$home/dev.env"
deploy/dev/step.sh "topics, schemas, migrations" "$SOMA_BIN" --env-file "$home/dev.env" deploy control-tower
# The test runs its own three instances.
stack down control-tower
deploy/dev/step.sh "chaos" cargo test --workspace --features soma-tests/live --test soma -- chaos:: --test-threads=1 --nocapture
