#!/usr/bin/env bash
# The SQL of pipelines/flights, or PIPELINE=hubs (its joins), on a real Flink cluster of two task managers with two slots each, every window
# beside a batch computation, on servers of its own. ROWS= SEED= MEMORY_MB= (with 1536 each their heartbeats ran out); KEEP=1 leaves
# the home and the cluster.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${CARGO_TARGET_DIR:?run this through make verify-flink}"
home=$(mktemp -d "${TMPDIR:-/tmp}/soma-flink.XXXXXX")
export SOMA_HOME=$home SOMA_BIN=${SOMA_BIN:-$CARGO_TARGET_DIR/debug/soma}
stack() { python3 deploy/dev/stack.py "$@" --home "$home"; }
finish() {
    status=$?
    if [ "$status" -ne 0 ]; then
        mkdir -p target/flink-logs && cp "$home"/logs/*.log target/flink-logs/ 2>/dev/null || true
        echo "logs of the failed run: target/flink-logs" >&2
    fi
    if [ -z "${KEEP:-}" ]; then
        stack down >/dev/null 2>&1 || true
        rm -rf "$home"
    else
        echo "kept: $home" >&2
    fi
    exit "$status"
}
trap finish EXIT INT TERM
# All parts: `soma topics apply` looks at every shipped pipeline, and they name all of them.
deploy/dev/step.sh "start servers" python3 deploy/dev/stack.py up --home "$home"
deploy/dev/step.sh "start Flink" python3 deploy/dev/flink.py up --home "$home" --task-managers 2 --slots 2 --memory-mb "${MEMORY_MB:-4096}"
set -a
# shellcheck disable=SC1091
. "$home/dev.env"
SOMA_PARTITIONS=4
set +a
"$SOMA_LIVE_PYTHON" deploy/dev/verify_flink.py --rows "${ROWS:-3000000}" --seed "${SEED:-1}" --pipeline "${PIPELINE:-flights}"
