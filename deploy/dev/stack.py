#!/usr/bin/env python3
"""Entry of the native dev stack: real servers as child processes, one command. See README.md beside this file."""
import sys

if sys.version_info < (3, 9):
    sys.exit("stack: Python 3.9 or newer is needed, this is %d.%d; fix: apt-get install python3" % sys.version_info[:2])

from devstack.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
