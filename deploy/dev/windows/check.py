"""The six views computed by ClickHouse over the data, without what the late topic names, beside the result topics: every window, both ways."""
from confluent_kafka import Consumer, TopicPartition


SLIDES = 4
# Windows of a session that touch are one, as in Flink.
GAP_S = 1200
FLOAT_TOLERANCE = 1e-9
RANK_TOLERANCE = 0.01


class View:
    """`key`: columns beside the window's start that name a row. `exact` and `close`: columns compared; `sql`: the batch computation;
    `late`: what the late topic calls it, where that is not its name."""

    def __init__(self, key, exact, close, sql, rank=None, late=None):
        self.key, self.exact, self.close, self.sql, self.rank = ["window_start", *key], ["window_end", *exact], close, sql, rank
        self.late = late


def tumble(interval, key, columns):
    names = "".join(", " + k for k in key)
    return """SELECT toStartOfInterval(date, INTERVAL {0}) AS window_start, window_start + INTERVAL {0} AS window_end{1}, {2}
        FROM rows GROUP BY window_start{1}""".format(interval, names, columns)


VIEWS = {
    "per_hour": View(["origin"], ["flights", "delay_max", "distance"], ["delay_avg"], tumble(
        "1 HOUR", ["origin"], "count() AS flights, avg(delay) AS delay_avg, max(delay) AS delay_max, sum(rows.distance) AS distance")),
    "per_minute_total": View([], ["flights"], [], tumble("1 MINUTE", [], "count() AS flights")),
    "per_day_route": View(["origin", "destination"], ["flights", "delay_min", "delay_max", "distance"], [], tumble(
        "1 DAY", ["origin", "destination"],
        "count() AS flights, min(delay) AS delay_min, max(delay) AS delay_max, sum(rows.distance) AS distance")),
    "hop_hours": View(["origin"], ["flights"], ["delay_avg"], """
        SELECT toStartOfInterval(date, INTERVAL 15 MINUTE) - toIntervalMinute(15 * slide) AS window_start,
               window_start + INTERVAL 1 HOUR AS window_end, origin, count() AS flights, avg(delay) AS delay_avg
        FROM rows ARRAY JOIN range({}) AS slide WHERE delay > 0 GROUP BY window_start, origin""".format(SLIDES)),
    "busy": View(["origin", "destination"], ["flights", "distance"], [], """
        SELECT min(date) AS window_start, max(date) + toIntervalSecond({gap}) AS window_end, origin, destination, count() AS flights,
               sum(far) AS distance
        FROM (SELECT *, sum(opens) OVER (PARTITION BY origin, destination ORDER BY date, id ROWS UNBOUNDED PRECEDING) AS session
            FROM (SELECT id, date, origin, destination, distance AS far, dateDiff('second', lagInFrame(date, 1, toDateTime64(0, 6, 'UTC'))
                OVER (PARTITION BY origin, destination ORDER BY date, id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW), date) > {gap} AS opens FROM rows))
        GROUP BY origin, destination, session""".format(gap=GAP_S)),
    "spread": View(["origin"], ["destinations"], [], tumble(
        "6 HOUR", ["origin"], "uniqExact(destination) AS destinations, groupArray(delay) AS delays"), rank=("delay_p95", 0.95)),
}
# Those of other pipelines over the same flights put theirs here.
KNOWN = dict(VIEWS)
TYPES = {"window_start": "DateTime64(6, 'UTC')", "window_end": "DateTime64(6, 'UTC')", "origin": "String", "destination": "String",
         "delay_avg": "Nullable(Float64)", "delay_p95": "Nullable(Float64)", "revision": "Int32", "deleted": "Bool"}


def topic_of(view):
    return "demo.flights_" + view


def records(env, topic):
    """Every record of a topic that is committed, to its present end."""
    consumer = Consumer({"bootstrap.servers": env["SOMA_KAFKA_BROKERS"], "group.id": "verify-windows", "enable.auto.commit": False,
                         "isolation.level": "read_committed", "enable.partition.eof": True, "auto.offset.reset": "earliest",
                         "queued.max.messages.kbytes": 65536})
    partitions = consumer.list_topics(topic, 20).topics[topic].partitions
    consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
    open_ones = set(partitions)
    try:
        while open_ones:
            for message in consumer.consume(10_000, 1.0):
                if message.error() is None:
                    yield message
                elif message.error().name() == "_PARTITION_EOF":
                    open_ones.discard(message.partition())
                else:
                    raise RuntimeError(str(message.error()))
    finally:
        consumer.close()


def take_results(env, store, view):
    """The records of a result topic into table `got_<view>`; ClickHouse decodes them with the registry's schema."""
    wanted = KNOWN[view]
    names = [*wanted.key, *wanted.exact, *wanted.close, *([wanted.rank[0]] if wanted.rank else []), "revision", "deleted"]
    columns = ", ".join("{} {}".format(n, TYPES.get(n, "Nullable(Int64)")) for n in names)
    store.ask("DROP TABLE IF EXISTS got_" + view)
    store.ask("CREATE TABLE got_{} ({}) ENGINE = MergeTree ORDER BY ({})".format(view, columns, ", ".join(wanted.key)))
    insert = "INSERT INTO got_{} ({}) FORMAT AvroConfluent".format(view, ", ".join(names))
    body, told = bytearray(), 0
    for message in records(env, topic_of(view)):
        body += message.value()
        told += 1
        if len(body) > 64 << 20:
            store.ask(insert, bytes(body), format_avro_schema_registry_url=env["SOMA_REGISTRY_URL"])
            body.clear()
    if body:
        store.ask(insert, bytes(body), format_avro_schema_registry_url=env["SOMA_REGISTRY_URL"])
    return told


def flight_id(value):
    """The first field of a framed flight."""
    length = shift = 0
    at = 5
    while True:
        byte = value[at]
        at += 1
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    length >>= 1
    return value[at:at + length].decode()


def take_late(env, store, topic):
    """Which rows came too late for which views; and how many partial rows a partition that woke brought too late."""
    store.ask("DROP TABLE IF EXISTS late")
    store.ask("CREATE TABLE late (view String, id UInt64) ENGINE = MergeTree ORDER BY (view, id)")
    lines, woke, late = [], 0, 0
    for message in records(env, topic):
        headers = {name: (value or b"").decode() for name, value in message.headers() or []}
        if headers.get("soma-late-reason") == "woke":
            woke += 1
            continue
        late += 1
        lines.extend("{}\t{}".format(view, flight_id(message.value())) for view in headers["soma-late-views"].split(","))
    if lines:
        store.ask("INSERT INTO late FORMAT TabSeparated", "\n".join(lines).encode() + b"\n")
    return late, woke


def compare(store, view):
    """(windows compared, wrong ones, revisions, some of the wrong ones) of a view."""
    wanted = KNOWN[view]
    rank = wanted.rank
    key = ", ".join(wanted.key)
    values = [*wanted.exact, *wanted.close, *([rank[0]] if rank else [])]
    rows = "rows AS (SELECT * FROM flights WHERE id NOT IN (SELECT id FROM late WHERE view = '{}'))".format(wanted.late or view)
    last = ", ".join("argMax(tuple({0}), revision).1 AS {0}".format(v) for v in values)
    wrong = ["e.here = 0", "g.here = 0", "g.odd > 0"]
    wrong += ["NOT ifNull(e.{0} = g.{0}, 0)".format(v) for v in wanted.exact]
    wrong += ["NOT ifNull(abs(e.{0} - g.{0}) <= {1} * greatest(1, abs(e.{0})), 0)".format(v, FLOAT_TOLERANCE) for v in wanted.close]
    if rank:
        wrong.append(_RANK.format(column=rank[0], low=rank[1] - RANK_TOLERANCE, high=rank[1] + RANK_TOLERANCE))
    joined = """WITH {rows}, expected AS (SELECT 1 AS here, * REPLACE toDateTime64(window_start, 6, 'UTC') AS window_start FROM ({sql})),
        folded AS (SELECT {key}, {last}, argMax(deleted, revision) AS gone, toUInt8(1) AS here, count() AS told,
            count() != uniqExact(revision) OR min(revision) != 0 OR max(revision) != count() - 1 AS odd FROM got_{view} GROUP BY {key})
        SELECT {{}} FROM expected AS e FULL OUTER JOIN (SELECT * FROM folded WHERE NOT gone) AS g USING ({key})""".format(
            rows=rows, sql=wanted.sql, key=key, last=last, view=view)
    test = " OR ".join(wrong)
    checked, bad = store.rows(joined.format("count(), countIf({})".format(test)))[0]
    samples = store.rows(joined.format("*") + " WHERE {} LIMIT 5".format(test)) if bad != "0" else []
    revisions = store.ask("SELECT countIf(revision > 0) FROM got_" + view).strip()
    return int(checked), int(bad), int(revisions), samples


# A percentile from a digest is right when it stands where it should among the values, within one in a hundred of them, or one of them.
_RANK = """NOT (arrayCount(d -> d <= g.{column}, e.delays) >= {low} * length(e.delays) - 1
    AND arrayCount(d -> d < g.{column}, e.delays) <= {high} * length(e.delays) + 1)"""


def unreadable(env):
    """How many records are in the dead-letter topic of the source."""
    return sum(1 for _ in records(env, "demo.flights.dlq"))
