"""A terraform or tofu command line: the one on PATH when it really is one, else OpenTofu built into the cache."""
import json
import os
import shutil
import subprocess

from . import layout


def works(program):
    """True when `PROGRAM version -json` answers with a version."""
    try:
        done = subprocess.run([str(program), "version", "-json"], capture_output=True, text=True, timeout=30,
                              env={**os.environ, "CHECKPOINT_DISABLE": "1"})
        text = done.stdout[done.stdout.find("{"):]  # tofu prints warnings about its settings before the JSON
        return done.returncode == 0 and bool(json.loads(text).get("terraform_version"))
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return False


def find(cache):
    """Path of a working command, or None. SOMA_TERRAFORM in the environment wins."""
    for candidate in (os.environ.get("SOMA_TERRAFORM"), shutil.which("terraform"), shutil.which("tofu"), layout.tofu(cache)):
        if candidate and os.path.exists(candidate) and works(candidate):
            return candidate
    return None
