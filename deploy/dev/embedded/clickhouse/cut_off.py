#!/usr/bin/env python3
"""Kills the server in the middle of inserts, makes each cut-off insert again under its token, and counts what is there then.

    cut_off.py --server FILE/soma-dev-clickhouse --lib FILE/libchdb.so [--rounds 60]

What it finds is why the sink looks for its rows (ARCHITECTURE, "A token that is taken is no proof"). Writes to a temporary folder.
The last line: of how many inserts cut off facts, or minutes, were never there although the repeated insert was acknowledged.
"""
import argparse
import collections
import http.client
import os
import random
import signal
import subprocess
import tempfile
import threading
import time
import urllib.parse

ROWS = 20
WINDOW = "SETTINGS non_replicated_deduplication_window = 10000"
TABLES = (
    f"CREATE TABLE facts (t String, n UInt64) ENGINE = MergeTree ORDER BY (t, n) {WINDOW}",
    f"CREATE TABLE minutes (t String, n UInt64) ENGINE = SummingMergeTree ORDER BY t {WINDOW}",
    "CREATE MATERIALIZED VIEW feed TO minutes AS SELECT t, count() AS n FROM facts GROUP BY t",
)


class Server:
    def __init__(self, args, home):
        self.args, self.home, self.port, self.process = args, home, 0, None
        self.password = os.path.join(home, "password")
        with open(os.open(self.password, os.O_CREAT | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
            file.write("cut-off")

    def start(self):
        data = os.path.join(self.home, "data")
        os.makedirs(data, exist_ok=True)
        argv = [self.args.server, "--listen", "127.0.0.1:0", "--path", data, "--lib", self.args.lib, "--user", "soma",
                "--password-file", self.password, "--max-memory-mb", "1500"]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        said = self.process.stdout.readline()
        if "is ready at" not in said:
            raise SystemExit(f"the server did not start: {said!r}")
        self.port = int(said.strip().rsplit(":", 1)[1])

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()

    def ask(self, sql, body="", **settings):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            login = {"X-ClickHouse-User": "soma", "X-ClickHouse-Key": "cut-off"}
            connection.request("POST", "/?" + urllib.parse.urlencode({"query": sql, **settings}), body, login)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def insert(self, token):
        rows = "".join(f"{token},{n}\n" for n in range(ROWS))
        return self.ask("INSERT INTO facts FORMAT CSV", rows, insert_deduplicate="1", insert_deduplication_token=token,
                        deduplicate_blocks_in_dependent_materialized_views="1")[0]

    def there(self, token):
        sql = f"SELECT (SELECT count() FROM facts WHERE t = '{token}'), (SELECT sum(n) FROM minutes WHERE t = '{token}')"
        return tuple(int(word) for word in self.ask(sql)[1].split())


def cut_off(server, name):
    """Inserts of three writers until the server is killed: the tokens of those whose end was not learnt."""
    open_ends = []

    def write(writer):
        for n in range(1_000_000):
            token = f"{name}-{writer}-{n}"
            try:
                done = server.insert(token) == 200
            except (OSError, http.client.HTTPException):
                done = False
            if not done:
                open_ends.append(token)
                return

    writers = [threading.Thread(target=write, args=(n,)) for n in range(3)]
    for writer in writers:
        writer.start()
    time.sleep(random.uniform(0.2, 0.6))
    server.kill()
    for writer in writers:
        writer.join()
    return open_ends


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", required=True)
    parser.add_argument("--lib", required=True)
    parser.add_argument("--rounds", type=int, default=60)
    args = parser.parse_args()
    counts = collections.Counter()
    with tempfile.TemporaryDirectory(prefix="soma-cut-off.") as home:
        server = Server(args, home)
        server.start()
        for sql in TABLES:
            assert server.ask(sql)[0] == 200, sql
        for n in range(args.rounds):
            tokens = cut_off(server, f"round-{n}")
            server.start()
            for token in tokens:
                before = server.there(token)
                assert server.insert(token) == 200, token
                facts, minutes = server.there(token)
                counts["inserts"] += 1
                counts["minutes_behind"] += before[0] > before[1]
                counts["facts_missing"] += facts != ROWS
                counts["minutes_missing"] += minutes != ROWS
                if (facts, minutes) != (ROWS, ROWS):
                    print(f"{token}: before {before}, made again {(facts, minutes)}", flush=True)
        server.kill()
    print("cut_off " + " ".join(f"{k}={counts[k]}" for k in ("inserts", "minutes_behind", "facts_missing", "minutes_missing")))


if __name__ == "__main__":
    main()
