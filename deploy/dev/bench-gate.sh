#!/usr/bin/env bash
# The policy gate on one core beside the bare Rego engine and an OPA server over HTTP, taking turns. Prints the machine, then the
# figures last.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${CARGO_TARGET_DIR:?run this through make bench-gate}"
eval "$(deploy/dev/opa_build.sh)"
cargo build -q --release --package soma-benches
echo "machine: $(nproc) cores, $(awk '/MemTotal/ {printf "%d", $2/1048576}' /proc/meminfo) GiB; release build; one thread; $("$SOMA_OPA" version | head -1 | sed 's/^/OPA /'), GOMAXPROCS=1"
"$CARGO_TARGET_DIR/release/soma-bench" gate --opa "$SOMA_OPA" --decisions "${DECISIONS:-20000}" --rounds "${ROUNDS:-3}"
