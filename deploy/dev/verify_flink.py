"""The figures of `make verify-flink`: the six views of pipelines/flights, or with `--pipeline hubs` those joins of pipelines/hubs that Flink
takes, rendered to Flink SQL and run by a real Flink cluster, beside a batch computation by ClickHouse. Started by verify_flink.sh, which has
the servers and the cluster up.
"""
import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from flinkstack import load, rest
from windows import check, data, joined

ROOT = Path(__file__).resolve().parents[2]
# What each pipeline has of views that Flink runs; the others are left out, with the reason.
RUNS = {"flights": set(check.VIEWS), "hubs": {"hubs", "returns", "answered"}}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pipeline", choices=tuple(RUNS), default="flights")
    parser.add_argument("--parallelism", type=int, default=4)
    parser.add_argument("--wait", type=int, default=1800, help="longest the job may take, seconds")
    return parser.parse_args()


def soma(env, *words):
    done = subprocess.run([env["SOMA_BIN"], *words], env=env, cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError("soma {}:\n{}{}".format(" ".join(words), done.stdout, done.stderr))
    return done


def run(env, options):
    """The job, from its statements to its end; seconds it took."""
    began = time.monotonic()
    done = soma(env, "deploy", options.pipeline, "--engine", "flink", "--bounded", "--parallelism", str(options.parallelism))
    if done.stderr.strip():
        print(done.stderr.strip(), flush=True)
    job = done.stdout.split()[-1]
    state = rest.await_job(env["SOMA_FLINK_REST_URL"], job, options.wait)
    seconds = time.monotonic() - began
    print("flink job={} state={} seconds={:.1f}".format(job, state, seconds), flush=True)
    if state != "FINISHED":
        raise RuntimeError("the job is {}".format(state))


def left_out(env, pipeline):
    """Names of the results that Flink does not compute."""
    done = soma(env, "--json", "deploy", pipeline, "--engine", "flink", "--bounded", "--dry-run")
    return {name for name, _ in json.loads(done.stdout)["left_out"]}


def judge(env, store, names):
    checked = wrong = views = 0
    for view in names:
        told = check.take_results(env, store, view)
        some, bad, again, samples = check.compare(store, view)
        print("  {}: windows={} wrong={} records={} revisions={}".format(view, some, bad, told, again), flush=True)
        for sample in samples:
            print("    wrong: {}".format("  ".join(sample)[:600]), flush=True)
        checked, wrong, views = checked + some, wrong + bad, views + bool(told)
    return checked, wrong, views


def main():
    options = arguments()
    env = dict(os.environ)
    store = data.ClickHouse(env)
    data.prepare(store, options.rows, options.seed)
    soma(env, "topics", "apply")
    known = check.VIEWS if options.pipeline == "flights" else joined.VIEWS
    names = [view for view in known if view not in left_out(env, options.pipeline)]
    if set(names) != RUNS[options.pipeline]:
        raise RuntimeError("Flink is to run {}, and is given {}".format(sorted(RUNS[options.pipeline]), sorted(names)))
    if load.run(env, options.pipeline + ".views"):
        raise RuntimeError("the load failed")
    # Nothing is late here; the comparison asks for the table.
    check.take_late(env, store, options.pipeline + ".views.late")
    slots = rest.call(env["SOMA_FLINK_REST_URL"] + "/overview")
    print("flink version={flink-version} task_managers={taskmanagers} slots={slots-total}".format(**slots), flush=True)
    run(env, options)
    checked, wrong, views = judge(env, store, names)
    print("rows={} views={} left_out={}".format(options.rows, views, len(known) - len(names)))
    print("windows checked={} wrong={}".format(checked, wrong))
    return 0 if checked and not wrong and views == len(names) else 1


if __name__ == "__main__":
    sys.exit(main())
