"""The small Debian servers: Redis, Prometheus, Pushgateway, and nginx as the receiver."""
import os
import pwd

from .. import health, layout
from ..base import DEV, make_dir, server_environment
from .base import Part, fill


class Redis(Part):
    name = "redis"
    title = "Redis"
    ports = ("redis",)

    def prepare(self, home):
        text = fill("redis.conf", port=home.port("redis"), password=home.secret("redis"), data=home.data("redis"))
        home.conf("redis.conf", text)

    def command(self, home):
        return [layout.program("redis-server"), str(home.path / "conf" / "redis.conf")], server_environment(), str(home.data("redis"))

    def probe(self, home):
        return health.redis_ok(home.port("redis"), home.secret("redis"))


class Pushgateway(Part):
    name = "pushgateway"
    title = "Prometheus Pushgateway"
    ports = ("pushgateway",)

    def command(self, home):
        data = home.data("pushgateway")
        argv = [layout.program("prometheus-pushgateway"), "--web.listen-address=127.0.0.1:{}".format(home.port("pushgateway")),
                "--persistence.file={}".format(data / "metrics"), "--persistence.interval=1s", "--log.level=warn"]
        return argv, server_environment(GOMAXPROCS=2), str(data)

    def probe(self, home):
        return health.http_ok("http://127.0.0.1:{}/-/ready".format(home.port("pushgateway")))


class Prometheus(Part):
    name = "prometheus"
    title = "Prometheus"
    ports = ("prometheus",)

    def prepare(self, home):
        address = "127.0.0.1:{}".format
        text = fill(DEV.parent / "prometheus" / "prometheus.yml", admin=address(home.port("admin")),
                    pushgateway=address(home.port("pushgateway")), prometheus=address(home.port("prometheus")),
                    rules=DEV.parent / "prometheus" / "rules")
        home.conf("prometheus.yml", text)

    def command(self, home):
        data = home.data("prometheus")
        argv = [layout.program("prometheus"), "--config.file={}".format(home.path / "conf" / "prometheus.yml"),
                "--web.listen-address=127.0.0.1:{}".format(home.port("prometheus")), "--storage.tsdb.path={}".format(data),
                "--storage.tsdb.retention.time=15d", "--web.enable-lifecycle", "--log.level=warn"]
        return argv, server_environment(GOMAXPROCS=2), str(data)

    def probe(self, home):
        return health.http_ok("http://127.0.0.1:{}/-/ready".format(home.port("prometheus")))


class Receiver(Part):
    name = "receiver"
    title = "nginx: the server that demos and tests call"
    ports = ("receiver",)

    def access_log(self, home):
        return home.data("receiver") / "access.log"

    def prepare(self, home):
        data = home.data("receiver")
        make_dir(data / "tmp")
        make_dir(data / "store")
        # Started as root, nginx would give its worker to another user, who cannot write the store.
        user = pwd.getpwuid(os.geteuid()).pw_name
        line = "user {};".format(user) if os.geteuid() == 0 else ""
        text = fill("receiver.conf", user_line=line, data=data, port=home.port("receiver"), log=self.access_log(home))
        home.conf("receiver.conf", text)

    def command(self, home):
        data = home.data("receiver")
        argv = [layout.program("nginx"), "-p", str(data), "-c", str(home.path / "conf" / "receiver.conf"), "-e", "stderr"]
        return argv, server_environment(), str(data)

    def probe(self, home):
        return health.http_ok("http://127.0.0.1:{}/health".format(home.port("receiver")))
