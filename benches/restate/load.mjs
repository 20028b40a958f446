// Starts flows at a steady rate, whatever comes back, and prints how long they took and how many ended a second.
// Usage: node load.mjs INGRESS one|three RATE SECONDS
import http from "node:http";

const [ingress, flow, rate, seconds] = process.argv.slice(2);
const { hostname, port } = new URL(ingress);
const agent = new http.Agent({ keepAlive: true, maxSockets: 1024 });
const total = Number(rate) * Number(seconds);
const latencies = [];
let failed = 0;

const start = (due) => {
  const done = (ok) => (ok ? latencies.push(performance.now() - due) : (failed += 1));
  const request = http.request(
    { agent, hostname, port, method: "POST", path: `/probe/${flow}`, headers: { "content-length": 0 } },
    (answer) => {
      answer.resume();
      answer.on("end", () => done(answer.statusCode === 200));
    },
  );
  request.on("error", () => done(false));
  request.end();
};

const begun = performance.now();
let sent = 0;
const timer = setInterval(() => {
  // What was due since the last tick, each counted from when it was due.
  for (const now = performance.now(); sent < total; sent++) {
    const due = begun + (sent * 1000) / Number(rate);
    if (due > now) break;
    start(due);
  }
  const waited = performance.now() - begun - Number(seconds) * 1000;
  if (latencies.length + failed < total && waited < 10_000) return;
  clearInterval(timer);
  latencies.sort((a, b) => a - b);
  const at = (q) => Math.round(latencies[Math.round((latencies.length - 1) * q)] ?? -1);
  const took = (performance.now() - begun) / 1000;
  console.log(
    JSON.stringify({ p50_ms: at(0.5), p99_ms: at(0.99), per_s: Math.round(latencies.length / took), failed, unanswered: total - latencies.length - failed }),
  );
  process.exit(0);
}, 2);
