"""The commands, and what they print."""
import argparse
import json
import os
import string
import sys
import time

from . import control, devenv, proc, setup, terraform
from .base import StackError
from .home import Home
from .parts import ALL, pick


def main(arguments):
    options = _parser().parse_args(arguments)
    try:
        return options.act(options) or 0
    except StackError as error:
        print("stack: {}".format(error), file=sys.stderr)
        if error.fix:
            print("fix: {}".format(error.fix), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser():
    parser = argparse.ArgumentParser(prog="stack.py", description="The native dev stack: real servers on 127.0.0.1, one command.",
                                     epilog="Parts: {}".format(", ".join(ALL)))
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name, act, help_text, parts=None):
        sub = commands.add_parser(name, help=help_text, description=help_text)
        sub.set_defaults(act=act)
        if name != "setup":
            sub.add_argument("--home", metavar="DIR", help="folder of this stack (default: .soma in the checkout)")
        if parts:
            sub.add_argument("part", nargs=parts)
        return sub

    sub = command("setup", _setup, "install what is missing; run it as often as you like")
    sub.add_argument("--for", dest="goal", choices=("up", "test"), default="up", help="test also makes tests/live's Python environment")
    sub.add_argument("--parts", metavar="a,b,c", help="only what these parts need")
    sub = command("up", _up, "start all parts, wait until they are healthy, write dev.env")
    sub.add_argument("--parts", metavar="a,b,c", help="only these parts")
    sub.add_argument("--no-setup", action="store_true", help="do not look whether something must be installed first")
    command("down", _down, "stop exactly what was started here", "*")
    command("restart", _restart, "stop and start: same port, same data", "+")
    command("stop", _stop, "stop, to be started again", "+")
    command("start", _start, "start again what was stopped or died", "+")
    sub = command("kill", _kill, "send a signal (default KILL)", "+")
    sub.add_argument("-s", "--signal", default="KILL", metavar="SIGNAL")
    sub = command("status", _status, "health, port, pid, memory and log of each part; exit code 1 if one is down")
    sub.add_argument("--json", action="store_true")
    sub = command("find", _find, "print the path of a program that setup has found or built")
    sub.add_argument("program", choices=("terraform",))
    command("reset", _reset, "down, and remove the data, logs and secrets")
    sub = command("run", _run, "start any other program under the stack's care, with dev.env in its environment")
    sub.add_argument("--health", metavar="URL", help="wait until GET URL answers 2xx; $KEY of dev.env is replaced")
    sub.add_argument("--wait", type=float, default=60, metavar="SECONDS", help="how long to wait for health (default 60)")
    sub.add_argument("name")
    sub.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- CMD...")
    return parser


def _names(text):
    return [name for name in (text or "").split(",") if name]


def _setup(options):
    setup.ensure([part.name for part in pick(_names(options.parts))], options.goal)


def _up(options):
    begin = time.monotonic()
    parts = pick(_names(options.parts))
    home = Home(options.home)
    with home.locked():
        if not options.no_setup:
            setup.ensure([part.name for part in parts], "up", quiet=True)
        took = control.start_all(home, parts)
        path = devenv.write(home)
        for part in parts:
            if took[part.name] != "kept":
                print("{:16} healthy after {:4.1f} s".format(part.name, took[part.name]))
        rows = control.report(home)
        _table(rows)
        print("up in {:.1f} s; addresses and credentials: {}".format(time.monotonic() - begin, path))
        return int(any(row["state"] != "healthy" for row in rows if row["name"] in took))


def _down(options):
    home = Home(options.home)
    if not home.state_file.exists():
        print("nothing was started in {}".format(home.path))
        return 0
    with home.locked():
        _down_locked(home, options.part)
    return 0


def _down_locked(home, names):
    known = list(home.state["parts"])
    how = control.stop_all(home, _known(home, names) if names else known)
    for name in sorted(how):
        print("{:16} {}".format(name, how[name]))
        home.drop_record(name)
    if not how:
        print("nothing runs in {}".format(home.path))


def _known(home, names):
    """Names that are a part or an extra program of this home."""
    unknown = [name for name in names if name not in ALL and not home.record(name)]
    if unknown:
        raise StackError("no part is named {}".format(", ".join(unknown)),
                         "parts are: {}".format(", ".join(list(ALL) + [n for n in home.state["parts"] if n not in ALL])))
    return [name for name in names if home.record(name)]


def _stop(options):
    home = Home(options.home)
    with home.locked():
        _known(home, options.part)
        for name in options.part:
            print("{:16} {}".format(name, control.stop_one(home, name)))
            home.set_record(name, stopped=True)


def _start(options):
    home = Home(options.home)
    with home.locked():
        _known(home, options.part)
        _start_locked(home, options.part)


def _start_locked(home, names):
    servers = [ALL[name] for name in names if name in ALL]
    took = control.start_all(home, servers)
    if servers:
        devenv.write(home)
    for name in names:
        if name in ALL:
            seconds = took[name]
        elif proc.alive(home.record(name)):
            seconds = "kept"
        else:
            record = home.record(name)
            seconds = control.run_extra(home, name, record["argv"], record["cwd"], {**os.environ, **devenv.read(home)},
                                        record.get("health"), record.get("wait_s", 60))
        print("{:16} {}".format(name, "runs already" if seconds == "kept" else "healthy after {:.1f} s".format(seconds)))


def _restart(options):
    home = Home(options.home)
    with home.locked():
        _known(home, options.part)
        for name in [name for name in options.part if home.record(name)]:
            print("{:16} {}".format(name, control.stop_one(home, name)))
        _start_locked(home, options.part)


def _kill(options):
    home = Home(options.home)
    with home.locked():
        _known(home, options.part)
        missed = 0
        for name in options.part:
            sent = proc.send(home.record(name), options.signal)
            missed += not sent
            print("{:16} {}".format(name, "sent {}".format(options.signal) if sent else "does not run"))
    return int(missed > 0)


def _status(options):
    home = Home(options.home)
    rows = control.report(home)
    if options.json:
        print(json.dumps({"home": str(home.path), "parts": rows}, indent=2))
    elif rows:
        _table(rows)
    else:
        print("nothing was started in {}".format(home.path))
    return int(not rows or any(row["state"] != "healthy" for row in rows))


def _table(rows):
    print("{:16} {:10} {:>6} {:>8} {:>8} {:>8}  {}".format("PART", "STATE", "PORT", "PID", "MEMORY", "UP", "LOG"))
    for row in rows:
        memory = "{:.0f} MB".format(row["rss_kb"] / 1024) if row["rss_kb"] else "-"
        up = "{:.0f} s".format(row["uptime_s"]) if row["uptime_s"] is not None else "-"
        print("{:16} {:10} {:>6} {:>8} {:>8} {:>8}  {}".format(
            row["name"], row["state"], row["port"] or "-", row["pid"] or "-", memory, up, row["log"]))
    for row in rows:
        if row["problem"]:
            print("\n{} {}: {}. Last lines of {}:".format(row["name"], row["state"], row["problem"], row["log"]))
            for line in row["last_log"]:
                print("    " + line[:300])


def _find(options):
    found = terraform.find(Home(options.home).cache)
    if not found:
        raise StackError("there is no working {}".format(options.program), "run `python3 deploy/dev/stack.py setup`")
    print(found)


def _reset(options):
    home = Home(options.home)
    if not home.path.exists():
        print("there is no {}".format(home.path))
        return
    with home.locked():
        _down_locked(home, [])
        home.remove_data()
    print("removed the data of {}".format(home.path))


def _run(options):
    argv = options.argv[1:] if options.argv[:1] == ["--"] else options.argv
    if not argv:
        raise StackError("no command was given", "stack.py run NAME -- CMD ARGUMENTS...")
    if options.name in ALL or "/" in options.name:
        raise StackError("{} cannot be the name of an extra program".format(options.name), "choose another name")
    home = Home(options.home)
    with home.locked():
        if proc.alive(home.record(options.name)):
            raise StackError("{} runs already, pid {}".format(options.name, home.record(options.name)["pid"]),
                             "`restart {0}` or `down {0}` first".format(options.name))
        if not (home.path / "dev.env").exists():
            devenv.write(home)
        known = devenv.read(home)
        url = string.Template(options.health).safe_substitute(known) if options.health else None
        seconds = control.run_extra(home, options.name, argv, os.getcwd(), {**os.environ, **known}, url, options.wait)
        print("{:16} {} after {:.1f} s, pid {}, log {}".format(
            options.name, "healthy" if url else "runs", seconds, home.record(options.name)["pid"], home.log(options.name)))
