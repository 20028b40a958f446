#!/usr/bin/env bash
# Checkouts share one build cache, for its dependencies. Cargo tells our own crates apart by path within the workspace and by
# time, so a build of one checkout would pass for a build of another: our own crates are cleaned when the checkout changes.
set -euo pipefail
mark=${CARGO_TARGET_DIR:?}/checkout
[ "$(cat "$mark" 2>/dev/null)" = "$PWD" ] && exit
mkdir -p "$CARGO_TARGET_DIR"
cargo clean --workspace --quiet
[ ! -d "$CARGO_TARGET_DIR/release" ] || cargo clean --workspace --release --quiet
printf '%s\n' "$PWD" >"$mark"
