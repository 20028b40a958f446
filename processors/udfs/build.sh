#!/usr/bin/env bash
# Builds the UDFs into $SOMA_CACHE/udfs, where `soma` and the tests look for them, and the subjects of the host's tests beside them.
set -euo pipefail
cd "$(dirname "$0")"
: "${SOMA_CACHE:?run this through make udfs}"
built=$SOMA_CACHE/target-udfs
export CARGO_TARGET_DIR=$built
[ "$(uname)" = Darwin ] && suffix=dylib || suffix=so
cargo build --quiet --locked --release --examples
# Renamed into place: a running process has the old one mapped.
put() {
	local from=$1 to=$2
	mkdir -p "$(dirname "$to")"
	cmp -s "$from" "$to" && return
	cp "$from" "$to.new"
	mv "$to.new" "$to"
}
for source in plugins/*.rs; do
	name=$(basename "$source" .rs)
	put "$built/release/examples/lib$name.$suffix" "$SOMA_CACHE/udfs/$name.$suffix"
done
for source in faulty/*.rs; do
	name=$(basename "$source" .rs)
	put "$built/release/examples/libfaulty_$name.$suffix" "$SOMA_CACHE/udfs-faulty/$name.$suffix"
done
echo "udfs built=$(ls plugins | wc -l) in $SOMA_CACHE/udfs"
