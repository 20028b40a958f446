#!/usr/bin/env bash
# Builds OPA from the Go module proxy into the cache, and holds our Rego beside it.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${CARGO_TARGET_DIR:?run this through make opa}"
eval "$(deploy/dev/opa_build.sh)"
cargo test --quiet --workspace --test soma -- opa:: --ignored --nocapture
