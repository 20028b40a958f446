#!/usr/bin/env bash
# A streaming view with KEYS open keys, fed for MINUTES at RATE records a second, else at half of what it sustains now; on servers of its own.
# Prints the machine, then the figures last; the picture is target/soak-analytics.svg.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${CARGO_TARGET_DIR:?run this through make soak-analytics}"
home=$(mktemp -d "${TMPDIR:-/tmp}/soma-soak-analytics.XXXXXX")
export SOMA_HOME=$home SOMA_BIN=$CARGO_TARGET_DIR/debug/soma SOMA_BENCH=$CARGO_TARGET_DIR/debug/soma-bench
stack() { python3 deploy/dev/stack.py "$@" --home "$home"; }
finish() {
    status=$?
    trap - EXIT INT TERM
    if [ "$status" -ne 0 ]; then
        mkdir -p target/soak-analytics-logs && cp "$home"/logs/*.log target/soak-analytics-logs/ 2>/dev/null || true
        echo "logs of the failed run: target/soak-analytics-logs" >&2
    fi
    stack down >/dev/null 2>&1 || true
    rm -rf "$home"
    exit "$status"
}
trap finish EXIT INT TERM
# All parts: `soma topics apply` looks at every shipped pipeline, and they name all of them.
deploy/dev/step.sh "start servers" python3 deploy/dev/stack.py up --home "$home"
set -a
# shellcheck disable=SC1091
. "$home/dev.env"
set +a
SOMA_BENCH_ADMIN_PORT=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export SOMA_BENCH_ADMIN_PORT
echo "machine: $(nproc) cores, $(awk '/MemTotal/ {printf "%d", $2/1048576}' /proc/meminfo) GiB, load $(cut -d' ' -f1 /proc/loadavg) before; dev profile of Cargo.toml; one broker, the view on one core"
"$SOMA_LIVE_PYTHON" deploy/dev/soak_analytics.py --minutes "${MINUTES:-30}" --keys "${KEYS:-1000000}" --rate "${RATE:-0}" --slope-max "${SLOPE_MAX:-30}"
