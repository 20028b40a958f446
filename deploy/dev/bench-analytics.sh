#!/usr/bin/env bash
# Streaming views beside a bare consumer and Flink SQL, in turns on one topic, one core each. RECORDS= ROUNDS= PARTITIONS=; FLINK= is the command
# that measures Flink (default: deploy/dev/bench_flink.py where it is there), FLINK=none leaves it out. The binary is the one of `make up`; PROFILE=release
# builds the query engine anew, for 25 minutes and a few percent.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${CARGO_TARGET_DIR:?run this through make bench-analytics}"
profile=${PROFILE:-debug}
if [ "$profile" = release ]; then
    deploy/dev/step.sh "build for release (the query engine takes its time)" cargo build --release --package soma-pipelines --package soma-benches
else
    deploy/dev/step.sh build cargo build --workspace
fi
home=$(mktemp -d "${TMPDIR:-/tmp}/soma-analytics.XXXXXX")
export SOMA_HOME=$home SOMA_BIN=${SOMA_BIN:-$CARGO_TARGET_DIR/$profile/soma} SOMA_BENCH=${SOMA_BENCH:-$CARGO_TARGET_DIR/$profile/soma-bench}
stack() { python3 deploy/dev/stack.py "$@" --home "$home"; }
trap 'stack down >/dev/null 2>&1 || true; rm -rf "$home"' EXIT INT TERM
# All parts: `soma topics apply` looks at every shipped pipeline, and they name all of them.
deploy/dev/step.sh "start servers" python3 deploy/dev/stack.py up --home "$home"
set -a
# shellcheck disable=SC1091
. "$home/dev.env"
set +a
flink=${FLINK:-}
if [ -z "$flink" ] && [ -f deploy/dev/bench_flink.py ]; then flink="$SOMA_LIVE_PYTHON deploy/dev/bench_flink.py"; fi
[ "$flink" != none ] || flink=
echo "machine: $(nproc) cores, $(awk '/MemTotal/ {printf "%d", $2/1048576}' /proc/meminfo) GiB; $profile build; one broker; each contestant on one core"
"$SOMA_LIVE_PYTHON" deploy/dev/bench_analytics.py --records "${RECORDS:-10000000}" --rounds "${ROUNDS:-3}" --partitions "${PARTITIONS:-1}" --flink "$flink"
