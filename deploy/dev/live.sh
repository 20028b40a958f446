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
    trap - EXIT INT TERM
    if [ "$status" -ne 0 ]; then
        mkdir -p target/live-logs && cp "$home"/logs/*.log "$home"/live.log target/live-logs/ 2>/dev/null || true
        explain >&2 || true
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
# Where nothing is left of the machine but these lines, they have to do: how the servers and the stages stand, what the pipeline
# complained of, and last what each failed test said.
explain() {
    stack status || true
    timeout 30 "$SOMA_BIN" --env-file "$home/dev.env" stages || true
    echo "-- the pipeline's complaints, counted, and the last of them"
    grep -hE '"level":"(WARN|ERROR)"|^[^ ]+ +(WARN|ERROR) ' "$home"/logs/control-tower*.log >"$home/complaints" || true
    grep -oE '(code|detail|message)"?[=:] ?"?[^",}]{0,80}' "$home/complaints" | sort | uniq -c | sort -rn | head -15 || true
    tail -n 15 "$home/complaints" | cut -c1-600
    echo "-- failed tests"
    [ ! -f "$home/live.log" ] || grep -hE -A12 "panicked at|^failures:" "$home/live.log" | grep -vE '^ +[0-9]+: |^ +at |^--$' | cut -c1-600 | tail -n 80
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
# Beside them what the checker of `make chaos` takes for recovery, which needs no servers.
deploy/dev/step.sh "live tests" cargo test --workspace --features soma-tests/live --test soma -- "live::${SOMA_LIVE_FILTER:-}" chaos::commits --test-threads=1 --nocapture 2>&1 | tee "$home/live.log"
