"""CreateCollection and payload index parameters to the engine's configuration. What cannot be honoured is refused."""

import qdrant_edge as edge
from qdrant_client import grpc as q

from refusal import invalid, only, unsupported

# Qdrant's documented defaults, always handed to the engine, so that what Collections.Get reports is what is used.
HNSW = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000}
OPTIMIZERS = {"deleted_threshold": 0.2, "vacuum_min_vector_number": 1000, "default_segment_number": 0, "indexing_threshold": 10000}

_MEMORY = {q.Memory.Cold: edge.Memory.Cold, q.Memory.Cached: edge.Memory.Cached, q.Memory.Pinned: edge.Memory.Pinned}
_DISTANCE = {name: getattr(edge.Distance, name) for name in ("Cosine", "Euclid", "Dot", "Manhattan")}
_INDEX = {"keyword": edge.KeywordIndexParams, "integer": edge.IntegerIndexParams, "float": edge.FloatIndexParams,
          "geo": edge.GeoIndexParams, "text": edge.TextIndexParams, "bool": edge.BoolIndexParams,
          "datetime": edge.DatetimeIndexParams, "uuid": edge.UuidIndexParams}


def _memory(value, where):
    if value not in _MEMORY:
        raise invalid(f"{where}.memory: unknown value {value}")
    return _MEMORY[value]


def _present(message, *names):
    only(message, *names, "memory")
    found = {n: getattr(message, n) for n in names if message.HasField(n)}
    if message.HasField("memory"):
        found["memory"] = _memory(message.memory, message.DESCRIPTOR.name)
    return found


def _hnsw(message):
    given = _present(message, "m", "ef_construct", "full_scan_threshold", "max_indexing_threads", "on_disk", "payload_m",
                     "inline_storage")
    return edge.HnswIndexConfig(**{**HNSW, **given})


def _vector(message, where):
    only(message, "size", "distance", "hnsw_config", "on_disk", "datatype", "memory")
    if not 1 <= message.size <= 65536:
        raise invalid(f"{where}.size must be from 1 to 65536, got {message.size}")
    names = {v.number: v.name for v in q.Distance.DESCRIPTOR.values}
    if names.get(message.distance) not in _DISTANCE:
        raise invalid(f"{where}.distance is not set or unknown")
    given = {}
    if message.HasField("hnsw_config"):
        given["hnsw_config"] = _hnsw(message.hnsw_config)
    if message.HasField("on_disk"):
        given["on_disk"] = message.on_disk
    if message.HasField("memory"):
        given["memory"] = _memory(message.memory, where)
    if message.datatype:
        datatype = q.Datatype.Name(message.datatype)
        if not hasattr(edge.VectorStorageDatatype, datatype):
            raise unsupported(f"{where}.datatype {datatype}")
        given["datatype"] = getattr(edge.VectorStorageDatatype, datatype)
    return edge.EdgeVectorParams(size=message.size, distance=_DISTANCE[names[message.distance]], **given)


def vector_params(request):
    """Vector name to its VectorParams message; the unnamed vector is ''."""
    config = request.vectors_config
    kind = config.WhichOneof("config")
    if kind is None:
        raise invalid("CreateCollection.vectors_config is not set")
    return {"": config.params} if kind == "params" else dict(config.params_map.map)


def _single_node(request):
    for name in ("shard_number", "replication_factor", "write_consistency_factor"):
        if request.HasField(name) and getattr(request, name) != 1:
            raise unsupported(f"field CreateCollection.{name} other than 1")
    if request.sharding_method == q.ShardingMethod.Custom:
        raise unsupported("field CreateCollection.sharding_method Custom")


def resolved(request):
    """The same CreateCollection with every default written out."""
    full = q.CreateCollection()
    full.CopyFrom(request)
    for message, defaults in ((full.hnsw_config, HNSW), (full.optimizers_config, OPTIMIZERS), (full, {"on_disk_payload": True})):
        for name, value in defaults.items():
            if not message.HasField(name):
                setattr(message, name, value)
    return full


def collection(request):
    """The engine's configuration for a resolved CreateCollection."""
    only(request, "collection_name", "vectors_config", "hnsw_config", "optimizers_config", "on_disk_payload", "timeout",
         "shard_number", "replication_factor", "write_consistency_factor", "sharding_method", "metadata")
    _single_node(request)
    options, names = request.optimizers_config, (*OPTIMIZERS, "max_segment_size")
    only(options, *names)
    optimizers = edge.EdgeOptimizersConfig(**{n: getattr(options, n) for n in names if options.HasField(n)})
    vectors = {n: _vector(v, f"vectors_config {n!r}" if n else "vectors_config") for n, v in vector_params(request).items()}
    return edge.EdgeConfig(vectors=vectors, hnsw_config=_hnsw(request.hnsw_config), optimizers=optimizers,
                           on_disk_payload=request.on_disk_payload, wal_enabled=True)


def index(request):
    """What to index a field as: a schema type, or index parameters."""
    if not request.HasField("field_index_params"):
        if not request.HasField("field_type"):
            raise invalid("CreateFieldIndexCollection: field_type or field_index_params is needed")
        return getattr(edge.PayloadSchemaType, q.FieldType.Name(request.field_type).removeprefix("FieldType"))
    kind = request.field_index_params.WhichOneof("index_params")
    if kind is None:
        raise invalid("CreateFieldIndexCollection.field_index_params is empty")
    message = getattr(request.field_index_params, kind)
    given = {}
    for field, value in message.ListFields():
        if field.name in ("stopwords", "stemmer", "scoring"):
            raise unsupported(f"field {message.DESCRIPTOR.name}.{field.name}")
        given[field.name] = value
    only(message, *given)
    if "memory" in given:
        given["memory"] = _memory(given["memory"], message.DESCRIPTOR.name)
    if "prefix" in given:
        given["prefix"] = True
    if "tokenizer" in given:
        given["tokenizer"] = getattr(edge.TokenizerType, q.TokenizerType.Name(given["tokenizer"]))
    return _INDEX[kind.removesuffix("_index_params")](**given)
