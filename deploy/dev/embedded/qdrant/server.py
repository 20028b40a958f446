"""Qdrant's gRPC API over the qdrant-edge engine, for the development stack. See README.md for what is not supported."""

import argparse
import logging
import os
import signal
import sys
import threading
import time
from concurrent import futures
from importlib.metadata import version

import grpc
from qdrant_client import grpc as q

import rpc
from collections_api import Collections
from points_read import PointsRead
from points_write import PointsWrite
from refusal import only
from store import Store

THREADS = 8
CONCURRENT_RPCS_MAX = 256  # above it a call is answered RESOURCE_EXHAUSTED
MESSAGE_BYTES_MAX = 64 * 1024 * 1024
GRACE_S = 10


class Health:
    """Version is the protocol's, so that a client's compatibility check compares like with like; the title names the engine."""

    def HealthCheck(self, request):
        only(request)
        return q.HealthCheckReply(title=f"qdrant-edge-py {version('qdrant-edge-py')} behind SomaAgentHub's development gRPC server",
                                  version=version("qdrant-client"))


class Points(PointsRead, PointsWrite):
    """Both halves of the service."""


def fail(message):
    print(f"qdrant: {message}", file=sys.stderr)
    sys.exit(1)


def read_key(path):
    try:
        with open(path, encoding="ascii") as file:
            key = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        fail(f"--api-key-file {path} cannot be read: {error}. Give a file that holds the key on one line.")
    if not key or not key.isprintable() or " " in key:
        fail(f"--api-key-file {path} is empty or holds blanks. Give a file that holds the key on one line.")
    return key


def open_store(path):
    try:
        return Store(path)
    except BlockingIOError:
        fail(f"--path {path} is in use by another server. Stop that one, or give another --path.")
    except OSError as error:
        fail(f"--path {path} cannot be used: {error}. Give a directory that this user may write to.")
    except Exception as error:
        fail(f"--path {path} holds data that the engine cannot open: {error}. Restore it, or give another --path.")


def listen(server, address):
    try:
        port = server.add_insecure_port(address)
    except RuntimeError:
        port = 0
    if not port:
        fail(f"--listen {address} cannot be bound: is the port taken? Stop what uses it, or give another --listen HOST:PORT.")
    return port


def serve(args):
    key = read_key(args.api_key_file)
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="rpc"),
        maximum_concurrent_rpcs=CONCURRENT_RPCS_MAX,
        options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
                 ("grpc.max_send_message_length", -1)])
    port = listen(server, args.listen)
    store = open_store(args.path)

    ours = {"Collections": [Collections(store)], "Points": [Points(store)], "Qdrant": [Health()]}
    server.add_generic_rpc_handlers(tuple(rpc.handlers(ours, {"qdrant.Qdrant/HealthCheck"}, rpc.Gate(key))))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server.start()
    logging.info("listening on %s:%d, %d collections", args.listen.rsplit(":", 1)[0], port, len(store.names()))
    stop.wait()
    logging.info("closing")
    server.stop(GRACE_S).wait()
    store.close()
    logging.info("closed")
    sys.stdout.flush()
    os._exit(0)  # grpc's own threads may linger at interpreter exit; everything of ours is closed by now


def optimize(path):
    store = open_store(path)
    for name in store.names():
        started = time.monotonic()
        changed = store.get(name).optimize()
        print(f"{name}: {'optimized' if changed else 'nothing to do'} in {time.monotonic() - started:.1f} s")
    store.close()


def check(address):
    with grpc.insecure_channel(address) as channel:
        try:
            reply = q.QdrantStub(channel).HealthCheck(q.HealthCheckRequest(), timeout=5)
        except grpc.RpcError as error:
            fail(f"--check {address}: {error.code().name}: {error.details()}")
    print(f"{reply.title}, protocol {reply.version}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", metavar="HOST:PORT", help="where to serve gRPC (no TLS: keep it on a loopback address)")
    parser.add_argument("--path", metavar="DIR", help="where the data lives")
    parser.add_argument("--api-key-file", metavar="FILE", help="a file that holds the API key")
    parser.add_argument("--check", metavar="HOST:PORT", help="exit 0 if a server there is healthy")
    parser.add_argument("--optimize", action="store_true", help="with --path and no server running: index the collections, then exit")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    if args.check:
        return check(args.check)
    if args.optimize:
        return optimize(args.path or parser.error("--optimize needs --path"))
    missing = [flag for flag in ("listen", "path", "api_key_file") if not getattr(args, flag)]
    if missing:
        parser.error("needed: " + ", ".join("--" + flag.replace("_", "-") for flag in missing))
    if ":" not in args.listen:
        parser.error("--listen needs HOST:PORT")
    return serve(args)


if __name__ == "__main__":
    main()
