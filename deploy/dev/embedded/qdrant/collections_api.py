"""The Collections service: create, describe, list and delete. Aliases, sharding and the cluster are refused by rpc.py."""

import os
import time

from qdrant_client import grpc as q

from refusal import only, unsupported
from store import FLUSH_AFTER_S

GREY_AT = 100_000  # points that are searched by scanning; `server.py --optimize` indexes them


class Collections:
    def __init__(self, store):
        self.store = store

    def Create(self, request):
        started = time.monotonic()
        self.store.create(request)
        return q.CollectionOperationResponse(result=True, time=time.monotonic() - started)

    def Delete(self, request):
        started = time.monotonic()
        only(request, "collection_name", "timeout")
        return q.CollectionOperationResponse(result=self.store.delete(request.collection_name), time=time.monotonic() - started)

    def Update(self, request):
        self.store.get(request.collection_name)
        only(request, "collection_name", "timeout")
        raise unsupported("Collections.Update without a change")

    def List(self, request):
        started = time.monotonic()
        only(request)
        found = [q.CollectionDescription(name=n) for n in self.store.names()]
        return q.ListCollectionsResponse(collections=found, time=time.monotonic() - started)

    def CollectionExists(self, request):
        started = time.monotonic()
        only(request, "collection_name")
        exists = request.collection_name in self.store.names()
        return q.CollectionExistsResponse(result=q.CollectionExists(exists=exists), time=time.monotonic() - started)

    def Get(self, request):
        started = time.monotonic()
        only(request, "collection_name")
        collection = self.store.get(request.collection_name)
        collection.require_open()
        info = collection.shard.info()
        schema = {
            field: q.PayloadSchemaInfo(
                data_type=q.PayloadSchemaType.Value(str(index.data_type).rsplit(".", 1)[-1]), points=index.points)
            for field, index in info.payload_schema.items()
        }
        if collection.fault:
            status, optimizer = q.CollectionStatus.Red, q.OptimizerStatus(ok=False, error=collection.fault)
        else:
            waiting = info.points_count - info.indexed_vectors_count >= GREY_AT  # grey: optimisations wait to be triggered
            status = q.CollectionStatus.Grey if waiting else q.CollectionStatus.Green
            optimizer = q.OptimizerStatus(ok=True)
        result = q.CollectionInfo(
            status=status, optimizer_status=optimizer, segments_count=info.segments_count, points_count=info.points_count,
            indexed_vectors_count=info.indexed_vectors_count, payload_schema=schema, config=_config(collection))
        return q.GetCollectionInfoResponse(result=result, time=time.monotonic() - started)


def _config(collection):
    """What the collection was created with, defaults written out, and what the engine's log looks like on disk."""
    created = collection.request
    params = q.CollectionParams(shard_number=1, on_disk_payload=created.on_disk_payload, vectors_config=created.vectors_config,
                                replication_factor=1, write_consistency_factor=1)
    optimizers = q.OptimizersConfigDiff()
    optimizers.CopyFrom(created.optimizers_config)
    optimizers.flush_interval_sec = int(FLUSH_AFTER_S)
    return q.CollectionConfig(params=params, hnsw_config=created.hnsw_config, optimizer_config=optimizers, wal_config=_wal(collection),
                              metadata=created.metadata)


def _wal(collection):
    """The engine offers no setting for its write-ahead log and does not describe it: measured from its open segments."""
    folder = os.path.join(collection.folder, "shard", "wal")
    sizes = [os.path.getsize(os.path.join(folder, n)) for n in os.listdir(folder) if n.startswith("open-")]
    return q.WalConfigDiff(wal_capacity_mb=max(sizes, default=0) >> 20, wal_segments_ahead=max(0, len(sizes) - 1))
