"""Ids, payloads and vectors: Qdrant's wire messages to what the engine takes, and back. No I/O."""

import math
from uuid import UUID

import qdrant_edge as edge
from qdrant_client import grpc as q

from refusal import invalid, one_of, only, unsupported


def point_id(message):
    """u64 or UUID."""
    if one_of(message, "point_id_options") == "num":
        return message.num
    try:
        return UUID(message.uuid)
    except ValueError:
        raise invalid(f"PointId.uuid: {message.uuid!r} is not a UUID") from None


def point_ids(messages):
    return [point_id(m) for m in messages]


def wire_id(value):
    return q.PointId(num=value) if isinstance(value, int) else q.PointId(uuid=str(value))


def json_value(message, path):
    kind = message.WhichOneof("kind")
    if kind is None:
        raise invalid(f"payload {path}: a value without a kind")
    if kind == "null_value":
        return None
    if kind == "struct_value":
        return {k: json_value(v, f"{path}.{k}") for k, v in message.struct_value.fields.items()}
    if kind == "list_value":
        return [json_value(v, f"{path}[{i}]") for i, v in enumerate(message.list_value.values)]
    value = getattr(message, kind)
    if kind == "double_value" and not math.isfinite(value):
        raise invalid(f"payload {path}: {value} is not a JSON number")
    return value


def payload(fields):
    return {k: json_value(v, k) for k, v in fields.items()}


def wire_value(value):
    if value is None:
        return q.Value(null_value=q.NULL_VALUE)
    if isinstance(value, bool):
        return q.Value(bool_value=value)
    if isinstance(value, int):
        return q.Value(integer_value=value)
    if isinstance(value, float):
        return q.Value(double_value=value)
    if isinstance(value, str):
        return q.Value(string_value=value)
    if isinstance(value, list):
        return q.Value(list_value=q.ListValue(values=[wire_value(v) for v in value]))
    return q.Value(struct_value=q.Struct(fields={k: wire_value(v) for k, v in value.items()}))


def wire_payload(value):
    return {k: wire_value(v) for k, v in (value or {}).items()}


def floats(data, size, where):
    """A dense vector of exactly `size` finite numbers."""
    if len(data) != size:
        raise invalid(f"Wrong input: Vector dimension error: expected dim: {size}, got {len(data)} ({where})")
    vector = list(data)
    if not math.isfinite(sum(vector)):
        raise invalid(f"{where}: the vector holds a number that is not finite")
    return vector


def _dense(message, size, where):
    kind = message.WhichOneof("vector")
    if kind == "dense":
        only(message, "dense")
        return floats(message.dense.data, size, where)
    if kind is None:
        only(message, "data")  # the deprecated spelling, still sent by older clients
        return floats(message.data, size, where)
    raise unsupported(f"field Vector.{kind}")


def size_of(sizes, name, where):
    if name not in sizes:
        raise invalid(f"Wrong input: Not existing vector name error: {name} ({where})")
    return sizes[name]


def vectors(message, sizes, where):
    """Vectors of one point. `sizes`: vector name to dimension; the unnamed vector is ''."""
    if one_of(message, "vectors_options") == "vector":
        return _dense(message.vector, size_of(sizes, "", where), where)
    return {n: _dense(v, size_of(sizes, n, where), f"{where}, vector {n!r}") for n, v in message.vectors.vectors.items()}


def wire_vectors(value):
    if value is None:
        return None
    if isinstance(value, dict):
        named = {n: q.VectorOutput(dense=q.DenseVector(data=v)) for n, v in value.items()}
        if set(named) == {""}:
            return q.VectorsOutput(vector=named[""])
        return q.VectorsOutput(vectors=q.NamedVectorsOutput(vectors=named))
    return q.VectorsOutput(vector=q.VectorOutput(dense=q.DenseVector(data=value)))


def with_payload(message, is_set, default):
    if not is_set:
        return default
    kind = one_of(message, "selector_options")
    if kind == "enable":
        return message.enable
    fields = list(getattr(message, kind).fields)
    return edge.PayloadSelector.Include(fields) if kind == "include" else edge.PayloadSelector.Exclude(fields)


def with_vectors(message, is_set, sizes):
    if not is_set:
        return False
    if one_of(message, "selector_options") == "enable":
        return message.enable
    return [n for n in message.include.names if size_of(sizes, n, "with_vectors.include") is not None]


def order_value(value):
    if value is None:
        return None
    return q.OrderValue(int=value) if isinstance(value, int) else q.OrderValue(float=value)


def scored(point):
    return q.ScoredPoint(
        id=wire_id(point.id), payload=wire_payload(point.payload), score=point.score, version=point.version,
        vectors=wire_vectors(point.vector), order_value=order_value(point.order_value),
    )


def retrieved(record):
    return q.RetrievedPoint(
        id=wire_id(record.id), payload=wire_payload(record.payload), vectors=wire_vectors(record.vector),
        order_value=order_value(record.order_value),
    )
