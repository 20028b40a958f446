"""`flink.py up | down`: arguments, and waiting for the slots."""
import argparse
import os
import sys

from devstack import devenv
from devstack.base import StackError
from devstack.home import Home

from . import cluster, rest


def main(arguments):
    parser = argparse.ArgumentParser(prog="flink.py", description="A Flink cluster of the dev stack: JobManager, TaskManagers, SQL gateway.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    sub = commands.add_parser("up", help="install what is missing, start, wait until all slots are there")
    sub.add_argument("--task-managers", type=int, default=2, metavar="N")
    sub.add_argument("--slots", type=int, default=2, metavar="N", help="slots of each TaskManager")
    sub.add_argument("--memory-mb", type=int, default=1280, metavar="MB", help="memory of each TaskManager, all of it")
    commands.add_parser("down", help="stop the cluster")
    for sub in commands.choices.values():
        sub.add_argument("--home", metavar="DIR", default=os.environ.get("SOMA_HOME"), help="folder of this stack (default: SOMA_HOME, or .soma in the checkout)")
    options = parser.parse_args(arguments)
    try:
        home = Home(options.home)
        with home.locked():
            if options.command == "down":
                cluster.down(home)
                return 0
            shape = cluster.Shape(options.task_managers, options.slots, options.memory_mb)
            urls = cluster.urls(home)
            cluster.up(home, shape, ready=lambda: rest.await_slots(urls["rest"], shape.task_managers * shape.slots))
            path = devenv.write(home)
        print("SOMA_FLINK_URL={}\nSOMA_FLINK_REST_URL={}\nboth are in {}".format(urls["gateway"], urls["rest"], path))
        return 0
    except StackError as error:
        print("flink: {}".format(error), file=sys.stderr)
        if error.fix:
            print("fix: {}".format(error.fix), file=sys.stderr)
        return 1
