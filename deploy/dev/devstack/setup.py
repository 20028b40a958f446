"""Setup: a list of steps, each of which knows whether it is done. Safe to run twice at once (one lock per cache)."""
import concurrent.futures
import contextlib
import fcntl
import time

from . import build, fetch, layout
from .base import StackError, cache_root, make_dir
from .parts import ALL


class Step:
    """`parts` names the parts that need it; None: needed by the platform itself, whatever parts are asked for. Steps without a
    lane come first, in order; then the lanes, side by side."""

    def __init__(self, name, parts, done, act, lane="fetch"):
        self.name, self.parts, self.done, self.act, self.lane = name, parts, done, act, lane


def _steps(cache, parts, goal):
    everything = set(parts) >= set(ALL)
    steps = [
        Step("Debian packages", parts, lambda: not build.missing_debian(parts, everything),
             lambda log: build.debian(log, parts, everything), lane=None),
        Step("cargo {}+".format(build.cargo_minimum()), ["clickhouse"], build.cargo_is_new_enough, build.cargo_missing, lane=None),
        Step("pip", parts, fetch.pip_ready(cache), lambda log: fetch.pip(log, cache), lane=None),
        Step("Java runtime", ["kafka", "schema-registry"], layout.java(cache).exists, lambda log: fetch.java(log, cache)),
        Step("Kafka jars", ["kafka"], layout.kafka_libs(cache).exists, lambda log: fetch.kafka(log, cache)),
        Step("schema registry", ["schema-registry"], layout.registry_app(cache).exists, lambda log: fetch.registry(log, cache)),
        Step("Flink jars", ["flink"], layout.flink(cache).exists, lambda log: fetch.flink(log, cache)),
        Step("chDB library", ["clickhouse"], layout.libchdb(cache).exists, lambda log: fetch.chdb(log, cache)),
        Step("Qdrant's Python", ["qdrant"], lambda: layout.qdrant_venv(cache).exists(),
             lambda log: fetch.venv(log, cache, layout.qdrant_venv(cache), layout.QDRANT / "requirements.txt")),
        Step("ONNX Runtime", None, layout.onnxruntime(cache).exists, lambda log: fetch.onnxruntime(log, cache)),
        Step("MiniLM model", None, layout.minilm(cache).exists, lambda log: fetch.minilm(log, cache)),
        Step("MiniLM tokenizer", None, layout.tokenizer(cache).exists, lambda log: fetch.tokenizer(log, cache)),
        Step("ClickHouse server", ["clickhouse"], lambda: layout.clickhouse_server(cache).exists(),
             lambda log: build.clickhouse(log, cache), lane="compile"),
        Step("terraform or tofu", None, lambda: build.terraform_ready(cache), lambda log: build.tofu(log, cache), lane="compile"),
        Step("Kafka class cache", ["kafka"], layout.aot_cache(cache, "kafka").exists, lambda log: build.train(log, cache, "kafka")),
        Step("registry class cache", ["schema-registry"], layout.aot_cache(cache, "registry").exists,
             lambda log: build.train(log, cache, "registry")),
    ]
    requirements = layout.CHECKOUT / "tests" / "live" / "requirements.txt"
    if goal == "test" and requirements.exists():
        steps.append(Step("live tests' Python", None, lambda: layout.live_python(cache) is not None,
                          lambda log: fetch.venv(log, cache, layout.venv(cache, "live", requirements), requirements)))
    if goal == "test":
        steps.append(Step("flights data set", None, layout.flights(cache).exists, lambda log: fetch.flights(log, cache)))
        steps.append(Step("airports data set", None, layout.airports(cache).exists, lambda log: fetch.airports(log, cache)))
    return [step for step in steps if (everything if step.parts is None else set(step.parts) & set(parts))]


def ensure(parts, goal="up", quiet=False):
    """Does every step that is not done. With `quiet`, prints only those. Raises StackError at the first that fails."""
    cache = make_dir(cache_root())
    begin = time.monotonic()
    steps = _steps(cache, parts, goal)
    if quiet and all(step.done() for step in steps):
        return
    with _locked(cache):
        worked = sum(_perform(cache, step) for step in steps if step.lane is None)
        worked += _side_by_side(cache, [[step for step in steps if step.lane == lane] for lane in ("fetch", "compile")])
        if not quiet or worked:
            print("setup: {} of {} steps had to be done, {:.1f} s, cache {}".format(worked, len(steps), time.monotonic() - begin, cache))


def _side_by_side(cache, lanes):
    """What waits for the network and what waits for the processor, each in its own order. Both end before the first fault is raised."""
    with concurrent.futures.ThreadPoolExecutor(len(lanes)) as pool:
        running = [pool.submit(lambda lane=lane: sum(_perform(cache, step) for step in lane)) for lane in lanes]
    return sum(lane.result() for lane in running)


def _perform(cache, step):
    def say(what):
        print("setup {:22} {}".format(step.name, what), flush=True)

    begin = time.monotonic()
    if step.done():
        say("ready")
        return 0
    say("...")
    path = make_dir(cache / "logs") / "setup-{}.log".format(step.name.replace(" ", "-").replace("'", "").lower())
    try:
        with open(path, "w") as log:
            step.act(log)
    except StackError as error:
        say("failed after {:.1f} s".format(time.monotonic() - begin))
        raise StackError("{}: {}\nlog: {}".format(step.name, error, path), error.fix) from error
    if not step.done():
        say("failed after {:.1f} s".format(time.monotonic() - begin))
        raise StackError("{}: ended without an error, yet what it should make is not there; log: {}".format(step.name, path))
    say("done in {:.1f} s".format(time.monotonic() - begin))
    return 1


@contextlib.contextmanager
def _locked(cache):
    with open(cache / "setup.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another setup works in {}; waiting for it".format(cache), flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
