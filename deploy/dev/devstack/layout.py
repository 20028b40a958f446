"""Where setup puts things in the cache, and where parts find them: said once, for both."""
import hashlib
import os
import shutil
import sys
from pathlib import Path

from .base import CHECKOUT, DEV, StackError, version

EMBEDDED = DEV / "embedded"
CLICKHOUSE = EMBEDDED / "clickhouse"
QDRANT = EMBEDDED / "qdrant"
_SYSTEM_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin"])


def find_program(name):
    return shutil.which(name, path=_SYSTEM_PATH)


def program(name):
    """An installed program (Debian keeps servers in /usr/sbin, which is not on everybody's PATH)."""
    found = find_program(name)
    if not found:
        raise StackError("{} is not installed".format(name), "run `python3 deploy/dev/stack.py setup`")
    return found


def _digest(*files):
    total = hashlib.sha256()
    for file in files:
        total.update(file.name.encode() + b"\0" + file.read_bytes())
    return total.hexdigest()[:12]


def java(cache):
    return cache / "java-{}".format(version("java")) / "bin" / "java"


def kafka_libs(cache):
    return cache / "kafka-{}".format(version("kafka"))


def registry_app(cache):
    return cache / "registry-{}".format(version("registry"))


def flink(cache):
    return cache / "flink-{}".format(version("flink"))


def aot_cache(cache, name):
    """The class cache fits one JDK and one set of jars at one place: both versions are in its name."""
    return cache / "aot" / "{}-{}-java-{}.aot".format(name, version(name), version("java"))


def libchdb(cache):
    return cache / "chdb-{}".format(version("chdb")) / "libchdb.so"


def flights(cache):
    return cache / "flights-{}".format(version("flights")) / "flights-3m.parquet"


def airports(cache):
    return cache / "airports-{}".format(version("flights")) / "airports.csv"


def clickhouse_server(cache):
    """The built server, named by a digest of its sources: every checkout finds its own build, and a built one is not built again."""
    sources = [CLICKHOUSE / "Cargo.toml", CLICKHOUSE / "Cargo.lock"] + sorted((CLICKHOUSE / "src").rglob("*.rs"))
    if not sources[0].exists():
        raise StackError("{} is missing".format(sources[0]), "the checkout is incomplete: get deploy/dev/embedded")
    return cache / "bin" / "soma-dev-clickhouse-{}".format(_digest(*sources))


def venv(cache, name, requirements):
    """A Python environment, named by a digest of its pinned requirements and the interpreter's version."""
    if not requirements.exists():
        raise StackError("{} is missing".format(requirements), "the checkout is incomplete")
    return cache / "venv" / "{}-py{}.{}-{}".format(name, sys.version_info[0], sys.version_info[1], _digest(requirements))


def qdrant_venv(cache):
    return venv(cache, "qdrant", QDRANT / "requirements.txt")


def onnxruntime(cache):
    return cache / "onnxruntime-{}".format(version("onnxruntime")) / "libonnxruntime.so"


def minilm(cache):
    return cache / "minilm-{}".format(version("minilm")) / "model.onnx"


def tokenizer(cache):
    return cache / "minilm-tokenizer-{}".format(version("minilm_tokenizer")) / "tokenizer.json"


def tofu(cache):
    return cache / "bin" / "tofu-{}".format(version("tofu"))


def checked(path, what):
    """The path as text, or an error when setup has not put it there."""
    if not Path(path).exists():
        raise StackError("{} is not in the cache ({})".format(what, path), "run `python3 deploy/dev/stack.py setup`")
    return str(path)


def live_python(cache):
    """The Python environment of tests/live's stock clients, when that test has pinned its requirements and setup has made it."""
    requirements = CHECKOUT / "tests" / "live" / "requirements.txt"
    python = venv(cache, "live", requirements) / "bin" / "python" if requirements.exists() else None
    return python if python and python.exists() else None
