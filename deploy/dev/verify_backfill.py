"""The figures of `make verify-backfill`: `soma backfill` over real topics, beside the running stage, with kill -9 on the way.

Started by verify_windows.sh, which has the servers up. The six views are told by the stream; then computed again from the topic, from a
Parquet file and from a ClickHouse table; made wrong on purpose, from a file with half of the rows; put right again; and corrected by what
came too late. Each time every window is held against ClickHouse's own computation, and no revision may be told twice or left out.
"""
import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from windows import check, data
from windows.instances import LATE, Pipeline

ROOT = Path(__file__).resolve().parents[2]
# Past the last flight of the rows taken, and of the last day that the stage will not tell again.
RANGE = ["--from", "2000-12-31T00:00:00Z"]
COUNTS = ("same", "corrected", "added", "deleted")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--views", nargs="+", default=list(check.VIEWS), choices=list(check.VIEWS), help="those to look at; busy and per_hour are made wrong")
    parser.add_argument("--wait", type=int, default=600, help="longest the stream may take, seconds")
    return parser.parse_args()


class Backfill:
    def __init__(self, env, until):
        self.env, self.until, self.kills, self.runs = env, until, 0, 0

    def command(self, view, *more):
        return [self.env["SOMA_BIN"], "--json", "backfill", "flights", "--view", view, *RANGE, "--to", self.until, *more]

    def start(self, view, *more):
        self.runs += 1
        return subprocess.Popen(self.command(view, *more), env=self.env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, view, *more):
        """What it says of a view."""
        process = self.start(view, *more)
        out, errors = process.communicate(timeout=300)
        if process.returncode:
            raise RuntimeError("backfill {} {}: {}".format(view, more, errors))
        return json.loads(out)

    def killed(self, view, dice, seconds, *more):
        """The same, killed with -9 on its way; whether it was."""
        process = self.start(view, *more)
        try:
            process.wait(dice.uniform(0.2, seconds))
            process.communicate()
            return False
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            self.kills += 1
            return True


def counts(said):
    return " ".join("{}={}".format(name, said[name]) for name in ("windows", *COUNTS, "written"))


class Checks:
    def __init__(self):
        self.checked = self.wrong = 0

    def that(self, good, what):
        if not good:
            self.wrong += 1
            print("  wrong: {}".format(what), flush=True)

    def windows(self, store, env, view, label):
        check.take_results(env, store, view)
        some, bad, again, samples = check.compare(store, view)
        print("  {} {}: windows={} wrong={} revisions={}".format(label, view, some, bad, again), flush=True)
        for sample in samples:
            print("    wrong: {}".format("  ".join(sample)[:600]), flush=True)
        self.checked, self.wrong = self.checked + some, self.wrong + bad

    def nothing(self, said, what):
        """Everything stands as it should."""
        good = said["windows"] > 0 and said["same"] == said["windows"] and not said["written"]
        self.that(good, "{}: {}".format(what, counts(said)))


def parquet(store, path, where):
    sql = "SELECT toString(id) AS id, date, delay, distance, origin, destination FROM flights WHERE {} ORDER BY id FORMAT Parquet".format(where)
    with store.open(sql) as answer:
        path.write_bytes(answer.read())
    return str(path)


def settled(env, views):
    """Until when the stage will never tell a window of any view again, as it says itself."""
    times = []
    for view in views:
        command = Backfill(env, "2001-12-01T00:00:00Z").command(view)
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
        if done.returncode != 2 or "RANGE_OPEN" not in done.stderr:
            raise RuntimeError("a range that is open was taken: {}{}".format(done.stdout, done.stderr))
        times.append(done.stderr.split("--to ")[1].split()[0])
    return min(times)


def as_the_stream(backfill, checks, views):
    """The topic again gives what the stream told last."""
    for view in views:
        said = backfill.run(view, "--dry-run")
        print("  topic again {}: {}".format(view, counts(said)), flush=True)
        checks.nothing(said, "the topic again, " + view)


def made_wrong_and_right(backfill, checks, half, dice, kills):
    """Half of the rows, written; then all of the topic, written; killed on the way, and two at once."""
    for view, source in (("busy", ["--source", half]), ("busy", []), ("per_hour", ["--source", half]), ("per_hour", [])):
        began = time.monotonic()
        before = backfill.run(view, *source, "--dry-run")
        took = time.monotonic() - began
        checks.that(before["same"] < before["windows"], "{} {} differs nowhere".format(view, source))
        for _ in range(kills):
            backfill.killed(view, dice, took * 1.5, *source)
        twins = [backfill.start(view, *source) for _ in range(2)]
        told = [twin.communicate(timeout=300)[1] for twin in twins]
        for twin, errors in zip(twins, told):
            # The second fences the first, unless that was done already.
            checks.that(twin.returncode == 0 or "FENCED" in errors or "COMMIT_FAILED" in errors, "of two at once one says: " + errors)
        checks.that(any(twin.returncode == 0 for twin in twins), "of two at once none came through")
        print("  {} {}: {} then kills and two at once".format(view, "from half of the rows" if source else "from the topic", counts(before)), flush=True)
        checks.nothing(backfill.run(view, *source), "the second time, {} {}".format(view, source))


def main():
    options = arguments()
    env = dict(os.environ)
    store, checks, dice = data.ClickHouse(env), Checks(), random.Random(options.seed)
    pipeline = Pipeline(env, env["SOMA_BIN"], ROOT, Path(env["SOMA_HOME"]) / "logs")
    data.prepare(store, options.rows, options.seed)
    pipeline.clear(sources=True)
    # Before the stream begins: of a topic that is filled while it is read, partitions that wake too late are no two times the same.
    load = subprocess.run([sys.executable, "-m", "windows.load"], env=env, cwd=ROOT / "deploy" / "dev")
    if load.returncode:
        raise RuntimeError("the load failed")
    pipeline.start("a")
    try:
        pipeline.wait(options.wait)
        late, woke = check.take_late(env, store, LATE)
        checks.that(not woke, "{} partial rows came too late from a partition that woke".format(woke))
        home = Path(env["SOMA_HOME"])
        whole, half = parquet(store, home / "whole.parquet", "1"), parquet(store, home / "half.parquet", "flights.id % 2 = 0")
        backfill = Backfill(env, settled(env, options.views))
        print("late={} until={}".format(late, backfill.until), flush=True)
        as_the_stream(backfill, checks, options.views)
        made_wrong_and_right(backfill, checks, half, dice, options.kills)
        for view in options.views:
            checks.windows(store, env, view, "as the stream")
        corrected = 0
        for view in options.views:
            said = backfill.run(view, "--nothing-late")
            print("  nothing late {}: {}".format(view, counts(said)), flush=True)
            corrected += said["written"]
            for source in (whole, "clickhouse:{}.flights".format(data.DATABASE)):
                checks.nothing(backfill.run(view, "--source", source, "--dry-run"), "{} from {}".format(view, source))
        checks.that(corrected > 0 or not late, "late records corrected nothing")
        store.ask("TRUNCATE TABLE late")
        # Percentiles make no row differ, so one that a late record moved alone is not written again.
        for view in (v for v in options.views if v != "spread"):
            checks.windows(store, env, view, "nothing late")
    finally:
        pipeline.stop()
    pipeline.clear(sources=True)
    print("backfill windows checked={} wrong={} kills={} runs={}".format(checks.checked, checks.wrong, backfill.kills, backfill.runs))
    return 0 if checks.checked and not checks.wrong else 1


if __name__ == "__main__":
    sys.exit(main())
