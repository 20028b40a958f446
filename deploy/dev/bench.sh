#!/usr/bin/env bash
# End-to-end benchmark on servers of its own: RATE requests a second for SECONDS_ seconds, beside a Restate server (RESTATE=0: without).
# PROFILE=release: as it would be shipped (half an hour to build at first). DISTINCT=1: every request says something else, and every memory is embedded.
# Prints the machine, then the figures last.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${CARGO_TARGET_DIR:?run this through make bench-e2e}"
profile=${PROFILE:-debug}
if [ "$profile" = release ]; then
	deploy/dev/step.sh "build for release (the query engine takes its time)" cargo build --release --workspace
else
	deploy/dev/step.sh build cargo build --workspace
fi
bin=$CARGO_TARGET_DIR/$profile
home=$(mktemp -d "${TMPDIR:-/tmp}/soma-bench.XXXXXX")
stack() { python3 deploy/dev/stack.py "$@" --home "$home"; }
restate=
trap '[ -z "$restate" ] || kill "$restate" 2>/dev/null || true; stack down >/dev/null 2>&1 || true; rm -rf "$home"' EXIT INT TERM
stack up
# One instance gains nothing from more, and pays a produce request per partition and transaction.
sed -i "s/^SOMA_PARTITIONS=.*/SOMA_PARTITIONS=${SOMA_PARTITIONS:-1}/" "$home/dev.env"
SOMA_HOME=$home "$bin/soma" --env-file "$home/dev.env" deploy control-tower
set -a
# shellcheck disable=SC1091
. "$home/dev.env"
SOMA_BENCH=$bin/soma-bench
SOMA_PID=$(stack status --json | python3 -c 'import json,sys; d=json.load(sys.stdin); p=d.get("parts", d); p=p if isinstance(p, list) else [dict(v, name=k) for k, v in p.items()]; print(next(x["pid"] for x in p if x["name"] == "control-tower"))')
RESTATE_HOME=$home/restate
set +a
beside=
if [ "${RESTATE:-1}" != 0 ]; then
	deploy/dev/restate.sh "$RESTATE_HOME" "$SOMA_RECEIVER_URL/ok" &
	restate=$!
	until [ -f "$RESTATE_HOME/ingress" ]; do
		kill -0 "$restate" 2>/dev/null || exit 1
		sleep 0.2
	done
	beside="; $("$RESTATE_HOME/node_modules/.bin/restate-server" --version | head -1), one node, RocksDB log as shipped, Node $(node --version) service"
fi
said="every request says the same, so embeddings come from the cache"
[ -z "${DISTINCT:-}" ] || said="every request says something else, so every memory is embedded"
echo "machine: $(nproc) cores, $(awk '/MemTotal/ {printf "%d", $2/1048576}' /proc/meminfo) GiB; $profile build; ${said}; one Kafka node, $SOMA_PARTITIONS partition(s) a topic, acks=all, read_committed, no fsync per record$beside"
python3 deploy/dev/bench_e2e.py
