#!/usr/bin/env python3
"""Flink's side of `make bench-analytics`: a view's SQL on a cluster of one TaskManager with one slot, over a topic that is full.

    bench_flink.py --brokers B --registry URL --topic T --rows N --view NAME [--core N] [--sink kafka|blackhole] [--pipeline FOLDER] [--warm N]

The statements are what `soma deploy FOLDER --engine flink --bounded --parallelism 1` sends (FOLDER: deploy/dev/analytics/NAME); only the INSERT
into NAME is kept. Object reuse is on, no Python is in the hot path. Starts and stops the cluster itself, in the home SOMA_HOME. The
last line has the figures:

    flink_rows_per_s         between a quarter of the topic and its end, by the source's own count
    flink_cpu_us_per_row     processor time of the TaskManager in that stretch
    flink_cold_rows_per_s    from the first record of a fresh TaskManager to the last
    flink_start_ms           JobManager, TaskManager and job, from nothing to the first record (the SQL gateway's start is not counted)
    flink_cluster_start_ms   of that, the processes, until the slot has registered
    flink_total_rows_per_s   rows over start, reading and closing of all windows together
    flink_warm_rows_per_s    as the first, the best of --warm further runs in the same TaskManager
    flink_rss_mb             greatest resident memory of the TaskManager; flink_jobmanager_rss_mb beside it
    flink_recovery_ms        kill -9 of the TaskManager, started again at once, to the first record consumed again
"""
import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from devstack import proc
from devstack.base import StackError
from devstack.home import Home
from flinkstack import cluster, rest

ROOT = Path(__file__).resolve().parents[2]
# As often as the JobManager may ask for the count of records; ten seconds by default.
SETTINGS = {"metrics.fetcher.update-interval": "100", "restart-strategy.fixed-delay.delay": "50 ms"}
POLL_S = 0.05


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--brokers", default=os.environ.get("SOMA_KAFKA_BROKERS"))
    parser.add_argument("--registry", default=os.environ.get("SOMA_REGISTRY_URL"))
    parser.add_argument("--topic", required=True, help="the view's SQL must read it, and nothing else")
    parser.add_argument("--rows", type=int, required=True, help="records in the topic")
    parser.add_argument("--view", required=True, help="the sink table's name")
    parser.add_argument("--pipeline", help="name or folder of the pipeline (default: deploy/dev/analytics/VIEW)")
    parser.add_argument("--sink", choices=("blackhole", "kafka"), default="kafka")
    parser.add_argument("--core", type=int, help="the one core the TaskManager may use")
    parser.add_argument("--warm", type=int, default=0, help="further runs in the same TaskManager")
    parser.add_argument("--memory-mb", type=int, default=1280)
    parser.add_argument("--wait", type=int, default=900, help="longest a run may take, seconds")
    parser.add_argument("--soma", default=os.environ.get("SOMA_BIN", "soma"))
    parser.add_argument("--home", default=os.environ.get("SOMA_HOME"))
    return parser.parse_args()


def statements(options):
    """What the view's SQL is for Flink."""
    pipeline = options.pipeline or str(ROOT / "deploy" / "dev" / "analytics" / options.view)
    command = [options.soma, "deploy", pipeline, "--engine", "flink", "--dry-run", "--bounded", "--parallelism", "1", "--json"]
    env = {**os.environ, "SOMA_KAFKA_BROKERS": options.brokers, "SOMA_REGISTRY_URL": options.registry}
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, env=env)
    if done.returncode:
        raise StackError("{}:\n{}".format(" ".join(command), done.stderr))
    found = [chosen(options, statement) for statement in json.loads(done.stdout)["statements"]]
    read = {topic for statement in found for topic in re.findall(r"'topic' = '([^']+)',(?=.*'scan.startup.mode')", statement, re.DOTALL)}
    if read != {options.topic}:
        raise StackError("{} reads {}, not {}".format(pipeline, ", ".join(sorted(read)) or "nothing", options.topic))
    return found


def chosen(options, statement):
    if statement.startswith("EXECUTE STATEMENT SET"):
        inserts = re.findall(r"INSERT INTO `[^`]+`.*?;(?=\nINSERT|\nEND)", statement, re.DOTALL)
        kept = [insert for insert in inserts if insert.startswith("INSERT INTO `{}` ".format(options.view))]
        if len(kept) != 1:
            raise StackError("the pipeline does not write {}".format(options.view))
        return "EXECUTE STATEMENT SET BEGIN\n{}\nEND".format(kept[0])
    if statement.startswith("CREATE TEMPORARY TABLE") and "'key.format'" in statement and options.sink == "blackhole":
        return statement[:statement.rindex(") WITH (")] + ") WITH ('connector' = 'blackhole')"
    return statement


class Bench:
    def __init__(self, options):
        self.options, self.home = options, Home(options.home)
        self.shape = cluster.Shape(1, 1, options.memory_mb)
        self.script = statements(options)
        self.name = self.shape.names()[0]
        self.urls = cluster.urls(self.home)
        self.rest = self.urls["rest"]

    def up(self):
        """Starts JobManager and TaskManager, timed, then the gateway; seconds until the slot was there."""
        with self.home.locked():
            return cluster.up(self.home, self.shape, SETTINGS, self.prefix(), lambda: rest.await_slots(self.rest, 1))

    def prefix(self):
        return ["taskset", "-c", str(self.options.core)] if self.options.core is not None else []

    def down(self):
        with self.home.locked():
            cluster.down(self.home)

    def pid(self):
        return self.home.record(self.name)["pid"]

    def submit(self, session):
        """Runs the script; (job id, when the last statement was sent)."""
        for statement in self.script[:-1]:
            session.run(statement)
        sent = time.monotonic()
        job, rows = session.run(self.script[-1])
        return job or rows[0][0], sent

    def source(self, job):
        """Vertex that reads, and how its counter is called."""
        for _ in range(600):
            vertices = rest.call("{}/jobs/{}".format(self.rest, job))["vertices"]
            vertex = next((v["id"] for v in vertices if v["name"].startswith("Source")), None)
            if vertex:
                names = [m["id"] for m in rest.call("{}/jobs/{}/vertices/{}/subtasks/metrics".format(self.rest, job, vertex))]
                counter = next((n for n in names if n.startswith("Source__") and n.endswith(".numRecordsIn")), None)
                if counter:
                    return vertex, counter
            time.sleep(POLL_S)
        raise StackError("job {} shows no source that counts records".format(job))

    def consumed(self, job, vertex, counter):
        url = "{}/jobs/{}/vertices/{}/subtasks/metrics?get={}&agg=sum".format(self.rest, job, vertex, counter)
        found = rest.call(url)
        return int(float(found[0]["sum"])) if found else 0

    def follow(self, job, marks):
        """Polls the source's count: when it first reached each of the marks, with the processor time used then; and where to ask."""
        vertex, counter = self.source(job)
        seen, end = [], time.monotonic() + self.options.wait
        while time.monotonic() < end:
            count = self.consumed(job, vertex, counter)
            while len(seen) < len(marks) and count >= marks[len(seen)]:
                seen.append((time.monotonic(), count, cpu_s(self.pid())))
            if len(seen) < len(marks) and rest.call("{}/jobs/{}".format(self.rest, job))["state"] in rest.ENDED:
                # It ended between two questions: all is read.
                seen += [(time.monotonic(), self.options.rows, cpu_s(self.pid()))] * (len(marks) - len(seen))
            if len(seen) == len(marks):
                return seen, vertex, counter
            time.sleep(POLL_S)
        raise StackError("job {} stands at {} of {} rows after {} s".format(job, count, marks[-1], self.options.wait))

    def round(self):
        """One bounded run in the cluster as it is."""
        rows = self.options.rows
        session = rest.Session(self.urls["gateway"])
        job, sent = self.submit(session)
        (first, quarter, last), _, _ = self.follow(job, [1, rows // 4, rows])
        state = rest.await_job(self.rest, job, self.options.wait)
        ended = time.monotonic()
        session.close()
        if state != "FINISHED":
            raise StackError("job {} is {}".format(job, state))
        steady = max(last[1] - quarter[1], 1)
        return {"rows_per_s": steady / max(last[0] - quarter[0], 1e-3), "cpu_us_per_row": (last[2] - quarter[2]) * 1e6 / steady,
                "cold_rows_per_s": rows / max(last[0] - first[0], 1e-3), "first_s": first[0] - sent, "whole_s": ended - sent}

    def recovery(self):
        """Kills the TaskManager in the middle of a run; milliseconds until records are consumed again."""
        session = rest.Session(self.urls["gateway"])
        job, _ = self.submit(session)
        _, vertex, counter = self.follow(job, [self.options.rows // 4])
        killed = time.monotonic()
        proc.send(self.home.record(self.name), "KILL")
        with self.home.locked():
            cluster.start_task_manager(self.home, self.name, self.shape, SETTINGS, self.prefix())
        seen, end = None, killed + self.options.wait
        while time.monotonic() < end:
            tasks = rest.call("{}/jobs/{}/vertices/{}".format(self.rest, job, vertex))["subtasks"]
            if tasks[0]["attempt"] > 0 and tasks[0]["status"] in ("RUNNING", "FINISHED"):
                count = self.consumed(job, vertex, counter)
                # What the lost attempt counted stays until the new one is asked: only a change is news.
                if seen is not None and count != seen and count > 0:
                    took = (time.monotonic() - killed) * 1000
                    session.run("STOP JOB '{}'".format(job))
                    session.close()
                    return took
                seen = count
            time.sleep(POLL_S)
        raise StackError("job {} did not come back within {} s".format(job, self.options.wait))


def cpu_s(pid):
    """CPU seconds of a process so far."""
    text = Path("/proc/{}/stat".format(pid)).read_text(encoding="ascii")
    fields = text[text.rindex(")") + 2:].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mb(pid):
    status = Path("/proc/{}/status".format(pid)).read_text(encoding="ascii")
    return next(int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def measure(options):
    bench = Bench(options)
    try:
        started = bench.up()
        cold = bench.round()
        warm = [bench.round() for _ in range(options.warm)]
        figures = {"flink_rss_mb": peak_mb(bench.pid()), "flink_jobmanager_rss_mb": peak_mb(bench.home.record(cluster.JOBMANAGER)["pid"])}
        figures["flink_recovery_ms"] = round(bench.recovery())
    finally:
        bench.down()
    rows = options.rows
    figures.update({
        "flink_rows_per_s": round(cold["rows_per_s"]), "flink_cpu_us_per_row": round(cold["cpu_us_per_row"], 3),
        "flink_cold_rows_per_s": round(cold["cold_rows_per_s"]), "flink_cluster_start_ms": round(started * 1000),
        "flink_start_ms": round((started + cold["first_s"]) * 1000), "flink_total_rows_per_s": round(rows / (started + cold["whole_s"]))})
    if warm:
        figures["flink_warm_rows_per_s"] = round(max(run["rows_per_s"] for run in warm))
    return figures


def main():
    options = arguments()
    try:
        figures = measure(options)
        print(" ".join("{}={}".format(name, value) for name, value in sorted(figures.items())))
        return 0
    except StackError as error:
        print("bench_flink: {}".format(error), file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
