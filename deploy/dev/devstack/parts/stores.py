"""ClickHouse and Qdrant: the programs of deploy/dev/embedded, each a real engine behind its real protocol."""
import base64
import http.client

from .. import health, layout
from ..base import StackError, server_environment
from .base import Part

_CLICKHOUSE_MEMORY_MB = 1500


class ClickHouse(Part):
    name = "clickhouse"
    title = "ClickHouse engine (chDB) behind its HTTP interface"
    ports = ("clickhouse",)
    user = "soma"
    database = "soma"

    def prepare(self, home):
        home.secret_file("clickhouse")

    def command(self, home):
        argv = [str(layout.clickhouse_server(home.cache)), "--listen", "127.0.0.1:{}".format(home.port("clickhouse")),
                "--path", str(home.data("clickhouse")), "--lib", str(layout.libchdb(home.cache)), "--user", self.user,
                "--password-file", str(home.secret_file("clickhouse")), "--max-memory-mb", str(_CLICKHOUSE_MEMORY_MB)]
        return argv, server_environment(), str(home.data("clickhouse"))

    def probe(self, home):
        return health.http_ok("http://127.0.0.1:{}/ping".format(home.port("clickhouse")), body=b"Ok.\n")

    def ready(self, home):
        """The database that dev.env names exists, as in the official image with CLICKHOUSE_DB."""
        login = base64.b64encode("{}:{}".format(self.user, home.secret("clickhouse")).encode()).decode()
        connection = http.client.HTTPConnection("127.0.0.1", home.port("clickhouse"), timeout=20)
        try:
            connection.request("POST", "/", "CREATE DATABASE IF NOT EXISTS " + self.database, {"Authorization": "Basic " + login})
            answer = connection.getresponse()
            text = answer.read(300).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            raise StackError("cannot make the database {}: {}".format(self.database, error)) from error
        finally:
            connection.close()
        if answer.status != 200:
            raise StackError("cannot make the database {}: {}".format(self.database, text))


class Qdrant(Part):
    name = "qdrant"
    title = "Qdrant engine behind its gRPC interface"
    ports = ("qdrant",)

    def prepare(self, home):
        home.secret_file("qdrant")

    def command(self, home):
        argv = [str(layout.qdrant_venv(home.cache) / "bin" / "python"), str(layout.QDRANT / "server.py"),
                "--listen", "127.0.0.1:{}".format(home.port("qdrant")), "--path", str(home.data("qdrant")),
                "--api-key-file", str(home.secret_file("qdrant"))]
        return argv, server_environment(PYTHONUNBUFFERED=1), str(home.data("qdrant"))

    def probe(self, home):
        return health.grpc_ok(home.port("qdrant"))
