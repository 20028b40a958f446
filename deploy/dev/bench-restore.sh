#!/usr/bin/env bash
# State read back from its changelog: into memory, onto disk, and from a checkpoint. Prints the machine, then the figures last.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${CARGO_TARGET_DIR:?run this through make bench-restore}"
cargo build -q --release --package soma-benches
home=$(mktemp -d "${TMPDIR:-/tmp}/soma-restore.XXXXXX")
stack() { python3 deploy/dev/stack.py "$@" --home "$home"; }
trap 'stack down >/dev/null 2>&1 || true; rm -rf "$home"' EXIT INT TERM
stack up --parts kafka,schema-registry
set -a
# shellcheck disable=SC1091
. "$home/dev.env"
set +a
echo "machine: $(nproc) cores, $(awk '/MemTotal/ {printf "%d", $2/1048576}' /proc/meminfo) GiB; release build; one broker, one partition, lz4"
"$CARGO_TARGET_DIR/release/soma-bench" restore --brokers "$SOMA_KAFKA_BROKERS" --registry "$SOMA_REGISTRY_URL" --keys "${KEYS:-5000000}" --folder "$home/state"
