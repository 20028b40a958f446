#!/usr/bin/env bash
# Runs one step with a line before and after that says what it is and how long it took.
set -euo pipefail
name=$1
shift
start=$(date +%s)
printf '==> %s\n' "$name" >&2
status=0
"$@" || status=$?
if [ "$status" -eq 0 ]; then word=done; else word="FAILED ($status)"; fi
printf '<== %s: %s in %ss\n' "$name" "$word" "$(($(date +%s) - start))" >&2
exit "$status"
