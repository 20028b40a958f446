#!/usr/bin/env bash
# End-to-end benchmark on servers of its own: RATE requests a second for SECONDS_ seconds. Prints the machine, then the figures last.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${CARGO_TARGET_DIR:?run this through make bench-e2e}"
cargo build -q --workspace
home=$(mktemp -d "${TMPDIR:-/tmp}/soma-bench.XXXXXX")
stack() { python3 deploy/dev/stack.py "$@" --home "$home"; }
trap 'stack down >/dev/null 2>&1 || true; rm -rf "$home"' EXIT INT TERM
stack up
SOMA_HOME=$home "$CARGO_TARGET_DIR/debug/soma" --env-file "$home/dev.env" deploy control-tower
set -a
# shellcheck disable=SC1091
. "$home/dev.env"
set +a
pid=$(stack status --json | python3 -c 'import json,sys; d=json.load(sys.stdin); p=d.get("parts", d); p=p if isinstance(p, list) else [dict(v, name=k) for k, v in p.items()]; print(next(x["pid"] for x in p if x["name"] == "control-tower"))')
bench() { "$CARGO_TARGET_DIR/debug/soma-bench" e2e --brokers "$SOMA_KAFKA_BROKERS" --registry "$SOMA_REGISTRY_URL" --url "$SOMA_RECEIVER_URL/ok" --pid "$pid" "$@"; }
echo "machine: $(nproc) cores, $(awk '/MemTotal/ {printf "%d", $2/1048576}' /proc/meminfo) GiB; dev profile of Cargo.toml; every request says the same, so embeddings come from the cache; one Kafka node, $SOMA_PARTITIONS partitions, acks=all, read_committed"
# A broker that has just started runs interpreted: the warm-up lets its compiler finish, as a broker in service has.
for _ in 1 2; do echo "warm-up: $(bench --rate "${RATE:-100}" --seconds 30)"; done
bench --rate "${RATE:-100}" --seconds "${SECONDS_:-60}"
