"""Sends the rows of table `sends` to demo.flights as Confluent-framed Avro, in their order: run with the live tests' Python.

Beside them, for each ten thousand rows, four records nobody can take: bytes without a frame, an unknown schema, a value cut short, and
a time far ahead of now. At the end, one record for each partition days after the last: it moves the watermark beyond every window.
"""
import argparse
import json
import os
import struct
import time
import urllib.request

from confluent_kafka import Consumer, Producer, TopicPartition

from .data import BAD_EVERY, PARTITIONS, TOPIC, ClickHouse

# In the middle of this many rows the last partition gets nothing; so long, at least, by the clock.
IDLE_S = 14
# So long is waited, at most, until the pipeline knows that it speaks again.
HEARD_S = 60
FAR_AHEAD_US = 40 * 365 * 86_400 * 1_000_000


def varint(number):
    number = (number << 1) ^ (number >> 63)
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


class Known(dict):
    """Encodings already made: there are few delays, distances, minutes and airports."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def __missing__(self, key):
        made = self[key] = self.make(key)
        return made


def text(value):
    data = value.encode()
    return varint(len(data)) + data


NUMBER = Known(lambda digits: varint(int(digits)))
TEXT = Known(text)


def schema_id(registry):
    with urllib.request.urlopen("{}/subjects/{}-value/versions/latest".format(registry, TOPIC), timeout=20) as answer:
        return json.load(answer)["id"]


def pause(seconds):
    if seconds > 0:
        time.sleep(seconds)


class Load:
    def __init__(self, env, rate, group):
        self.producer = Producer({"bootstrap.servers": env["SOMA_KAFKA_BROKERS"], "enable.idempotence": True, "linger.ms": 20, "batch.size": 1 << 20,
                                  "compression.type": "lz4", "queue.buffering.max.messages": 400_000})
        self.head = b"\0" + struct.pack(">i", schema_id(env["SOMA_REGISTRY_URL"]))
        self.rate, self.began, self.sent, self.bad = rate, time.monotonic(), 0, 0
        self.paced = self.began
        self.groups = Consumer({"bootstrap.servers": env["SOMA_KAFKA_BROKERS"], "group.id": group, "enable.auto.commit": False})

    def send(self, partition, value):
        while True:
            try:
                return self.producer.produce(TOPIC, value, partition=partition)
            except BufferError:
                self.producer.poll(0.05)

    def pace(self):
        self.producer.poll(0)
        if self.rate:
            pause(self.sent / self.rate - (time.monotonic() - self.paced))

    def heard(self, partition):
        """Waits until the pipeline has committed what stands in a partition: nobody waits for one that was silent until its first record
        is known, and the rest of the data, sent at once, would be days ahead of it by then."""
        self.producer.flush(60)
        place, until = TopicPartition(TOPIC, partition), time.monotonic() + HEARD_S
        _, end = self.groups.get_watermark_offsets(place, timeout=20)
        while self.groups.committed([place], timeout=20)[0].offset < end and time.monotonic() < until:
            time.sleep(0.2)
        # And one more commit, which tells it to all.
        time.sleep(2)
        self.paced = time.monotonic() - self.sent / self.rate

    def row(self, line):
        partition, ident, date, delay, distance, origin, destination = line
        value = b"".join((self.head, TEXT.make(ident), NUMBER[date], NUMBER[delay], NUMBER[distance], TEXT[origin], TEXT[destination]))
        self.send(int(partition), value)
        self.sent += 1
        return value

    def unreadable(self, partition, value):
        """Four records nobody can take."""
        far = value[:5] + text("far") + varint(int(time.time() * 1_000_000) + FAR_AHEAD_US) + varint(1) * 2 + text("AAA") + text("BBB")
        for bad in (b"no frame here", b"\0" + struct.pack(">i", 999_999_999) + value[5:], value[: len(value) // 2], far):
            self.send(int(partition), bad)
            self.bad += 1


def run(env, rate, idle_s, group):
    store = ClickHouse(env)
    load = Load(env, rate, group)
    stretch = "at >= (SELECT idle_from FROM stretch) AND at < (SELECT idle_to FROM stretch)"
    silent = Silence(int(store.ask("SELECT count() FROM sends WHERE " + stretch)), idle_s)
    asked = """SELECT partition, id, toUnixTimestamp64Micro(date), delay, distance, origin, destination, {}
        FROM sends INNER JOIN flights USING (id) ORDER BY at, id, again FORMAT TabSeparated""".format(stretch)
    with store.open(asked, max_bytes_before_external_sort=1 << 30) as answer:
        for line in answer:
            *row, in_stretch = line.decode().rstrip("\n").split("\t")
            value = load.row(row)
            if in_stretch == "1":
                silent.pace(load)
            elif rate and silent.wakes(int(row[0])):
                load.heard(int(row[0]))
            elif load.sent % 2_000 == 0:
                load.pace()
            if load.sent % BAD_EVERY == BAD_EVERY // 2:
                load.unreadable(row[0], value)
    end = int(store.ask("SELECT toUnixTimestamp64Micro(max(date)) FROM flights")) + 5 * 86_400 * 1_000_000
    for partition in range(PARTITIONS):
        load.row([str(partition), "end-{}".format(partition), str(end), "0", "0", "END", "END"])
    left = load.producer.flush(120)
    seconds = time.monotonic() - load.began
    print("loaded rows={} unreadable={} unsent={} seconds={:.1f} rows_per_s={:.0f}".format(load.sent, load.bad, left, seconds, load.sent / seconds), flush=True)
    return left


class Silence:
    """The stretch in which one partition is silent is sent slowly enough that it is silent by the clock too, while the others go on."""

    def __init__(self, rows, seconds):
        self.rows, self.seconds, self.sent, self.began, self.woke = max(rows, 1), seconds, 0, None, False

    def wakes(self, partition):
        """Whether this is the first record of the partition that was silent; asked after the stretch."""
        if self.woke or not self.sent or partition != PARTITIONS - 1:
            return False
        self.woke = True
        return True

    def pace(self, load):
        self.began = self.began or time.monotonic()
        self.sent += 1
        if self.sent % 200 == 0:
            load.producer.poll(0)
            pause(self.sent / self.rows * self.seconds - (time.monotonic() - self.began))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=0, help="rows a second; 0 as fast as it goes")
    parser.add_argument("--idle", type=float, default=IDLE_S, help="seconds the silent partition is silent by the clock")
    parser.add_argument("--group", default="flights.views", help="consumer group of the pipeline that reads it")
    options = parser.parse_args()
    raise SystemExit(1 if run(os.environ, options.rate, options.idle, options.group) else 0)


if __name__ == "__main__":
    main()
