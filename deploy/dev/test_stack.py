"""The stack manager on a real server (Redis, the quickest to start), in a home of its own. Run: python3 deploy/dev/test_stack.py"""
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

STACK = Path(__file__).resolve().parent / "stack.py"


class OnRedis(unittest.TestCase):
    def setUp(self):
        self.home = tempfile.mkdtemp(prefix="soma-stack-test-")

    def tearDown(self):
        self.stack("down")
        shutil.rmtree(self.home, ignore_errors=True)

    def stack(self, command, *arguments):
        return subprocess.run([sys.executable, str(STACK), command, "--home", self.home, *arguments], capture_output=True, text=True)

    def up(self):
        done = self.stack("up", "--parts", "redis", "--no-setup")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return self.part("redis")

    def part(self, name):
        rows = json.loads(self.stack("status", "--json").stdout)["parts"]
        return next(row for row in rows if row["name"] == name)

    def redis(self, *words):
        env = dict(line.split("=", 1) for line in Path(self.home, "dev.env").read_text().splitlines())
        password, port = env["SOMA_REDIS_URL"].split("@")[0].rsplit(":", 1)[1], env["SOMA_REDIS_URL"].rsplit(":", 1)[1].split("/")[0]
        with socket.create_connection(("127.0.0.1", int(port)), 2) as link:
            link.sendall("AUTH {}\r\n{}\r\n".format(password, " ".join(words)).encode())
            time.sleep(0.1)
            return link.recv(4096).decode()

    def test_a_second_up_leaves_a_healthy_part_alone(self):
        first = self.up()
        self.assertEqual(first["state"], "healthy")
        self.assertEqual(self.up()["pid"], first["pid"])

    def test_restart_keeps_port_and_data(self):
        before = self.up()
        self.assertIn("+OK", self.redis("SET", "word", "kept"))
        self.assertEqual(self.stack("restart", "redis").returncode, 0)
        after = self.part("redis")
        self.assertEqual((after["port"], after["state"]), (before["port"], "healthy"))
        self.assertNotEqual(after["pid"], before["pid"])
        self.assertIn("kept", self.redis("GET", "word"))

    def test_a_killed_part_is_reported_with_its_last_log_lines_and_starts_again_with_its_data(self):
        before = self.up()
        self.redis("SET", "word", "kept")
        self.assertEqual(self.stack("kill", "redis").returncode, 0)
        status = self.stack("status")
        self.assertEqual(status.returncode, 1)
        self.assertIn("redis died: pid {} is gone".format(before["pid"]), status.stdout)
        self.assertIn("Ready to accept connections", status.stdout)
        self.assertEqual(self.stack("start", "redis").returncode, 0)
        self.assertEqual(self.part("redis")["port"], before["port"])
        self.assertIn("kept", self.redis("GET", "word"))

    def test_a_frozen_part_is_unhealthy_until_it_thaws(self):
        self.up()
        self.stack("kill", "-s", "STOP", "redis")
        self.assertEqual(self.part("redis")["state"], "unhealthy")
        self.stack("kill", "-s", "CONT", "redis")
        self.assertEqual(self.part("redis")["state"], "healthy")

    def test_down_leaves_no_process_and_a_reused_pid_is_not_touched(self):
        pid = self.up()["pid"]
        state = Path(self.home, "stack.json")
        self.assertEqual(self.stack("stop", "redis").returncode, 0)
        self.assertFalse(Path("/proc/{}/fd".format(pid)).exists() and os.listdir("/proc/{}/fd".format(pid)))
        kept = json.loads(state.read_text())
        kept["parts"]["redis"]["pid"] = os.getpid()  # as if the machine had given the number to this very test
        state.write_text(json.dumps(kept))
        self.assertIn("gone", self.stack("down").stdout)

    def test_a_taken_port_is_named_while_others_run_and_changed_while_none_does(self):
        port = self.up()["port"]
        self.assertEqual(self.stack("run", "sleeper", "--", "sleep", "60").returncode, 0)
        self.stack("stop", "redis")
        with socket.socket() as thief:
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            thief.bind(("127.0.0.1", port))
            thief.listen()
            refused = self.stack("start", "redis")
            self.assertEqual(refused.returncode, 1)
            self.assertIn("port {} of redis is taken by pid {}".format(port, os.getpid()), refused.stderr)
            self.assertIn("fix: ", refused.stderr)
            self.stack("down")
            self.assertNotEqual(self.up()["port"], port)

    def test_a_home_that_cannot_be_written_is_named_with_the_fix(self):
        file = Path(self.home, "file")
        file.write_text("")
        argv = [sys.executable, str(STACK), "up", "--home", str(file / "below"), "--no-setup"]
        done = subprocess.run(argv, capture_output=True, text=True)
        self.assertEqual(done.returncode, 1)
        self.assertIn("cannot write to {}".format(file / "below"), done.stderr)
        self.assertIn("--home DIR", done.stderr)

    def test_an_extra_program_that_ends_at_once_is_an_error_with_its_words(self):
        done = self.stack("run", "failing", "--", "sh", "-c", "echo no such luck; exit 3")
        self.assertEqual(done.returncode, 1)
        self.assertIn("no such luck", done.stderr)
        self.assertEqual(self.part("failing")["state"], "died")

    def test_secrets_are_private(self):
        self.up()
        for name in ("dev.env", "secrets/redis", "secrets/verdict.key", "conf/redis.conf"):
            self.assertEqual(stat.S_IMODE(Path(self.home, name).stat().st_mode), 0o600, name)


if __name__ == "__main__":
    unittest.main()
