"""Collections on disk: one engine shard each, opened at start and flushed in the background.

A collection is a folder with the engine's files in `shard/` and `collection.pb`, the CreateCollection that made it. The
latter is written last and removed first, so a folder without it is an unfinished create or delete and is swept at start.
"""

import fcntl
import hashlib
import logging
import os
import re
import shutil
import threading
import time
from contextlib import contextmanager

import qdrant_edge as edge
from google.protobuf.message import DecodeError
from qdrant_client import grpc as q

import configs
from refusal import Code, Refusal, from_engine, invalid

log = logging.getLogger("qdrant.store")

FLUSH_AFTER_S = 5.0          # Qdrant's own flush_interval_sec
FLUSH_AFTER_WRITES = 20_000
LOCK_WAIT_S = 60.0


class Collection:
    """One shard of the engine, and who may write to it: one at a time."""

    def __init__(self, request, folder, shard):
        self.request, self.folder, self.shard = request, folder, shard
        self.sizes = {name: params.size for name, params in configs.vector_params(request).items()}
        self.lock = threading.Lock()
        self.closed = False
        self.fault = ""
        self.unflushed = 0
        self.flushed_at = time.monotonic()

    @contextmanager
    def writing(self, timeout_s=0):
        if not self.lock.acquire(timeout=timeout_s or LOCK_WAIT_S):
            raise Refusal(Code.DEADLINE_EXCEEDED, f"collection {self.request.collection_name!r} is busy with another write")
        try:
            self.require_open()
            yield self.shard
        finally:
            self.lock.release()

    def require_open(self):
        if self.closed:
            raise unknown(self.request.collection_name)

    def update(self, operation, weight=1, timeout_s=0):
        """Applies one operation. It is in the write-ahead log when this returns, so kill -9 does not lose it."""
        with self.writing(timeout_s) as shard:
            self.unflushed += weight
            shard.update(operation)

    def maintain(self):
        now = time.monotonic()
        if self.unflushed and (now - self.flushed_at >= FLUSH_AFTER_S or self.unflushed >= FLUSH_AFTER_WRITES):
            with self.writing() as shard:
                shard.flush()
                self.unflushed, self.flushed_at = 0, now

    def optimize(self):
        """Builds the HNSW index and clears out deleted points. The binding keeps Python's global lock all the while (60 s were
        seen for 40,000 points), so this is never done while serving."""
        with self.writing() as shard:
            changed = shard.optimize()
            shard.flush()
            return changed

    def close(self):
        with self.lock:
            if not self.closed:
                self.closed = True
                self.shard.flush()
                self.shard.close()


class Store:
    """Every collection under one data directory, which only one process may open."""

    def __init__(self, path):
        self.root = os.path.join(path, "collections")
        os.makedirs(self.root, exist_ok=True)
        self._held = open(os.path.join(path, "lock"), "w")
        fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._registry = threading.Lock()
        self._collections = {}
        self._stop = threading.Event()
        for name in sorted(os.listdir(self.root)):
            self._open(os.path.join(self.root, name))
        self._maintenance = threading.Thread(target=self._maintain, name="maintenance", daemon=True)
        self._maintenance.start()

    def _open(self, folder):
        described = os.path.join(folder, "collection.pb")
        if not os.path.exists(described):
            log.warning("sweeping %s: an unfinished create or delete", os.path.basename(folder))
            shutil.rmtree(folder)
            return
        try:
            with open(described, "rb") as file:
                request = q.CreateCollection.FromString(file.read())
            shard = edge.EdgeShard.load(os.path.join(folder, "shard"))
        except DecodeError as error:
            raise OSError(f"{described} cannot be read: {error}") from error
        self._collections[request.collection_name] = Collection(request, folder, shard)
        log.info("opened %s: %d points", request.collection_name, shard.info().points_count)

    def get(self, name):
        found = self._collections.get(name)
        if found is None:
            raise unknown(name)
        return found

    def names(self):
        return sorted(self._collections)

    def create(self, request):
        name = request.collection_name
        if not 1 <= len(name) <= 255 or re.search(r'[<>:"/\\|?*\x00-\x1f]', name):
            raise invalid('collection_name must have 1 to 255 characters, none of them a control character or one of <>:"/\\|?*')
        request = configs.resolved(request)
        config = configs.collection(request)
        with self._registry:
            if name in self._collections:
                raise Refusal(Code.ALREADY_EXISTS, f"Wrong input: Collection `{name}` already exists!")
            slug = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:40] + "-" + hashlib.sha256(name.encode()).hexdigest()[:12]
            folder = os.path.join(self.root, slug)
            shutil.rmtree(folder, ignore_errors=True)
            os.makedirs(folder)
            try:
                shard = edge.EdgeShard.create(os.path.join(folder, "shard"), config)
                shard.flush()
            except Exception as error:
                shutil.rmtree(folder, ignore_errors=True)
                raise from_engine(error) from error
            _write_durably(os.path.join(folder, "collection.pb"), request.SerializeToString())
            self._collections[name] = Collection(request, folder, shard)

    def delete(self, name):
        """False if there was none, as Qdrant answers."""
        with self._registry:
            collection = self._collections.get(name)
            if collection is None:
                return False
            with collection.lock:
                os.unlink(os.path.join(collection.folder, "collection.pb"))
                _sync_folder(collection.folder)
                collection.closed = True
                del self._collections[name]
                collection.shard.close()
            shutil.rmtree(collection.folder, ignore_errors=True)
            return True

    def _maintain(self):
        while not self._stop.wait(0.5):
            for collection in list(self._collections.values()):
                try:
                    collection.maintain()
                    collection.fault = ""
                except Exception as error:  # reported by Collections.Get as a red status; retried on the next round
                    if not collection.closed:
                        collection.fault = str(error)
                        log.error("maintenance of %s: %s", collection.request.collection_name, error)
                        self._stop.wait(FLUSH_AFTER_S)

    def close(self):
        self._stop.set()
        self._maintenance.join()
        for collection in self._collections.values():
            collection.close()
        self._held.close()


def unknown(name):
    return Refusal(Code.NOT_FOUND, f"Not found: Collection `{name}` doesn't exist!")


def _sync_folder(folder):
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_durably(path, data):
    with open(path + ".new", "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(path + ".new", path)
    _sync_folder(os.path.dirname(path))
