"""From gRPC to plain methods: builds handlers from the protocol's own service descriptors, checks the API key first, turns
refusals and engine errors into statuses, and answers UNIMPLEMENTED, by name, for every method that is not ours."""

import hmac
import logging

import grpc
from google.protobuf.message_factory import GetMessageClass
from qdrant_client import grpc as q
from qdrant_client.grpc import collections_service_pb2, points_service_pb2, qdrant_pb2, snapshots_service_pb2

from refusal import Code, Refusal, from_engine

log = logging.getLogger("qdrant.rpc")
_SERVING = b"\x08\x01"  # grpc.health.v1.HealthCheckResponse { status: SERVING }


def _services():
    for module in (collections_service_pb2, points_service_pb2, qdrant_pb2, snapshots_service_pb2):
        yield from module.DESCRIPTOR.services_by_name.values()


class Gate:
    """Knows the key."""

    def __init__(self, api_key):
        self._key = api_key.encode()

    def check(self, context):
        given = next((value for name, value in context.invocation_metadata() if name == "api-key"), None)
        given = given.encode() if isinstance(given, str) else given or b""
        if not hmac.compare_digest(given, self._key):
            raise Refusal(Code.UNAUTHENTICATED, "wrong or missing `api-key` metadata")


def _handler(full_name, method, serve, gate):
    def call(request, context):
        try:
            if gate:
                gate.check(context)
            if serve is None:
                raise Refusal(Code.UNIMPLEMENTED, f"{full_name} is not supported by this server")
            return serve(request)
        except Refusal as refusal:
            found = refusal
        except BaseException as error:  # the engine's panics are not Exceptions
            found = from_engine(error)
            if found.code is Code.INTERNAL:
                log.exception("%s failed", full_name)
        context.abort(found.code, found.detail)

    return grpc.unary_unary_rpc_method_handler(
        call, request_deserializer=GetMessageClass(method.input_type).FromString,
        response_serializer=GetMessageClass(method.output_type).SerializeToString)


def handlers(ours, open_methods, gate):
    """`ours`: service name to the objects that serve it. `open_methods`: full names that need no key."""
    for service in _services():
        methods = {}
        for method in service.methods:
            serve = next((getattr(o, method.name) for o in ours.get(service.name, ()) if hasattr(o, method.name)), None)
            full_name = f"{service.full_name}/{method.name}"
            methods[method.name] = _handler(full_name, method, serve, None if full_name in open_methods else gate)
        yield grpc.method_handlers_generic_handler(service.full_name, methods)
    check = grpc.unary_unary_rpc_method_handler(_health)
    yield grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check})


def _health(request, context):
    """grpc.health.v1, written by hand: the request has one string field, as CollectionDescription does."""
    service = q.CollectionDescription.FromString(request).name
    if service and service not in {s.full_name for s in _services()}:
        context.abort(Code.NOT_FOUND, f"unknown service {service}")
    return _SERVING
