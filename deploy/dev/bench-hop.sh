#!/usr/bin/env bash
# The price of a hop: our stage, a bare client loop and Kafka Streams in turns on one broker. Prints the machine, then the figures last.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${CARGO_TARGET_DIR:?run this through make bench-hop}" "${SOMA_CACHE:?run this through make bench-hop}"
# Both sides as they would be shipped: the JVM compiles for speed too.
cargo build -q --release --package soma-benches
version() { python3 -c 'import json,sys; e=json.load(open("deploy/dev/versions.json"))[sys.argv[1]]; print(e.get("maven", e.get("pip")), e["version"])' "$1"; }
read -r _ kafka <<<"$(version kafka)"
read -r plugin plugin_version <<<"$(version maven_dependency_plugin)"
read -r _ java <<<"$(version java)"
jars=$SOMA_CACHE/kstreams-$kafka
if [ ! -d "$jars" ]; then
	python3 deploy/dev/stack.py setup --for up >/dev/null
	rm -rf "$jars.part"
	(cd benches/hop/kstreams && mvn -q -B "$plugin:$plugin_version:copy-dependencies" -DincludeScope=runtime -DoutputDirectory="$jars.part" -Dkafka.version="$kafka")
	mv "$jars.part" "$jars"
fi
command -v javac >/dev/null || { apt-get update -q && apt-get install -y -q --no-install-recommends openjdk-17-jdk-headless; } >/dev/null
home=$(mktemp -d "${TMPDIR:-/tmp}/soma-hop.XXXXXX")
stack() { python3 deploy/dev/stack.py "$@" --home "$home"; }
trap 'stack down >/dev/null 2>&1 || true; rm -rf "$home"' EXIT INT TERM
javac --release 17 -cp "$jars/*" -d "$home/classes" benches/hop/kstreams/HopStreams.java
stack up --parts kafka,schema-registry
set -a
# shellcheck disable=SC1091
. "$home/dev.env"
set +a
echo "machine: $(nproc) cores, $(awk '/MemTotal/ {printf "%d", $2/1048576}' /proc/meminfo) GiB; release build; Kafka and Kafka Streams $kafka on Java $java, exactly_once_v2, one stream thread, RocksDB store, commit interval 100 ms; one broker, acks=all, lz4"
"$CARGO_TARGET_DIR/release/soma-bench" hop --brokers "$SOMA_KAFKA_BROKERS" --registry "$SOMA_REGISTRY_URL" \
	--records "${RECORDS:-400000}" --rounds "${ROUNDS:-3}" \
	--kstreams "$SOMA_CACHE/java-$java/bin/java -cp $home/classes:$jars/* HopStreams $home/kstreams schemas/avro/soma/Event.avsc"
