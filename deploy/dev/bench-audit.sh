#!/usr/bin/env bash
# The audit on servers of its own: a chain verified on one core, and random single changes to copies of the topic and the table. Prints
# the machine, then the figures last.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${CARGO_TARGET_DIR:?run this through make bench-audit}"
cargo build -q --release --package soma-benches
home=$(mktemp -d "${TMPDIR:-/tmp}/soma-audit.XXXXXX")
stack() { python3 deploy/dev/stack.py "$@" --home "$home"; }
trap 'stack down >/dev/null 2>&1 || true; rm -rf "$home"' EXIT INT TERM
stack up --parts kafka,schema-registry,clickhouse
set -a
# shellcheck disable=SC1091
. "$home/dev.env"
set +a
user=$SOMA_CLICKHOUSE_USER:$SOMA_CLICKHOUSE_PASSWORD
curl -sS --fail-with-body -u "$user" "$SOMA_CLICKHOUSE_URL/" --data-binary "CREATE DATABASE bench_audit"
echo "machine: $(nproc) cores, $(awk '/MemTotal/ {printf "%d", $2/1048576}' /proc/meminfo) GiB; release build; one core verifies"
"$CARGO_TARGET_DIR/release/soma-bench" audit --brokers "$SOMA_KAFKA_BROKERS" --registry "$SOMA_REGISTRY_URL" --clickhouse "$SOMA_CLICKHOUSE_URL" \
	--clickhouse-user "$user" --tables sinks/migrations/clickhouse/0003_audit.sql --entries "${ENTRIES:-1000000}" --changes "${CHANGES:-1000}"
