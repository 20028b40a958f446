"""The figures of `make bench-analytics`: streaming views from Kafka to their result topics, a consumer that only counts bytes, and Flink SQL
where it is set up, in turns on one topic, one core each.

Started by bench-analytics.sh, which has the servers up. deploy/dev/analytics/README.md says what is measured and how.
"""
import argparse
import io
import json
import os
import statistics
import struct
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import fastavro
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

HERE = Path(__file__).resolve().parent
TOPIC = "bench.events"
VIEWS = ("per_minute", "per_tenant")
A_MINUTE = 60_000
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--partitions", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--core", type=int, default=os.cpu_count() - 1, help="the core everybody measured runs on")
    parser.add_argument("--wait", type=int, default=900, help="longest a contestant may take, seconds")
    parser.add_argument("--flink", default="", help="command that measures Flink; empty leaves it out")
    return parser.parse_args()


def cpu_s(pid):
    with open("/proc/{}/stat".format(pid), encoding="ascii") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def memory_mb(pid, what):
    """A line of a process's status: VmHWM, the most it ever had; RssAnon, its own memory; RssFile, pages of its program and libraries."""
    with open("/proc/{}/status".format(pid), encoding="ascii") as status:
        return next(int(line.split()[1]) // 1024 for line in status if line.startswith(what + ":"))


class Ours:
    """One view in a process of its own."""

    def __init__(self, options, view):
        self.options, self.view = options, view
        self.stage = "bench-{}.views".format(view.replace("_", "-"))
        self.folder = HERE / "analytics" / view
        self.env = {**os.environ, "SOMA_PARTITIONS": str(options.partitions)}
        self.admin = AdminClient({"bootstrap.servers": os.environ["SOMA_KAFKA_BROKERS"]})
        self.anon_mb = 0
        self.reader = Consumer({"bootstrap.servers": os.environ["SOMA_KAFKA_BROKERS"], "group.id": self.stage, "enable.auto.commit": False})

    def clear(self):
        def own():
            return [t for t in self.admin.list_topics(timeout=20).topics if t == "bench." + self.view or t.startswith(self.stage + ".")]
        for done in self.admin.delete_topics(own()).values() if own() else []:
            done.result(30)
        while not self.forgotten():
            # A static member stays in its group until its session is over, also when it has stopped.
            time.sleep(0.5)
        while own():
            time.sleep(0.2)
        time.sleep(1)
        subprocess.run([os.environ["SOMA_BIN"], "topics", "apply", str(self.folder)], env=self.env, check=True, stdout=subprocess.DEVNULL)

    def forgotten(self):
        """Deletes the group; whether it is gone."""
        try:
            for done in self.admin.delete_consumer_groups([self.stage]).values():
                done.result(30)
        except KafkaException as error:
            if error.args[0].name() not in ("GROUP_ID_NOT_FOUND", "NON_EMPTY_GROUP"):
                raise
            return error.args[0].name() == "GROUP_ID_NOT_FOUND"
        return True

    def start(self):
        with open(Path(os.environ["SOMA_HOME"]) / "logs" / "bench-{}.log".format(self.view), "ab") as log:
            command = ["taskset", "-c", str(self.options.core), os.environ["SOMA_BIN"], "start", str(self.folder)]
            return subprocess.Popen(command, env=self.env, stdout=log, stderr=log)

    def at(self):
        """How many records the view has committed."""
        places = [TopicPartition(TOPIC, p) for p in range(self.options.partitions)]
        return sum(max(0, place.offset) for place in self.reader.committed(places, timeout=20))

    def until(self, process, wanted):
        began = time.monotonic()
        while time.monotonic() - began < self.options.wait:
            if process.poll() is not None:
                raise RuntimeError("{} ended with {}".format(self.view, process.returncode))
            at = self.at()
            self.anon_mb = max(self.anon_mb, memory_mb(process.pid, "RssAnon"))
            if at >= wanted:
                return at
            time.sleep(0.01)
        raise RuntimeError("{} stands at {} of {} after {} s".format(self.view, self.at(), wanted, self.options.wait))

    def measure(self):
        """Rows a second and processor time a row from a quarter of the topic on, memory, and milliseconds to the first commit."""
        self.clear()
        self.anon_mb = 0
        began = time.monotonic()
        process = self.start()
        try:
            self.until(process, 1)
            started = time.monotonic()
            first = self.until(process, self.options.records // 4)
            since, before = time.monotonic(), cpu_s(process.pid)
            last = self.until(process, self.options.records)
            seconds, cpu = time.monotonic() - since, cpu_s(process.pid) - before
            memory = {"rss_mb": memory_mb(process.pid, "VmHWM"), "anon_mb": self.anon_mb, "file_mb": memory_mb(process.pid, "RssFile")}
            # What the last commit brought about is told with the next.
            time.sleep(2)
        finally:
            process.terminate()
            process.wait()
        self.check()
        return {"rows_per_s": (last - first) / seconds, "cpu_us_per_row": cpu * 1e6 / (last - first), **memory,
                "start_ms": (started - began) * 1e3}

    def recover(self):
        """Milliseconds from kill -9 in the middle to the next commit of the process started after it."""
        self.clear()
        process = self.start()
        at = self.until(process, self.options.records // 3)
        process.kill()
        process.wait()
        killed, again = time.monotonic(), self.start()
        try:
            self.until(again, max(at, self.at()) + 1)
            return (time.monotonic() - killed) * 1e3
        finally:
            again.terminate()
            again.wait()

    def check(self):
        """Every closed minute has all its events; all minutes but the last are closed."""
        minutes = {}
        for row in results("bench." + self.view):
            key = (row["window_start"], row.get("tenant"), row.get("type"))
            if row["revision"] >= minutes.get(key, (-1, 0))[0]:
                minutes[key] = (row["revision"], row["events"])
        counted = {}
        for (start, _, _), (_, events) in minutes.items():
            counted[start] = counted.get(start, 0) + events
        wrong = [start for start, events in counted.items() if events != A_MINUTE]
        expected = (self.options.records - 1) // A_MINUTE
        if wrong or not expected - 1 <= len(counted) <= expected + 1:
            raise RuntimeError("{}: {} minutes closed, {} expected; wrong: {}".format(self.view, len(counted), expected, wrong[:3]))


def results(topic):
    consumer = Consumer({"bootstrap.servers": os.environ["SOMA_KAFKA_BROKERS"], "group.id": "bench-results", "enable.auto.commit": False,
                         "isolation.level": "read_committed", "enable.partition.eof": True, "auto.offset.reset": "earliest"})
    partitions = set(consumer.list_topics(topic, 20).topics[topic].partitions)
    consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
    schemas = {}
    while partitions:
        for message in consumer.consume(1000, 1.0):
            if message.error():
                partitions.discard(message.partition())
                continue
            value = message.value()
            ident = struct.unpack(">i", value[1:5])[0]
            if ident not in schemas:
                with urllib.request.urlopen("{}/schemas/ids/{}".format(os.environ["SOMA_REGISTRY_URL"], ident), timeout=20) as answer:
                    schemas[ident] = fastavro.parse_schema(json.loads(json.load(answer)["schema"]))
            yield fastavro.schemaless_reader(io.BytesIO(value[5:]), schemas[ident])
    consumer.close()


def words(text):
    """The name=value words of an output, as numbers."""
    return {name: float(value) for name, value in (word.split("=", 1) for word in text.split() if "=" in word)}


def consume(options):
    command = ["taskset", "-c", str(options.core), os.environ["SOMA_BENCH"], "analytics-consume", "--brokers", os.environ["SOMA_KAFKA_BROKERS"],
               "--topic", TOPIC, "--records", str(options.records)]
    return words(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def flink(options, view):
    if not options.flink:
        return {}
    command = [*options.flink.split(), "--brokers", os.environ["SOMA_KAFKA_BROKERS"], "--registry", os.environ["SOMA_REGISTRY_URL"], "--topic", TOPIC,
               "--rows", str(options.records), "--view", view, "--core", str(options.core)]
    return words(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def median(rounds, name):
    values = [r[name] for r in rounds if name in r]
    return statistics.median(values) if values else None


def shown(name, value, digits=0):
    return "{}={}".format(name, "not_run" if value is None else "{:.{}f}".format(value, digits))


def over(one, other):
    return one / other if one is not None and other else None


def line(view, ceiling, own, theirs):
    rows, cpu = median(own, "rows_per_s"), median(own, "cpu_us_per_row")
    flink_rows, flink_cpu = median(theirs, "flink_rows_per_s"), median(theirs, "flink_cpu_us_per_row")
    return " ".join([
        "view=" + view, shown("rows_per_s", rows), shown("flink_rows_per_s", flink_rows), shown("ratio_flink", over(rows, flink_rows), 2),
        shown("ratio_flink_cpu", over(flink_cpu, cpu), 2), shown("ratio_to_consume", over(rows, median(ceiling, "consume_rows_per_s")), 2),
        shown("cpu_us_per_row", cpu, 3), shown("flink_cpu_us_per_row", flink_cpu, 3),
        shown("rss_mb", median(own, "rss_mb")), shown("anon_mb", median(own, "anon_mb")), shown("file_mb", median(own, "file_mb")),
        shown("flink_rss_mb", median(theirs, "flink_rss_mb")), shown("ratio_rss", over(median(theirs, "flink_rss_mb"), median(own, "rss_mb")), 1),
        shown("flink_jobmanager_rss_mb", median(theirs, "flink_jobmanager_rss_mb")),
        shown("start_ms", median(own, "start_ms")), shown("flink_start_ms", median(theirs, "flink_start_ms")),
        shown("recovery_ms", median(own, "recovery_ms")), shown("flink_recovery_ms", median(theirs, "flink_recovery_ms"))])


def main():
    options = arguments()
    fill = [os.environ["SOMA_BENCH"], "analytics-fill", "--brokers", os.environ["SOMA_KAFKA_BROKERS"], "--registry", os.environ["SOMA_REGISTRY_URL"],
            "--topic", TOPIC, "--records", str(options.records), "--partitions", str(options.partitions)]
    subprocess.run(fill, check=True)
    lines = []
    for view in VIEWS:
        ours, ceiling, own, theirs = Ours(options, view), [], [], []
        for nth in range(options.rounds):
            ceiling.append(consume(options))
            own.append({**ours.measure(), "recovery_ms": ours.recover()})
            theirs.append(flink(options, view))
            print("  {} round {}: {} {} {}".format(view, nth + 1, ceiling[-1], own[-1], theirs[-1]), flush=True)
        lines.append(line(view, ceiling, own, theirs))
    print("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
