"""Instances of the flights pipeline as processes of their own: started, killed with -9, started again, waited for."""
import random
import signal
import subprocess
import time

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from .check import VIEWS, topic_of
from .data import AIRPORTS, TOPIC

GROUP = "flights.views"
SOURCE = TOPIC
LATE = GROUP + ".late"
# Nothing is written for so long, and everything is read: it is done.
QUIET_S = 5
# So few offsets are looked at one by one.
FEW = 50


def own_topics(names, group, views):
    """What the pipeline wrote, of these topics."""
    results = {topic_of(view) for view in views}
    return [n for n in names if n in results or n.startswith(group + ".") or n in (SOURCE + ".dlq", AIRPORTS + ".dlq")]


class Pipeline:
    def __init__(self, env, soma, root, logs, name="flights", views=tuple(VIEWS)):
        self.name, self.group, self.views = name, name + ".views", views
        self.env, self.soma, self.root, self.logs = env, soma, root, logs
        self.admin = AdminClient({"bootstrap.servers": env["SOMA_KAFKA_BROKERS"]})
        self.running, self.starts, self.kills = {}, 0, 0
        self.counter = Consumer({"bootstrap.servers": env["SOMA_KAFKA_BROKERS"], "group.id": self.group + ".counter", "enable.auto.commit": False,
                                 "isolation.level": "read_committed", "enable.partition.eof": True})
        self.reader = Consumer({"bootstrap.servers": env["SOMA_KAFKA_BROKERS"], "group.id": self.group, "enable.auto.commit": False})

    def _written(self, sources):
        names = self.admin.list_topics(timeout=20).topics
        return own_topics(names, self.group, self.views) + [n for n in names if sources and n in (SOURCE, AIRPORTS)]

    def clear(self, sources=False):
        """Forgets what an earlier run wrote, and where it stood; with `sources`, also what it read."""
        gone = self._written(sources)
        for done in self.admin.delete_topics(gone).values() if gone else []:
            done.result(30)
        self.forget_group()
        while self._written(sources):
            time.sleep(0.2)
        time.sleep(1)
        self.apply()

    def forget_group(self):
        """An instance that ended is a member until its session runs out."""
        for left in range(20, -1, -1):
            try:
                return self.admin.delete_consumer_groups([self.group])[self.group].result(30)
            except KafkaException as error:
                if error.args[0].name() == "GROUP_ID_NOT_FOUND":
                    return None
                if error.args[0].name() != "NON_EMPTY_GROUP" or not left:
                    raise
                time.sleep(1)

    def apply(self):
        subprocess.run([self.soma, "topics", "apply"], env=self.env, cwd=self.root, check=True, stdout=subprocess.DEVNULL)

    def start(self, name):
        self.starts += 1
        log = open(self.logs / "{}-{}.log".format(self.name, name), "ab")
        with log:
            env = {**self.env, "SOMA_INSTANCE": name, "SOMA_{}_ADMIN_PORT".format(self.name.upper()): "0"}
            self.running[name] = subprocess.Popen([self.soma, "start", self.name], env=env, cwd=self.root, stdout=log, stderr=log)

    def settle(self, partitions, seconds=60):
        """Until every partition of the source has an owner. An instance that is killed between the two rounds of a rebalance and comes back
        under its name is given what the first round gave it, and what it was to hand over then has no owner until somebody joins or leaves."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            group = self.admin.describe_consumer_groups([self.group])[self.group].result(20)
            owned = [p for member in group.members if member.assignment for p in member.assignment.topic_partitions if p.topic == SOURCE]
            if len(owned) == partitions and len(group.members) == len(self.running):
                return
            time.sleep(0.3)
        raise RuntimeError("not every partition of {} has an owner after {} s; see {}".format(SOURCE, seconds, self.logs))

    def kill(self, name):
        self.kills += 1
        process = self.running.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self):
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            process.wait(60)
        self.running.clear()

    def kill_often(self, kills, between, seed):
        """Kills an instance after the other at odd moments, each started again at once."""
        dice = random.Random(seed)
        for _ in range(kills):
            time.sleep(dice.uniform(*between))
            name = dice.choice(sorted(self.running))
            self.kill(name)
            self.start(name)

    def stands(self):
        """(records still to read, ends of every topic it writes to)."""
        names = self.admin.list_topics(timeout=20).topics
        partials = [n for n in names if n.startswith(self.group + ".") and n.endswith("partials")]
        behind = 0
        for topic in [SOURCE, *partials]:
            places = [TopicPartition(topic, p) for p in names[topic].partitions]
            for place in self.reader.committed(places, timeout=20):
                low, high = self.reader.get_watermark_offsets(place, timeout=20)
                place.offset = place.offset if place.offset >= 0 else low
                left = high - place.offset
                # Markers of transactions, several where they were made at once, are no records.
                behind += left if topic == SOURCE or left > FEW else self.records(place)
        ends = []
        for topic in sorted(own_topics(names, self.group, self.views)):
            ends += [self.reader.get_watermark_offsets(TopicPartition(topic, p), timeout=20)[1] for p in sorted(names[topic].partitions)]
        return behind, ends

    def records(self, place):
        """How many records stand behind a place, counted."""
        found, ended = 0, False
        self.counter.assign([place])
        while not ended:
            message = self.counter.poll(5)
            ended = message is None or message.error() is not None
            found += not ended
        return found

    def wait(self, seconds):
        """Until everything is read and nothing more comes of it; how long that took."""
        began, quiet_since, last, behind = time.monotonic(), time.monotonic(), None, 0
        while time.monotonic() - began < seconds:
            for name, process in self.running.items():
                if process.poll() is not None:
                    raise RuntimeError("instance {} ended with {}; see {}".format(name, process.returncode, self.logs))
            try:
                behind, ends = self.stands()
            except KafkaException as error:
                # A broker that is overloaded gives its partitions up for a moment; it is asked again.
                print("  waiting: {}".format(error), flush=True)
                time.sleep(2)
                continue
            if behind > 0 or ends != last:
                quiet_since, last = time.monotonic(), ends
            elif time.monotonic() - quiet_since > QUIET_S:
                return quiet_since - began
            time.sleep(0.5)
        raise RuntimeError("not done after {} s: {} records behind; see {}".format(seconds, behind, self.logs))


def resident_mb(process):
    """Greatest resident memory of a process so far."""
    try:
        with open("/proc/{}/status".format(process.pid), encoding="ascii") as status:
            return next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return 0


