#!/usr/bin/env bash
# Live tests: starts the real servers and the pipeline in a home of their own, runs the live tier, stops what it started.
# SOMA_LIVE_KEEP=1 leaves everything running for a look; SOMA_LIVE_FILTER=name runs the tests whose name holds it.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${CARGO_TARGET_DIR:?run this through make live}"
home=$(mktemp -d "${TMPDIR:-/tmp}/soma-live.XXXXXX")
export SOMA_HOME=$home SOMA_BIN=$CARGO_TARGET_DIR/debug/soma
stack() { python3 deploy/dev/stack.py "$@" --home "$home"; }
finish() {
    status=$?
    if [ "$status" -ne 0 ]; then
        stack status >&2 || true
        mkdir -p target/live-logs && cp "$home"/logs/*.log target/live-logs/ 2>/dev/null || true
        echo "logs of the failed run: target/live-logs" >&2
    fi
    if [ -z "${SOMA_LIVE_KEEP:-}" ]; then
        stack down >/dev/null 2>&1 || true
        rm -rf "$home"
    else
        echo "kept: $home" >&2
    fi
    exit "$status"
}
trap finish EXIT INT TERM
deploy/dev/step.sh "start servers for the live tests" python3 deploy/dev/stack.py up --home "$home"
deploy/dev/step.sh "deploy the pipeline" "$SOMA_BIN" --env-file "$home/dev.env" deploy control-tower
# The sinks and the models against their own servers and files, then the whole pipeline.
stores() (
    set -a
    # shellcheck disable=SC1091
    . "$home/dev.env"
    set +a
    deploy/dev/step.sh "live tests of stores and models" cargo test --workspace --lib --quiet -- --ignored --skip terraform "${SOMA_LIVE_FILTER:-live_tests}"
)
stores
deploy/dev/step.sh "live tests" cargo test --workspace --features soma-tests/live --test soma -- "live::${SOMA_LIVE_FILTER:-}" --test-threads=1 --nocapture
