"""The writing half of the Points service. A whole request is checked before the engine sees any of it."""

import time

import qdrant_edge as edge
from qdrant_client import grpc as q

import configs
import filters
from refusal import invalid, one_of, only, unsupported
from values import payload, point_id, point_ids, vectors

# `ordering` is accepted: with a single replica every write is already ordered strongly.
# `timeout` bounds the wait for the collection's write lock.
_COMMON = ("collection_name", "wait", "ordering", "timeout")
_MODES = {q.UpdateMode.Upsert: edge.UpdateMode.Upsert, q.UpdateMode.InsertOnly: edge.UpdateMode.InsertOnly,
          q.UpdateMode.UpdateOnly: edge.UpdateMode.UpdateOnly}


class PointsWrite:
    def __init__(self, store):
        self.store = store

    def _apply(self, request, operation, weight=1):
        started = time.monotonic()
        self.store.get(request.collection_name).update(operation, weight, request.timeout)
        status = q.UpdateStatus.Completed if request.wait else q.UpdateStatus.Acknowledged  # applied in either case
        return q.PointsOperationResponse(result=q.UpdateResult(status=status), time=time.monotonic() - started)

    def Upsert(self, request):
        only(request, *_COMMON, "points", "update_filter", "update_mode")
        sizes = self.store.get(request.collection_name).sizes
        if not request.points:
            raise invalid("Wrong input: Empty update request: UpsertPoints.points is empty")
        points = [_point(p, sizes, f"points[{i}]") for i, p in enumerate(request.points)]
        if request.update_mode not in _MODES:
            raise invalid(f"UpsertPoints.update_mode: unknown value {request.update_mode}")
        operation = edge.UpdateOperation.upsert_points(
            points, filters.optional(request, "update_filter"), _MODES[request.update_mode])
        return self._apply(request, operation, len(points))

    def Delete(self, request):
        only(request, *_COMMON, "points")
        ids, chosen = _selected(request, "points")
        make = edge.UpdateOperation
        return self._apply(request, make.delete_points(ids) if chosen is None else make.delete_points_by_filter(chosen))

    def SetPayload(self, request):
        return self._payload(request, edge.UpdateOperation.set_payload, edge.UpdateOperation.set_payload_by_filter)

    def OverwritePayload(self, request):
        return self._payload(request, edge.UpdateOperation.overwrite_payload, edge.UpdateOperation.overwrite_payload_by_filter)

    def _payload(self, request, by_ids, by_filter):
        only(request, *_COMMON, "payload", "points_selector", "key")
        ids, chosen = _selected(request, "points_selector")
        key = request.key if request.HasField("key") else None
        content = payload(request.payload)
        return self._apply(request, by_ids(ids, content, key) if chosen is None else by_filter(chosen, content, key))

    def DeletePayload(self, request):
        only(request, *_COMMON, "keys", "points_selector")
        ids, chosen = _selected(request, "points_selector")
        keys, make = list(request.keys), edge.UpdateOperation
        return self._apply(
            request, make.delete_payload(ids, keys) if chosen is None else make.delete_payload_by_filter(chosen, keys))

    def ClearPayload(self, request):
        only(request, *_COMMON, "points")
        ids, chosen = _selected(request, "points")
        make = edge.UpdateOperation
        return self._apply(request, make.clear_payload(ids) if chosen is None else make.clear_payload_by_filter(chosen))

    def CreateFieldIndex(self, request):
        only(request, *_COMMON, "field_name", "field_type", "field_index_params")
        return self._apply(request, edge.UpdateOperation.create_field_index(request.field_name, configs.index(request)))

    def DeleteFieldIndex(self, request):
        only(request, *_COMMON, "field_name")
        return self._apply(request, edge.UpdateOperation.delete_field_index(request.field_name))


def _point(message, sizes, where):
    only(message, "id", "payload", "vectors")
    if not message.HasField("id"):
        raise invalid(f"{where}.id is not set")
    if not message.HasField("vectors"):
        raise invalid(f"{where}.vectors is not set")
    return edge.Point(point_id(message.id), vectors(message.vectors, sizes, where), payload(message.payload))


def _selected(request, field):
    """(ids, None) or (None, filter)."""
    if not request.HasField(field):
        raise invalid(f"{request.DESCRIPTOR.name}.{field} is not set")
    selector = getattr(request, field)
    if one_of(selector, "points_selector_one_of") == "points":
        return point_ids(selector.points.ids), None
    chosen = filters.build(selector.filter)
    if chosen is None:
        raise unsupported("an empty filter in a write (it would touch every point)")
    return None, chosen
