"""The reading half of the Points service: get, query, search, scroll and count."""

import time

import qdrant_edge as edge
from qdrant_client import grpc as q

import filters
from refusal import Code, Refusal, invalid, one_of, only, unsupported
from values import (floats, point_id, point_ids, retrieved, scored, size_of, wire_id, with_payload, with_vectors)

# `read_consistency` is accepted: there is one replica. `timeout` is accepted: an engine read takes milliseconds and cannot be interrupted.
_COMMON = ("collection_name", "read_consistency", "timeout")


class PointsRead:
    def __init__(self, store):
        self.store = store

    def _open(self, request):
        collection = self.store.get(request.collection_name)
        collection.require_open()
        return collection, collection.shard

    def Get(self, request):
        started = time.monotonic()
        only(request, *_COMMON, "ids", "with_payload", "with_vectors")
        collection, shard = self._open(request)
        found = shard.retrieve(point_ids(request.ids), _payloads(request, False), _vectors(request, collection))
        return q.GetResponse(result=[retrieved(r) for r in found], time=time.monotonic() - started)

    def Count(self, request):
        started = time.monotonic()
        only(request, *_COMMON, "filter", "exact")
        _, shard = self._open(request)
        exact = request.exact if request.HasField("exact") else True
        count = shard.count(edge.CountRequest(exact=exact, filter=filters.optional(request)))
        return q.CountResponse(result=q.CountResult(count=count), time=time.monotonic() - started)

    def Scroll(self, request):
        started = time.monotonic()
        only(request, *_COMMON, "filter", "offset", "limit", "with_payload", "with_vectors", "order_by")
        collection, shard = self._open(request)
        order = _order(request.order_by) if request.HasField("order_by") else None
        if order and request.HasField("offset"):
            raise invalid("ScrollPoints.offset cannot be used with order_by; use order_by.start_from")
        found, following = shard.scroll(edge.ScrollRequest(
            offset=point_id(request.offset) if request.HasField("offset") else None,
            limit=_limit(request, shard), filter=filters.optional(request), with_payload=_payloads(request, True),
            with_vector=_vectors(request, collection), order_by=order))
        return q.ScrollResponse(result=[retrieved(r) for r in found], time=time.monotonic() - started,
                                next_page_offset=None if following is None else wire_id(following))

    def Search(self, request):
        started = time.monotonic()
        only(request, *_COMMON, "vector", "filter", "limit", "with_payload", "params", "score_threshold", "offset",
             "vector_name", "with_vectors")
        collection, shard = self._open(request)
        name = request.vector_name
        vector = floats(request.vector, size_of(collection.sizes, name, "vector_name"), "SearchPoints.vector")
        if not request.limit:
            raise invalid("SearchPoints.limit must be at least 1")
        found = _query(request, collection, shard, edge.Query.Nearest(vector, using=name or None), filters.optional(request))
        return q.SearchResponse(result=[scored(p) for p in found], time=time.monotonic() - started)

    def Query(self, request):
        started = time.monotonic()
        only(request, *_COMMON, "query", "using", "filter", "params", "score_threshold", "limit", "offset", "with_vectors",
             "with_payload")
        collection, shard = self._open(request)
        chosen, scoring = filters.optional(request), None
        if request.HasField("query"):
            kind = one_of(request.query, "variant")
            if kind == "nearest":
                scoring, chosen = _nearest(request, collection, shard, chosen)
            elif kind == "order_by":
                scoring = _order(request.query.order_by)
            else:
                raise unsupported(f"field Query.{kind}")
        found = _query(request, collection, shard, scoring, chosen)
        return q.QueryResponse(result=[scored(p) for p in found], time=time.monotonic() - started)


def _query(request, collection, shard, scoring, chosen):
    return shard.query(edge.QueryRequest(
        limit=_limit(request, shard), offset=min(request.offset, shard.info().points_count), query=scoring, filter=chosen,
        with_payload=_payloads(request, False), with_vector=_vectors(request, collection), params=_params(request),
        score_threshold=request.score_threshold if request.HasField("score_threshold") else None))


def _nearest(request, collection, shard, chosen):
    """By vector, or by the vector of a stored point, which is then left out of the answer."""
    wanted, name = request.query.nearest, request.using
    size = size_of(collection.sizes, name, "QueryPoints.using")
    kind = one_of(wanted, "variant")
    if kind == "dense":
        return edge.Query.Nearest(floats(wanted.dense.data, size, "query.nearest"), using=name or None), chosen
    if kind != "id":
        raise unsupported(f"field VectorInput.{kind}")
    ident = point_id(wanted.id)
    found = shard.retrieve([ident], False, True)
    if not found:
        raise Refusal(Code.NOT_FOUND, f"Not found: No point with id {ident} found")
    stored = found[0].vector
    vector = stored.get(name) if isinstance(stored, dict) else (stored if not name else None)
    if vector is None:
        raise Refusal(Code.NOT_FOUND, f"Not found: point {ident} has no vector {name!r}")
    return edge.Query.Nearest(vector, using=name or None), filters.without(chosen, [ident])


def _limit(request, shard):
    if request.HasField("limit") if request.DESCRIPTOR.fields_by_name["limit"].has_presence else request.limit:
        if not request.limit:
            raise invalid(f"{request.DESCRIPTOR.name}.limit must be at least 1")
        # The engine reserves memory for `limit` results: more than there are points changes nothing.
        return request.limit if request.limit <= 10_000 else min(request.limit, max(10_000, shard.info().points_count))
    return 10


def _payloads(request, default):
    return with_payload(request.with_payload, request.HasField("with_payload"), default)


def _vectors(request, collection):
    return with_vectors(request.with_vectors, request.HasField("with_vectors"), collection.sizes)


def _params(request):
    if not request.HasField("params"):
        return None
    params = request.params
    only(params, "hnsw_ef", "exact", "indexed_only")
    return edge.SearchParams(hnsw_ef=params.hnsw_ef if params.HasField("hnsw_ef") else None, exact=params.exact,
                             indexed_only=params.indexed_only)


def _order(message):
    only(message, "key", "direction", "start_from")
    given = {}
    if message.HasField("direction"):
        given["direction"] = edge.Direction.Desc if message.direction == q.Direction.Desc else edge.Direction.Asc
    if message.HasField("start_from"):
        kind = one_of(message.start_from, "value")
        value = getattr(message.start_from, kind)
        given["start_from"] = filters.timestamp(value) if kind == "timestamp" else value
    return edge.OrderBy(message.key, **given)
