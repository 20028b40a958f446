#!/usr/bin/env python3
"""A real Flink cluster beside the dev stack: `flink.py up`, `flink.py down`. See deploy/dev/README.md, "Flink"."""
import sys

from flinkstack.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
