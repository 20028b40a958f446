"""Ports: free ones on 127.0.0.1, and who holds a taken one."""
import os
import random
import socket
from pathlib import Path

from .base import StackError

# Below the range from which the kernel gives ports to outgoing connections, so that
# a stopped part finds its port free when it comes back.
_LOW, _HIGH = 20000, 32000


def is_free(port):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def choose(taken):
    """A free port that is not in `taken`."""
    for _ in range(500):
        port = random.randint(_LOW, _HIGH)
        if port not in taken and is_free(port):
            return port
    raise StackError("no free port found between {} and {} on 127.0.0.1".format(_LOW, _HIGH),
                     "stop other programs that listen there")


def holder(port):
    """'pid 12 (name)' of whoever listens on the port, as far as this user may see."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            cells = row.split()
            if cells[3] == "0A" and int(cells[1].rsplit(":", 1)[1], 16) == port:
                inodes.add("socket:[{}]".format(cells[9]))
    for pid in filter(str.isdigit, os.listdir("/proc")) if inodes else ():
        try:
            for handle in os.listdir("/proc/{}/fd".format(pid)):
                if os.readlink("/proc/{}/fd/{}".format(pid, handle)) in inodes:
                    return "pid {} ({})".format(pid, Path("/proc/{}/comm".format(pid)).read_text().strip())
        except OSError:
            continue
    return "another program"
