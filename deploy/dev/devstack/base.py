"""Where things are (checkout, cache, home), the pinned versions, and the one error type people see."""
import json
import os
import platform
import tempfile
from pathlib import Path

DEV = Path(__file__).resolve().parent.parent  # deploy/dev
CHECKOUT = DEV.parent.parent
CONF = DEV / "conf"
VERSIONS = json.loads((DEV / "versions.json").read_text())
MACHINE = platform.machine()


class StackError(Exception):
    """Something a person can fix. `fix` says how."""

    def __init__(self, what, fix=None):
        super().__init__(what)
        self.fix = fix


def make_dir(path, mode=0o755):
    """Creates a folder or says which path cannot be written and what to do."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True, mode=mode)
        with tempfile.TemporaryFile(dir=str(path)):
            pass
    except OSError as error:
        raise StackError(
            "cannot write to {}: {}".format(path, error.strerror or error),
            "make it writable for this user, or choose another place with --home DIR (the cache: SOMA_CACHE=DIR)",
        ) from error
    return path


def cache_root():
    """Everything downloaded or built lives here, outside the checkout, shared by all checkouts of this user."""
    root = os.environ.get("SOMA_CACHE")
    if not root:
        root = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "somaagenthub")
    return Path(root).absolute()


def version(name):
    return VERSIONS[name]["version"]


def write_private(path, text):
    """Writes a file that only this user can read, whole or not at all."""
    path = Path(path)
    descriptor, fresh = tempfile.mkstemp(prefix=path.name + ".", dir=str(path.parent))  # mode 0600
    with os.fdopen(descriptor, "w") as out:
        out.write(text)
    os.replace(fresh, path)


def server_environment(**extra):
    """Servers get a small environment: nothing the developer exported can change how they behave."""
    keep = {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TMPDIR", "USER") if key in os.environ}
    keep.update({key: str(value) for key, value in extra.items()})
    return keep
