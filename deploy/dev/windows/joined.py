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
_HOURLY = """SELECT toStartOfInterval(date, INTERVAL 1 HOUR) AS w, origin AS o, destination AS d, distance AS far, date AS at, 1 AS here FROM rows"""
_HALF_HOURS = """SELECT toStartOfInterval(date, INTERVAL 30 MINUTE) - toIntervalMinute(30 * slide) AS w, origin AS o, destination AS d, distance AS far,
    date AS at, 1 AS here FROM rows ARRAY JOIN range(2) AS slide"""


def beside(columns, left, join, right, behind):
    """Each flight beside those of the opposite way in the same window; a side that is not there has `here` 0."""
    return """SELECT {columns} FROM ({left}) AS there {join} JOIN ({right}) AS back ON there.w = back.w AND there.o = back.d AND there.d = back.o
        {behind}""".format(columns=columns, left=left, join=join, right=right, behind=behind)


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
    "returns": View(["origin"], ["pairs", "distance"], [], beside(
        "there.w AS window_start, window_start + INTERVAL 1 HOUR AS window_end, there.o AS origin, count() AS pairs, sum(there.far) AS distance",
        _HALF_HOURS, "INNER", _HALF_HOURS, "WHERE back.at > there.at GROUP BY window_start, origin"), late="returns.left"),
    # A flight meets its answers, or stands alone.
    "answered": View(["origin", "destination"], ["flights", "answers"], [], """
        SELECT f.w AS window_start, window_start + INTERVAL 1 HOUR AS window_end, f.o AS origin, f.d AS destination,
               sum(greatest(met, 1)) AS flights, sum(met) AS answers
        FROM (SELECT there.id AS id, any(there.w) AS w, any(there.o) AS o, any(there.d) AS d, countIf(back.here = 1 AND back.at > there.at) AS met
            FROM (SELECT id, toStartOfInterval(date, INTERVAL 1 HOUR) AS w, origin AS o, destination AS d, date AS at FROM rows) AS there
            LEFT JOIN ({}) AS back ON there.w = back.w AND there.o = back.d AND there.d = back.o GROUP BY id) AS f
        GROUP BY window_start, origin, destination""".format(_HOURLY), late="answered.left"),
    "ways": View(["airport"], ["away", "home"], [], beside(
        """if(there.here = 1, there.w, back.w) AS window_start, window_start + INTERVAL 1 HOUR AS window_end,
           if(there.here = 1, there.o, back.d) AS airport, countIf(there.here = 1) AS away, countIf(back.here = 1) AS home""",
        _HOURLY, "FULL OUTER", _HOURLY + " WHERE distance > 500", "GROUP BY window_start, airport"), late="ways.left"),
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
