"""The data set flights-3m of npm vega-datasets in ClickHouse, and the order in which it is sent: seeded, so that it can be sent again.

What is done to it: rows come out of order by less than the watermark allows; some come late, by minutes to days; some come twice; one
partition gets nothing for a stretch of the data.
"""
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from devstack import fetch, layout  # noqa: E402
from devstack.base import cache_root, make_dir  # noqa: E402

# As many as the topics were made with.
PARTITIONS = int(os.environ.get("SOMA_PARTITIONS") or 4)
DATABASE = "windows"
TOPIC = "demo.flights"
AIRPORTS = "demo.airports"
# Four records nobody can take come with so many rows.
BAD_EVERY = 10_000
# Out of order by less than the ten minutes of the watermark.
JITTER_S = 540
# The stretch of the data in which the last partition gets nothing: parts of a thousand of all rows.
IDLE = (400, 500)


class ClickHouse:
    """The dev stack's ClickHouse, over HTTP."""

    def __init__(self, env):
        self.url = env["SOMA_CLICKHOUSE_URL"]
        self.login = {"X-ClickHouse-User": env["SOMA_CLICKHOUSE_USER"], "X-ClickHouse-Key": env["SOMA_CLICKHOUSE_PASSWORD"]}

    def open(self, sql, body=None, **settings):
        where = "{}/?{}".format(self.url, urllib.parse.urlencode({"query": sql, "database": DATABASE if settings.pop("within", True) else "default", **settings}))
        request = urllib.request.Request(where, data=body if body is not None else b"", headers=self.login, method="POST")
        try:
            return urllib.request.urlopen(request, timeout=1800)
        except urllib.error.HTTPError as error:
            raise RuntimeError("ClickHouse refuses: {}\n{}".format(error.read().decode(errors="replace")[:2000], sql)) from error

    def ask(self, sql, body=None, **settings):
        with self.open(sql, body, **settings) as answer:
            return answer.read().decode()

    def rows(self, sql):
        return [line.split("\t") for line in self.ask(sql).splitlines()]


def parquet():
    """The data set, fetched once into the cache."""
    cache = make_dir(cache_root())
    path = layout.flights(cache)
    if not path.exists():
        with open(make_dir(cache / "logs") / "setup-flights.log", "w", encoding="utf-8") as log:
            fetch.flights(log, cache)
    return path


def airports():
    """The airports of the same collection, fetched once into the cache."""
    cache = make_dir(cache_root())
    path = layout.airports(cache)
    if not path.exists():
        with open(make_dir(cache / "logs") / "setup-airports.log", "w", encoding="utf-8") as log:
            fetch.airports(log, cache)
    return path


def prepare(store, rows, seed):
    """Table `flights`: the data. Table `sends`: what is sent, and when, in the time of the data."""
    store.ask("CREATE DATABASE IF NOT EXISTS " + DATABASE, within=False)
    for table in ("flights", "sends", "stretch"):
        store.ask("DROP TABLE IF EXISTS {}".format(table))
    store.ask("""CREATE TABLE flights ENGINE = MergeTree ORDER BY id AS
        SELECT rowNumberInAllBlocks() AS id, assumeNotNull(date) AS date, assumeNotNull(delay) AS delay, assumeNotNull(distance) AS distance,
               assumeNotNull(origin) AS origin, assumeNotNull(destination) AS destination
        FROM file('{}', Parquet) LIMIT {}
        SETTINGS max_threads = 1, max_parsing_threads = 1, input_format_parquet_preserve_order = 1""".format(parquet(), rows))
    found = int(store.ask("SELECT count() FROM flights"))
    if found != rows:
        raise RuntimeError("the data set has {} rows, not {}".format(found, rows))
    store.ask("""CREATE TABLE stretch ENGINE = Memory AS SELECT
        (SELECT date FROM flights ORDER BY id LIMIT 1 OFFSET {}) AS idle_from, (SELECT date FROM flights ORDER BY id LIMIT 1 OFFSET {}) AS idle_to
        """.format(rows * IDLE[0] // 1000, rows * IDLE[1] // 1000))
    store.ask(_SENDS.format(seed=seed, jitter=JITTER_S, last=PARTITIONS - 1, partitions=PARTITIONS))


# `h` decides what happens to a row, `at` is when it is sent in the time of the data. A row that comes twice comes to the partition it came to
# first: `soma.unique` speaks of one partition. The first hour after the silence brings nothing late to the partition that was silent: its own
# watermark stands where it stood, and it would take in what the windows have no place for any more.
_SENDS = """CREATE TABLE sends ENGINE = MergeTree ORDER BY (at, id, again) AS
WITH (SELECT idle_from FROM stretch) AS idle_from, (SELECT idle_to FROM stretch) AS idle_to
SELECT id, 0 AS again, sent AS at, place AS partition FROM (
    SELECT id, cityHash64(id, {seed}) AS h,
        multiIf(h % 1000 = 1, 1500 + intDiv(h, 1000) % 2700, h % 2000 = 2, 10800 + intDiv(h, 2000) % 97200,
                h % 20000 = 3, 172800 + intDiv(h, 20000) % 86400, intDiv(h, 7) % {jitter}) AS wait,
        date + toIntervalSecond(wait) AS sent, cityHash64(id) % {partitions} AS home,
        home = {last} AND sent >= idle_from AND (sent < idle_to OR (sent < idle_to + toIntervalHour(1) AND wait > {jitter})) AS away,
        if(away, h % {last}, home) AS place
    FROM flights)
UNION ALL
SELECT id, 1 AS again, sent + toIntervalSecond(1 + intDiv(h, 300) % 1800) AS at, place AS partition FROM (
    SELECT id, cityHash64(id, {seed}) AS h, intDiv(h, 7) % {jitter} AS wait, date + toIntervalSecond(wait) AS sent,
        cityHash64(id) % {partitions} AS home, if(home = {last} AND sent >= idle_from AND sent < idle_to, h % {last}, home) AS place
    FROM flights WHERE h % 1000 != 1 AND h % 2000 != 2 AND h % 20000 != 3 AND h % 100 = 5)
WHERE NOT (place = {last} AND at >= idle_from AND at < idle_to)"""
