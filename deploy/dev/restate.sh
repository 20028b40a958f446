#!/usr/bin/env bash
# A Restate server and its Node service on free ports, for bench.sh: `restate.sh HOME URL` runs until it is killed and writes
# HOME/ingress, HOME/pid once both answer.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${SOMA_CACHE:?run this through make bench-e2e}"
home=$1 url=$2
modules=$SOMA_CACHE/restate-$(sha256sum benches/restate/package.json | cut -c1-12)
if [ ! -d "$modules" ]; then
	command -v npm >/dev/null || { apt-get update -q && apt-get install -y -q --no-install-recommends nodejs npm; } >/dev/null
	rm -rf "$modules.part" && mkdir -p "$modules.part"
	cp benches/restate/package.json "$modules.part/"
	(cd "$modules.part" && npm install --silent --no-audit --no-fund >/dev/null)
	mv "$modules.part" "$modules"
fi
# ES modules are looked for beside the program.
mkdir -p "$home"
cp benches/restate/*.mjs "$home/"
ln -sfn "$modules/node_modules" "$home/node_modules"
read -r service ingress admin node < <(python3 -c '
import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
print(*(s.getsockname()[1] for s in held))')
children=()
trap 'kill "${children[@]}" 2>/dev/null || true; wait' EXIT INT TERM
node --import "$home/shim.mjs" "$home/service.mjs" "$service" "$url" >"$home/service.log" 2>&1 &
children+=($!)
RESTATE_INGRESS__BIND_ADDRESS=127.0.0.1:$ingress RESTATE_ADMIN__BIND_ADDRESS=127.0.0.1:$admin \
	RESTATE_BIND_ADDRESS=127.0.0.1:$node RESTATE_ADVERTISED_ADDRESS=http://127.0.0.1:$node RESTATE_DISABLE_TELEMETRY=true \
	"$home/node_modules/.bin/restate-server" --base-dir "$home/data" >"$home/server.log" 2>&1 &
children+=($!)
register() {
	python3 - "http://127.0.0.1:$admin/deployments" "http://127.0.0.1:$service" <<-'PY' 2>/dev/null
		import json, sys, urllib.request
		body = json.dumps({"uri": sys.argv[2]}).encode()
		urllib.request.urlopen(urllib.request.Request(sys.argv[1], body, {"content-type": "application/json"}), timeout=5)
	PY
}
for _ in $(seq 150); do
	if register; then
		echo "http://127.0.0.1:$ingress" >"$home/ingress.part" && mv "$home/ingress.part" "$home/ingress"
		wait
	fi
	sleep 0.2
done
tail -n 5 "$home/server.log" >&2
tail -n 5 "$home/service.log" >&2
echo "Restate did not start; its logs are above" >&2
exit 1
