#!/usr/bin/env bash
# A topic of events kept in ClickHouse by the production sink, on servers of its own: RowBinary beside Native, by turns. Prints the
# machine, a line for each batch size, then the figures last.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${CARGO_TARGET_DIR:?run this through make bench-clickhouse}"
cargo build -q --release --package soma-benches
home=$(mktemp -d "${TMPDIR:-/tmp}/soma-bench-clickhouse.XXXXXX")
stack() { python3 deploy/dev/stack.py "$@" --home "$home"; }
trap 'stack down >/dev/null 2>&1 || true; rm -rf "$home"' EXIT INT TERM
stack up --parts kafka,schema-registry,clickhouse
set -a
# shellcheck disable=SC1091
. "$home/dev.env"
set +a
pid=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["parts"]["clickhouse"]["pid"])' "$home/stack.json")
echo "machine: $(nproc) cores, $(awk '/MemTotal/ {printf "%d", $2/1048576}' /proc/meminfo) GiB; release build; one broker, one partition"
"$CARGO_TARGET_DIR/release/soma-bench" clickhouse --brokers "$SOMA_KAFKA_BROKERS" --registry "$SOMA_REGISTRY_URL" --clickhouse "$SOMA_CLICKHOUSE_URL" \
	--clickhouse-user "$SOMA_CLICKHOUSE_USER:$SOMA_CLICKHOUSE_PASSWORD" --clickhouse-pid "$pid" --records "${RECORDS:-600000}" --rounds "${ROUNDS:-5}" \
	--batches "${BATCHES:-100,500,5000,20000}"
