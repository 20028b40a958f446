"""ClickHouse and Qdrant: the programs of deploy/dev/embedded, each a real engine behind its real protocol."""
import subprocess

from .. import health, layout
from ..base import server_environment
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


class Qdrant(Part):
    name = "qdrant"
    title = "Qdrant engine behind its gRPC interface"
    ports = ("qdrant",)

    def prepare(self, home):
        home.secret_file("qdrant")

    def _program(self, home):
        return [str(layout.qdrant_venv(home.cache) / "bin" / "python"), str(layout.QDRANT / "server.py")]

    def command(self, home):
        argv = self._program(home) + ["--listen", "127.0.0.1:{}".format(home.port("qdrant")), "--path", str(home.data("qdrant")),
                                      "--api-key-file", str(home.secret_file("qdrant"))]
        return argv, server_environment(PYTHONUNBUFFERED=1), str(home.data("qdrant"))

    def probe(self, home):
        argv = self._program(home) + ["--check", "127.0.0.1:{}".format(home.port("qdrant"))]
        try:
            done = subprocess.run(argv, env=server_environment(), capture_output=True, text=True, timeout=10)
        except subprocess.TimeoutExpired:
            return "the health check did not end in 10 s"
        said = (done.stderr or done.stdout).strip().splitlines()
        return None if done.returncode == 0 else (said[-1] if said else "the health check ended with {}".format(done.returncode))
