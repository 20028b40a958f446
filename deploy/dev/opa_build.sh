#!/usr/bin/env bash
# Builds the OPA of deploy/dev/opa/go.mod into the cache, if it is not there, and prints where it and its published tests are.
set -euo pipefail
cd "$(dirname "$0")/opa"
: "${SOMA_CACHE:?}"
module=github.com/open-policy-agent/opa
version=$(awk -v m=$module '$1 == m {print $2}' go.mod)
binary=$SOMA_CACHE/bin/opa-$version
if [ ! -x "$binary" ]; then
	mkdir -p "$SOMA_CACHE/bin"
	CGO_ENABLED=0 go build -trimpath -ldflags="-s -w" -o "$binary.new" $module >&2
	mv "$binary.new" "$binary"
fi
printf 'export SOMA_OPA=%q SOMA_OPA_TESTS=%q\n' "$binary" "$(go list -m -f '{{.Dir}}' $module)/v1/test/cases/testdata/v1"
