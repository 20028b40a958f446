"""The figures of `make verify-flink`: the six views of pipelines/flights, rendered to Flink SQL and run by a real Flink cluster, beside a
batch computation by ClickHouse. Started by verify_flink.sh, which has the servers and the cluster up.
"""
import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from flinkstack import load, rest
from windows import check, data
from windows.instances import LATE

ROOT = Path(__file__).resolve().parents[2]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--seed", type=int, default=1)
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
    done = soma(env, "deploy", "flights", "--engine", "flink", "--bounded", "--parallelism", str(options.parallelism))
    if done.stderr.strip():
        print(done.stderr.strip(), flush=True)
    job = done.stdout.split()[-1]
    state = rest.await_job(env["SOMA_FLINK_REST_URL"], job, options.wait)
    seconds = time.monotonic() - began
    print("flink job={} state={} seconds={:.1f}".format(job, state, seconds), flush=True)
    if state != "FINISHED":
        raise RuntimeError("the job is {}".format(state))


def judge(env, store):
    checked = wrong = views = 0
    for view in check.VIEWS:
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
    if load.run(env):
        raise RuntimeError("the load failed")
    # Nothing is late here; the comparison asks for the table.
    check.take_late(env, store, LATE)
    slots = rest.call(env["SOMA_FLINK_REST_URL"] + "/overview")
    print("flink version={flink-version} task_managers={taskmanagers} slots={slots-total}".format(**slots), flush=True)
    run(env, options)
    checked, wrong, views = judge(env, store)
    print("rows={} views={}".format(options.rows, views))
    print("windows checked={} wrong={}".format(checked, wrong))
    return 0 if checked and not wrong and views == len(check.VIEWS) else 1


if __name__ == "__main__":
    sys.exit(main())
