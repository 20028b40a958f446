"""Questions to the dev stack's ClickHouse engine over HTTP: the independent engine that windows are compared with."""
import urllib.error
import urllib.parse
import urllib.request

from devstack.base import StackError


class ClickHouse:
    """`env`: the keys of dev.env."""

    def __init__(self, env):
        self.url = env["SOMA_CLICKHOUSE_URL"]
        self.headers = {"X-ClickHouse-User": env["SOMA_CLICKHOUSE_USER"], "X-ClickHouse-Key": env["SOMA_CLICKHOUSE_PASSWORD"]}

    def lines(self, sql, **settings):
        """The answer's lines as they come, without the line end."""
        query = urllib.parse.urlencode(settings)
        request = urllib.request.Request("{}/?{}".format(self.url, query), data=sql.encode(), headers=self.headers)
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                for line in answer:
                    yield line.rstrip(b"\n")
        except urllib.error.HTTPError as error:
            raise StackError("ClickHouse: {}".format(error.read().decode("utf-8", "replace")[:1000])) from error

    def run(self, sql, data=b"", **settings):
        """A statement, with data for an INSERT."""
        if data:
            settings, sql = {**settings, "query": sql}, None
        query = urllib.parse.urlencode(settings)
        body = data if sql is None else sql.encode()
        request = urllib.request.Request("{}/?{}".format(self.url, query), data=body, headers=self.headers)
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            raise StackError("ClickHouse: {}".format(error.read().decode("utf-8", "replace")[:1000])) from error
