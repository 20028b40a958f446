#!/usr/bin/env bash
# A soak on servers of its own: RATE requests a second for MINUTES, state on disk. Prints the machine, then the figures last; the picture is
# target/soak.svg.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${CARGO_TARGET_DIR:?run this through make soak}"
cargo build -q --workspace
bin=$CARGO_TARGET_DIR/debug
home=$(mktemp -d "${TMPDIR:-/tmp}/soma-soak.XXXXXX")
stack() { python3 deploy/dev/stack.py "$@" --home "$home"; }
trap 'stack down >/dev/null 2>&1 || true; rm -rf "$home"' EXIT INT TERM
export SOMA_STATE=disk SOMA_STATE_DIR=$home/state
stack up
sed -i "s/^SOMA_PARTITIONS=.*/SOMA_PARTITIONS=${SOMA_PARTITIONS:-1}/" "$home/dev.env"
SOMA_HOME=$home "$bin/soma" --env-file "$home/dev.env" deploy control-tower
set -a
# shellcheck disable=SC1091
. "$home/dev.env"
set +a
pid=$(stack status --json | python3 -c 'import json,sys; d=json.load(sys.stdin); p=d.get("parts", d); p=p if isinstance(p, list) else [dict(v, name=k) for k, v in p.items()]; print(next(x["pid"] for x in p if x["name"] == "control-tower"))')
echo "machine: $(nproc) cores, $(awk '/MemTotal/ {printf "%d", $2/1048576}' /proc/meminfo) GiB; dev profile of Cargo.toml; one Kafka node, $SOMA_PARTITIONS partition(s) a topic, acks=all; state on disk"
mkdir -p target
"$bin/soma-bench" soak --brokers "$SOMA_KAFKA_BROKERS" --registry "$SOMA_REGISTRY_URL" --url "$SOMA_RECEIVER_URL/ok" --pid "$pid" \
	--rate "${RATE:-100}" --seconds $((${MINUTES:-30} * 60)) --picture target/soak.svg
