#!/usr/bin/env bash
# A soak on servers of its own: steady load for MINUTES with state on disk, at RATE requests a second, else at half of what is sustained now.
# Runs, requests and calls are forgotten after FORGET minutes, as the pipeline file says, so that state stops growing and memory can be seen to.
# Prints the machine, then the figures last; the picture is target/soak.svg.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${CARGO_TARGET_DIR:?run this through make soak}"
cargo build -q --workspace
bin=$CARGO_TARGET_DIR/debug minutes=${MINUTES:-30} forget=${FORGET:-4}
home=$(mktemp -d "${TMPDIR:-/tmp}/soma-soak.XXXXXX")
stack() { python3 deploy/dev/stack.py "$@" --home "$home"; }
trap 'stack down >/dev/null 2>&1 || true; rm -rf "$home"' EXIT INT TERM
export SOMA_STATE=disk SOMA_STATE_DIR=$home/state
stack up
sed -i "s/^SOMA_PARTITIONS=.*/SOMA_PARTITIONS=${SOMA_PARTITIONS:-1}/" "$home/dev.env"
# The shipped pipeline, changed as an operator would change it.
cp -r pipelines "$home/pipelines"
file=$home/pipelines/control-tower/pipeline.yaml
hours=$(awk "BEGIN { print $forget / 60 }")
ms=$(awk "BEGIN { printf \"%d\", $forget * 60000 }")
sed -i "s/dedupe_hours: 168/dedupe_hours: $hours/; s/forget_hours: 24/forget_hours: $hours/; s/^\( *\)verdict_key_file: .*/&\n\1stage: { finished_ms: $ms }/" "$file"
[ "$(grep -cE "(dedupe|forget)_hours: $hours|finished_ms: $ms" "$file")" = 3 ]
SOMA_HOME=$home "$bin/soma" --env-file "$home/dev.env" deploy "$file"
set -a
# shellcheck disable=SC1091
. "$home/dev.env"
set +a
pid=$(stack status --json | python3 -c 'import json,sys; d=json.load(sys.stdin); p=d.get("parts", d); p=p if isinstance(p, list) else [dict(v, name=k) for k, v in p.items()]; print(next(x["pid"] for x in p if x["name"] == "control-tower"))')
echo "machine: $(nproc) cores, $(awk '/MemTotal/ {printf "%d", $2/1048576}' /proc/meminfo) GiB, load $(cut -d' ' -f1 /proc/loadavg) before; dev profile of Cargo.toml; one Kafka node, $SOMA_PARTITIONS partition(s) a topic, acks=all; state on disk, forgotten after $forget minutes"
load() { "$bin/soma-bench" "$1" --brokers "$SOMA_KAFKA_BROKERS" --registry "$SOMA_REGISTRY_URL" --url "$SOMA_RECEIVER_URL/ok" --pid "$pid" "${@:2}"; }
# Sustained: the highest of these rates whose slowest hundredth stays under half a second.
rate=${RATE:-}
if [ -z "$rate" ]; then
	sustained=0
	for try in 20 40 60 80 120 160 240 320; do
		line=$(load e2e --rate "$try" --seconds 20) || break
		echo "at $try/s: $line"
		p99=${line#*e2e_p99_ms=}
		[ "${p99%% *}" -lt 500 ] || break
		sustained=$try
	done
	[ "$sustained" -gt 0 ] || { echo "not even 20/s is sustained: the machine is too busy" >&2; exit 1; }
	rate=$((sustained / 2))
	echo "sustained: $sustained/s; soaked at $rate/s"
fi
mkdir -p target
# What was asked for first is forgotten after that time, a minute more fills caches.
load soak --admin "127.0.0.1:$SOMA_ADMIN_PORT" --rate "$rate" --seconds $((minutes * 60)) --settled-s $((forget * 60 + 120)) --slope-max "${SLOPE_MAX:-30}" --picture target/soak.svg
