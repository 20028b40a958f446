#!/usr/bin/env bash
# Every window of the flights pipeline beside a batch computation, on servers of its own; of the hubs pipeline with PIPELINE=hubs. ROWS= KILLS= INSTANCES= SEED=;
# KEEP=1 leaves the home. With `backfill`: the same of `soma backfill`. ROWS= KILLS= SEED=
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${CARGO_TARGET_DIR:?run this through make verify-windows}"
home=$(mktemp -d "${TMPDIR:-/tmp}/soma-windows.XXXXXX")
export SOMA_HOME=$home SOMA_BIN=${SOMA_BIN:-$CARGO_TARGET_DIR/debug/soma}
stack() { python3 deploy/dev/stack.py "$@" --home "$home"; }
finish() {
    status=$?
    if [ "$status" -ne 0 ]; then
        mkdir -p target/windows-logs && cp "$home"/logs/*.log target/windows-logs/ 2>/dev/null || true
        echo "logs of the failed run: target/windows-logs" >&2
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
deploy/dev/step.sh "start servers" python3 deploy/dev/stack.py up --home "$home"
set -a
# shellcheck disable=SC1091
. "$home/dev.env"
SOMA_PARTITIONS=4
set +a
if [ "${1:-}" = backfill ]; then
    "$SOMA_LIVE_PYTHON" deploy/dev/verify_backfill.py --rows "${ROWS:-30000}" --kills "${KILLS:-4}" --seed "${SEED:-1}"
    exit
fi
# shellcheck disable=SC2086
"$SOMA_LIVE_PYTHON" deploy/dev/verify_windows.py --pipeline "${PIPELINE:-flights}" --rows "${ROWS:-3000000}" --kills "${KILLS:-20}" --seed "${SEED:-1}" --instances ${INSTANCES:-1 2 4}
