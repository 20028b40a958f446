"""The list of parts: one line each, in the order of the status table."""
from ..base import StackError
from .jvm import Kafka, Registry
from .small import Prometheus, Pushgateway, Receiver, Redis
from .stores import ClickHouse, Qdrant

KAFKA, REGISTRY, REDIS, CLICKHOUSE, QDRANT = Kafka(), Registry(), Redis(), ClickHouse(), Qdrant()
PUSHGATEWAY, PROMETHEUS, RECEIVER = Pushgateway(), Prometheus(), Receiver()
ALL = {part.name: part for part in (KAFKA, REGISTRY, REDIS, CLICKHOUSE, QDRANT, PUSHGATEWAY, PROMETHEUS, RECEIVER)}


def pick(names):
    """The parts with these names, or all."""
    if not names:
        return list(ALL.values())
    unknown = [name for name in names if name not in ALL]
    if unknown:
        raise StackError("no part is named {}".format(", ".join(unknown)), "parts are: {}".format(", ".join(ALL)))
    return [ALL[name] for name in names]
