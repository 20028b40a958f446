"""The processes of a cluster: how each is started, and starting and stopping all of them. They are extra programs of the home:
`stack.py status`, `kill` and `start` know them by name."""
import os
import time
from pathlib import Path

from devstack import control, layout, proc, setup
from devstack.base import CONF, StackError, make_dir, server_environment
from devstack.parts.base import fill

JOBMANAGER, GATEWAY = "flink-jobmanager", "flink-gateway"
_PORTS = {"rpc": "flink-rpc", "rest": "flink-rest", "gateway": "flink-gateway"}
# What Flink's own scripts pass: its serializers and its RPC reach into these.
_OPENS = ["java.base/java.lang", "java.base/java.net", "java.base/java.io", "java.base/java.nio", "java.base/sun.nio.ch",
          "java.base/java.lang.reflect", "java.base/java.text", "java.base/java.time", "java.base/java.util",
          "java.base/java.util.concurrent", "java.base/java.util.concurrent.atomic", "java.base/java.util.concurrent.locks"]
_EXPORTS = ["java.security.jgss/sun.security.krb5", "java.rmi/sun.rmi.registry"]
# Megabytes a TaskManager has beside its task heap: framework heap, framework off-heap, JVM metaspace, overhead. And for each slot:
# managed memory, from which every window aggregate takes a buffer and does not start without one.
_FRAMEWORK_HEAP, _FRAMEWORK_OFF_HEAP, _METASPACE, _OVERHEAD = 128, 64, 192, 96
_MANAGED_PER_SLOT = 128


class Shape:
    """How many TaskManagers, with how many slots each, and what memory each of them may take."""

    def __init__(self, task_managers=2, slots=2, memory_mb=1280):
        self.task_managers, self.slots, self.memory_mb = task_managers, slots, memory_mb
        self.network_mb = 32 + 16 * slots
        self.managed_mb = _MANAGED_PER_SLOT * slots
        self.task_heap_mb = memory_mb - self.network_mb - self.managed_mb - _FRAMEWORK_HEAP - _FRAMEWORK_OFF_HEAP - _METASPACE - _OVERHEAD
        if self.task_heap_mb < 128:
            raise StackError("{} MB leave {} MB of task heap".format(memory_mb, self.task_heap_mb), "give at least {} with --memory-mb".format(
                memory_mb - self.task_heap_mb + 128))

    def names(self):
        return ["flink-taskmanager-{}".format(n + 1) for n in range(self.task_managers)]

    def settings(self):
        """Flink wants every share of the memory named when no script of its own computes them."""
        mb = {"framework.heap.size": _FRAMEWORK_HEAP, "framework.off-heap.size": _FRAMEWORK_OFF_HEAP, "task.heap.size": self.task_heap_mb,
              "task.off-heap.size": 0, "managed.size": self.managed_mb, "network.min": self.network_mb, "network.max": self.network_mb,
              "jvm-metaspace.size": _METASPACE, "jvm-overhead.min": _OVERHEAD, "jvm-overhead.max": _OVERHEAD}
        values = {"taskmanager.memory.{}".format(name): "{}m".format(size) for name, size in mb.items()}
        values.update({"taskmanager.cpu.cores": "1.0", "taskmanager.numberOfTaskSlots": str(self.slots)})
        return values

    def jvm(self):
        heap, direct = _FRAMEWORK_HEAP + self.task_heap_mb, _FRAMEWORK_OFF_HEAP + self.network_mb
        return ["-Xms{0}m".format(heap), "-Xmx{0}m".format(heap), "-XX:MaxDirectMemorySize={}m".format(direct),
                "-XX:MaxMetaspaceSize={}m".format(_METASPACE), "-XX:+UseG1GC"]


def urls(home):
    """Addresses of the REST API of the cluster and of the SQL gateway."""
    return {"rest": "http://127.0.0.1:{}".format(home.port(_PORTS["rest"])), "gateway": "http://127.0.0.1:{}".format(home.port(_PORTS["gateway"]))}


def _java(home, main, jvm):
    """On Debian's Java, 17 or 21, which Flink supports: the JDK 25 of the other servers loads a class of YARN's where the SQL gateway
    only looks for one, and the gateway ends for want of Hadoop."""
    jars = sorted(Path(layout.checked(layout.flink(home.cache), "Flink")).glob("lib/*.jar"))
    reach = [flag for name in _OPENS for flag in ("--add-opens", name + "=ALL-UNNAMED")]
    reach += [flag for name in _EXPORTS for flag in ("--add-exports", name + "=ALL-UNNAMED")]
    return [layout.program("java"), *jvm, *reach, "-Dlog4j.configurationFile={}".format(CONF / "flink" / "log4j2.properties"),
            "-Dfile.encoding=UTF-8", "-cp", ":".join(map(str, jars)), main]


def _options(values):
    return [word for name, value in values.items() for word in ("-D", "{}={}".format(name, value))]


def _configure(home):
    data = home.data("flink")
    make_dir(data / "tmp")
    ports = {key: home.port(name) for key, name in _PORTS.items()}
    folder = make_dir(home.path / "conf" / "flink")
    (folder / "config.yaml").write_text(fill("flink/config.yaml", data=data, **ports))
    return folder, data


def _environment(folder):
    return server_environment(FLINK_CONF_DIR=folder)


def _run(home, name, argv, folder, data, health=None):
    seconds = control.run_extra(home, name, [str(word) for word in argv], str(data), _environment(folder), health, 90)
    print("{:20} {} after {:4.1f} s, log {}".format(name, "healthy" if health else "runs", seconds, home.log(name)), flush=True)


def start_task_manager(home, name, shape, settings=None, prefix=()):
    """Starts one, or starts it again. `prefix` is put before the command, as `taskset -c 1`."""
    folder, data = _configure(home)
    argv = _java(home, "org.apache.flink.runtime.taskexecutor.TaskManagerRunner", shape.jvm())
    values = {**shape.settings(), "taskmanager.resource-id": "{}-{}".format(name, os.urandom(3).hex()), **(settings or {})}
    _run(home, name, [*prefix, *argv, "--configDir", folder, *_options(values)], folder, data)


def up(home, shape, settings=None, prefix=(), ready=None):
    """Starts what does not run; `ready` waits for the slots before the gateway is started. Gives the seconds until then. `settings`
    are Flink's own, for the whole cluster; `prefix` is put before the TaskManagers' commands."""
    setup.ensure(["flink"], "up", quiet=True)
    names = [JOBMANAGER, *shape.names(), GATEWAY]
    running = [name for name in names if proc.alive(home.record(name))]
    if running:
        raise StackError("{} already run in {}".format(", ".join(running), home.path), "`flink.py down` first")
    folder, data = _configure(home)
    extra = _options(settings or {})
    at = urls(home)
    begin = time.monotonic()
    jobmanager = _java(home, "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint",
                       ["-Xmx384m", "-XX:MaxMetaspaceSize=192m", "-XX:+UseSerialGC"])
    _run(home, JOBMANAGER, [*jobmanager, "--configDir", folder, *extra], folder, data, at["rest"] + "/overview")
    for name in shape.names():
        start_task_manager(home, name, shape, settings, prefix)
    if ready:
        ready()
    seconds = time.monotonic() - begin
    gateway = _java(home, "org.apache.flink.table.gateway.SqlGateway", ["-Xmx384m", "-XX:MaxMetaspaceSize=384m", "-XX:+UseSerialGC"])
    _run(home, GATEWAY, gateway + extra, folder, data, at["gateway"] + "/v1/info")
    return seconds


def down(home):
    """Stops the processes of the cluster, newest first."""
    names = [name for name in home.state["parts"] if name.startswith("flink-")]
    for name, how in control.stop_all(home, names).items():
        print("{:20} {}".format(name, how))
        home.drop_record(name)
