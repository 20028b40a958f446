"""The figures of `make bench-e2e`: the platform and a Restate server in turns, at a steady rate, then the highest rate each sustains.

Started by bench.sh, which has the servers up. Every load is an open loop: a slow system does not slow it down.
"""

import json
import os
import statistics
import subprocess
import sys

P99_MAX_MS = 500
STEP = 1.4
# Outcomes a run of a capsule has.
STEPS = {"endpoint_probe": 1, "endpoint_thrice": 3}


def soma(capsule, rate, seconds):
    """p50, p99 in ms, runs per second and memory; None when runs were left without an outcome."""
    done = subprocess.run(
        [os.environ["SOMA_BENCH"], "e2e", "--brokers", os.environ["SOMA_KAFKA_BROKERS"], "--registry", os.environ["SOMA_REGISTRY_URL"],
         "--url", os.environ["SOMA_RECEIVER_URL"] + "/ok", "--pid", os.environ["SOMA_PID"], "--capsule", capsule, "--steps", str(STEPS[capsule]),
         "--rate", str(rate), "--seconds", str(seconds), *(["--distinct"] if os.environ.get("DISTINCT") else [])],
        capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"  {(done.stdout + done.stderr).strip()[-300:]}", flush=True)
        return None
    values = dict(word.split("=") for word in done.stdout.split() if "=" in word)
    return {"p50_ms": float(values["e2e_p50_ms"]), "p99_ms": float(values["e2e_p99_ms"]), "per_s": float(values["runs_per_s"]), "rss_mb": int(values["rss_mb"])}


def restate(flow, rate, seconds):
    """As soma()."""
    home = os.environ["RESTATE_HOME"]
    with open(f"{home}/ingress", encoding="utf-8") as file:
        ingress = file.read().strip()
    done = subprocess.run(["node", f"{home}/load.mjs", ingress, flow, str(rate), str(seconds)], capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout)
    return None if figures["failed"] or figures["unanswered"] else figures


def sustained(name, measure, flow, start):
    """Highest rate whose p99 stays under the limit for 60 s, searched in growing steps of 15 s.

    A step fails when it fails twice: one stall of a shared machine says nothing of the rate.
    """
    def holds(rate, seconds, tries):
        for _ in range(tries):
            seen = measure(flow, rate, seconds)
            print(f"  {name} {flow} at {rate}/s for {seconds} s: {seen}", flush=True)
            if seen and seen["p99_ms"] <= P99_MAX_MS:
                return True
        return False

    rate, good = start, 0
    while holds(rate, 15, 2):
        good, rate = rate, int(rate * STEP)
    while good and not holds(good, 60, 1):
        good = int(good / 1.1)
    return good


def main():
    rate, seconds = int(os.environ.get("RATE") or 100), int(os.environ.get("SECONDS_") or 60)
    # A broker that has just started runs interpreted: the warm-up lets its compiler finish, as a broker in service has.
    for _ in range(2):
        print(f"warm-up: {soma('endpoint_probe', rate, 30)}", flush=True)
    if os.environ.get("RESTATE") == "0":
        seen = soma("endpoint_probe", rate, seconds)
        if seen is None:
            sys.exit(1)
        print(f"e2e_p50_ms={seen['p50_ms']:.0f} e2e_p99_ms={seen['p99_ms']:.0f} runs_per_s={seen['per_s']:.0f} rss_mb={seen['rss_mb']}")
        return
    restate("one", rate, 15)
    ours, theirs = [], []
    for turn in range(2):
        ours.append(soma("endpoint_probe", rate, seconds))
        theirs.append(restate("one", rate, seconds))
        print(f"round {turn + 1} at {rate}/s: platform {ours[-1]}, Restate {theirs[-1]}", flush=True)
    if None in ours or None in theirs:
        sys.exit("a round was not answered in full")
    best = {}
    for capsule, flow in (("endpoint_probe", "one"), ("endpoint_thrice", "three")):
        best[flow] = (sustained("platform", soma, capsule, rate), sustained("Restate", restate, flow, 2 * rate))
        print(f"sustained for 60 s with p99 under {P99_MAX_MS} ms, {flow} step: platform {best[flow][0]}/s, Restate {best[flow][1]}/s", flush=True)
    of = lambda all, what: statistics.mean(seen[what] for seen in all)
    print(f"e2e_p50_ms={of(ours, 'p50_ms'):.0f} e2e_p99_ms={of(ours, 'p99_ms'):.0f} runs_per_s={best['one'][0]} "
          f"runs3_per_s={best['three'][0]} restate_p50_ms={of(theirs, 'p50_ms'):.0f} restate_p99_ms={of(theirs, 'p99_ms'):.0f} "
          f"restate_runs_per_s={best['one'][1]} restate_runs3_per_s={best['three'][1]} "
          f"ratio_restate_p50={of(ours, 'p50_ms') / of(theirs, 'p50_ms'):.2f} ratio_restate_runs={best['one'][0] / max(1, best['one'][1]):.2f} "
          f"rss_mb={max(seen['rss_mb'] for seen in ours)}")


main()
