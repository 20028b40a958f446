"""The views of pipelines/hubs as ClickHouse computes them over the same flights and airports, and the airports as records."""
import csv
import json
import struct
import urllib.request

from confluent_kafka import Producer

from . import check
from .check import View
from .data import AIRPORTS, airports
from .load import text

# Rows that are written and taken away again before the first flight: what is looked up there is not found.
GONE = ("AK", "HI")

_FROM = "SELECT iata, state FROM airports"
# A flight that finds nothing is in the row without a state.
VIEWS = {
    "per_state": View(["state"], ["flights", "distance"], [], """
        SELECT toStartOfInterval(date, INTERVAL 1 HOUR) AS window_start, window_start + INTERVAL 1 HOUR AS window_end, ifNull(a.state, '') AS state,
               count() AS flights, sum(rows.distance) AS distance
        FROM rows LEFT JOIN ({}) AS a ON rows.origin = a.iata GROUP BY window_start, state""".format(_FROM)),
    "between_states": View(["from_state", "to_state"], ["flights"], [], """
        SELECT toStartOfInterval(date, INTERVAL 1 DAY) AS window_start, window_start + INTERVAL 1 DAY AS window_end, a.state AS from_state,
               b.state AS to_state, count() AS flights
        FROM rows INNER JOIN ({0}) AS a ON rows.origin = a.iata INNER JOIN ({0}) AS b ON rows.destination = b.iata
        GROUP BY window_start, from_state, to_state""".format(_FROM)),
    "hubs": View(["airport"], ["departures", "arrivals"], [], """
        SELECT window_start, window_end, airport, sum(leaves) AS departures, sum(1 - leaves) AS arrivals FROM
            (SELECT toStartOfInterval(date, INTERVAL 1 HOUR) AS window_start, window_start + INTERVAL 1 HOUR AS window_end,
                    arrayJoin([(origin, 1), (destination, 0)]) AS place, place.1 AS airport, place.2 AS leaves FROM rows)
        GROUP BY window_start, window_end, airport""", late="hubs.left"),
}
check.KNOWN.update(VIEWS)
check.TYPES.update(dict.fromkeys(("state", "from_state", "to_state", "airport"), "String"))


def prepare(store):
    """Table `airports`: the rows that are not taken away."""
    store.ask("DROP TABLE IF EXISTS airports")
    store.ask("""CREATE TABLE airports ENGINE = MergeTree ORDER BY iata AS SELECT iata, state FROM
        file('{}', CSVWithNames, 'iata String, name String, city String, state String, country String, latitude String, longitude String')
        WHERE state NOT IN {}""".format(airports(), GONE))


def optional(value):
    return b"\x02" + text(value) if value else b"\x00"


def send(env):
    """Writes the airports to their topic, each once as unknown first, and takes those of GONE away; how many stand."""
    with urllib.request.urlopen("{}/subjects/{}-value/versions/latest".format(env["SOMA_REGISTRY_URL"], AIRPORTS), timeout=20) as answer:
        head = b"\0" + struct.pack(">i", json.load(answer)["id"])
    producer = Producer({"bootstrap.servers": env["SOMA_KAFKA_BROKERS"], "enable.idempotence": True, "linger.ms": 20})
    stands = 0
    with open(airports(), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        key = row["iata"]
        producer.produce(AIRPORTS, key=key, value=head + text(key) + optional("") + optional(""))
        producer.produce(AIRPORTS, key=key, value=head + text(key) + optional(row["city"]) + optional(row["state"]))
        if row["state"] in GONE:
            producer.produce(AIRPORTS, key=key, value=None)
        else:
            stands += 1
        producer.poll(0)
    producer.produce(AIRPORTS, key="none", value=b"no frame here")
    if producer.flush(60):
        raise RuntimeError("airports were not sent")
    return stands
