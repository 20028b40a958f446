"""Qdrant's Filter message to the engine's Filter. Every condition is either translated or refused by name."""

from datetime import timezone

import numpy
import qdrant_edge as edge

from refusal import invalid, one_of, only, unsupported
from values import point_ids


def build(message):
    """None for an absent or empty filter: the engine then matches every point, as Qdrant does."""
    only(message, "must", "should", "must_not", "min_should")
    parts = {k: [_condition(c) for c in getattr(message, k)] for k in ("must", "should", "must_not") if getattr(message, k)}
    if message.HasField("min_should"):
        conditions = [_condition(c) for c in message.min_should.conditions]
        parts["min_should"] = edge.MinShould(conditions, message.min_should.min_count)
    return edge.Filter(**parts) if parts else None


def optional(request, field="filter"):
    return build(getattr(request, field)) if request.HasField(field) else None


def without(found, ids):
    """`found` and not one of `ids`."""
    excluded = edge.HasIdCondition(set(ids))
    return edge.Filter(must=[found] if found else None, must_not=[excluded])


def _condition(message):
    kind = one_of(message, "condition_one_of")
    inner = getattr(message, kind)
    if kind == "field":
        return _field(inner)
    if kind == "filter":
        return build(inner) or edge.Filter()
    if kind == "has_id":
        return edge.HasIdCondition(set(point_ids(inner.has_id)))
    if kind == "nested":
        return edge.NestedCondition(inner.key, build(inner.filter) or edge.Filter())
    if kind == "is_empty":
        return edge.IsEmptyCondition(inner.key)
    if kind == "is_null":
        return edge.IsNullCondition(inner.key)
    if kind == "has_vector":
        return edge.HasVectorCondition(inner.has_vector)
    raise unsupported(f"field Condition.{kind}")


def _field(message):
    only(message, "key", "match", "range", "datetime_range", "values_count", "geo_bounding_box", "geo_radius",
         "geo_polygon", "is_empty", "is_null")
    builders = {"match": _match, "range": _range, "datetime_range": _datetimes, "values_count": _counts,
                "geo_bounding_box": _box, "geo_radius": _radius, "geo_polygon": _polygon, "is_empty": bool, "is_null": bool}
    given = [name for name in builders if message.HasField(name)]
    if len(given) != 1:
        raise invalid(f"FieldCondition on {message.key!r}: exactly one kind of condition is needed, got {given or 'none'}")
    value = builders[given[0]](getattr(message, given[0]))
    return edge.FieldCondition(message.key, **{"range" if given[0] == "datetime_range" else given[0]: value})


def _match(message):
    kind = one_of(message, "match_value")
    value = getattr(message, kind)
    if kind == "boolean":
        # The binding reads a Python bool as the integer 0 or 1, which matches no boolean. It reads numpy.bool_ as a boolean.
        return edge.MatchValue(numpy.bool_(value))
    if kind in ("keyword", "integer"):
        return edge.MatchValue(value)
    if kind in ("keywords", "except_keywords"):
        return (edge.MatchAny if kind == "keywords" else edge.MatchExcept)(list(value.strings))
    if kind in ("integers", "except_integers"):
        return (edge.MatchAny if kind == "integers" else edge.MatchExcept)(list(value.integers))
    return {"text": edge.MatchText, "text_any": edge.MatchTextAny, "phrase": edge.MatchPhrase,
            "prefix": edge.MatchPrefix, "substring": edge.MatchSubstring}[kind](value)


def _bounds(message):
    only(message, "lt", "gt", "gte", "lte")
    return {name: getattr(message, name) for name in ("lt", "gt", "gte", "lte") if message.HasField(name)}


def _range(message):
    return edge.RangeFloat(**_bounds(message))


def _counts(message):
    return edge.ValuesCount(**_bounds(message))


def _datetimes(message):
    try:
        return edge.RangeDateTime(**{k: timestamp(v) for k, v in _bounds(message).items()})
    except (ValueError, OverflowError) as error:
        raise invalid(f"DatetimeRange: {error}") from None


def timestamp(message):
    """RFC 3339 with microseconds, the engine's own resolution."""
    return message.ToDatetime(tzinfo=timezone.utc).isoformat(timespec="microseconds")


def _geo(message):
    return edge.GeoPoint(message.lon, message.lat)


def _box(message):
    return edge.GeoBoundingBox(_geo(message.top_left), _geo(message.bottom_right))


def _radius(message):
    return edge.GeoRadius(_geo(message.center), message.radius)


def _polygon(message):
    lines = [[_geo(p) for p in line.points] for line in message.interiors]
    return edge.GeoPolygon([_geo(p) for p in message.exterior.points], lines or None)
