"""The figures of `make verify-windows`: every window of the six views of pipelines/flights beside a batch computation by ClickHouse; with
`--pipeline hubs` those of `make verify-joins`: the joins of pipelines/hubs over the same flights.

Started by verify_windows.sh, which has the servers up. First with kill -9 on the way while the data is being sent, then over the whole
topic with one, two and four instances.
"""
import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from windows import check, data, joined
from windows.instances import Pipeline, resident_mb

ROOT = Path(__file__).resolve().parents[2]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--between", type=float, nargs=2, default=(1.5, 4.0), metavar="SECONDS", help="least and most between two kills")
    parser.add_argument("--instances", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--pipeline", choices=("flights", "hubs"), default="flights")
    parser.add_argument("--stagger", type=float, default=4.0, metavar="SECONDS", help="from one instance's start to the next, which joins while the others read")
    parser.add_argument("--wait", type=int, default=1800, help="longest a run may take, seconds")
    return parser.parse_args()


def load(env, rate, group):
    command = [sys.executable, "-m", "windows.load", "--rate", str(rate), "--group", group]
    return subprocess.Popen(command, env=env, cwd=ROOT / "deploy" / "dev")


def judge(env, store, pipeline, label):
    """Compares every view; (windows checked, wrong)."""
    late, woke = check.take_late(env, store, pipeline.group + ".late")
    checked = wrong = revisions = 0
    for view in pipeline.views:
        told = check.take_results(env, store, view)
        some, bad, again, samples = check.compare(store, view)
        print("  {} {}: windows={} wrong={} records={} revisions={}".format(label, view, some, bad, told, again), flush=True)
        for sample in samples:
            print("    wrong: {}".format("  ".join(sample)[:600]), flush=True)
        checked, wrong, revisions = checked + some, wrong + bad, revisions + again
    sent = int(store.ask("SELECT count() FROM sends"))
    bad_sent = (sent + data.BAD_EVERY // 2) // data.BAD_EVERY * 4
    dead = check.unreadable(env)
    if dead != bad_sent:
        print("  {} wrong: {} records in the dead-letter topic, {} unreadable were sent".format(label, dead, bad_sent), flush=True)
        wrong += 1
    if pipeline.name == "hubs":
        # One record of the lookup topic cannot be read: a dead letter once, whoever reads it and however often.
        letters = sum(1 for _ in check.records(env, data.AIRPORTS + ".dlq"))
        if letters != 1:
            print("  {} wrong: {} dead letters of the lookup, not 1".format(label, letters), flush=True)
            wrong += 1
    if woke:
        print("  {} wrong: {} partial rows came too late from a partition that woke".format(label, woke), flush=True)
        wrong += 1
    print("{} windows_checked={} wrong={} revisions={} late={} dead_letters={}".format(label, checked, wrong, revisions, late, dead), flush=True)
    return checked, wrong


def with_kills(options, env, store, pipeline):
    """Two instances, killed while the data is sent."""
    took = options.kills * sum(options.between) / 2
    sent = int(store.ask("SELECT count() FROM sends"))
    pipeline.start("a")
    pipeline.start("b")
    pipeline.settle(data.PARTITIONS)
    loading = load(env, max(1, int(sent / max(took, 1))), pipeline.group)
    pipeline.kill_often(options.kills, options.between, options.seed)
    if loading.wait():
        raise RuntimeError("the load failed")
    seconds = pipeline.wait(options.wait)
    print("kills={} starts={} done {:.1f} s after the last".format(pipeline.kills, pipeline.starts, seconds), flush=True)
    pipeline.stop()
    return judge(env, store, pipeline, "instances=2 kills={}".format(pipeline.kills))


def with_instances(options, env, store, pipeline, count):
    """The whole topic, from its beginning."""
    pipeline.clear()
    began = time.monotonic()
    names = "abcdefgh"[:count]
    for i, name in enumerate(names):
        time.sleep(options.stagger if i else 0)
        pipeline.start(name)
    pipeline.wait(options.wait)
    seconds = time.monotonic() - began
    memory = max(resident_mb(p) for p in pipeline.running.values())
    pipeline.stop()
    print("instances={} seconds={:.1f} rss_mb_max={}".format(count, seconds, memory), flush=True)
    return judge(env, store, pipeline, "instances={}".format(count))


def main():
    options = arguments()
    env = dict(os.environ)
    store = data.ClickHouse(env)
    views = tuple(joined.VIEWS if options.pipeline == "hubs" else check.VIEWS)
    pipeline = Pipeline(env, env["SOMA_BIN"], ROOT, Path(env["SOMA_HOME"]) / "logs", options.pipeline, views)
    data.prepare(store, options.rows, options.seed)
    pipeline.clear(sources=True)
    if options.pipeline == "hubs":
        joined.prepare(store)
        print("airports={}".format(joined.send(env)), flush=True)
    try:
        totals = [with_kills(options, env, store, pipeline)] if options.kills else []
        if not options.kills and load(env, 0, pipeline.group).wait():
            raise RuntimeError("the load failed")
        totals += [with_instances(options, env, store, pipeline, n) for n in options.instances]
    finally:
        pipeline.stop()
    checked, wrong = (sum(column) for column in zip(*totals))
    print("windows checked={} wrong={}".format(checked, wrong))
    return 0 if checked and not wrong else 1


if __name__ == "__main__":
    sys.exit(main())
