#!/usr/bin/env bash
# A backtest on servers of its own: a seeded week of verdicts, judged again by a changed bundle, the report compared with a direct
# evaluation of every one. Prints the machine, then the figures last.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${CARGO_TARGET_DIR:?run this through make bench-backtest}"
# As it would be shipped, and as bench-gate measures: deploy/docker builds for release too.
deploy/dev/step.sh "build for release (the query engine takes its time)" cargo build --release --package soma-pipelines --package soma-benches
home=$(mktemp -d "${TMPDIR:-/tmp}/soma-backtest.XXXXXX")
stack() { python3 deploy/dev/stack.py "$@" --home "$home"; }
trap 'stack down >/dev/null 2>&1 || true; rm -rf "$home"' EXIT INT TERM
stack up --parts kafka,schema-registry
bin=$CARGO_TARGET_DIR/release
# The changed bundle: a lower limit, a day of frozen changes, a tenant that may only look, a protected workspace.
cp -r pipelines/policies/base "$home/changed"
python3 - "$home/changed/data.yaml" <<'PY'
import datetime, sys
path = sys.argv[1]
text = open(path).read()
now = datetime.datetime.now(datetime.timezone.utc)
day = lambda back: (now - datetime.timedelta(days=back)).strftime("%Y-%m-%dT%H:%M:%SZ")
for old, new in [
    ("freezes: []", f'freezes: [{{from: "{day(4)}", until: "{day(3)}", reason: "a day of rest"}}]'),
    ("  budget_usd: 100\n", "  budget_usd: 40\n"),
    ("read_only: [globex-readonly, umbrella]", "read_only: [globex-readonly, umbrella, hooli]"),
    ("  protected: []", "  protected: [web]"),
]:
    assert old in text, old
    text = text.replace(old, new)
open(path, "w").write(text)
PY
set -a
# shellcheck disable=SC1091
. "$home/dev.env"
set +a
echo "machine: $(nproc) cores, $(awk '/MemTotal/ {printf "%d", $2/1048576}' /proc/meminfo) GiB; release build"
"$bin/soma-bench" backtest --brokers "$SOMA_KAFKA_BROKERS" --registry "$SOMA_REGISTRY_URL" --soma "$bin/soma" --env-file "$home/dev.env" \
	--changed "$home/changed" --verdicts "${VERDICTS:-100000}"
