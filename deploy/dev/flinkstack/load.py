"""Sends the rows of table `sends` (see windows/data.py) to demo.flights with none of them late: Flink drops what is late, so only what both
engines take can be compared. Out of order within the watermark's delay, and duplicates, stay. Run with the Python of the live tests."""
import os
import sys

from windows.data import JITTER_S, ClickHouse
from windows.load import Load

# What is sent again may come when it would be late: a duplicate is dropped either way.
_ROWS = """SELECT partition, id, toUnixTimestamp64Micro(date), delay, distance, origin, destination
    FROM sends INNER JOIN flights USING (id) ORDER BY if(again, at, least(at, date + toIntervalSecond({}))), id, again FORMAT TabSeparated""".format(JITTER_S - 1)


def run(env, group):
    """Sends everything, asking a consumer group for nothing; how many records are left unsent."""
    load = Load(env, 0, group)
    with ClickHouse(env).open(_ROWS, max_bytes_before_external_sort=1 << 30) as answer:
        for line in answer:
            load.row(line.decode().rstrip("\n").split("\t"))
            if load.sent % 2_000 == 0:
                load.pace()
    left = load.producer.flush(120)
    print("loaded rows={} unsent={}".format(load.sent, left), flush=True)
    return left


if __name__ == "__main__":
    sys.exit(1 if run(os.environ, "flights.views") else 0)
