"""Setup: a list of steps, each of which knows whether it is done. Safe to run twice at once (one lock per cache)."""
import contextlib
import fcntl
import sys
import time

from . import build, fetch, layout
from .base import StackError, cache_root, make_dir
from .parts import ALL


class Step:
    """`parts` names the parts that need it; None: needed by the platform itself, whatever parts are asked for."""

    def __init__(self, name, parts, done, act):
        self.name, self.parts, self.done, self.act = name, parts, done, act


def _steps(cache, parts, goal):
    everything = set(parts) >= set(ALL)
    steps = [
        Step("Debian packages", parts, lambda: not build.missing_debian(parts, everything),
             lambda log: build.debian(log, parts, everything)),
        Step("cargo {}+".format(build.cargo_minimum()), ["clickhouse"], build.cargo_is_new_enough, build.cargo_missing),
        Step("pip", parts, fetch.pip_ready(cache), lambda log: fetch.pip(log, cache)),
        Step("Java runtime", ["kafka", "schema-registry"], layout.java(cache).exists, lambda log: fetch.java(log, cache)),
        Step("Kafka jars", ["kafka"], layout.kafka_libs(cache).exists, lambda log: fetch.kafka(log, cache)),
        Step("schema registry", ["schema-registry"], layout.registry_app(cache).exists, lambda log: fetch.registry(log, cache)),
        Step("chDB library", ["clickhouse"], layout.libchdb(cache).exists, lambda log: fetch.chdb(log, cache)),
        Step("Qdrant's Python", ["qdrant"], lambda: layout.qdrant_venv(cache).exists(),
             lambda log: fetch.venv(log, cache, layout.qdrant_venv(cache), layout.QDRANT / "requirements.txt")),
        Step("ONNX Runtime", None, layout.onnxruntime(cache).exists, lambda log: fetch.onnxruntime(log, cache)),
        Step("MiniLM model", None, layout.minilm(cache).exists, lambda log: fetch.minilm(log, cache)),
        Step("MiniLM tokenizer", None, layout.tokenizer(cache).exists, lambda log: fetch.tokenizer(log, cache)),
        Step("ClickHouse server", ["clickhouse"], lambda: layout.clickhouse_server(cache).exists(),
             lambda log: build.clickhouse(log, cache)),
        Step("terraform or tofu", None, lambda: build.terraform_ready(cache), lambda log: build.tofu(log, cache)),
        Step("Kafka class cache", ["kafka"], layout.aot_cache(cache, "kafka").exists, lambda log: build.train(log, cache, "kafka")),
        Step("registry class cache", ["schema-registry"], layout.aot_cache(cache, "registry").exists,
             lambda log: build.train(log, cache, "registry")),
    ]
    requirements = layout.CHECKOUT / "tests" / "live" / "requirements.txt"
    if goal == "test" and requirements.exists():
        steps.append(Step("live tests' Python", None, lambda: layout.live_python(cache) is not None,
                          lambda log: fetch.venv(log, cache, layout.venv(cache, "live", requirements), requirements)))
    return [step for step in steps if (everything if step.parts is None else set(step.parts) & set(parts))]


def ensure(parts, goal="up", quiet=False):
    """Does every step that is not done. With `quiet`, prints only those. Raises StackError at the first that fails."""
    cache = make_dir(cache_root())
    begin = time.monotonic()
    steps = _steps(cache, parts, goal)
    if quiet and all(step.done() for step in steps):
        return
    with _locked(cache):
        worked = 0
        for number, step in enumerate(steps, 1):
            worked += _perform(cache, step, "setup {:2}/{} {:22}".format(number, len(steps), step.name))
        if not quiet or worked:
            print("setup: {} of {} steps had to be done, {:.1f} s, cache {}".format(worked, len(steps), time.monotonic() - begin, cache))


def _perform(cache, step, label):
    begin = time.monotonic()
    if step.done():
        print(label, "ready")
        return 0
    print(label, end=" ", flush=True)
    path = make_dir(cache / "logs") / "setup-{}.log".format(step.name.replace(" ", "-").replace("'", "").lower())
    try:
        with open(path, "w") as log:
            step.act(log)
    except StackError as error:
        print("failed after {:.1f} s".format(time.monotonic() - begin))
        raise StackError("{}: {}\nlog: {}".format(step.name, error, path), error.fix) from error
    if not step.done():
        print("failed after {:.1f} s".format(time.monotonic() - begin))
        raise StackError("{}: ended without an error, yet what it should make is not there; log: {}".format(step.name, path))
    print("done in {:.1f} s".format(time.monotonic() - begin))
    sys.stdout.flush()
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
