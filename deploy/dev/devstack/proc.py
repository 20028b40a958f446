"""Processes: start one detached, tell it from a stranger with the same pid, stop it and all its children."""
import os
import signal
import subprocess
import time
from pathlib import Path

from .base import StackError


def _stat_fields(pid):
    """Fields of /proc/PID/stat after the command name, or None when there is no such process."""
    try:
        text = Path("/proc/{}/stat".format(pid)).read_text()
    except OSError:
        return None
    return text[text.rindex(")") + 2:].split()


def boot_id():
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def birth(pid):
    """Start time in clock ticks since boot: with the boot id it names a process for ever. None when it is gone."""
    fields = _stat_fields(pid)
    return None if fields is None or fields[0] == "Z" else int(fields[19])


def alive(record):
    """True when the process that `record` names still runs: same boot, same pid, same start time."""
    if not record or not record.get("pid"):
        return False
    return record.get("boot") == boot_id() and birth(record["pid"]) == record.get("birth")


def rss_kb(pid):
    """Resident memory of the process and its children, in KiB."""
    total = 0
    for one in _family(pid):
        try:
            for line in Path("/proc/{}/status".format(one)).read_text().splitlines():
                if line.startswith("VmRSS:"):
                    total += int(line.split()[1])
        except OSError:
            continue
    return total


def _family(pid):
    """The processes in this process's group (each part is started as the leader of its own)."""
    members = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = _stat_fields(entry)
            if fields and fields[0] != "Z" and int(fields[2]) == pid:
                members.append(int(entry))
    return members


def spawn(argv, log, env, cwd):
    """Starts a program in its own session, its output appended to `log`. Returns what `alive` needs."""
    with open(log, "ab") as out:
        out.write("--- started {}: {}\n".format(time.strftime("%Y-%m-%dT%H:%M:%S%z"), argv[0]).encode())
        out.flush()
        try:
            child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                                     env=env, cwd=cwd, start_new_session=True, close_fds=True)
        except OSError as error:
            raise StackError("cannot start {}: {}".format(argv[0], error.strerror or error),
                             "run `python3 deploy/dev/stack.py setup`") from error
    return {"pid": child.pid, "birth": birth(child.pid), "boot": boot_id(), "argv": [str(a) for a in argv]}


def reap():
    """Collects children of this process that have ended, so that they do not look alive."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def stop(record, grace_s):
    """Asks with SIGTERM, waits `grace_s`, then SIGKILLs the group. Returns 'stopped', 'killed' or 'gone'."""
    if not alive(record):
        sweep(record)
        return "gone"
    pid = record["pid"]
    os.kill(pid, signal.SIGCONT)
    os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + grace_s
    while time.monotonic() < end:
        reap()
        if not alive(record):
            _kill_group(pid)
            return "stopped"
        time.sleep(0.03)
    _kill_group(pid)
    wait_gone(record, 5)
    return "killed"


def sweep(record):
    """Ends workers that outlived their killed leader and still hold its port. The kernel gives a pid to nobody else while a group
    of that number lives, so when no process has the leader's pid, the group is ours."""
    if record and record.get("boot") == boot_id() and birth(record["pid"]) is None and _family(record["pid"]):
        _kill_group(record["pid"])
        end = time.monotonic() + 5
        while _family(record["pid"]) and time.monotonic() < end:
            reap()
            time.sleep(0.02)


def wait_gone(record, seconds):
    """True when the process was gone within the time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        reap()
        if not alive(record):
            return True
        time.sleep(0.02)
    return not alive(record)


def _kill_group(pid):
    """What is left of the part's own process group (workers of a server that died first)."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def send(record, signal_name):
    """Sends a signal by name (KILL, TERM, STOP, ...) or number. KILL takes the whole group, as a crash of the part would."""
    number = _signal_number(signal_name)
    if not alive(record):
        return False
    if number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT):
        os.killpg(record["pid"], number)
    else:
        os.kill(record["pid"], number)
    if number == signal.SIGKILL:
        wait_gone(record, 5)
    return True


def _signal_number(name):
    if str(name).isdigit():
        return signal.Signals(int(name))
    try:
        return getattr(signal, "SIG" + str(name).upper().replace("SIG", "", 1))
    except AttributeError as error:
        raise StackError("no signal is named {}".format(name), "use a name such as KILL, TERM, STOP, CONT") from error


def tail(path, lines=8):
    """The last lines of a log, without reading all of it."""
    try:
        with open(path, "rb") as log:
            log.seek(0, 2)
            log.seek(max(0, log.tell() - 16384))
            return log.read().decode("utf-8", "replace").splitlines()[-lines:]
    except OSError:
        return []
