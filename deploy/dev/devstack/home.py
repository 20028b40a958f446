"""A home: the folder of one running stack, with its data, logs, secrets and stack.json."""
import contextlib
import fcntl
import json
import os
import secrets as random_secrets
import shutil
import threading
from pathlib import Path

from . import ports
from .base import CHECKOUT, StackError, cache_root, make_dir, write_private

_FORMAT = 1


class Home:
    """State of one stack. `stack.json` holds ports (kept for good) and parts (what was started, and how)."""

    def __init__(self, path=None):
        self.path = Path(path).absolute() if path else CHECKOUT / ".soma"
        self.cache = cache_root()
        self.state_file = self.path / "stack.json"
        self._guard = threading.RLock()
        self.state = self._read()

    def _read(self):
        empty = {"format": _FORMAT, "ports": {}, "parts": {}}
        if not self.state_file.exists():
            return empty
        try:
            state = json.loads(self.state_file.read_text())
        except (OSError, ValueError) as error:
            raise StackError("cannot read {}: {}".format(self.state_file, error),
                             "check the file's owner; if it is damaged, stop the servers by hand and delete it") from error
        if state.get("format") != _FORMAT:
            raise StackError("{} was written by another version of this program".format(self.state_file),
                             "stop the stack with that version, then `reset`")
        return state

    def save(self):
        with self._guard:
            fresh = self.state_file.with_name("stack.json.new")
            fresh.write_text(json.dumps(self.state, indent=2, sort_keys=True) + "\n")
            os.replace(fresh, self.state_file)

    @contextlib.contextmanager
    def locked(self):
        """One changing command at a time per home; waits for the other to end."""
        make_dir(self.path)
        with open(self.path / "stack.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.state = self._read()
            yield self

    def data(self, part):
        return make_dir(self.path / "data" / part)

    def log(self, part):
        return make_dir(self.path / "logs") / (part + ".log")

    def conf(self, name, text):
        """Writes a filled-in configuration file, readable by this user only (some hold a password)."""
        path = make_dir(self.path / "conf", 0o700) / name
        write_private(path, text)
        return path

    def port(self, name):
        """The port kept under this name; chosen now if there is none yet."""
        with self._guard:
            kept = self.state["ports"]
            if name not in kept:
                kept[name] = ports.choose(set(kept.values()))
                self.save()
            return kept[name]

    def move_port(self, name):
        """Gives up the kept port and chooses another."""
        with self._guard:
            old = self.state["ports"].pop(name)
            self.state["ports"][name] = ports.choose(set(self.state["ports"].values()) | {old})
            self.save()
            return self.state["ports"][name]

    def secret_file(self, name):
        """A file with a generated secret (32 random bytes as hex, mode 0600), made once."""
        path = make_dir(self.path / "secrets", 0o700) / name
        with self._guard:
            if not path.exists():
                write_private(path, random_secrets.token_hex(32))
        return path

    def kept_file(self, name, text):
        """A file beside the secrets that people add to: made once with this text."""
        path = make_dir(self.path / "secrets", 0o700) / name
        with self._guard:
            if not path.exists():
                write_private(path, text)
        return path

    def secret(self, name):
        return self.secret_file(name).read_text().strip()

    def record(self, part):
        return self.state["parts"].get(part)

    def set_record(self, part, **values):
        with self._guard:
            self.state["parts"].setdefault(part, {}).update(values)
            self.save()

    def drop_record(self, part):
        with self._guard:
            self.state["parts"].pop(part, None)
            self.save()

    def remove_data(self):
        """Removes everything of this home but the lock file it is called under."""
        for name in ("data", "logs", "secrets", "conf"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in ("dev.env", "stack.json", "stack.json.new"):
            with contextlib.suppress(FileNotFoundError):
                (self.path / name).unlink()
        self.state = self._read()
