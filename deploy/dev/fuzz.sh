#!/usr/bin/env bash
# Every fuzz target for SECONDS_ each, from the corpus in the checkout, which it leaves alone. A finding is kept in
# target/fuzz-findings with the command that shows it again. KEEP=1 writes the smallest corpus of the same coverage back.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${SOMA_CACHE:?run this through make fuzz}"
seconds=${SECONDS_:-60}
targets=(records plans controls approvals)
version=0.13.2
tools=$SOMA_CACHE/cargo-fuzz
[ -x "$tools/bin/cargo-fuzz" ] || cargo install --quiet --locked --root "$tools" cargo-fuzz --version "$version"
export PATH=$tools/bin:$PATH
built=$SOMA_CACHE/target-fuzz
# Our own code is safe Rust: coverage alone, which the stable compiler has, and overflow checks find what it can do wrong.
cargo fuzz build --sanitizer none --fuzz-dir tests/fuzz --target-dir "$built" 2>"$built.log" || { cat "$built.log"; exit 1; }
work=$(mktemp -d "${TMPDIR:-/tmp}/soma-fuzz.XXXXXX")
trap 'rm -rf "$work"' EXIT INT TERM
findings=$PWD/target/fuzz-findings
mkdir -p "$findings"
run() {
	local target=$1 bin
	bin=$(find "$built" -path "*/release/$target" -type f | head -1)
	mkdir -p "$work/$target"
	cp "tests/fuzz/corpus/$target"/* "$work/$target"
	"$bin" "$work/$target" -max_total_time="$seconds" -max_len=8192 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 \
		-artifact_prefix="$findings/$target-" >"$work/$target.log" 2>&1 || touch "$work/$target.failed"
	if [ -n "${KEEP:-}" ]; then
		mkdir "$work/$target.small"
		"$bin" -merge=1 -max_len=1024 "$work/$target.small" "$work/$target" >>"$work/$target.log" 2>&1
		cp "$work/$target.small"/* "tests/fuzz/corpus/$target"
	fi
}
# Two at a time: one a core.
for pair in "records plans" "controls approvals"; do
	for target in $pair; do run "$target" & done
	wait
done
executions=0 failed=0
for target in "${targets[@]}"; do
	n=$(awk '/stat::number_of_executed_units/ {print $2}' "$work/$target.log")
	executions=$((executions + ${n:-0}))
	if [ -e "$work/$target.failed" ]; then
		failed=$((failed + 1))
		grep -E "panicked at|assertion|left:|right:|ERROR|Test unit written" -A1 "$work/$target.log" | head -20
		echo "again: cargo fuzz run --sanitizer none --fuzz-dir tests/fuzz $target <the file written above>"
	fi
done
echo "fuzz targets=${#targets[@]} seconds_each=$seconds executions=$executions findings=$failed"
[ "$failed" -eq 0 ]
