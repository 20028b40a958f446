"""The two Java servers: Kafka and the schema registry. Both run on the pinned JDK from the cache, with an ahead-of-time class cache."""
import base64
import os
import struct
import subprocess
import time

from .. import health, layout
from ..base import CONF, StackError, make_dir, server_environment
from .base import Part, fill

# Kafka: G1 with short pauses. 512 MiB is far above what one developer's topics need.
_KAFKA_JVM = ["-Xms256m", "-Xmx512m", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:+ExplicitGCInvokesConcurrent",
              "--sun-misc-unsafe-memory-access=allow", "--enable-native-access=ALL-UNNAMED"]
# Registry: asked rarely, so the small collector and the quick compiler: less memory, quicker start.
_REGISTRY_JVM = ["-Xms64m", "-Xmx160m", "-Xss512k", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
                 "-XX:MaxMetaspaceSize=160m", "-XX:ReservedCodeCacheSize=32m",
                 "--add-opens=java.base/java.lang=ALL-UNNAMED", "--enable-native-access=ALL-UNNAMED",
                 "--sun-misc-unsafe-memory-access=allow", "-Djava.util.logging.manager=org.jboss.logmanager.LogManager"]


def _aot(home, name, training):
    """Flags for the class cache: written in a training run (setup), used afterwards, ignored when it does not fit."""
    path = layout.aot_cache(home.cache, name)
    quiet = ["-Xlog:disable", "-Xlog:all=error:stderr"]
    if training:
        return quiet + ["-XX:AOTCacheOutput={}".format(path.with_suffix(".new"))]
    return quiet + (["-XX:AOTCache={}".format(path)] if path.exists() else [])


class Kafka(Part):
    name = "kafka"
    title = "Apache Kafka, one KRaft node"
    ports = ("kafka", "kafka-controller")
    training = False

    def prepare(self, home):
        data = home.data("kafka")
        text = fill("kafka.properties", port=home.port("kafka"), controller_port=home.port("kafka-controller"), data=data)
        self._conf = home.conf("kafka.properties", text)
        if not (data / "log" / "meta.properties").exists():
            self._format(home, data)

    def _format(self, home, data):
        cluster = base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=").replace("-", "A", 1)
        argv = self._java(home, ["-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
        argv += ["kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._conf)]
        done = subprocess.run(argv, env=server_environment(), cwd=str(data), capture_output=True, text=True)
        if done.returncode:
            raise StackError("Kafka could not format its storage in {}:\n{}".format(data, done.stdout + done.stderr),
                             "`reset` removes the data if it may go")

    def _java(self, home, flags):
        jars = sorted(layout.kafka_libs(home.cache).glob("*.jar"))
        return [str(layout.java(home.cache)), *flags, "-Dlog4j2.configurationFile={}".format(CONF / "log4j2.properties"),
                "-cp", ":".join(map(str, jars))]

    def command(self, home):
        flags = _KAFKA_JVM + _aot(home, "kafka", self.training)
        argv = self._java(home, flags) + ["kafka.Kafka", str(home.path / "conf" / "kafka.properties")]
        return argv, server_environment(), str(home.data("kafka"))

    def probe(self, home):
        return health.kafka_ok(home.port("kafka"))

    def ready(self, home):
        """Kafka makes its two internal topics when the first group and the first transaction ask for their coordinator, and fetches
        its first block of producer ids when the first producer asks for one: asked here, the first user does not wait for them."""
        name = struct.pack(">h", 10) + b"soma-stack"
        self._ask(home, api=10, body=name + b"\x00")                     # FindCoordinator of a group
        self._ask(home, api=10, body=name + b"\x01")                     # FindCoordinator of a transaction
        self._ask(home, api=22, body=struct.pack(">hi", -1, 60_000))     # InitProducerId without a transaction

    def _ask(self, home, api, body):
        """Repeats a request (version 1) until its error code, which follows the correlation id and throttle time, is zero."""
        for _ in range(100):
            try:
                answer = health.kafka_call(home.port("kafka"), api, 1, body)
            except OSError:
                return  # this only hurries; whether Kafka works is the probe's business
            if struct.unpack_from(">h", answer, 8)[0] == 0:
                return
            time.sleep(0.05)


class Registry(Part):
    """Apicurio Registry with its Confluent-compatible API; schemas are kept in an H2 file.

    Not started by its own quarkus-run.jar but from a flat class path, because the class cache cannot hold
    what a class loader of its own has loaded: 3 s instead of 9 s to the first answer.
    """

    name = "schema-registry"
    title = "Apicurio Registry, Confluent-compatible API"
    ports = ("schema-registry",)
    training = False
    path = "/apis/ccompat/v7"

    def url(self, home):
        return "http://127.0.0.1:{}{}".format(home.port("schema-registry"), self.path)

    def prepare(self, home):
        make_dir(home.data("schema-registry") / "tmp")

    def command(self, home):
        data = home.data("schema-registry")
        app = layout.registry_app(home.cache)
        jars = [app / "quarkus" / "generated-bytecode.jar", app / "quarkus" / "transformed-bytecode.jar"]
        for folder in ("app", "lib/main", "lib/boot"):
            jars += sorted((app / folder).glob("*.jar"))
        argv = [str(layout.java(home.cache)), *_REGISTRY_JVM, *_aot(home, "registry", self.training),
                "-Djava.io.tmpdir={}".format(data / "tmp"), "-cp", ":".join(map(str, jars)), "io.quarkus.runner.GeneratedMain"]
        env = server_environment(
            QUARKUS_HTTP_HOST="127.0.0.1", QUARKUS_HTTP_PORT=home.port("schema-registry"),
            QUARKUS_MANAGEMENT_HOST="127.0.0.1", QUARKUS_MANAGEMENT_PORT=0, QUARKUS_HTTP_ACCESS_LOG_ENABLED="false",
            QUARKUS_LOG_FILE_ENABLE="false", QUARKUS_HTTP_IO_THREADS=2, QUARKUS_THREAD_POOL_MAX_THREADS=16,
            APICURIO_STORAGE_KIND="sql", APICURIO_STORAGE_SQL_KIND="h2", APICURIO_DATASOURCE_JDBC_INITIAL_SIZE=2,
            # WRITE_DELAY=0: an answered registration is in the file, also after kill -9.
            APICURIO_DATASOURCE_URL="jdbc:h2:file:{}/registry;WRITE_DELAY=0".format(data),
            # A registered schema can be deleted while developing, as in Confluent's registry.
            APICURIO_REST_DELETION_ARTIFACT_ENABLED="true", APICURIO_REST_DELETION_ARTIFACT_VERSION_ENABLED="true")
        return argv, env, str(data)

    def probe(self, home):
        return health.http_ok(self.url(home) + "/config")
