#!/usr/bin/env bash
# Chaos on servers of its own: three instances, steady load, one fault after the other for MINUTES (RATE requests a second). With the argument
# `handover` they are scaled and rolled instead, REST seconds apart.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${CARGO_TARGET_DIR:?run this through make chaos}"
what=${1:-chaos}
home=$(mktemp -d "${TMPDIR:-/tmp}/soma-$what.XXXXXX")
export SOMA_HOME=$home SOMA_BIN=$CARGO_TARGET_DIR/debug/soma SOMA_PARTITIONS=${SOMA_PARTITIONS:-6}
stack() { python3 deploy/dev/stack.py "$@" --home "$home"; }
finish() {
    status=$?
    mkdir -p "target/$what-logs" && cp "$home"/logs/*.log "target/$what-logs/" 2>/dev/null || true
    stack down >/dev/null 2>&1 || true
    rm -rf "$home"
    exit "$status"
}
trap finish EXIT INT TERM
deploy/dev/step.sh "start servers for $what" python3 deploy/dev/stack.py up --home "$home"
sed -i "s/^SOMA_PARTITIONS=.*/SOMA_PARTITIONS=$SOMA_PARTITIONS/" "$home/dev.env"
deploy/dev/step.sh "topics, schemas, migrations" "$SOMA_BIN" --env-file "$home/dev.env" deploy control-tower
# The test runs its own three instances.
stack down control-tower
test=chaos::nothing_is_lost_doubled_or_torn
[ "$what" = chaos ] || test=chaos::$what::
echo "machine: $(nproc) cores, $(awk '/MemTotal/ {printf "%d", $2/1048576}' /proc/meminfo) GiB; one Kafka node, $SOMA_PARTITIONS partitions a topic; state on disk"
deploy/dev/step.sh "$what" cargo test --workspace --features soma-tests/live --test soma -- "$test" --test-threads=1 --nocapture
