"""Fills a topic with the flights of the parquet file, as Avro in Confluent's framing: shuffled within bounds, some rows twice, none late.
Run with the Python of the live tests (confluent-kafka, fastavro): load.py --parquet FILE --topic demo.flights --rows 100000."""
import argparse
import io
import json
import os
import sys
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import confluent_kafka  # noqa: E402
import confluent_kafka.admin  # noqa: E402
import fastavro  # noqa: E402

from flinkstack.clickhouse import ClickHouse  # noqa: E402

SCHEMA = {
    "type": "record", "name": "Flight", "namespace": "demo",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "date", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "delay", "type": ["null", "long"], "default": None},
        {"name": "distance", "type": ["null", "long"], "default": None},
        {"name": "origin", "type": "string"},
        {"name": "destination", "type": "string"},
    ]}

# A row's place in the topic is its time moved back and forth by less than the watermark's delay of ten minutes, so none is late. One row
# in a hundred is sent once more, moved by another amount.
_ROWS = """
WITH rows AS (
  SELECT rowNumberInAllBlocks() AS n, toUnixTimestamp64Micro(assumeNotNull(date)) AS at, delay, distance, origin, destination
  FROM file('{parquet}') ORDER BY n LIMIT {rows}
)
SELECT n, at, delay, distance, origin, destination FROM (
  SELECT *, at + cityHash64(n, {seed}) % 540000000 AS place FROM rows
  UNION ALL
  SELECT *, at + cityHash64(n, {seed}, 'again') % 540000000 AS place FROM rows WHERE cityHash64(n, {seed}, 'twice') % 100 = 0
) ORDER BY place FORMAT TSV"""


def register(registry, subject):
    """Registers the schema under the subject; its id."""
    body = json.dumps({"schema": json.dumps(SCHEMA)}).encode()
    request = urllib.request.Request("{}/subjects/{}/versions".format(registry, subject), data=body,
                                     headers={"Content-Type": "application/vnd.schemaregistry.v1+json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())["id"]


def make_topic(brokers, topic, partitions):
    admin = confluent_kafka.admin.AdminClient({"bootstrap.servers": brokers})
    made = admin.create_topics([confluent_kafka.admin.NewTopic(topic, partitions, 1)])
    made[topic].result(30)


def fill(options, env):
    """Sends all rows; how many records that were."""
    make_topic(env["SOMA_KAFKA_BROKERS"], options.topic, options.partitions)
    head = b"\0" + register(env["SOMA_REGISTRY_URL"], options.topic + "-value").to_bytes(4, "big")
    schema = fastavro.parse_schema(SCHEMA)
    producer = confluent_kafka.Producer({
        "bootstrap.servers": env["SOMA_KAFKA_BROKERS"], "linger.ms": 50, "batch.num.messages": 50000, "queue.buffering.max.messages": 400000,
        "enable.idempotence": True, "partitioner": "murmur2"})
    sent = 0
    sql = _ROWS.format(parquet=options.parquet, rows=options.rows, seed=options.seed)
    for line in ClickHouse(env).lines(sql, max_threads=1, input_format_parquet_preserve_order=1):
        number, at, delay, distance, origin, destination = line.decode().split("\t")
        out = io.BytesIO()
        out.write(head)
        fastavro.schemaless_writer(out, schema, {"id": number, "date": int(at), "delay": _long(delay), "distance": _long(distance),
                                                 "origin": origin, "destination": destination})
        while True:
            try:
                producer.produce(options.topic, out.getvalue(), number)
                break
            except BufferError:
                producer.poll(0.1)
        sent += 1
    left = producer.flush(120)
    if left:
        raise SystemExit("load: the broker did not take {} records".format(left))
    return sent


def _long(text):
    return None if text == "\\N" else int(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parquet", required=True, metavar="FILE", help="flights-3m.parquet")
    parser.add_argument("--topic", default="demo.flights")
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    begin = time.monotonic()
    sent = fill(options, os.environ)
    seconds = time.monotonic() - begin
    print("loaded={} records_per_s={:.0f}".format(sent, sent / seconds))


if __name__ == "__main__":
    main()
