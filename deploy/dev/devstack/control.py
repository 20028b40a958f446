"""Starting, stopping and watching parts. Nothing here knows what a part is; parts/ does."""
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from . import health, ports, proc
from .base import StackError
from .parts import ALL

_EXTRA_GRACE_S = 30


def running(home):
    """Names of everything of this home that runs, parts and extra programs."""
    return [name for name, record in home.state["parts"].items() if proc.alive(record)]


def settle_ports(home, parts):
    """Makes sure that the ports of `parts`, which do not run, are free. Moves one only while nothing runs that knows it."""
    others = running(home)
    for part in parts:
        for name in part.ports:
            port = home.port(name)
            if ports.is_free(port):
                continue
            if others:
                raise StackError(
                    "port {} of {} is taken by {}".format(port, part.name, ports.holder(port)),
                    "end that program and try again; or `down` everything and `up`: with nothing else running another port is chosen "
                    "(running now: {})".format(", ".join(others)))
            print("port {} of {} is taken by {}: using {}".format(port, part.name, ports.holder(port), home.move_port(name)))


def start_all(home, parts):
    """Starts those that do not run, at once, and waits until all are healthy. Returns {name: seconds, or 'kept'}."""
    fresh = [part for part in parts if not proc.alive(home.record(part.name))]
    for part in fresh:
        proc.sweep(home.record(part.name))
    settle_ports(home, fresh)
    home.port("admin")
    took, faults = {}, []

    def one(part):
        begin = time.monotonic()
        try:
            if part not in fresh:
                took[part.name] = "kept"
                return
            part.prepare(home)
            argv, env, cwd = part.command(home)
            record = proc.spawn([str(a) for a in argv], home.log(part.name), env, cwd)
            home.set_record(part.name, kind="part", log=str(home.log(part.name)), since=time.time(), stopped=False, **record)
            await_healthy(home, part)
            part.ready(home)
            took[part.name] = time.monotonic() - begin
        except StackError as error:
            faults.append((part.name, error))

    with ThreadPoolExecutor(max_workers=max(1, len(parts))) as pool:
        list(pool.map(one, parts))
    if faults:
        raise StackError("\n".join("{}: {}".format(name, error) for name, error in faults),
                         "; ".join(sorted({error.fix for _, error in faults if error.fix})) or None)
    return took


def await_healthy(home, part):
    """Waits for health; a part that dies meanwhile is reported at once with its last log lines."""
    end = time.monotonic() + part.start_timeout_s
    pause, wrong = 0.05, "not asked yet"
    while time.monotonic() < end:
        record = home.record(part.name)
        proc.reap()
        if not proc.alive(record):
            raise StackError("died while starting. Last lines of {}:\n    {}".format(
                record["log"], "\n    ".join(proc.tail(record["log"]))))
        if _listens(part.port(home)):
            wrong = part.probe(home)
            if wrong is None:
                return
        time.sleep(pause)
        pause = min(pause * 1.3, 0.3)
    raise StackError("not healthy after {} s: {}; log: {}".format(part.start_timeout_s, wrong, home.log(part.name)))


def _listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
        return True
    except OSError:
        return False


def run_extra(home, name, argv, cwd, env, health_url=None, wait_s=60):
    """Starts any other program under this home's care. Returns the seconds until it was healthy."""
    begin = time.monotonic()
    record = proc.spawn(argv, home.log(name), env, cwd)
    home.set_record(name, kind="extra", log=str(home.log(name)), since=time.time(), stopped=False, cwd=cwd, health=health_url,
                    wait_s=wait_s, **record)
    end = begin + (wait_s if health_url else 0.5)
    wrong = None
    while time.monotonic() < end:
        proc.reap()
        if not proc.alive(record):
            raise StackError("{} ended at once. Last lines of {}:\n    {}".format(
                name, home.log(name), "\n    ".join(proc.tail(home.log(name)))))
        if health_url:
            wrong = health.http_ok(health_url)
            if wrong is None:
                return time.monotonic() - begin
        time.sleep(0.1)
    if health_url:
        raise StackError("{} is not healthy after {} s: {}; log: {}".format(name, wait_s, wrong, home.log(name)))
    return time.monotonic() - begin


def stop_one(home, name):
    """Stops one part or extra program and says how it went."""
    record = home.record(name)
    if not record:
        raise StackError("{} was not started in {}".format(name, home.path), "`status` lists what was")
    return proc.stop(record, ALL[name].stop_grace_s if name in ALL else _EXTRA_GRACE_S)


def stop_all(home, names):
    """Extra programs first, newest first (they use the servers), then the servers together. Returns {name: how}."""
    extras = [name for name in names if name not in ALL]
    extras.sort(key=lambda name: home.record(name).get("since", 0), reverse=True)
    how = {name: stop_one(home, name) for name in extras}
    servers = [name for name in names if name in ALL]
    guard = threading.Lock()

    def one(name):
        result = stop_one(home, name)
        with guard:
            how[name] = result

    with ThreadPoolExecutor(max_workers=max(1, len(servers))) as pool:
        list(pool.map(one, servers))
    return how


def report(home):
    """One row for each part of this home, as `status` shows and --json prints."""
    names = [name for name in ALL if home.record(name)] + [name for name in home.state["parts"] if name not in ALL]
    with ThreadPoolExecutor(max_workers=max(1, len(names))) as pool:
        return list(pool.map(lambda name: _row(home, name), names))


def _row(home, name):
    record = home.record(name)
    part = ALL.get(name)
    row = {"name": name, "title": part.title if part else " ".join(record["argv"])[:80], "log": record["log"], "pid": None,
           "rss_kb": None, "uptime_s": None, "problem": None, "last_log": [],
           "port": part.port(home) if part else (urlsplit(record["health"]).port if record.get("health") else None)}
    if not proc.alive(record):
        row["state"] = "stopped" if record.get("stopped") else "died"
        if row["state"] == "died":
            row["problem"] = "pid {} is gone".format(record["pid"])
            row["last_log"] = proc.tail(record["log"])
        return row
    if part:
        row["problem"] = part.probe(home)
    elif record.get("health"):
        row["problem"] = health.http_ok(record["health"])
    row.update(state="unhealthy" if row["problem"] else "healthy", pid=record["pid"], rss_kb=proc.rss_kb(record["pid"]),
               uptime_s=round(time.time() - record["since"], 1))
    if row["problem"]:
        row["last_log"] = proc.tail(record["log"])
    return row
